//! The fallback data plane. It is not there yet: this process serves health and admin pages, and says so.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mesh_runtime::admin::Admin;
use mesh_runtime::drain::Drain;
use mesh_runtime::readiness::Readiness;
use mesh_runtime::tasks::Tasks;
use mesh_runtime::{metrics, telemetry};
use tracing::warn;

const NOTICE: &str = "The fallback data plane is not there yet: this process carries no traffic.";

/// Lazymesh's fallback data plane.
///
/// THE FALLBACK DATA PLANE IS NOT THERE YET. This process carries no traffic; it serves health, metrics and admin
/// pages only.
#[derive(Debug, Parser)]
#[command(name = "global-proxy", version)]
struct Cli {
    /// Where health, metrics and admin pages are served
    #[arg(
        long,
        env = "LAZYMESH_ADMIN_LISTEN",
        default_value = "127.0.0.1:15023",
        value_name = "ADDRESS"
    )]
    admin_listen: SocketAddr,
    #[command(flatten)]
    telemetry: telemetry::Args,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("global-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let log = telemetry::init(&cli.telemetry)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        warn!("{NOTICE}");
        let drain = Drain::new(Duration::ZERO);
        let signals = drain.on_signals()?;
        let admin = Admin::new(
            "Lazymesh global-proxy",
            metrics::registry()?,
            Readiness::new(),
            drain.clone(),
        );
        let admin = admin
            .notice(NOTICE)
            .log_control(log)
            .bind(cli.admin_listen)
            .await?;
        let mut tasks = Tasks::new(drain.clone());
        tasks.spawn_background("signals", signals);
        tasks.spawn_background("admin port", admin.serve());
        tasks.spawn("until drained", async move {
            drain.started().await;
            Ok::<_, std::io::Error>(())
        });
        Ok(tasks.run().await?)
    })
}
