//! The command `global-proxy`.

use std::process::ExitCode;

use clap::Parser;
use global_proxy::app::{App, Error};
use global_proxy::config::Cli;
use mesh_runtime::drain::Drain;
use mesh_runtime::telemetry;

/// A relay allocates for each request and frees it soon, on one thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not with its sources: their texts are in it already.
            eprintln!("global-proxy: {error}");
            let flags = matches!(error.downcast_ref(), Some(Error::Flags(_)));
            ExitCode::from(if flags { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    cli.check().map_err(Error::Flags)?;
    let log = telemetry::init(&cli.telemetry)?;
    // The workers have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let drain = Drain::delayed(cli.drain_delay, cli.drain);
        let signals = drain.on_signals()?;
        let app = App::bind(cli, Some(log), drain).await?;
        let signals = tokio::spawn(signals);
        let ended = app.run().await;
        signals.abort();
        Ok(ended?)
    })
}
