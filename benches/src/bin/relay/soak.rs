//! Millions of requests through the global proxy, with new connections all the time, and what it holds meanwhile.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::case::{Case, Protocol};
use crate::load::Load;
use crate::measure::median;
use crate::origin::Origin;
use crate::relay::Relay;

/// Pieces of the soak: each opens its connections anew.
const PIECES: u64 = 40;
/// What memory may grow by between the second and the last quarter: an allocator's rounding, no leak of a byte per
/// request.
const SLACK_BYTES: u64 = 1 << 20;

/// What it held after so many requests.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) descriptors: u64,
    pub(crate) rss_bytes: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Soak {
    pub(crate) requests: u64,
    pub(crate) series: Vec<Sample>,
    pub(crate) rule: String,
    pub(crate) descriptors_flat: bool,
    pub(crate) memory_flat: bool,
}

/// Sends `requests` requests: HTTP/1.1 and HTTP/2 in turns.
pub(crate) async fn soak(relay: &Relay, requests: u64) -> Result<Soak> {
    let cases = [Protocol::Http1, Protocol::Http2].map(|protocol| Case::new(protocol, 0, 1024));
    let origins = [
        Origin::start(cases[0]).await?,
        Origin::start(cases[1]).await?,
    ];
    let mut series: Vec<Sample> = Vec::new();
    let mut sent = 0;
    for piece in 0..PIECES {
        let which = usize::from(piece % 2 == 1);
        let limit = requests.div_ceil(PIECES);
        let mut load = Load::start(cases[which], relay.address, origins[which].address, limit);
        load.half().await.context("soak")?;
        let (descriptors, rss_bytes) = (relay.descriptors()?, relay.running().rss()?);
        sent += load.all().await.context("soak")?;
        series.push(Sample {
            requests: sent,
            descriptors,
            rss_bytes,
        });
    }
    Ok(judged(sent, series))
}

fn judged(requests: u64, series: Vec<Sample>) -> Soak {
    let quarter = series.len() / 4;
    let second = &series[quarter..2 * quarter];
    let last = &series[series.len() - quarter..];
    let most = |of: &[Sample]| of.iter().map(|one| one.descriptors).max().unwrap_or(0);
    let rss = |of: &[Sample]| {
        let all = of.iter().map(|one| u32::try_from(one.rss_bytes >> 10));
        median(all.map(|kib| f64::from(kib.unwrap_or(u32::MAX))).collect())
    };
    let slack_kib = f64::from(u32::try_from(SLACK_BYTES >> 10).unwrap_or(0));
    Soak {
        requests,
        rule: format!(
            "from the second quarter to the last: no more descriptors at the most, and at most {SLACK_BYTES} \
             bytes more memory in the median"
        ),
        descriptors_flat: most(last) <= most(second),
        memory_flat: rss(last) <= rss(second) + slack_kib,
        series,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(of: impl Fn(u64) -> (u64, u64)) -> Soak {
        let sample = |at| {
            let (descriptors, rss_bytes) = of(at);
            Sample {
                requests: at,
                descriptors,
                rss_bytes,
            }
        };
        judged(40, (0..40).map(sample).collect())
    }

    #[test]
    fn a_start_may_rise_and_samples_may_swing() {
        let soak = series(|at| (70 + at % 3, (10 << 20) + at.min(5) * (1 << 20)));
        assert!(soak.descriptors_flat && soak.memory_flat);
    }

    #[test]
    fn a_slow_leak_is_seen() {
        let soak = series(|at| (70 + at / 10, 100 << 20));
        assert!(!soak.descriptors_flat && soak.memory_flat);
        let soak = series(|at| (70, (100 << 20) + at * (100 << 10)));
        assert!(soak.descriptors_flat && !soak.memory_flat);
    }
}
