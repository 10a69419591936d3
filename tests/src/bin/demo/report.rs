//! The figures of a run, as they go into `report.json`, and whether they are those of a lazy sidecar.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// What a sidecar costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Costs {
    /// Received from where its config comes from.
    pub(crate) config_bytes: u64,
    /// Clusters, those of the bootstrap included.
    pub(crate) clusters: u64,
    /// In use by Envoy's own objects (`/memory`, allocated).
    pub(crate) heap_bytes: u64,
    /// Of the process.
    pub(crate) rss_bytes: u64,
    /// From its start until its config was in and its workers ran.
    pub(crate) ready_ms: f64,
}

/// Medians, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct PerProtocol {
    pub(crate) http: f64,
    pub(crate) tcp: f64,
}

/// All figures; the fields are the names in the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) services: u32,
    pub(crate) plain: Costs,
    pub(crate) lazy: Costs,
    pub(crate) first_call_ms: PerProtocol,
    pub(crate) later_call_ms: PerProtocol,
    pub(crate) learned: Vec<String>,
    pub(crate) warm_start_first_call_ms: f64,
    pub(crate) sidecar: Growing,
}

/// A sidecar in mode `sidecar`, and calls through it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Growing {
    #[serde(flatten)]
    pub(crate) costs: Costs,
    pub(crate) first_call_ms: PerProtocol,
    pub(crate) later_call_ms: PerProtocol,
}

/// What no lazy sidecar exceeds, as a share of the plain one's.
const CLUSTERS_SHARE: f64 = 0.05;
const HEAP_SHARE: f64 = 0.4;
const CONFIG_SHARE: f64 = 0.75;

impl Report {
    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())
    }
}

impl Costs {
    /// Fails when these are not the costs of a lazy sidecar beside those of a plain one.
    ///
    /// # Errors
    /// With the figure at fault.
    #[allow(clippy::cast_precision_loss)] // shares of figures far below 2^53
    pub(crate) fn expect_lazy(&self, plain: &Self) -> Result<()> {
        let share = |what: &str, of: fn(&Self) -> u64, most: f64| -> Result<()> {
            let (lazy, plain) = (of(self), of(plain));
            let limit = plain as f64 * most;
            ensure!(
                lazy as f64 <= limit,
                "the lazy sidecar is not lazy: {what} {lazy}, plain {plain}, at most {limit:.0} expected"
            );
            Ok(())
        };
        share("clusters", |costs| costs.clusters, CLUSTERS_SHARE)?;
        share("heap bytes", |costs| costs.heap_bytes, HEAP_SHARE)?;
        share("config bytes", |costs| costs.config_bytes, CONFIG_SHARE)
    }
}

/// Milliseconds to the microsecond.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let costs = |clusters, heap_bytes, config_bytes| Costs {
            config_bytes,
            clusters,
            heap_bytes,
            rss_bytes: 1,
            ready_ms: 1.5,
        };
        let times = PerProtocol {
            http: 1.0,
            tcp: 2.0,
        };
        Report {
            services: 1000,
            plain: costs(2106, 180_000_000, 5_000_000),
            lazy: costs(8, 19_500_000, 2_000_000),
            first_call_ms: times,
            later_call_ms: times,
            learned: vec!["shop/client -> a:80".to_owned()],
            warm_start_first_call_ms: 3.0,
            sidecar: Growing {
                costs: costs(14, 16_000_000, 50_000),
                first_call_ms: times,
                later_call_ms: times,
            },
        }
    }

    #[test]
    fn lazy_figures_pass_and_each_other_kind_is_named() {
        report().lazy.expect_lazy(&report().plain).unwrap();
        let fails = |spoil: fn(&mut Report), word: &str| {
            let mut report = report();
            spoil(&mut report);
            let error = report
                .lazy
                .expect_lazy(&report.plain)
                .unwrap_err()
                .to_string();
            assert!(error.contains(word), "{error}");
        };
        fails(|report| report.lazy.clusters = 2106, "clusters 2106");
        fails(|report| report.lazy.heap_bytes = 100_000_000, "heap bytes");
        fails(
            |report| report.lazy.config_bytes = 4_900_000,
            "config bytes",
        );
    }

    #[test]
    fn the_file_has_exactly_the_agreed_names() {
        let value = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort_unstable();
            keys
        };
        let mut expected = [
            "services",
            "plain",
            "lazy",
            "first_call_ms",
            "later_call_ms",
            "learned",
            "warm_start_first_call_ms",
            "sidecar",
        ];
        expected.sort_unstable();
        assert_eq!(keys(&value), expected);
        let costs = [
            "clusters",
            "config_bytes",
            "heap_bytes",
            "ready_ms",
            "rss_bytes",
        ];
        assert_eq!(
            (keys(&value["plain"]), keys(&value["lazy"])),
            (
                costs.map(String::from).into(),
                costs.map(String::from).into()
            )
        );
        assert_eq!(keys(&value["first_call_ms"]), ["http", "tcp"]);
        let mut growing = [&costs[..], &["first_call_ms", "later_call_ms"]].concat();
        growing.sort_unstable();
        assert_eq!(keys(&value["sidecar"]), growing);
        assert_eq!(keys(&value["sidecar"]["first_call_ms"]), ["http", "tcp"]);
    }
}
