//! Routes of the Gateway API whose parent is a service.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Service, Speaks, World, any, one_of, percent};

/// Makes them for services that have no VirtualService.
pub(super) fn make(world: &mut World, rng: &mut Rng) {
    if !percent(rng, 45) {
        return;
    }
    let free: Vec<Service> = world
        .services
        .iter()
        .filter(|service| service.is_kubernetes && service.http_port().is_some())
        .filter(|service| service.name != "alias" && !world.has_route(service))
        .cloned()
        .collect();
    if let Some(service) = one_of(rng, &free) {
        let object = route(world, rng, &service);
        world.add(object);
    }
}

fn route(world: &mut World, rng: &mut Rng, service: &Service) -> Value {
    let grpc = service
        .http_port()
        .is_some_and(|port| port.speaks == Speaks::Grpc)
        && rng.bool();
    // A consumer's route is for the callers of its own namespace only.
    let namespace = any(rng, [service.namespace, "$A"]);
    let kind = if grpc { "GRPCRoute" } else { "HTTPRoute" };
    world.tries(format!("gateway-api/{kind}"));
    let backends: Vec<&Service> = world
        .services
        .iter()
        .filter(|other| {
            other.is_kubernetes && other.name != "alias" && other.namespace == namespace
        })
        .filter(|other| other.http_port().is_some())
        .collect();
    let backend = one_of(rng, &backends).unwrap_or(service);
    let port = backend.http_port().map_or(80, |port| port.number);
    let to = json!({"name": backend.name, "namespace": backend.namespace, "port": port});
    let rules = if grpc {
        json!([{"backendRefs": [to]}])
    } else {
        let (first, feature) = filtered(rng, &to);
        world.tries(format!("gateway-api/{feature}"));
        json!([first, {"backendRefs": [to]}])
    };
    let mut parent = json!({"group": "", "kind": "Service", "name": service.name, "namespace": service.namespace});
    if rng.bool() {
        parent["port"] = service.http_port().map_or(80, |port| port.number).into();
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"name": service.rule("route"), "namespace": namespace},
        "spec": {"parentRefs": [parent], "rules": rules},
    })
}

/// A rule with a match and a filter.
fn filtered(rng: &mut Rng, to: &Value) -> (Value, &'static str) {
    let matches = match rng.u32(..2) {
        0 => json!([{"path": {"type": "PathPrefix", "value": "/old"}}]),
        _ => json!([{"headers": [{"name": "x-version", "value": "v2"}]}]),
    };
    let (filter, feature) = match rng.u32(..4) {
        0 => (
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": "by-route"}]}}),
            "headers",
        ),
        1 => (
            json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "moved.diff.test", "statusCode": 302}}),
            "redirect",
        ),
        2 => (
            json!({"type": "URLRewrite", "urlRewrite": {"hostname": "rewritten.diff.test"}}),
            "rewrite",
        ),
        _ => (
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": to}}),
            "mirror",
        ),
    };
    let mut rule = json!({"matches": matches, "filters": [filter]});
    if feature != "redirect" {
        rule["backendRefs"] = json!([to]);
    }
    (rule, feature)
}
