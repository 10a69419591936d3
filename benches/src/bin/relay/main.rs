//! `make bench-relay`: the global proxy's relay beside Envoy in its place, at equal CPU.
//!
//! The relay under test has one worker and one core; the load and the origin share the other one. Both relays are there
//! all the time and are loaded in turns. Then a soak of the global proxy. It ends with an error when a claim does not
//! hold.

mod case;
mod load;
mod measure;
mod origin;
mod relay;
mod report;
mod soak;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use case::{Case, Protocol};
use clap::Parser;
use measure::{Plan, Rounds};
use mesh_benches::claims;
use relay::Relay;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Loads the global proxy and Envoy in its place, and says which of them carries more at equal CPU.
#[derive(Debug, Parser)]
struct Args {
    /// Envoy's program
    #[arg(long, value_name = "FILE")]
    envoy: PathBuf,
    /// The global proxy's program
    #[arg(long, value_name = "FILE")]
    global_proxy: PathBuf,
    /// Where the findings go
    #[arg(long, default_value = "target/bench/relay.json", value_name = "FILE")]
    out: PathBuf,
    /// Rounds of each case; medians are judged
    #[arg(long, default_value_t = 9, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1.2, value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
    /// Requests of the soak; 0: none
    #[arg(long, default_value_t = 2_000_000, value_name = "NUMBER")]
    soak_requests: u64,
    /// Cases whose name holds this text only
    #[arg(long, default_value = "", value_name = "TEXT")]
    only: String,
    /// A look: three short rounds and a short soak
    #[arg(long)]
    quick: bool,
}

const CASES: [Case; 6] = [
    Case::new(Protocol::Http1, 0, 1 << 10),
    Case::new(Protocol::Http1, 0, 64 << 10),
    Case::new(Protocol::Http2, 0, 1 << 10),
    Case::new(Protocol::Http2, 0, 64 << 10),
    Case::new(Protocol::Http1, 64 << 10, 1 << 10),
    Case::new(Protocol::Http2, 64 << 10, 1 << 10),
];

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("from 0.1 to 600".into()),
    }
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.quick {
        (args.rounds, args.seconds) = (3, 1.0);
        args.soak_requests = args.soak_requests.min(200_000);
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-relay: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    relay::pin(relay::LOAD_CORE)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            done = compare(args) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
        }
    }))
}

async fn compare(args: &Args) -> Result<bool> {
    let folder = args.out.parent().context("--out names no file")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let ours = Relay::ours(&args.global_proxy, folder).await?;
    let envoy = Relay::envoy(&args.envoy, folder).await?;
    let plan = Plan {
        warm_up: Duration::from_secs_f64((args.seconds / 4.0).min(0.5)),
        measured: Duration::from_secs_f64(args.seconds),
    };
    let chosen = CASES
        .into_iter()
        .filter(|case| case.name().contains(&args.only));
    let mut all: Vec<Rounds> = chosen.map(Rounds::new).collect();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for rounds in &mut all {
            rounds.round([&ours, &envoy], plan).await?;
        }
    }
    drop((ours, envoy));
    println!("{}", report::table(&all));
    if let Some(warning) = report::warning(&all) {
        println!("{warning}\n");
    }
    let mut claims: Vec<_> = all.iter().flat_map(report::claims_of_rounds).collect();
    let mut soaked = None;
    if args.soak_requests > 0 {
        eprintln!("soak: {} requests", args.soak_requests);
        let ours = Relay::ours(&args.global_proxy, folder).await?;
        let soak = soak::soak(&ours, args.soak_requests).await?;
        claims.extend(report::claims_of_soak(&soak));
        soaked = Some(soak);
    }
    println!("{}", claims::list(&claims));
    let settings = json!({
        "rounds": args.rounds,
        "seconds": args.seconds,
        "connections_and_streams": {
            "http1": Protocol::Http1.concurrency(),
            "http2": Protocol::Http2.concurrency(),
        },
    });
    report::write(&args.out, &all, soaked.as_ref(), &claims, &settings)?;
    println!("written: {}", args.out.display());
    Ok(claims.iter().all(|claim| claim.holds))
}
