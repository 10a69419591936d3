//! The EnvoyFilter that sends calls to what a sidecar does not have to the global proxy.
//!
//! HTTP: a route put first into the catch-all virtual hosts, for authorities that the cover takes for the mesh's. Not a
//! virtual host of its own: that would stand before the `*` of ports whose protocol is sniffed, and catch calls to
//! services that are there. Other connections: a chain of `virtualOutbound` for the addresses that Kubernetes gives
//! services, as a tunnel that says where to.

use dependency_graph::fallback::{
    FALLBACK_CHAIN, FALLBACK_ROUTE, LOCATION, MAX_BODY, MAX_REDIRECTS, ORIGINAL_DESTINATION,
    ORIGINAL_URL, PLAIN, POD, TRIES, TRY,
};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{metadata, selector};
use crate::mesh::Name;
use crate::plan::FilterSpec;

/// The virtual hosts that istiod ends outbound route configs with (`networking/core/httproute.go`).
const CATCH_ALL: [&str; 3] = ["allow_any", "block_all", "allow_any_dynamic_dns"];

/// The address that the application called, as Envoy has it after the redirection.
const CALLED: &str = "%DOWNSTREAM_LOCAL_ADDRESS%";
/// The name of the pod, from the environment of its own Envoy.
const OWN_POD: &str = "%ENVIRONMENT(POD_NAME)%";

/// The resource.
#[must_use]
pub fn render(name: &Name, spec: &FilterSpec) -> Value {
    let mut patches = vec![clean_up()];
    for virtual_host in CATCH_ALL {
        for regex in spec.cover.authority_regexes() {
            patches.push(route(virtual_host, &regex, spec));
        }
    }
    if !spec.prefixes.is_empty() {
        patches.push(tunnel(spec));
    }
    let mut body = json!({ "priority": 10, "configPatches": patches });
    if let Some(labels) = &spec.selector {
        body["workloadSelector"] = selector(labels);
    }
    json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata(name, &[]),
        "spec": body,
    })
}

/// No server sees a header of ours, and no application one of an answer of ours.
fn clean_up() -> Value {
    json!({
        "applyTo": "ROUTE_CONFIGURATION",
        "match": {"context": "SIDECAR_OUTBOUND"},
        "patch": {"operation": "MERGE", "value": {
            "request_headers_to_remove": [TRY, PLAIN, ORIGINAL_URL],
            "response_headers_to_remove": [LOCATION, TRY, PLAIN],
        }},
    })
}

fn route(virtual_host: &str, regex: &str, spec: &FilterSpec) -> Value {
    json!({
        "applyTo": "HTTP_ROUTE",
        "match": {"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"vhost": {"name": virtual_host}}},
        "patch": {"operation": "INSERT_FIRST", "value": {
            "name": FALLBACK_ROUTE,
            "match": {
                "prefix": "/",
                "headers": [
                    {"name": PLAIN, "present_match": true, "invert_match": true},
                    {"name": ":authority", "string_match": {"safe_regex": {"regex": regex}}},
                ],
            },
            "request_body_buffer_limit": MAX_BODY,
            "request_headers_to_add": [
                set(ORIGINAL_DESTINATION, CALLED, false),
                set(POD, OWN_POD, false),
                set(TRIES, &format!("%REQ({TRY})%"), true),
            ],
            "response_headers_to_add": [set("location", &format!("%RESP({LOCATION})%"), false)],
            "route": {
                "cluster": cluster(spec, spec.global_proxy.1),
                "timeout": "0s",
                "internal_redirect_policy": {
                    "max_internal_redirects": MAX_REDIRECTS,
                    "redirect_response_codes": [307],
                    "allow_cross_scheme_redirect": true,
                    "response_headers_to_copy": [TRY, PLAIN, TRIES, ORIGINAL_DESTINATION, POD],
                },
            },
        }},
    })
}

/// A connection of its own for each, over the tunnel port: what is in it is nobody's business on the way.
fn tunnel(spec: &FilterSpec) -> Value {
    let prefixes: Vec<Value> = spec.prefixes.iter().map(prefix).collect();
    json!({
        "applyTo": "FILTER_CHAIN",
        "match": {"context": "SIDECAR_OUTBOUND", "listener": {"name": "virtualOutbound"}},
        "patch": {"operation": "ADD", "value": {
            "name": FALLBACK_CHAIN,
            "filter_chain_match": {"prefix_ranges": prefixes},
            "filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "lazymesh",
                    "cluster": cluster(spec, spec.global_proxy.2),
                    "tunneling_config": {
                        "hostname": CALLED,
                        "headers_to_add": [set(POD, OWN_POD, false)],
                    },
                },
            }],
        }},
    })
}

fn prefix(cidr: &IpNet) -> Value {
    json!({"address_prefix": cidr.network().to_string(), "prefix_len": cidr.prefix_len()})
}

fn cluster(spec: &FilterSpec, port: u16) -> String {
    format!("outbound|{port}||{}", spec.global_proxy.0)
}

/// A header set to what Envoy makes of `value`, whatever it was before.
fn set(header: &str, value: &str, keep_empty: bool) -> Value {
    let mut option = json!({
        "header": {"key": header, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    });
    if keep_empty {
        option["keep_empty_value"] = json!(true);
    }
    option
}
