//! Relays xDS between istiod and sidecars; see the library.

use clap::Parser;
use mesh_runtime::drain::Drain;
use mesh_runtime::telemetry;
use std::process::ExitCode;
use xds_shim::app::App;
use xds_shim::config::Config;

/// A stream takes in megabytes at a time, of which a few hundred bytes stay: the C library's allocator keeps what is between
/// them (docs/facts.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xds-shim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Config) -> anyhow::Result<()> {
    let log = telemetry::init(&config.log)?;
    let drain = Drain::new(config.drain_timeout);
    let signals = drain.on_signals()?;
    tokio::spawn(signals);
    App::start(config, log, drain).await?.run().await
}
