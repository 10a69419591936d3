//! What the environment says. The program's arguments are those of a test runner.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The first seed (`LAZYMESH_DIFF_FIRST`, 1 without).
    pub(crate) first: u64,
    /// How many (`LAZYMESH_DIFF_SEEDS`, 5 without).
    pub(crate) count: u64,
    /// How often each is run (`LAZYMESH_DIFF_REPEAT`, 1 without): for what comes now and then.
    pub(crate) repeat: usize,
    /// How often one difference is tried again with less of its mesh (`LAZYMESH_DIFF_TRIES`, 24 without).
    pub(crate) tries: usize,
    /// Whether each seed's mesh and probes are printed (`LAZYMESH_DIFF_SHOW=1`).
    pub(crate) show: bool,
}

impl Settings {
    pub(crate) fn read() -> Result<Self> {
        let count = number("LAZYMESH_DIFF_SEEDS", 5)?;
        ensure!(count > 0, "LAZYMESH_DIFF_SEEDS is 0: nothing to be tried");
        Ok(Self {
            first: number("LAZYMESH_DIFF_FIRST", 1)?,
            count,
            repeat: usize::try_from(number("LAZYMESH_DIFF_REPEAT", 1)?)?,
            tries: usize::try_from(number("LAZYMESH_DIFF_TRIES", 24)?)?,
            show: number("LAZYMESH_DIFF_SHOW", 0)? > 0,
        })
    }

    pub(crate) fn seeds(self) -> RangeInclusive<u64> {
        self.first..=self.first.saturating_add(self.count - 1)
    }
}

fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}={text}")),
        _ => Ok(otherwise),
    }
}
