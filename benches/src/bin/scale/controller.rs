//! One controller with a large graph, shims that report to it in bursts, and new shims.
//!
//! The controller is the real program, on a folder: what Kubernetes would add is measured by `make bench-controller`. The
//! shims are simulated, in this process, of the shim's own client.

mod edges;
mod found;
mod run;
mod shims;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use mesh_benches::claims::{self, Claim};
use serde_json::json;

use crate::report;
use edges::Size;
use run::{Run, Settings};

/// Of the controller.
#[derive(Args, Debug)]
#[command(next_help_heading = "Controller")]
pub(crate) struct Flags {
    /// The controller's program
    #[arg(long, value_name = "FILE")]
    lazyload_controller: Option<PathBuf>,
    /// Workloads x dependencies of each [default: 10000x50, or 200x20 with --quick]
    #[arg(long, value_name = "SIZE")]
    graph: Option<Size>,
    /// Shims that report and watch all along
    #[arg(long, default_value_t = 8, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=100))]
    shims: u16,
    /// Reports a second, of the sustained ones
    #[arg(long, default_value_t = 6000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    reports: u32,
    /// Seconds that they go on for [default: 20, or 2 with --quick]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: Option<u16>,
}

impl Flags {
    /// Measures, tells, and adds to `out`; whether all claims hold.
    ///
    /// # Errors
    /// When something cannot be measured.
    pub(crate) async fn run(&self, out: &Path, quick: bool) -> Result<bool> {
        let folder = out.parent().context("--out names no file")?;
        let program = self.lazyload_controller.clone();
        let size = if quick { found::QUICK } else { found::CLAIMED };
        let settings = Settings {
            program: program.context("--lazyload-controller is missing")?,
            folder: folder.to_owned(),
            size: self.graph.unwrap_or(size),
            shims: usize::from(self.shims),
            reports_per_s: f64::from(self.reports),
            seconds: f64::from(self.seconds.unwrap_or(if quick { 2 } else { 20 })),
            catch_ups: if quick { 1 } else { 5 },
        };
        let found = Run::all(&settings).await.context("the controller")?;
        let claims = found.claims(quick);
        println!("{}\n{}", found.table(), claims::list(&claims));
        let written = [
            ("controller", json!(found)),
            ("controller_claims", json!(claims)),
            (
                "controller_settings",
                json!({"quick": quick, "cores": crate::cores()}),
            ),
        ];
        report::add(out, written)?;
        Ok(claims.iter().all(|claim: &Claim| claim.holds))
    }
}
