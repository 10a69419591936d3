//! A Sidecar: one egress listener with exact hosts. Exact ones only, where the mesh allows it: istiod looks those up, and
//! goes through all services as soon as there is a wildcard.

use serde_json::{Value, json};

use super::{WHY_ANNOTATION, WORKLOAD_LABEL, metadata, selector};
use crate::mesh::Name;
use crate::plan::SidecarSpec;

/// The resource.
#[must_use]
pub fn render(name: &Name, spec: &SidecarSpec) -> Value {
    let first = spec.workloads.first();
    let hash = first.map(dependency_graph::Workload::record_hash);
    let (learned, pinned, always) = spec.counts;
    let mut metadata = metadata(name, &[(WORKLOAD_LABEL, hash.unwrap_or_default())]);
    metadata["annotations"] =
        json!({WHY_ANNOTATION: format!("{learned} learned, {pinned} pinned, {always} always")});
    let hosts: Vec<String> = spec.hosts.iter().map(ToString::to_string).collect();
    let mut body = json!({
        "workloadSelector": selector(&spec.selector),
        "egress": [{"hosts": hosts}],
    });
    // Absent, the mesh's own hold.
    if let Some(policy) = &spec.outbound_traffic_policy {
        body["outboundTrafficPolicy"] = policy.clone();
    }
    if let Some(pool) = &spec.inbound_connection_pool {
        body["inboundConnectionPool"] = pool.clone();
    }
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": metadata,
        "spec": body,
    })
}
