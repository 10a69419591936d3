//! What calls cost: the first to each of many services, later ones, and steady load.

use anyhow::{Context, Result, ensure};
use mesh_tests::app::Outcome;
use mesh_tests::bench_report::{Quantiles, SIDECAR, Steady, Way};
use mesh_tests::testbed::{Call, Pod};
use std::time::Duration;

use super::stage::Stage;
use crate::scale::services::Services;
use crate::sidecar::wait_lazy;

/// As many services are called as there are of those that may be, but no more.
const CALLED: u32 = 200;
/// The first call to a service, and as many after it.
const EACH: usize = 4;
const LIMIT: Duration = Duration::from_secs(600);
/// Of steady load.
const LOAD: u64 = 6_000;
const AT_ONCE: usize = 8;

fn quantiles(mut values: Vec<f64>) -> Quantiles {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let rank = (values.len() as f64 * part).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied()
    };
    Quantiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
    }
}

/// A pod of a workload of its own, which has learned something else already where that is how it becomes lazy.
pub(super) async fn caller(stage: &Stage, way: &str, services: &Services) -> Result<Pod> {
    let name = format!("caller-{}", way.replace('_', "-"));
    stage.learn(&name, services).await?;
    let pod = stage.workload(way, &name).start().await?;
    if way == SIDECAR {
        wait_lazy(&pod).await?;
    }
    Ok(pod)
}

/// First and later calls to each of many services.
pub(super) async fn measure(pod: &Pod, services: &Services) -> Result<Way> {
    let http = each(pod, services.to_call(CALLED), |service| {
        services.http_url_of(service)
    });
    let (first, later) = http.await.context("over HTTP")?;
    let tcp = services.to_call_by_tcp(CALLED);
    let (first_tcp, later_tcp) = each(pod, tcp, |service| services.tcp_url_of(service))
        .await
        .context("over TCP")?;
    Ok(Way {
        first_call_ms: Some(first),
        later_call_ms: Some(later),
        first_call_tcp_ms: Some(first_tcp),
        later_call_tcp_ms: Some(later_tcp),
        ..Way::default()
    })
}

async fn each(
    pod: &Pod,
    services: Vec<u32>,
    url: impl Fn(u32) -> String,
) -> Result<(Quantiles, Quantiles)> {
    let calls: Vec<Call> = services
        .iter()
        .flat_map(|&service| vec![Call::new(url(service)); EACH])
        .collect();
    let outcomes = pod.call_each(&calls, LIMIT).await?;
    ensure!(
        outcomes.len() == calls.len(),
        "{} calls were made in {LIMIT:?}",
        outcomes.len()
    );
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for of_service in outcomes.chunks(EACH) {
        let mut latencies = of_service.iter().map(latency).collect::<Result<Vec<_>>>()?;
        later.extend(latencies.split_off(1));
        first.append(&mut latencies);
    }
    Ok((quantiles(first), quantiles(later)))
}

fn latency(outcome: &Outcome) -> Result<f64> {
    outcome.answer()?;
    Ok(outcome.latency_ms)
}

/// Load on one service that has been called before, over connections that are kept.
pub(super) async fn steady(pod: &Pod, services: &Services) -> Result<Way> {
    let call = Call::new(services.http_url(0))
        .count(LOAD)
        .concurrency(AT_ONCE)
        .reuse();
    let outcomes = pod.calls(&call).await?;
    let latencies = outcomes.iter().map(latency).collect::<Result<Vec<_>>>()?;
    let ends = outcomes.iter().map(|one| one.at_ms + one.latency_ms);
    let begin = outcomes
        .iter()
        .map(|one| one.at_ms)
        .fold(f64::INFINITY, f64::min);
    let took_ms = ends.fold(0.0, f64::max) - begin;
    let Quantiles { p50, p99, .. } = quantiles(latencies);
    Ok(Way {
        steady: Some(Steady {
            rps: Some(outcomes.len() as f64 / took_ms * 1e3),
            p50_ms: p50,
            p99_ms: p99,
        }),
        ..Way::default()
    })
}
