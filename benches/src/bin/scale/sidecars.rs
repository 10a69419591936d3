//! `scale sidecars`: simulated sidecars of a control plane that somebody else runs, which say what they get.
//!
//! On standard output, a line of JSON each: once all have their config, and for each line that is read, until there are no
//! more.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::fleet::{Fleet, What};
use crate::mesh::Workload;

/// Connects simulated sidecars to a control plane, and says what they get; each line on standard input is answered with
/// one of JSON, the end of it ends them.
#[derive(Debug, Args)]
pub(crate) struct Sidecars {
    /// Where the control plane takes streams in plain text
    #[arg(long, value_name = "ADDRESS")]
    address: SocketAddr,
    /// How many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: u16,
    /// Their namespace
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// Their workloads, in turn: each pod has the name as its label `app`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    workloads: Vec<String>,
    /// Seconds in which all must have their config
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    limit: u64,
}

impl Sidecars {
    pub(crate) async fn run(&self) -> Result<()> {
        let workloads: Vec<Workload> = self
            .workloads
            .iter()
            .map(|name| Workload {
                namespace: self.namespace.clone(),
                name: name.clone(),
                uses: Vec::new(),
            })
            .collect();
        let fleet = Fleet::new(usize::from(self.count), &workloads, self.address);
        let connected = fleet.order(0..fleet.len(), What::Restart);
        let limit = Duration::from_secs(self.limit);
        let in_time = tokio::time::timeout(limit, connected).await;
        in_time.with_context(|| {
            let why = fleet.counts.why.lock().clone();
            format!("not all had their config after {limit:?}; the last that broke: {why:?}")
        })??;
        say(&fleet);
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while lines.next_line().await?.is_some() {
            say(&fleet);
        }
        let broken = fleet.counts.broken.load(Ordering::Relaxed);
        let why = fleet.counts.why.lock().clone();
        ensure!(
            broken == 0,
            "{broken} streams broke, the last of them: {why:?}"
        );
        fleet.end().await;
        Ok(())
    }
}

fn say(fleet: &Fleet) {
    let counts = &fleet.counts;
    let since = counts.last.lock().elapsed();
    let said = json!({
        "bytes": counts.bytes.load(Ordering::Relaxed),
        "since_last_ms": since.as_secs_f64() * 1e3,
        "broken": counts.broken.load(Ordering::Relaxed),
    });
    println!("{said}");
}
