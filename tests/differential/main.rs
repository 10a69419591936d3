//! The differential test: from a seed a mesh, two clients that differ in nothing but that one is lazy, and calls that
//! must be answered alike. `make differential` runs many seeds, `tests/run` a few; CONTRIBUTING.md says more.

mod clients;
mod lab;
mod marks;
mod run;
mod settings;
mod smaller;

use std::iter::repeat_n;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::differential::{Report, scenario};
use mesh_tests::testbed::{Case, MeshOptions, Test, build_dir};

use self::lab::Lab;
use self::settings::Settings;
use self::smaller::Smaller;

/// So many probes of a hundred may be such that plain Istio itself answers now so and now so.
const MOST_UNSTABLE: f64 = 0.02;
/// How long one seed may take: some seconds, or minutes where calls wait; each of its steps has a limit of its own.
const SEED_LIMIT: Duration = Duration::from_secs(600);
/// However many seeds there are.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

fn main() -> ExitCode {
    let test = Test::new("differential", differential)
        .exclusive()
        .limit(LIMIT);
    mesh_tests::testbed::run(vec![test], MeshOptions::default())
}

async fn differential(case: Case) -> Result<()> {
    let settings = Settings::read()?;
    let lab = Lab::open(&case).await?;
    let mut report = Report {
        first: settings.first,
        ..Report::default()
    };
    let mut smaller = Smaller::new(&settings);
    let runs = settings
        .seeds()
        .flat_map(|seed| repeat_n(seed, settings.repeat));
    for seed in runs {
        if report.is_enough() {
            report.left_out = settings.seeds().end() + 1 - seed;
            println!(
                "so many seeds fail that the last {} are left out",
                report.left_out
            );
            break;
        }
        let begin = Instant::now();
        let scenario = scenario(seed);
        if settings.show {
            println!("{}", scenario.text());
        }
        let run = match run::run(&lab, &scenario, SEED_LIMIT).await {
            Ok(run) => run,
            Err(error) => {
                let broken = format!("seed {seed}: {error:#}");
                println!("{broken}");
                report.broken.push(broken);
                write(&report)?;
                continue;
            }
        };
        let (tally, found) = (run.tally(), run.differences(&scenario));
        println!(
            "seed {seed}: {} probes, {} known, {} unstable, {} not made, {} differences, {:.1} s",
            tally.probes,
            tally.known.values().sum::<u64>(),
            tally.unstable,
            tally.not_made,
            found.len(),
            begin.elapsed().as_secs_f64()
        );
        // At once, for to make them smaller takes a while.
        for (_, difference) in &found {
            print!("{}", difference.headline());
        }
        let differences = smaller.all(&lab, &scenario, found).await;
        for difference in &differences {
            println!("{}", difference.text());
        }
        report.add(&tally, differences, &scenario.features);
        // After each seed: a run that is cut short has said what it saw.
        write(&report)?;
    }
    report.asks = lab.asks().await? as u64;
    write(&report)?;
    conclude(&report)
}

fn write(report: &Report) -> Result<()> {
    let folder = build_dir()?
        .parent()
        .context("target/debug without a parent")?
        .join("differential");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = folder.join("report.json");
    std::fs::write(&file, serde_json::to_string_pretty(report)?)
        .with_context(|| file.display().to_string())
}

fn conclude(report: &Report) -> Result<()> {
    println!(
        "seeds {} to {}: {} probes ({} answered, {} by one that knew the caller; {} asks), known {:?}, {} unstable ({:.2} %), {} not made, {} stalls (plain ones: {}), {} differences",
        report.first,
        report.first + report.seeds.saturating_sub(1),
        report.probes,
        report.answered,
        report.identified,
        report.asks,
        report.known,
        report.unstable,
        report.share_unstable() * 100.0,
        report.not_made,
        report.stalls.len(),
        report.plain_stalls,
        report.differences.len()
    );
    ensure!(
        !report.stalls_often(),
        "{} calls of lazy clients stalled, and {} of plain ones",
        report.stalls.len(),
        report.plain_stalls
    );
    ensure!(
        report.differences.is_empty(),
        "{} differences; see above and target/differential/report.json",
        report.differences.len()
    );
    ensure!(
        report.broken.is_empty(),
        "{} seeds could not be run to their end",
        report.broken.len()
    );
    // Else nothing was tried: servers that are not reached, or a client that is not lazy.
    ensure!(
        report.identified * 10 > report.probes && report.asks > report.seeds,
        "{} of {} probes came to a server that knew the caller, and {} were held",
        report.identified,
        report.probes,
        report.asks
    );
    ensure!(
        report.not_made == 0,
        "{} probes were not made, for those before them took too long",
        report.not_made
    );
    ensure!(
        report.share_unstable() < MOST_UNSTABLE,
        "{} of {} probes could not be compared",
        report.unstable,
        report.probes
    );
    Ok(())
}
