//! What `make bench` finds: the types of `target/bench/report.json`, for who writes it and who reads it.
//!
//! Whatever is `None` was not measured. It is written as `null`, and may be missing in what is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::stats::median;

pub mod istiod;
#[cfg(test)]
mod tests;

/// Plain Istio: the whole mesh in each sidecar.
pub const PLAIN: &str = "plain";
/// A `Sidecar` that somebody wrote by hand, with exactly what is used: the ideal.
pub const HAND_WRITTEN: &str = "hand_written";
/// Mode `sidecar`.
pub const SIDECAR: &str = "sidecar";
/// Mode `on-demand`.
pub const ON_DEMAND: &str = "on_demand";
/// Mode `on-demand`, of a workload that has settled.
pub const SETTLED: &str = "settled";
/// The ways that the claims are about, in the order in which they are shown. A report may have others, which come after them.
pub const WAYS: [&str; 5] = [PLAIN, HAND_WRITTEN, SIDECAR, ON_DEMAND, SETTLED];

/// All of a run of the bench.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    #[serde(default, deserialize_with = "or_default")]
    pub machine: Machine,
    /// Of Lazymesh, as git names it.
    pub commit: Option<String>,
    /// Of what took part.
    #[serde(default, deserialize_with = "or_default")]
    pub versions: Versions,
    /// Which of Envoy's deferred options plain Istio's sidecars have on, in words.
    pub deferred: Option<String>,
    /// How often each way was measured.
    pub repetitions: Option<u32>,
    /// By the number of services in the mesh.
    #[serde(default, deserialize_with = "or_default")]
    pub sizes: BTreeMap<u32, Ways>,
}

/// What was measured in a mesh of one size, by the name of the way: [`WAYS`] and others.
pub type Ways = BTreeMap<String, Way>;

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The model's name.
    pub cpu: Option<String>,
    /// Logical ones.
    pub cores: Option<u32>,
    /// All of its memory.
    pub memory_bytes: Option<u64>,
    /// Its release.
    pub kernel: Option<String>,
}

/// Versions of what took part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// Of istiod and pilot-agent.
    pub istio: Option<String>,
    /// Of the sidecars.
    pub envoy: Option<String>,
    /// Of the three programs.
    pub lazymesh: Option<String>,
}

/// One sidecar in one way: medians of the repetitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// What istiod sent for this sidecar until it was ready and had called three services.
    pub bytes_from_istiod: Option<u64>,
    /// What the sidecar was sent until then.
    pub bytes_to_sidecar: Option<u64>,
    /// The same, by type.
    pub bytes_to_sidecar_by_type: Option<BytesByType>,
    /// In the sidecar.
    pub clusters: Option<u64>,
    /// In the sidecar.
    pub endpoints: Option<u64>,
    /// In the sidecar.
    pub listeners: Option<u64>,
    /// In the sidecar.
    pub virtual_hosts: Option<u64>,
    /// Envoy's heap at rest, after calls to three services: `/memory`, `allocated`.
    pub heap_bytes: Option<u64>,
    /// Envoy's resident set then.
    pub rss_bytes: Option<u64>,
    /// Envoy's heap at rest before the first call.
    pub heap_before_bytes: Option<u64>,
    /// Envoy's resident set then.
    pub rss_before_bytes: Option<u64>,
    /// pilot-agent's resident set.
    pub agent_rss_bytes: Option<u64>,
    /// From Envoy's start to its workers running. On demand: while another sidecar is behind the same shim.
    pub ready_ms: Option<f64>,
    /// The same of a sidecar that is the only one behind its shim, which takes in all of the mesh for it. Once.
    pub ready_alone_ms: Option<f64>,
    /// Envoy's CPU until then.
    pub ready_cpu_ms: Option<f64>,
    /// HTTP calls to services that were never called before, over at least 200 services.
    pub first_call_ms: Option<Quantiles>,
    /// HTTP calls to the same services after that.
    pub later_call_ms: Option<Quantiles>,
    /// As `first_call_ms`, over TCP.
    pub first_call_tcp_ms: Option<Quantiles>,
    /// As `later_call_ms`, over TCP.
    pub later_call_tcp_ms: Option<Quantiles>,
    /// Load on one service that was called before.
    pub steady: Option<Steady>,
    /// What changes of the mesh cost.
    pub changes: Option<Changes>,
    /// From a first call to its service being in what the workload is known to use.
    pub learning_ms: Option<f64>,
    /// The least and the most of the repetitions, by the field's name with dots: `heap_bytes`, `steady.rps`.
    #[serde(default, deserialize_with = "or_default")]
    pub spread: Spread,
}

/// The least and the most of the repetitions, by the field's name with dots.
pub type Spread = BTreeMap<String, [f64; 2]>;

/// Bytes of the resources of each type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BytesByType {
    /// Clusters.
    pub cds: Option<u64>,
    /// Endpoints.
    pub eds: Option<u64>,
    /// Listeners.
    pub lds: Option<u64>,
    /// Routes.
    pub rds: Option<u64>,
}

/// Of the calls of a kind, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median.
    pub p50: Option<f64>,
    /// What nine of ten took at most.
    pub p90: Option<f64>,
    /// What 99 of 100 took at most.
    pub p99: Option<f64>,
}

/// Of steady load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    /// Calls a second.
    pub rps: Option<f64>,
    /// The median, in milliseconds.
    pub p50_ms: Option<f64>,
    /// What 99 of 100 took at most, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// Changes of the mesh, and what each costs for one sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Another endpoint of a service that is used.
    pub endpoint: Option<Cost>,
    /// Another endpoint of a service that is not used.
    pub unused_endpoint: Option<Cost>,
    /// A service that was not there before.
    pub new_service: Option<Cost>,
    /// All of the config again.
    pub full_push: Option<Cost>,
}

/// What a change costs: CPU in milliseconds, and bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// istiod's CPU.
    pub istiod_cpu_ms: Option<f64>,
    /// The shim's CPU.
    pub shim_cpu_ms: Option<f64>,
    /// Envoy's CPU.
    pub sidecar_cpu_ms: Option<f64>,
    /// What istiod sent for the sidecar.
    pub bytes_from_istiod: Option<u64>,
    /// What the sidecar was sent.
    pub bytes_to_sidecar: Option<u64>,
}

impl Report {
    /// Reads a file that [`Report::write`] wrote; nothing if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is no report; it names the file.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| path.display().to_string())?,
        };
        let report = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of `make bench`", path.display()))?;
        Ok(Some(report))
    }

    /// Writes the file, and makes its folder.
    ///
    /// # Errors
    /// It cannot be written; it names the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl Way {
    /// The repetitions' medians, field by field, and their spread. What some of them did not measure is what the others say.
    ///
    /// # Errors
    /// None that a repetition could cause: the values go through JSON.
    pub fn medians(repetitions: &[Self]) -> Result<Self> {
        let values = repetitions.iter().map(|one| {
            serde_json::to_value(Self {
                spread: Spread::new(),
                ..one.clone()
            })
        });
        let values = values.collect::<Result<Vec<_>, _>>()?;
        if values.is_empty() {
            return Ok(Self::default());
        }
        let mut spread = Spread::new();
        let middle = middle(&values.iter().collect::<Vec<_>>(), "", &mut spread);
        let way = serde_json::from_value(middle).context("medians make no way")?;
        Ok(Self { spread, ..way })
    }
}

/// The medians of what has the same place in all of the values.
fn middle(values: &[&Value], place: &str, spread: &mut Spread) -> Value {
    let numbers: Vec<f64> = values.iter().filter_map(|value| value.as_f64()).collect();
    if let Some(median) = median(numbers.clone()) {
        let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        spread.insert(place.to_owned(), [least, most]);
        let whole = values.iter().all(|value| value.is_u64() || value.is_null());
        return if whole {
            json!(median.round() as u64)
        } else {
            json!(median)
        };
    }
    let objects: Vec<&Map<_, _>> = values.iter().filter_map(|v| v.as_object()).collect();
    if objects.is_empty() {
        return Value::Null;
    }
    let names: BTreeSet<&String> = objects.iter().flat_map(|object| object.keys()).collect();
    let of_name = |name: &String| {
        let values: Vec<&Value> = objects.iter().filter_map(|one| one.get(name)).collect();
        let place = if place.is_empty() {
            name.clone()
        } else {
            format!("{place}.{name}")
        };
        (name.clone(), middle(&values, &place, spread))
    };
    Value::Object(names.into_iter().map(of_name).collect())
}

/// `null` is as good as a field that is missing.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
