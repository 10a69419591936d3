//! What is measured, and what was found.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// So many sidecars of a mesh of so many services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) sidecars: usize,
    pub(crate) services: u32,
}

impl Case {
    pub(crate) const fn new(sidecars: usize, services: u32) -> Self {
        Self { sidecars, services }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.sidecars, self.services)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (sidecars, services) = text.split_once('x')?;
            Some(Self::new(sidecars.parse().ok()?, services.parse().ok()?))
        };
        parse()
            .filter(|case| {
                (50..=100_000).contains(&case.sidecars) && (100..=100_000).contains(&case.services)
            })
            .ok_or_else(|| {
                format!(
                    "{text:?} is not SIDECARSxSERVICES, such as 100x1000, 50 to 100,000 and 100 to 100,000"
                )
            })
    }
}

/// What something took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spent {
    /// Until all sidecars, or all streams, had it.
    pub(crate) seconds: f64,
    /// The shim's, to its rest.
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_system_s: f64,
    /// Of messages from the control plane.
    pub(crate) bytes_in: u64,
    /// Of messages to sidecars.
    pub(crate) bytes_out: u64,
    /// The most resident memory the shim had meanwhile.
    pub(crate) peak_rss_bytes: u64,
    /// Streams that broke meanwhile though nobody wanted that: they had to begin again.
    pub(crate) broken_streams: u64,
}

impl Spent {
    pub(crate) fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_system_s
    }

    /// Bytes taken in per second of CPU.
    pub(crate) fn ingest(&self) -> f64 {
        self.bytes_in as f64 / self.cpu_s()
    }
}

/// How long an endpoint change took until sidecars had it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) changes: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Until the last sidecar had it: the median over the changes.
    pub(crate) last_ms: f64,
}

impl Latency {
    /// Of the times of each change, sorted; none of nothing.
    pub(crate) fn of(changes: &[Vec<Duration>]) -> Option<Self> {
        let mut all: Vec<Duration> = changes.concat();
        all.sort_unstable();
        let mut lasts: Vec<Duration> = changes
            .iter()
            .filter_map(|one| one.last().copied())
            .collect();
        lasts.sort_unstable();
        Some(Self {
            changes: changes.len(),
            p50_ms: quantile(&all, 50)?,
            p99_ms: quantile(&all, 99)?,
            max_ms: quantile(&all, 100)?,
            last_ms: quantile(&lasts, 50)?,
        })
    }
}

fn quantile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = (sorted.len() * percent / 100).min(last);
    Some(sorted.get(at)?.as_secs_f64() * 1e3)
}

/// An endpoint change through the shim, and without it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Beside {
    pub(crate) shim: Latency,
    /// None where it was not measured.
    pub(crate) without: Option<Latency>,
}

impl Beside {
    /// What the shim adds to the time that 99 of 100 sidecars keep.
    pub(crate) fn added_p99_ms(&self) -> Option<f64> {
        Some(self.shim.p99_ms - self.without?.p99_ms)
    }
}

/// What was found of a case. What is none was left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Found {
    pub(crate) sidecars: usize,
    pub(crate) services: u32,
    /// Clusters, listeners and routes, as the control plane sends them to each stream.
    pub(crate) config_bytes: usize,
    /// At rest, all connected.
    pub(crate) rss_bytes: Option<u64>,
    /// With one sidecar of each namespace connected: all that is shared is there.
    pub(crate) rss_of_first_bytes: Option<u64>,
    /// What each further stream added.
    pub(crate) rss_bytes_per_stream: Option<u64>,
    pub(crate) full_push_cpu_s: Option<f64>,
    pub(crate) ingest_bytes_per_core_s: Option<f64>,
    /// Until the last sidecar has an endpoint change of the service that all use.
    pub(crate) last_sidecar_ms: Option<f64>,
    pub(crate) change_of_common: Option<Beside>,
    /// The same of a service that few workloads use.
    pub(crate) change_of_one: Option<Beside>,
    pub(crate) unused_change_bytes: Option<u64>,
    pub(crate) connect: Option<Spent>,
    pub(crate) full_pushes: Vec<Spent>,
    pub(crate) reconnect_storm: Option<Spent>,
    pub(crate) rolling_restart: Option<Spent>,
    /// Streams that broke though nobody wanted that, and why the last of them did.
    pub(crate) broken_streams: u64,
    pub(crate) broken_why: Option<String>,
}

impl Found {
    pub(crate) fn of(case: Case, config_bytes: usize) -> Self {
        Self {
            sidecars: case.sidecars,
            services: case.services,
            config_bytes,
            ..Self::default()
        }
    }

    /// What comes next of what is not there yet.
    pub(crate) fn next(&self) -> &'static str {
        match self {
            Self { connect: None, .. } => "all of it",
            Self {
                rss_bytes: None, ..
            } => "what is measured at rest",
            Self {
                last_sidecar_ms: None,
                ..
            } => "endpoint changes and what follows",
            Self {
                full_push_cpu_s: None,
                ..
            } => "full pushes and what follows",
            Self {
                reconnect_storm: None,
                ..
            } => "a reconnect storm and what follows",
            _ => "a rolling restart",
        }
    }

    /// Whether what a case is made for is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.rss_bytes.is_some() && self.last_sidecar_ms.is_some() && self.full_push_cpu_s.is_some()
    }
}

/// What was not measured, and why.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) case: String,
    pub(crate) what: String,
    pub(crate) why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_written_with_an_x() {
        assert_eq!("100x1000".parse(), Ok(Case::new(100, 1000)));
        for bad in ["", "100", "x", "49x1000", "100x0", "-1x1000", "100x200000"] {
            assert!(bad.parse::<Case>().is_err(), "{bad}");
        }
    }

    #[test]
    fn latencies_are_over_sidecars_and_changes() {
        let ms =
            |all: &[u64]| -> Vec<_> { all.iter().map(|n| Duration::from_millis(*n)).collect() };
        let latency = Latency::of(&[ms(&[1, 2]), ms(&[3, 9]), ms(&[1, 4])]).unwrap();
        assert_eq!((latency.changes, latency.p50_ms), (3, 3.0));
        assert_eq!((latency.max_ms, latency.last_ms), (9.0, 4.0));
        assert!(Latency::of(&[]).is_none());
    }
}
