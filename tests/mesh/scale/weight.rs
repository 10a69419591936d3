//! What a sidecar weighs: a lazy one beside one whose `Sidecar` somebody wrote by hand.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Envoy, Namespace, Pod, until};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::services::Services;
use crate::on_demand::Shop;

/// The calls whose services are in the hand-written one.
pub(crate) const THREE: [u32; 3] = [0, 1, 3];
const LIMIT: Duration = Duration::from_secs(60);
/// A heap is at rest when it changes by no more than this part.
const AT_REST: f64 = 0.001;

/// In bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weight {
    /// What config costs: `/memory`, `allocated`.
    pub(crate) heap: u64,
    /// The process.
    pub(crate) rss: u64,
}

impl Weight {
    /// Once its Envoy is at rest: it has started, which it says seconds after, and its heap is the same twice in a row.
    pub(crate) async fn of(pod: &Pod) -> Result<Self> {
        let envoy = pod.envoy().await?;
        until("Envoy's start", LIMIT, || envoy.initialization_ms()).await?;
        let last = AtomicU64::new(0);
        let heap = until("the heap to be at rest", LIMIT, || async {
            let heap = envoy.memory().await?.allocated;
            let before = last.swap(heap, Ordering::Relaxed);
            let change = heap.abs_diff(before) as f64 / heap as f64;
            ensure!(change <= AT_REST, "{before} bytes, then {heap}");
            Ok(heap)
        })
        .await?;
        let rss = envoy.running()?.rss()?;
        Ok(Self { heap, rss })
    }

    /// Heap and resident set as parts of another's.
    pub(crate) fn per(self, other: Self) -> (f64, f64) {
        (
            self.heap as f64 / other.heap as f64,
            self.rss as f64 / other.rss as f64,
        )
    }
}

/// A Sidecar for the pods of `workload` with the three services and nothing else.
pub(crate) async fn write_sidecar(
    ns: &Namespace,
    services: &Services,
    workload: &str,
) -> Result<()> {
    let hosts = THREE.map(|call| format!("\"{}\"", services.egress_host(call)));
    ns.apply(&format!(
        "{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: {workload}}}, spec: {{
           workloadSelector: {{labels: {{app: {workload}}}}}, egress: [{{hosts: [{}]}}]}}}}",
        hosts.join(", ")
    ))
    .await
}

/// Calls the three services, over HTTP and TCP.
pub(crate) async fn call_three(pod: &Pod, services: &Services) -> Result<()> {
    for call in THREE {
        pod.get(&services.http_url(call)).await?;
        pod.get(&services.tcp_url(call)).await?;
    }
    Ok(())
}

/// Waits until the copies that first calls ran on are gone. Envoys pay for each look at them: those in `beside` as well.
pub(crate) async fn until_no_copies(lazy: &[&Pod], beside: &[&Pod]) -> Result<()> {
    until("copies to go", LIMIT, || async {
        for pod in beside {
            pod.envoy().await?.dynamic_clusters().await?;
        }
        for pod in lazy {
            let clusters = pod.envoy().await?.dynamic_clusters().await?;
            let copies: Vec<_> = clusters.iter().filter(|c| c.starts_with("lazy")).collect();
            ensure!(copies.is_empty(), "{}: {copies:?}", pod.name());
        }
        Ok(())
    })
    .await
}

/// How much of what there is. To count it costs Envoy memory: after all else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) clusters: usize,
    pub(crate) listeners: usize,
    pub(crate) virtual_hosts: usize,
}

impl Count {
    pub(crate) async fn of(envoy: &Envoy) -> Result<Self> {
        let routes = envoy
            .get("/config_dump?resource=dynamic_route_configs")
            .await?;
        let routes: serde_json::Value = serde_json::from_str(&routes)?;
        // Envoy leaves the list out when it is empty.
        let configs = routes["configs"].as_array().map_or(&[][..], Vec::as_slice);
        let mut virtual_hosts = 0;
        for config in configs {
            let hosts = config["route_config"]["virtual_hosts"].as_array();
            virtual_hosts += hosts.context("no virtual hosts")?.len();
        }
        Ok(Self {
            clusters: envoy.dynamic_clusters().await?.len(),
            listeners: envoy.dynamic_listeners().await?.len(),
            virtual_hosts,
        })
    }
}

/// A pod of each kind.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) hand: Pod,
    pub(crate) lazy: Pod,
}

impl Pair {
    /// The hand-written one is of the workload `hand`; the lazy one's has called nothing yet.
    pub(crate) async fn start(shop: &Shop, round: usize) -> Result<Self> {
        let hand = shop.ns.workload("hand").no_app().start().await?;
        let lazy = shop.client(&format!("lazy-{round}")).await?;
        Ok(Self { hand, lazy })
    }
}
