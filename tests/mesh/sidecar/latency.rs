//! What a first call costs, with istiod gathering changes for as long as it does by default. The numbers are printed, and
//! asserted only as far as a busy machine allows; docs/facts.md has them.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::testbed::{Call, Case, IstiodOptions, Test};

use super::{Shop, caller, ensure_clean};

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("sidecar::latency_of_first_calls", of_first_calls)]
}

const SERVICES: usize = 30;
/// Of the median: what it is held to on an idle machine is 400.
const GENEROUS_MS: f64 = 1200.0;

async fn of_first_calls(case: Case) -> Result<()> {
    let usual = IstiodOptions {
        debounce: Duration::from_millis(100),
        env: Vec::new(),
    };
    case.mesh.restart_istiod_with(&usual).await?;
    let result = measure(&case).await;
    case.mesh.restart_istiod().await?;
    result
}

async fn measure(case: &Case) -> Result<()> {
    let shop = Shop::open(case).await?;
    let names: Vec<String> = (0..SERVICES)
        .map(|index| format!("server{index}"))
        .collect();
    for name in &names {
        shop.web("server", &[name]).await?;
    }
    let server = shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    let mut latencies = Vec::new();
    for name in &names {
        let outcome = client.call(&Call::new(format!("http1://{name}/"))).await?;
        let seen = caller(&outcome)?;
        ensure!(seen == client.spiffe_id(), "{name}: the server saw {seen}");
        ensure_clean(&outcome)?;
        latencies.push(outcome.latency_ms);
    }
    latencies.sort_by(f64::total_cmp);
    let median = latencies[SERVICES / 2];
    tracing::info!(
        "{SERVICES} first calls: median {median:.0} ms, longest {:.0} ms",
        latencies[SERVICES - 1]
    );
    for stage in ["announced", "given"] {
        let written = median_of(
            &shop.controller.admin("/metrics").await?,
            "lazymesh_controller_learned_to_sidecar_seconds",
            stage,
        );
        tracing::info!("from the call to the Sidecar, {stage}: median {written:.0?} ms");
    }
    ensure!(server.seen().await?.len() == SERVICES);
    ensure!(median < GENEROUS_MS, "the median is {median:.0} ms");
    Ok(())
}

/// The median of a histogram in Prometheus' text format, in milliseconds: between the bounds of the bucket it is in.
fn median_of(text: &str, name: &str, label: &str) -> Option<f64> {
    let prefix = format!("{name}_bucket{{");
    let buckets: Vec<(f64, f64)> = text
        .lines()
        .filter(|line| line.starts_with(&prefix) && line.contains(label))
        .filter_map(|line| {
            let (_, rest) = line.split_once("le=\"")?;
            let (bound, rest) = rest.split_once('"')?;
            let count = rest.rsplit_once(' ')?.1;
            Some((bound.parse().ok()?, count.parse().ok()?))
        })
        .collect();
    let half = buckets.last()?.1 / 2.0;
    let mut below = (0.0, 0.0);
    for (bound, count) in buckets {
        if count >= half && count > below.1 {
            let part = (half - below.1) / (count - below.1);
            return Some((below.0 + part * (bound - below.0)) * 1000.0);
        }
        below = (bound, count);
    }
    None
}
