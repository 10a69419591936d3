//! What a fresh sidecar costs: its start, and the first calls to the three services that it uses.

use anyhow::{Context, Result};
use mesh_tests::bench_report::{BytesByType, ON_DEMAND, PLAIN, Way};
use mesh_tests::testbed::{Pod, Replica};
use std::time::Duration;

use super::stage::{Counted, Stage};
use crate::scale::services::Services;
use crate::scale::weight::{Count, Weight, call_three, until_no_copies};

/// What a way's workload is called, of which fresh pods are started. On demand each is of one of its own, which has learned
/// nothing.
pub(super) fn workload(way: &str, round: usize) -> String {
    let name = way.replace('_', "-");
    if way == ON_DEMAND {
        format!("{name}-{round}")
    } else {
        name
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Of one fresh pod, which is gone again.
pub(super) async fn measure(
    stage: &Stage,
    way: &str,
    round: usize,
    services: &Services,
) -> Result<Way> {
    let name = workload(way, round);
    let pod = stage.workload(way, &name).start().await?;
    let envoy = pod.envoy().await?;
    let ready_cpu = envoy.running()?.cpu()?;
    let before = Weight::of(&pod).await?;
    use_three(&pod, way, services).await?;
    let after = Weight::of(&pod).await?;
    let measured = Way {
        heap_bytes: Some(after.heap),
        rss_bytes: Some(after.rss),
        heap_before_bytes: Some(before.heap),
        rss_before_bytes: Some(before.rss),
        agent_rss_bytes: Some(pod.agent().await?.rss()?),
        ready_ms: Some(envoy.initialization_ms().await?),
        ready_cpu_ms: Some(ms(ready_cpu)),
        ..Way::default()
    };
    pod.delete().await?;
    Ok(measured)
}

async fn use_three(pod: &Pod, way: &str, services: &Services) -> Result<()> {
    call_three(pod, services).await?;
    // A look that costs the one who is asked memory, so only who can have copies, and who is compared with it.
    if way != PLAIN {
        until_no_copies(&[pod], &[]).await?;
    }
    Ok(())
}

/// Bytes to and from a shim, by type.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub(super) from_istiod: u64,
    pub(super) to_sidecar: u64,
    by_type: [u64; 4],
}

impl Passed {
    pub(super) async fn by(shim: &Replica) -> Result<Self> {
        const TO_SIDECAR: &str = "lazymesh_shim_proxy_response_bytes_total";
        let mut by_type = [0; 4];
        for (bytes, kind) in by_type.iter_mut().zip(["cds", "eds", "lds", "rds"]) {
            *bytes = shim.metric(TO_SIDECAR, &format!("type=\"{kind}\"")).await? as u64;
        }
        let from_istiod = "lazymesh_shim_istiod_response_bytes_total";
        Ok(Self {
            from_istiod: shim.metric(from_istiod, "").await? as u64,
            to_sidecar: shim.metric(TO_SIDECAR, "").await? as u64,
            by_type,
        })
    }

    pub(super) fn since(&self, before: &Self) -> Self {
        let mut by_type = self.by_type;
        for (bytes, before) in by_type.iter_mut().zip(before.by_type) {
            *bytes -= before;
        }
        Self {
            from_istiod: self.from_istiod - before.from_istiod,
            to_sidecar: self.to_sidecar - before.to_sidecar,
            by_type,
        }
    }
}

/// Of one fresh pod: the bytes of its start and of the calls to the three services, and how much of what it has then.
pub(super) async fn count(counted: &Counted<'_>, way: &str, services: &Services) -> Result<Way> {
    use_three(&counted.pod, way, services).await?;
    Weight::of(&counted.pod).await?;
    let passed = Passed::by(counted.shim).await?.since(&counted.before);
    let envoy = counted.pod.envoy().await?;
    let (count, clusters) = (Count::of(&envoy).await?, envoy.clusters().await?);
    let clusters = clusters["cluster_statuses"].as_array();
    let clusters = clusters.context("no list of clusters")?;
    let hosts =
        |cluster: &serde_json::Value| cluster["host_statuses"].as_array().map_or(0, Vec::len);
    let [cds, eds, lds, rds] = passed.by_type.map(Some);
    let alone = if counted.own {
        Some(envoy.initialization_ms().await?)
    } else {
        None
    };
    Ok(Way {
        ready_alone_ms: alone,
        bytes_from_istiod: Some(passed.from_istiod),
        bytes_to_sidecar: Some(passed.to_sidecar),
        bytes_to_sidecar_by_type: Some(BytesByType { cds, eds, lds, rds }),
        clusters: Some(count.clusters as u64),
        endpoints: Some(clusters.iter().map(hosts).sum::<usize>() as u64),
        listeners: Some(count.listeners as u64),
        virtual_hosts: Some(count.virtual_hosts as u64),
        ..Way::default()
    })
}
