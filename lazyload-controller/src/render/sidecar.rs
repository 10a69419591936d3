//! A Sidecar: an egress listener for all ports with exact hosts. Exact ones only, where the mesh allows it: istiod looks those up, and
//! goes through all services as soon as there is a wildcard.
//!
//! A second listener, before that one, announces hosts: it is a proxy's, on a port that nothing binds, and brings their
//! clusters without anything that leads to them. A route that comes together with its cluster fails calls for as long as
//! the cluster is not warm; announced first, and given when that is settled, it fails none.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{WHY_ANNOTATION, WORKLOAD_LABEL, metadata, selector};
use crate::mesh::Name;
use crate::plan::SidecarSpec;

/// The port of the listener that announces. Nothing listens there.
const ANNOUNCING_PORT: u16 = 15999;
/// No host, where a listener must have one.
const NOTHING: &str = "~/*";
/// Every host that may be seen.
pub const EVERYTHING: &str = "*/*";

/// The hosts of a Sidecar, as they are written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stage {
    /// Those that calls go to.
    pub given: BTreeSet<String>,
    /// Those whose clusters are there beside them.
    pub announced: BTreeSet<String>,
}

impl Stage {
    /// All that is wanted, nothing announced.
    #[must_use]
    pub fn last(spec: &SidecarSpec) -> Self {
        Self {
            given: spec.hosts.iter().map(ToString::to_string).collect(),
            announced: BTreeSet::new(),
        }
    }

    /// The stage that the first Sidecar of a workload is written at.
    #[must_use]
    pub fn first(spec: &SidecarSpec) -> Self {
        let announced = spec.begins_wide.then(|| EVERYTHING.to_owned());
        Self {
            announced: announced.into_iter().collect(),
            ..Self::last(spec)
        }
    }

    /// What a Sidecar of ours says.
    #[must_use]
    pub fn of(spec: &Value) -> Self {
        let mut stage = Self::default();
        for listener in spec["egress"].as_array().into_iter().flatten() {
            let hosts = if listener["port"].is_null() {
                &mut stage.given
            } else {
                &mut stage.announced
            };
            let said = listener["hosts"].as_array().into_iter().flatten();
            let said = said
                .filter_map(Value::as_str)
                .filter(|host| *host != NOTHING);
            hosts.extend(said.map(str::to_owned));
        }
        stage
    }
}

/// The resource, with all that is wanted in it.
#[must_use]
pub fn render(name: &Name, spec: &SidecarSpec) -> Value {
    render_at(name, spec, &Stage::last(spec))
}

/// The resource at a stage on its way there.
#[must_use]
pub fn render_at(name: &Name, spec: &SidecarSpec, stage: &Stage) -> Value {
    let first = spec.workloads.first();
    let hash = first.map(dependency_graph::Workload::record_hash);
    let (learned, pinned, always) = spec.counts;
    let mut metadata = metadata(name, &[(WORKLOAD_LABEL, hash.unwrap_or_default())]);
    metadata["annotations"] =
        json!({WHY_ANNOTATION: format!("{learned} learned, {pinned} pinned, {always} always")});
    let announced = if stage.announced.is_empty() {
        json!([NOTHING])
    } else {
        json!(stage.announced)
    };
    let mut body = json!({
        "workloadSelector": selector(&spec.selector),
        "egress": [
            {
                "port": {"number": ANNOUNCING_PORT, "protocol": "HTTP_PROXY", "name": "lazymesh-announced"},
                "bind": "127.0.0.1",
                "captureMode": "IPTABLES",
                "hosts": announced,
            },
            {"hosts": stage.given},
        ],
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
