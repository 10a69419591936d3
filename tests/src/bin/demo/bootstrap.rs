//! Envoy's bootstrap, as pilot-agent writes it (tools/packaging/common/envoy_bootstrap.json of Istio).

use crate::network::PROXY_MARK;
use mesh_tests::embedded::mtls::spiffe;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// Envoy's admin port, on the pod's loopback.
pub(crate) const ADMIN_PORT: u16 = 15000;

/// Who the sidecar is, as the injector tells it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The pod's namespace.
    pub(crate) namespace: String,
    /// The name of the deployment the pod belongs to.
    pub(crate) workload: String,
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
}

impl Identity {
    fn node_id(&self) -> String {
        let Self {
            namespace, address, ..
        } = self;
        let pod = self.pod();
        format!("sidecar~{address}~{pod}.{namespace}~{namespace}.svc.cluster.local")
    }

    /// The SPIFFE id of the certificate; the service account is named as the workload.
    pub(crate) fn spiffe(&self) -> String {
        spiffe(&self.namespace, &self.workload)
    }

    /// The name of the pod.
    pub(crate) fn pod(&self) -> String {
        format!("{}-0", self.workload)
    }

    /// The labels of the pod.
    pub(crate) fn labels(&self) -> BTreeMap<&'static str, &str> {
        BTreeMap::from([("app", self.workload.as_str())])
    }

    fn metadata(&self) -> Value {
        let Self {
            namespace,
            workload,
            address,
        } = self;
        json!({
            "NAMESPACE": namespace,
            "NAME": self.pod(),
            "WORKLOAD_NAME": workload,
            "OWNER": format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{workload}"),
            "SERVICE_ACCOUNT": workload,
            "LABELS": self.labels(),
            "INSTANCE_IPS": address.to_string(),
            "ISTIO_VERSION": "1.31.0",
            "CLUSTER_ID": "Kubernetes",
            "MESH_ID": "cluster.local",
            "INTERCEPTION_MODE": "REDIRECT",
        })
    }
}

/// The whole bootstrap of a sidecar whose config comes from `discovery` and whose secrets from the socket `sds`.
pub(crate) fn bootstrap(identity: &Identity, discovery: SocketAddr, sds: &Path) -> Value {
    let ads = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    json!({
        "node": {
            "id": identity.node_id(),
            "cluster": format!("{}.{}", identity.workload, identity.namespace),
            "metadata": identity.metadata(),
        },
        "layered_runtime": {"layers": [
            {"name": "global config", "static_layer": {
                "overload.global_downstream_max_connections": 2_147_483_647_u32,
                "re2.max_program_size.error_level": 32_768,
            }},
            {"name": "admin", "admin_layer": {}},
        ]},
        "stats_config": stats_config(),
        "deferred_stat_options": {"enable_deferred_creation_stats": true},
        "cluster_manager": {"upstream_bind_config": {
            "source_address": {"address": "0.0.0.0", "port_value": 0},
            // SOL_SOCKET, SO_MARK: see network::PROXY_MARK.
            "socket_options": [{"level": 1, "name": 36, "int_value": PROXY_MARK, "state": "STATE_PREBIND"}],
        }},
        "admin": {"address": socket(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)))},
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "set_node_on_first_message_only": true,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
        },
        "static_resources": {"clusters": [
            grpc_cluster("xds-grpc", &socket(discovery)),
            grpc_cluster("sds-grpc", &json!({"pipe": {"path": sds}})),
        ]},
    })
}

/// Istio keeps few of Envoy's statistics; that is a large part of a sidecar's size.
fn stats_config() -> Value {
    let kept = [
        "reporter=",
        "cluster_manager",
        "listener_manager",
        "server",
        "cluster.xds-grpc",
        "component",
        "istio",
    ];
    let kept = kept.map(|prefix| json!({"prefix": prefix}));
    json!({"use_all_default_tags": false, "stats_matcher": {"inclusion_list": {"patterns": kept}}})
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn grpc_cluster(name: &str, address: &Value) -> Value {
    let unlimited = |priority: &str| {
        json!({
            "priority": priority,
            "max_connections": 100_000,
            "max_pending_requests": 100_000,
            "max_requests": 100_000,
        })
    };
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {"thresholds": [unlimited("DEFAULT"), unlimited("HIGH")]},
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 300}},
        "max_requests_per_connection": 1,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    })
}
