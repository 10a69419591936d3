//! The command `lazyload-controller`.

use std::process::ExitCode;

use clap::Parser;
use lazyload_controller::app::{App, Error};
use lazyload_controller::clean_up;
use lazyload_controller::config::{Cli, Command, Serve};
use mesh_runtime::drain::Drain;
use mesh_runtime::telemetry;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Crd) => print_crd(),
        Some(Command::CleanUp(args)) => clean_up(&args),
        None => serve(&cli.serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not with its sources: their texts are in it already.
            eprintln!("lazyload-controller: {error}");
            let flags = matches!(error.downcast_ref(), Some(Error::Flags(_)));
            ExitCode::from(if flags { 2 } else { 1 })
        }
    }
}

fn print_crd() -> anyhow::Result<()> {
    print!("{}", lazyload_controller::resource::manifest()?);
    Ok(())
}

fn clean_up(args: &clean_up::Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(clean_up::run(args, |line| println!("{line}")))?)
}

fn serve(flags: &Serve) -> anyhow::Result<()> {
    flags.checked_auth().map_err(Error::Flags)?;
    flags.sidecars.enabled(&flags.store).map_err(Error::Flags)?;
    let log = telemetry::init(&flags.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let drain = Drain::new(flags.drain);
        let signals = drain.on_signals()?;
        let app = App::bind(flags, Some(log), drain).await?;
        let signals = tokio::spawn(signals);
        let ended = app.run().await;
        signals.abort();
        Ok(ended?)
    })
}
