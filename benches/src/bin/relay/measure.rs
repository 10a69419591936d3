//! Rounds: each case through one relay and the other, in turns, so that both meet the same hours of the machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::stats;
use serde::Serialize;

use crate::case::Case;
use crate::load::Load;
use crate::origin::Origin;
use crate::relay::{Relay, Which};

/// What one relay did in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    /// Requests per second.
    pub(crate) rps: f64,
    /// The latency that 99 of 100 requests kept, at the load that it carries at the most.
    pub(crate) p99_ms: f64,
    pub(crate) p50_ms: f64,
    /// Seconds of CPU used.
    pub(crate) cpu_s: f64,
    /// Requests per second of CPU.
    pub(crate) requests_per_cpu_s: f64,
    /// The part of its core that it used. Less than all: something else held it up.
    pub(crate) busy: f64,
    pub(crate) rss_mb: f64,
}

/// The rounds of one case.
#[derive(Debug)]
pub(crate) struct Rounds {
    pub(crate) case: Case,
    pub(crate) ours: Vec<Figures>,
    pub(crate) envoy: Vec<Figures>,
}

impl Rounds {
    pub(crate) fn new(case: Case) -> Self {
        Self {
            case,
            ours: Vec::new(),
            envoy: Vec::new(),
        }
    }

    /// One more round. The relay that goes first is the other one each time.
    pub(crate) async fn round(&mut self, relays: [&Relay; 2], plan: Plan) -> Result<()> {
        let mut order = relays;
        if self.ours.len() % 2 == 1 {
            order.reverse();
        }
        for relay in order {
            let figures = measure(self.case, relay, plan).await;
            let name = || format!("{} through {}", self.case.name(), relay.which.as_str());
            let figures = figures.with_context(name)?;
            match relay.which {
                Which::Ours => self.ours.push(figures),
                Which::Envoy => self.envoy.push(figures),
            }
        }
        Ok(())
    }

    /// The median over the rounds of what ours did, divided by what Envoy did in the same round.
    pub(crate) fn ratio(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        let pairs = self.ours.iter().zip(&self.envoy);
        median(pairs.map(|(ours, envoy)| of(ours) / of(envoy)).collect())
    }
}

/// How long each part takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

async fn measure(case: Case, relay: &Relay, plan: Plan) -> Result<Figures> {
    let origin = Origin::start(case).await?;
    let mut load = Load::start(case, relay.address, origin.address, u64::MAX);
    load.run_for(plan.warm_up).await?;
    let (running, begin) = (relay.running(), Instant::now());
    let before = running.cpu()?;
    let seen = load.run_for(plan.measured).await?;
    let cpu = (running.cpu()? - before).as_secs_f64();
    let (seconds, rss) = (begin.elapsed().as_secs_f64(), running.rss()?);
    load.end().await?;
    let requests = f64::from(u32::try_from(seen.requests)?);
    Ok(Figures {
        rps: requests / seconds,
        p99_ms: quantile(&seen.latencies, 99),
        p50_ms: quantile(&seen.latencies, 50),
        cpu_s: cpu,
        requests_per_cpu_s: requests / cpu,
        busy: cpu / seconds,
        rss_mb: f64::from(u32::try_from(rss >> 10)?) / 1024.0,
    })
}

/// In milliseconds; of nothing, endless.
fn quantile(sorted_nanos: &[u32], percent: usize) -> f64 {
    let at = (sorted_nanos.len() * percent / 100).min(sorted_nanos.len().saturating_sub(1));
    let nanos = sorted_nanos.get(at).copied();
    nanos.map_or(f64::INFINITY, |nanos| f64::from(nanos) / 1e6)
}

/// Of nothing, no number.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    stats::median(values).unwrap_or(f64::NAN)
}

/// The medians of each figure.
pub(crate) fn medians(all: &[Figures]) -> Figures {
    let of = |of: fn(&Figures) -> f64| median(all.iter().map(of).collect());
    Figures {
        rps: of(|one| one.rps),
        p99_ms: of(|one| one.p99_ms),
        p50_ms: of(|one| one.p50_ms),
        cpu_s: of(|one| one.cpu_s),
        requests_per_cpu_s: of(|one| one.requests_per_cpu_s),
        busy: of(|one| one.busy),
        rss_mb: of(|one| one.rss_mb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let nanos: Vec<u32> = (1..=1000).map(|ms| ms * 1_000_000).collect();
        assert_eq!(quantile(&nanos, 99), 991.0);
        assert_eq!(quantile(&[], 99), f64::INFINITY);
    }
}
