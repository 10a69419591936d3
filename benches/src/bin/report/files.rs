//! The files: what is read, and what is made of it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mesh_tests::bench_report::Report;
use mesh_tests::bench_report::istiod::IstiodReport;
use serde_json::Value;

use crate::found::Found;
use crate::{page, plots, readme};

/// What `make bench` writes.
pub(crate) const REPORT: &str = "report.json";
const SCALE: &str = "scale.json";
const RELAY: &str = "relay.json";
const ISTIOD: &str = "istiod.json";

/// A file as it should be.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) path: PathBuf,
    /// `None`: it should not be there.
    text: Option<String>,
}

impl Generated {
    /// Whether it is as it should be.
    pub(crate) fn is_written(&self) -> Result<bool> {
        Ok(read(&self.path)? == self.text)
    }

    /// Makes it so. Whether it was not.
    pub(crate) fn write(&self) -> Result<bool> {
        if self.is_written()? {
            return Ok(false);
        }
        match &self.text {
            Some(text) => fs::write(&self.path, text),
            None => fs::remove_file(&self.path),
        }
        .with_context(|| self.path.display().to_string())?;
        Ok(true)
    }
}

/// Copies what the benches found; the names of the files that were there.
pub(crate) fn keep(found: &Path, results: &Path) -> Result<Vec<&'static str>> {
    fs::create_dir_all(results).with_context(|| results.display().to_string())?;
    let mut kept = Vec::new();
    for name in [REPORT, SCALE, RELAY, ISTIOD] {
        let from = found.join(name);
        match fs::copy(&from, results.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            copied => {
                copied.with_context(|| format!("copy {}", from.display()))?;
                kept.push(name);
            }
        }
    }
    Ok(kept)
}

/// All that is made of what is kept.
pub(crate) fn generate(results: &Path, readme: &Path) -> Result<Vec<Generated>> {
    let report = Report::read(&results.join(REPORT))?.unwrap_or_default();
    let found = Found {
        scale: json(&results.join(SCALE))?,
        relay: json(&results.join(RELAY))?,
        istiod: IstiodReport::read(&results.join(ISTIOD))?,
        ..Found::new(report)?
    };
    let plots = plots::all(&found)?;
    let old = fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
    let new = readme::rewrite(&old, &found, &plots, "benches/results")?;
    let of_plots = plots::files().map(|file| {
        let drawn = plots.iter().find(|drawn| drawn.file == file);
        Generated {
            path: results.join(file),
            text: drawn.map(|drawn| drawn.svg.clone()),
        }
    });
    let mut all: Vec<_> = of_plots.collect();
    all.push(Generated {
        path: results.join("README.md"),
        text: Some(page::page(&found, &plots)),
    });
    all.push(Generated {
        path: readme.to_owned(),
        text: Some(new),
    });
    Ok(all)
}

fn json(path: &Path) -> Result<Option<Value>> {
    let text = read(path)?;
    let value = text.map(|text| serde_json::from_str(&text));
    value
        .transpose()
        .with_context(|| path.display().to_string())
}

/// A file's text; nothing if there is none.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some).with_context(|| path.display().to_string()),
    }
}
