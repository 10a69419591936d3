//! `make bench`: what a sidecar costs in a mesh of some sizes, in each of five ways, side by side in one run. It writes
//! `target/bench/report.json`, which `bench_report` says the shape of.
//!
//! [`stage`] has what stands around the pods of a way, [`start`] what a fresh pod costs, [`change`] what changes of the mesh
//! do, [`calls`] what calls take.

use anyhow::{Context, Result, ensure};
use mesh_tests::bench_report::{
    Changes, HAND_WRITTEN, ON_DEMAND, Report, SETTLED, SIDECAR, Way, Ways,
};
use mesh_tests::testbed::{Case, Test, build_dir};
use std::path::PathBuf;
use std::time::Duration;

mod calls;
mod change;
mod describe;
mod istiod;
mod stage;
mod start;
mod table;

use crate::scale::MOST_HEAP;
use crate::scale::services::{Services, Shape};
use stage::{Counted, Namespaces, Stage, Through};

/// How many services, such as `200,1000`: without it there is no bench.
const SIZES: &str = "LAZYMESH_BENCH_SIZES";
/// How often each way is measured.
const REPETITIONS: &str = "LAZYMESH_BENCH_REPETITIONS";
const SHAPE: &str = "LAZYMESH_BENCH_SHAPE";
const LIMIT: Duration = Duration::from_secs(3600);

/// A resident set of one repetition is less sure than a median.
const MOST_RSS: f64 = 1.06;
/// What a lazy sidecar is sent, as a part of what one with a hand-written Sidecar is.
const MOST_BYTES: f64 = 1.10;
/// The same beside a fallback, which takes as much in a mesh of any size: heap 1.05 to 1.07, bytes 1.5, where little is used.
const MOST_HEAP_BESIDE_FALLBACK: f64 = 1.12;
const MOST_BYTES_BESIDE_FALLBACK: f64 = 1.7;

/// What CI runs, in a mesh where something can be seen already.
const SHORT: Scope = Scope {
    size: 200,
    shape: Shape::Plain,
    repetitions: 1,
    times: false,
};

pub(crate) fn tests() -> Vec<Test> {
    let benches = numbers(SIZES).into_iter().map(|size| {
        let body = move |case| async move {
            let scope = Scope {
                size,
                shape: shape()?,
                repetitions: repetitions(),
                times: true,
            };
            let found = bench(&case, scope).await?;
            write(&case, scope, found)
        };
        Test::new(&format!("bench::of_{size}"), body).limit(LIMIT)
    });
    let short = Test::new("bench::short_form", short_form).limit(LIMIT);
    let all = benches.chain([short]).map(Test::exclusive);
    all.chain(istiod::tests()).collect()
}

/// Those that an environment variable lists, with commas.
fn numbers(variable: &str) -> Vec<u32> {
    let listed = std::env::var(variable).unwrap_or_default();
    let numbers = listed.split(',').filter_map(|one| one.trim().parse().ok());
    numbers.collect()
}

fn repetitions() -> u32 {
    numbers(REPETITIONS).first().copied().unwrap_or(5).max(1)
}

fn shape() -> Result<Shape> {
    let name = std::env::var(SHAPE).unwrap_or_default();
    if name.is_empty() {
        return Ok(Shape::Plain);
    }
    let mut shapes = Shape::ALL.into_iter();
    let shape = shapes.find(|shape| shape.name() == name);
    let known = Shape::ALL.map(Shape::name);
    shape.with_context(|| format!("no shape {name:?} (hint: {SHAPE} is one of {known:?})"))
}

/// Fails on what is not noise: counts, bytes and memory.
async fn short_form(case: Case) -> Result<()> {
    let found = bench(&case, SHORT).await?;
    println!("{}", table::of(SHORT.size, &found.ways));
    judge(&found.ways)
}

/// Lazy sidecars beside a hand-written one's: what does not depend on what else the machine does.
fn judge(ways: &Ways) -> Result<()> {
    type Value = fn(&Way) -> Option<u64>;
    let of = |way: &str, value: Value| {
        let found = ways.get(way).and_then(value);
        found.with_context(|| format!("something of {way} was not measured"))
    };
    let heap: Value = |way| way.heap_bytes;
    let before: Value = |way| way.heap_before_bytes;
    for (way, most_heap, most_bytes) in [
        (ON_DEMAND, MOST_HEAP, MOST_BYTES),
        (SETTLED, MOST_HEAP_BESIDE_FALLBACK, MOST_BYTES),
        (
            SIDECAR,
            MOST_HEAP_BESIDE_FALLBACK,
            MOST_BYTES_BESIDE_FALLBACK,
        ),
    ] {
        let values: [(&str, Value, f64); 4] = [
            ("heap", heap, most_heap),
            ("heap before the first call", before, most_heap),
            ("resident set", |way| way.rss_bytes, MOST_RSS),
            ("bytes", |way| way.bytes_to_sidecar, most_bytes),
        ];
        for (what, value, most) in values {
            let part = of(way, value)? as f64 / of(HAND_WRITTEN, value)? as f64;
            ensure!(
                part <= most,
                "{way}: {part:.3} of a hand-written Sidecar's {what}, more than {most}"
            );
        }
        let changes = ways.get(way).and_then(|way| way.changes.as_ref());
        let unused = changes.and_then(|changes| changes.unused_endpoint.as_ref());
        let sent = unused.and_then(|cost| cost.bytes_to_sidecar);
        ensure!(
            sent == Some(0),
            "{way}: {sent:?} bytes for another endpoint of what it does not use"
        );
    }
    Ok(())
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
struct Scope {
    /// Services.
    size: u32,
    shape: Shape,
    repetitions: u32,
    /// Whether what depends on the machine is measured as well: CPU, latency.
    times: bool,
}

async fn bench(case: &Case, scope: Scope) -> Result<Found> {
    let servers = case.namespace(&[]).await?;
    servers.strict_mtls().await?;
    // What it serves only: it is not what is measured.
    servers
        .apply("{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default}, spec: {egress: [{hosts: [\"./*\"]}]}}")
        .await?;
    let server = servers.workload("server").start().await?;
    let namespaces = Namespaces::make(case).await?;
    let Scope { size, shape, .. } = scope;
    let services = Services::make(case, &namespaces.callers(), &server, shape, size).await?;
    let counting = Through::start(servers.shims().await?, "off").await?;
    let bench = Bench {
        case,
        services,
        counting,
        scope,
    };
    let mut ways = Ways::new();
    let base = Stage::base(&namespaces, &bench.services).await?;
    ways.extend(bench.measure(base).await?);
    let sidecar = Stage::sidecar(&namespaces).await?;
    ways.extend(bench.measure(sidecar).await?);
    let settled = Stage::settled(&namespaces).await?;
    ways.extend(bench.measure(settled).await?);
    Ok(Found {
        ways,
        deferred: describe::deferred(&server).await?,
    })
}

/// In a mesh of one size.
struct Found {
    ways: Ways,
    /// Which of Envoy's deferred options are on.
    deferred: String,
}

struct Bench<'a> {
    case: &'a Case,
    services: Services,
    counting: Through,
    scope: Scope,
}

impl Bench<'_> {
    /// All ways of a stage.
    async fn measure(&self, stage: Stage) -> Result<Ways> {
        let ways = stage.ways();
        let mut measured: Vec<Vec<Way>> = vec![Vec::new(); ways.len()];
        for (&way, measured) in ways.iter().zip(&mut measured) {
            let learned = stage
                .learn(&start::workload(way, 0), &self.services)
                .await?;
            measured.extend(learned.into_iter().map(|ms| Way {
                learning_ms: Some(ms),
                ..Way::default()
            }));
        }
        let resident = stage.resident().await?;
        // One way after the other in each repetition: what the machine does otherwise falls on all of them.
        for round in 0..self.scope.repetitions {
            for (&way, measured) in ways.iter().zip(&mut measured) {
                let of_way = start::measure(&stage, way, round as usize, &self.services).await;
                measured.push(of_way.with_context(|| way.to_owned())?);
            }
            progress(&format!(
                "round {} of {}: started",
                round + 1,
                self.scope.repetitions
            ));
        }
        // What changes cost is counted for one sidecar.
        if let Some(resident) = resident {
            resident.delete().await?;
        }
        let mut alone = Changes::default();
        if self.scope.times {
            self.calls(&stage, &ways, &mut measured).await?;
            alone = change::alone(&self.case.mesh, &self.services, self.scope).await?;
        }
        let mut done = Ways::new();
        for (&way, measured) in ways.iter().zip(&mut measured) {
            let counted = self.count(&stage, way, &alone).await;
            measured.push(counted.with_context(|| way.to_owned())?);
            done.insert(way.to_owned(), Way::medians(measured)?);
        }
        stage.close().await?;
        Ok(done)
    }

    /// Calls of all ways. Steady load in turns.
    async fn calls(
        &self,
        stage: &Stage,
        ways: &[&'static str],
        measured: &mut [Vec<Way>],
    ) -> Result<()> {
        let mut callers = Vec::new();
        for (&way, measured) in ways.iter().zip(measured.iter_mut()) {
            if way == HAND_WRITTEN {
                continue;
            }
            let caller = calls::caller(stage, way, &self.services).await?;
            let calls = calls::measure(&caller, &self.services).await;
            measured.push(calls.with_context(|| way.to_owned())?);
            progress(&format!("calls: {way}"));
            callers.push((caller, measured));
        }
        for _ in 0..self.scope.repetitions {
            for (caller, measured) in &mut callers {
                measured.push(calls::steady(caller, &self.services).await?);
            }
        }
        for (caller, _) in callers {
            caller.delete().await?;
        }
        Ok(())
    }

    /// Bytes, how much there is, and what changes cost.
    async fn count(&self, stage: &Stage, way: &str, alone: &Changes) -> Result<Way> {
        let name = start::workload(way, self.scope.repetitions as usize);
        let counted = Counted::start(stage, way, &name, &self.counting).await?;
        let mut of_way = start::count(&counted, way, &self.services).await?;
        let changes = change::of(&counted, &self.services, self.scope, alone).await?;
        of_way.changes = Some(changes);
        counted.pod.delete().await?;
        progress(&format!("changes: {way}"));
        Ok(of_way)
    }
}

/// Adds a size to the report, in place of what was measured of it before.
fn write(case: &Case, scope: Scope, found: Found) -> Result<()> {
    println!("{}", table::of(scope.size, &found.ways));
    let file = bench_file(&match scope.shape {
        Shape::Plain => "report.json".to_owned(),
        other => format!("report-{}.json", other.name()),
    })?;
    let before = Report::read(&file)?.unwrap_or_default();
    let mut report = Report {
        sizes: before.sizes,
        deferred: Some(found.deferred),
        ..describe::report(&case.mesh, scope.repetitions)?
    };
    report.sizes.insert(scope.size, found.ways);
    report.write(&file)?;
    println!("-> {}", file.display());
    Ok(())
}

/// Where a bench writes what it found.
fn bench_file(name: &str) -> Result<PathBuf> {
    let build = build_dir()?;
    let target = build.parent().context("a build folder without a parent")?;
    Ok(target.join("bench").join(name))
}

/// On standard error, since a bench takes long.
fn progress(what: &str) {
    tracing::info!("{what}");
}
