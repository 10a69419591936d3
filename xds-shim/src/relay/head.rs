//! What the first message of a stream tells: whose it is, and how it is treated.

use super::Shared;
use super::stream::Flavor;
use crate::ads::DeltaRequest;
use crate::node::Proxy;
use crate::store::Version;
use crate::treatment::{self, Reason, Treatment};
use crate::wire;
use bytes::Bytes;
use dependency_graph::Workload;

/// What the first message of a stream tells.
pub(super) struct Head {
    pub(super) proxy: Proxy,
    decided: Treatment,
}

impl Head {
    pub(super) async fn read(shared: &Shared, flavor: Flavor, first: &Bytes) -> Self {
        // discovery.proto: DeltaDiscoveryRequest has the node first, DiscoveryRequest a version before it.
        let number = match flavor {
            Flavor::Delta => 1,
            Flavor::StateOfTheWorld => 2,
        };
        let node = wire::last(first, number).ok().flatten().unwrap_or_default();
        let proxy = Proxy::decode(node);
        let decided = decide(shared, flavor, first, &proxy).await;
        Self { proxy, decided }
    }

    pub(super) fn workload(&self) -> Option<&Workload> {
        match &self.decided {
            Treatment::OnDemand(workload) => Some(workload),
            Treatment::PassThrough(_) => None,
        }
    }

    pub(super) fn label(&self) -> &'static str {
        match &self.decided {
            Treatment::OnDemand(_) => "on_demand",
            Treatment::PassThrough(reason) => reason.as_str(),
        }
    }
}

async fn decide(shared: &Shared, flavor: Flavor, first: &Bytes, proxy: &Proxy) -> Treatment {
    if flavor == Flavor::StateOfTheWorld {
        return Treatment::PassThrough(Reason::StateOfTheWorld);
    }
    let Ok(request) = DeltaRequest::decode(first) else {
        return Treatment::PassThrough(Reason::NotUnderstood);
    };
    if shared.misunderstood.contains_key(&proxy.id) {
        return Treatment::PassThrough(Reason::NotUnderstood);
    }
    if shared.reporter.is_some() {
        let heard = shared.graph.heard();
        let _ = tokio::time::timeout_at(shared.wait_for_controller, heard).await;
    }
    let mut versions = request.initial_versions.iter();
    let was_lazy = versions.any(|(_, v)| Version::parse(v).is_some());
    let namespace = proxy.namespace.as_deref().unwrap_or_default();
    let known = shared.graph.modes(proxy.workload.as_ref(), namespace);
    let mode = treatment::mode(known, proxy, was_lazy, shared.default_mode);
    treatment::decide(proxy, mode)
}
