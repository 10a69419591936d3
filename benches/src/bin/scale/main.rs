//! `make bench-scale`: one shim process with many sidecars, in meshes of many services; one controller with a large graph.
//!
//! The control plane, the sidecars and the controller's shims are simulated, in this process; shim and controller are the
//! real programs. All share the machine, so of CPU and memory only what the kernel counts for these is told. It ends with an error when a claim does
//! not hold.

mod board;
mod case;
mod controller;
mod direct;
mod encoded;
mod envoy;
mod fleet;
mod grpc;
mod mesh;
mod plane;
mod process;
mod report;
mod rules;
mod run;
mod shim;
mod sidecars;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use case::{Case, Found, LeftOut};
use clap::{Parser, Subcommand, ValueEnum};
use mesh_benches::claims;
use report::Report;
use run::{Mesh, Run, Settings};
use serde_json::json;
use sidecars::Sidecars;
use tokio::signal::unix::{SignalKind, signal};

/// Connects many simulated sidecars to one shim, and says what that costs it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Measure this one alone
    #[arg(long, value_name = "WHICH")]
    only: Option<Only>,
    /// The shim's program
    #[arg(long, value_name = "FILE")]
    xds_shim: Option<PathBuf>,
    /// Where the findings go; what is there under other names stays
    #[arg(long, default_value = "target/bench/scale.json", value_name = "FILE")]
    out: PathBuf,
    /// Sidecars x services, such as 100x1000,1000x5000
    #[arg(long, value_delimiter = ',', value_name = "SIZES")]
    sizes: Vec<Case>,
    /// Seconds that a case may take; what does not fit is left out
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=7200))]
    limit: u64,
    /// Endpoint changes of each kind. All sidecars have one within milliseconds: of few changes the p99 is the worst one
    #[arg(long, default_value_t = 200, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    changes: u32,
    /// Large responses that the control plane has under way at once [default: as istiod on as many cores]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pushes_at_once: Option<u16>,
    /// A look: the smallest case, and times are not judged
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    controller: controller::Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Shim,
    Controller,
}

/// Parts of it, for other benches.
#[derive(Debug, Subcommand)]
enum Part {
    Sidecars(Sidecars),
}

/// By services, so that a mesh is made once.
const CASES: [Case; 9] = [
    Case::new(100, 1000),
    Case::new(1000, 1000),
    Case::new(5000, 1000),
    Case::new(100, 5000),
    Case::new(1000, 5000),
    Case::new(5000, 5000),
    Case::new(100, 20_000),
    Case::new(1000, 20_000),
    Case::new(5000, 20_000),
];
const QUICK: [Case; 1] = [Case::new(100, 1000)];
/// Descriptors that a case needs beside those of sidecars.
const DESCRIPTORS: u64 = 500;
/// Bytes that move in a second on a machine that nothing is known of yet.
const FIRST_RATE: f64 = 3e8;

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.quick {
        args.changes = args.changes.min(10);
    }
    match start(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-scale: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(args: &Args) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            done = part(args) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
        }
    })
}

async fn part(args: &Args) -> Result<bool> {
    match &args.part {
        Some(Part::Sidecars(sidecars)) => sidecars.run().await.map(|()| true),
        None => all(args).await,
    }
}

async fn all(args: &Args) -> Result<bool> {
    let folder = args.out.parent().context("--out names no file")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let is_wanted = |one: Only| args.only.is_none_or(|only| only == one);
    let mut all_hold = true;
    if is_wanted(Only::Shim) {
        all_hold &= shim_alone(args, folder).await?;
    }
    if is_wanted(Only::Controller) {
        all_hold &= args.controller.run(&args.out, args.quick).await?;
    }
    println!("written: {}", args.out.display());
    Ok(all_hold)
}

async fn shim_alone(args: &Args, folder: &Path) -> Result<bool> {
    let descriptors = process::raise_descriptors();
    let settings = Settings {
        shim: args.xds_shim.clone().context("--xds-shim is missing")?,
        folder: folder.to_owned(),
        limit: Duration::from_secs(args.limit),
        changes: args.changes as usize,
        pushes_at_once: args
            .pushes_at_once
            .map_or_else(istiod_s_throttle, usize::from),
    };
    let cases = match (args.sizes.as_slice(), args.quick) {
        ([], true) => &QUICK[..],
        ([], false) => &CASES[..],
        (sizes, _) => sizes,
    };
    let mut report = Report::default();
    let mut mesh: Option<Mesh> = None;
    for case in cases {
        let mesh = match &mut mesh {
            Some(mesh) if mesh.services == case.services => mesh,
            other => {
                *other = None; // the other one's memory first
                other.insert(Mesh::new(case.services)?)
            }
        };
        if let Some(why) = too_much(*case, mesh, &settings, descriptors, &report) {
            report.leave_out(LeftOut {
                case: case.to_string(),
                what: "all of it".to_owned(),
                why,
            });
            continue;
        }
        eprintln!(
            "{case}: {} MB to each stream",
            mesh.config_bytes() / 1_000_000
        );
        one(*case, mesh, &settings, &mut report).await?;
    }
    let claims = report.claims(args.quick);
    println!("{}\n{}", report.table(), claims::list(&claims));
    let written = json!({
        "limit_s": args.limit,
        "changes": args.changes,
        "pushes_at_once": settings.pushes_at_once,
        "quick": args.quick,
        "cores": cores(),
    });
    report.write(&args.out, &claims, &written)?;
    Ok(claims.iter().all(|claim| claim.holds))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What istiod takes for PILOT_PUSH_THROTTLE when nobody says it (pilot/pkg/features).
fn istiod_s_throttle() -> usize {
    (15 + 5 * cores()).min(100)
}

/// Why a case is not even begun.
fn too_much(
    case: Case,
    mesh: &Mesh,
    settings: &Settings,
    descriptors: u64,
    report: &Report,
) -> Option<String> {
    // Of a stream through the shim the bench has two ends, and so it has of one without.
    let streams = case.sidecars + case.sidecars.min(run::MOST_DIRECT);
    let needed = 2 * streams as u64 + DESCRIPTORS;
    if needed > descriptors {
        return Some(format!(
            "{needed} descriptors are needed, and {descriptors} may be had (hint: ulimit -n)"
        ));
    }
    let bytes = mesh.config_bytes() as f64 * case.sidecars as f64;
    let rate = report.rate().unwrap_or(FIRST_RATE);
    // To connect, and one push.
    let seconds = 2.0 * bytes / rate;
    (seconds > settings.limit.as_secs_f64()).then(|| {
        format!(
            "{:.0} GB to connect and as much again for a push, at {:.0} MB/s, are {seconds:.0} s, of {} s that a case may take",
            bytes / 1e9,
            rate / 1e6,
            settings.limit.as_secs()
        )
    })
}

async fn one(case: Case, mesh: &mut Mesh, settings: &Settings, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let mut found = Found::of(case, mesh.config_bytes());
    let mut run = Run::start(case, mesh, settings)
        .await
        .with_context(|| case.to_string())?;
    // What was estimated badly ends here.
    let limit = settings.limit + settings.limit / 4;
    let measured = tokio::time::timeout(limit, run.measure(&mut found)).await;
    run.check().with_context(|| case.to_string())?;
    run.note_broken(&mut found);
    let left_out = std::mem::take(&mut run.left_out);
    left_out.into_iter().for_each(|one| report.leave_out(one));
    match measured {
        Ok(measured) => measured.with_context(|| case.to_string())?,
        Err(_) => report.leave_out(LeftOut {
            case: case.to_string(),
            what: found.next().to_owned(),
            why: format!("not over after {} s", limit.as_secs()),
        }),
    }
    run.end().await;
    eprintln!("{case}: {} s", began.elapsed().as_secs());
    report.add(found);
    Ok(())
}
