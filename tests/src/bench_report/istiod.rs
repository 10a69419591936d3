//! What `make bench-istiod` finds: the types of `target/bench/istiod.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Machine, Versions};
use crate::stats::median;

/// All of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IstiodReport {
    /// Where it ran.
    pub machine: Machine,
    /// Of Lazymesh, as git names it.
    pub commit: Option<String>,
    /// Of what took part.
    pub versions: Versions,
    /// How often each change was made.
    pub repetitions: u32,
    /// By the number of services in the mesh.
    pub sizes: BTreeMap<u32, OfSize>,
}

/// What istiod needed in a mesh of one size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OfSize {
    /// With no stream but the server's.
    pub alone: Streams,
    /// Sidecars that get the whole mesh, by how many there were.
    pub plain: BTreeMap<u32, Streams>,
    /// Sidecars of workloads that have a `Sidecar` with three services each, as settled ones do.
    pub settled: BTreeMap<u32, Streams>,
}

/// With so many streams.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    /// istiod's resident set when nothing happens.
    pub rss_bytes: u64,
    /// Its largest since before the streams were opened.
    pub peak_rss_bytes: u64,
    /// All of them connecting at once.
    pub connect: Option<Spent>,
    /// Another endpoint of a service that is used.
    pub endpoint: Spent,
    /// Another endpoint of a service that is not.
    pub unused_endpoint: Spent,
    /// A service that was not there before.
    pub new_service: Spent,
    /// All of the config again.
    pub full_push: Spent,
}

/// What something took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// istiod's CPU, in milliseconds.
    pub istiod_cpu_ms: f64,
    /// What it sent on all streams together.
    pub bytes: u64,
    /// From the change to the last message that any stream got, in milliseconds; none where nothing was sent.
    pub last_ms: Option<f64>,
}

impl Spent {
    /// Medians; nothing of nothing.
    #[must_use]
    pub fn medians(all: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(all.iter().map(value).collect());
        let lasts = all.iter().filter_map(|one| one.last_ms);
        Self {
            istiod_cpu_ms: of(|one| one.istiod_cpu_ms).unwrap_or_default(),
            bytes: of(|one| one.bytes as f64).unwrap_or_default() as u64,
            last_ms: median(lasts.collect()),
        }
    }
}

impl IstiodReport {
    /// Reads a file that [`IstiodReport::write`] wrote; nothing if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is no such report; it names the file.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| path.display().to_string())?,
        };
        let report = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of `make bench-istiod`", path.display()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_value() {
        let spent = |istiod_cpu_ms, bytes, last_ms| Spent {
            istiod_cpu_ms,
            bytes,
            last_ms,
        };
        let all = [
            spent(1.0, 30, None),
            spent(3.0, 10, Some(4.0)),
            spent(2.0, 20, None),
        ];
        assert_eq!(Spent::medians(&all), spent(2.0, 20, Some(4.0)));
        assert_eq!(Spent::medians(&[]), Spent::default());
    }
}
