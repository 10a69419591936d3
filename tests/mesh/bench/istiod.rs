//! `make bench-istiod`: what a real istiod needs for many sidecars, with and without Sidecars for them. The sidecars are
//! simulated, a delta stream each that subscribes and acknowledges like Envoy: as many as the machine bears.
//!
//! A workload that has settled has a `Sidecar` with exact hosts. Here somebody wrote them, so that no other part has to
//! keep up; what the rest of settling costs istiod is in `make bench`.

use anyhow::{Context, Result, ensure};
use mesh_tests::bench_report::istiod::{IstiodReport, OfSize, Spent, Streams};
use mesh_tests::testbed::{Case, Mesh, Namespace, Test};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::change::{Change, Used, Watched};
use super::{SIZES, bench_file, describe, numbers, progress, repetitions};
use crate::scale::services::{Services, Shape};
use crate::scale::weight::write_sidecar;

/// How many streams, such as `10,50`: without it there is no bench.
const STREAMS: &str = "LAZYMESH_BENCH_STREAMS";
/// The program that simulates sidecars.
const PROGRAM: &str = "LAZYMESH_SIMULATED_SIDECARS";
/// Over how many the streams are spread.
const WORKLOADS: usize = 20;
const LIMIT: Duration = Duration::from_secs(3600);

pub(super) fn tests() -> Vec<Test> {
    let streams = numbers(STREAMS);
    if streams.is_empty() {
        return Vec::new();
    }
    let of = |size: u32| {
        let streams = streams.clone();
        let body = move |case: Case| {
            let streams = streams.clone();
            async move { of_size(&case, size, &streams).await }
        };
        Test::new(&format!("bench::istiod_of_{size}"), body).limit(LIMIT)
    };
    let sizes = numbers(SIZES);
    sizes.into_iter().map(of).map(Test::exclusive).collect()
}

async fn of_size(case: &Case, size: u32, streams: &[u32]) -> Result<()> {
    let program = std::env::var_os(PROGRAM).map(PathBuf::from);
    let program =
        program.with_context(|| format!("{PROGRAM} is not set (hint: make bench-istiod)"))?;
    let servers = case.namespace(&[]).await?;
    // What it serves only: it is not what is measured.
    servers
        .apply("{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default}, spec: {egress: [{hosts: [\"./*\"]}]}}")
        .await?;
    let server = servers.workload("server").start().await?;
    let (plain, settled) = (case.namespace(&[]).await?, case.namespace(&[]).await?);
    let services = Services::make(case, &[&plain, &settled], &server, Shape::Plain, size).await?;
    for workload in workloads() {
        write_sidecar(&settled, &services, &workload).await?;
    }
    let bench = Bench {
        mesh: &case.mesh,
        services: &services,
        program: &program,
        repetitions: repetitions(),
    };
    let mut found = OfSize {
        alone: bench.streams(None).await?,
        ..OfSize::default()
    };
    for &count in streams {
        for (ns, of) in [(&settled, &mut found.settled), (&plain, &mut found.plain)] {
            of.insert(count, bench.streams(Some((ns, count))).await?);
            progress(&format!("{count} streams of {}: done", ns.name()));
        }
    }
    write(case, bench.repetitions, size, found)
}

fn workloads() -> impl Iterator<Item = String> {
    (0..WORKLOADS).map(|number| format!("app-{number}"))
}

fn write(case: &Case, repetitions: u32, size: u32, found: OfSize) -> Result<()> {
    println!("{}", table(size, &found));
    let file = bench_file("istiod.json")?;
    let before = IstiodReport::read(&file)?.unwrap_or_default();
    let described = describe::report(&case.mesh, repetitions)?;
    let mut report = IstiodReport {
        machine: described.machine,
        commit: described.commit,
        versions: described.versions,
        repetitions,
        sizes: before.sizes,
    };
    report.sizes.insert(size, found);
    report.write(&file)?;
    println!("-> {}", file.display());
    Ok(())
}

struct Bench<'a> {
    mesh: &'a Mesh,
    services: &'a Services,
    program: &'a Path,
    repetitions: u32,
}

impl Bench<'_> {
    /// With so many streams of a namespace; with none.
    async fn streams(&self, of: Option<(&Namespace, u32)>) -> Result<Streams> {
        let watched = Watched {
            mesh: self.mesh,
            pod: None,
        };
        watched.quiet().await?;
        let istiod = self.mesh.istiod().await;
        istiod.forget_peak()?;
        let (begin, before) = (Instant::now(), watched.used().await?);
        let mut sidecars = match of {
            Some((ns, count)) => Some(Sidecars::start(self.program, self.mesh, ns, count).await?),
            None => None,
        };
        let connect = match &mut sidecars {
            Some(sidecars) => {
                watched.quiet().await?;
                let told = sidecars.ask().await?;
                let used = watched.used().await?.since(before);
                Some(told.spent(begin.elapsed(), used, 0))
            }
            None => None,
        };
        let rss_bytes = istiod.rss()?;
        let idle = watched.idle().await?;
        let mut spent: BTreeMap<Change, Vec<Spent>> = BTreeMap::new();
        for _ in 0..self.repetitions {
            for change in Change::ALL {
                let one = self.spent(&watched, change, idle, sidecars.as_mut());
                spent.entry(change).or_default().push(one.await?);
            }
        }
        let of = |change| Spent::medians(spent.get(&change).map_or(&[], Vec::as_slice));
        let peak_rss_bytes = istiod.peak_rss()?;
        if let Some(sidecars) = sidecars {
            sidecars.end().await?;
        }
        Ok(Streams {
            rss_bytes,
            peak_rss_bytes,
            connect,
            endpoint: of(Change::Endpoint),
            unused_endpoint: of(Change::UnusedEndpoint),
            new_service: of(Change::NewService),
            full_push: of(Change::FullPush),
        })
    }

    async fn spent(
        &self,
        watched: &Watched<'_>,
        change: Change,
        idle: Used,
        sidecars: Option<&mut Sidecars>,
    ) -> Result<Spent> {
        let mut sidecars = sidecars;
        let bytes = match &mut sidecars {
            Some(sidecars) => sidecars.ask().await?.bytes,
            None => 0,
        };
        let (begin, before) = (Instant::now(), watched.used().await?);
        watched.change(change, self.services).await?;
        watched.quiet().await?;
        let used = watched.used().await?.since(before);
        let used = used.since(idle.part(begin.elapsed().as_secs_f64()));
        let told = match &mut sidecars {
            Some(sidecars) => sidecars.ask().await?,
            None => Told::default(),
        };
        Ok(told.spent(begin.elapsed(), used, bytes))
    }
}

/// What simulated sidecars say of themselves.
#[derive(Debug, Clone, Default, Deserialize)]
struct Told {
    /// All that came.
    bytes: u64,
    since_last_ms: f64,
    broken: u64,
}

impl Told {
    fn spent(&self, took: Duration, used: Used, before: u64) -> Spent {
        let bytes = self.bytes - before;
        let last_ms = took.as_secs_f64() * 1e3 - self.since_last_ms;
        Spent {
            istiod_cpu_ms: super::start::ms(used.istiod),
            bytes,
            last_ms: (bytes > 0).then_some(last_ms),
        }
    }
}

/// The program that simulates them.
struct Sidecars {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Sidecars {
    /// They have their config when this returns.
    async fn start(program: &Path, mesh: &Mesh, ns: &Namespace, count: u32) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("sidecars")
            .arg(format!("--address={}", mesh.plaintext_discovery()))
            .arg(format!("--count={count}"))
            .arg(format!("--namespace={}", ns.name()))
            .arg(format!(
                "--workloads={}",
                workloads().collect::<Vec<_>>().join(",")
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut sidecars = Self {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
        };
        sidecars.told().await?;
        Ok(sidecars)
    }

    async fn ask(&mut self) -> Result<Told> {
        self.stdin.write_all(b"\n").await?;
        self.told().await
    }

    async fn told(&mut self) -> Result<Told> {
        let line = self.lines.next_line().await?;
        let line = line.context("the simulated sidecars ended; what they said is above")?;
        let told: Told = serde_json::from_str(&line).with_context(|| line.clone())?;
        ensure!(told.broken == 0, "streams broke: {told:?}");
        Ok(told)
    }

    async fn end(mut self) -> Result<()> {
        drop(self.stdin);
        let status = self.child.wait().await?;
        ensure!(status.success(), "the simulated sidecars: {status}");
        Ok(())
    }
}

/// For the terminal.
fn table(size: u32, found: &OfSize) -> String {
    let mut lines = vec![format!(
        "{size} services   istiod: RSS MB (peak)   full push: CPU ms, MB, s to the last   used endpoint   unused   new service: CPU ms, kB"
    )];
    let of = |name: &str, streams: &Streams| {
        let small = |spent: &Spent| {
            format!(
                "{:.0}, {:.1}",
                spent.istiod_cpu_ms,
                spent.bytes as f64 / 1e3
            )
        };
        format!(
            "{name:<16} {:>6.0} ({:.0})   {:.0}, {:.1}, {:.1}   {}   {}   {}",
            streams.rss_bytes as f64 / 1e6,
            streams.peak_rss_bytes as f64 / 1e6,
            streams.full_push.istiod_cpu_ms,
            streams.full_push.bytes as f64 / 1e6,
            streams.full_push.last_ms.unwrap_or_default() / 1e3,
            small(&streams.endpoint),
            small(&streams.unused_endpoint),
            small(&streams.new_service),
        )
    };
    lines.push(of("alone", &found.alone));
    for (way, all) in [("settled", &found.settled), ("plain", &found.plain)] {
        lines.extend(
            all.iter()
                .map(|(count, streams)| of(&format!("{count} {way}"), streams)),
        );
    }
    lines.join("\n")
}
