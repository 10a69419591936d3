//! `make bench-config`: what config costs a sidecar in meshes of some sizes and shapes, lazy and not. A table, and
//! `target/bench/config.json`.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Case, Pod, Test, build_dir};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

use super::services::{Services, Shape};
use super::weight::{Count, Pair, Weight, call_three, median, until_no_copies, write_sidecar};
use super::{MOST_HEAP, MOST_RSS, latencies};
use crate::on_demand::Shop;

/// How many services, such as `1000,5000`: without it there is no bench.
const SIZES: &str = "LAZYMESH_CONFIG_SIZES";
const LIMIT: Duration = Duration::from_secs(1800);
const READY: Duration = Duration::from_secs(300);
/// Fresh pods of each kind, one kind after the other.
const ROUNDS: usize = 5;
/// Of plain ones, which take long and are not what is compared with.
const PLAIN_ROUNDS: usize = 2;

pub(super) fn tests() -> Vec<Test> {
    let sizes = std::env::var(SIZES).unwrap_or_default();
    let sizes = sizes.split(',').filter_map(|size| size.trim().parse().ok());
    let cases = sizes.flat_map(|size: u32| Shape::ALL.map(|shape| (size, shape)));
    cases
        .map(|(size, shape)| {
            let name = format!("bench_config::{}_{size}", shape.name());
            let test = Test::new(&name, move |case| bench(case, size, shape));
            test.exclusive().limit(LIMIT)
        })
        .collect()
}

async fn bench(case: Case, size: u32, shape: Shape) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let server = shop.ns.workload("server").via(&shop.shims).start().await?;
    let services = Services::make(&case, &shop.ns, &server, shape, size).await?;
    write_sidecar(&shop.ns, &services, "hand").await?;
    let rows = weigh(&shop, &services).await?;
    let plain = plain_pod(&shop).await?;
    let caller = shop.client("caller").await?;
    let mut calls = Vec::new();
    for (protocol, round, url) in [
        (
            "http",
            1,
            Services::http_url as fn(&Services, u32) -> String,
        ),
        ("tcp", 2, Services::tcp_url),
    ] {
        for (sidecar, pod) in [(PLAIN, &plain), (LAZY, &caller)] {
            let (first_ms, later_ms) = latencies(pod, &services, round, url).await?;
            calls.push(Calls {
                sidecar,
                protocol,
                first_ms,
                later_ms,
            });
        }
    }
    print(size, shape, &rows, &calls);
    write(size, shape, &rows, &calls)?;
    judge(shape, &rows)
}

const PLAIN: &str = "plain";
const HAND: &str = "hand-written";
const LAZY: &str = "lazy";
/// A lazy one of a workload that has called the three services before.
const LEARNED: &str = "lazy, learned";
const BEFORE: &str = "before";
const AFTER: &str = "after";

/// Medians of some fresh pods of one kind.
#[derive(Debug, Serialize)]
struct Row {
    sidecar: &'static str,
    /// Before or after it called the three services.
    when: &'static str,
    #[serde(flatten)]
    weight: Weight,
    #[serde(flatten)]
    count: Count,
    /// From Envoy's start to its workers running.
    ready_ms: f64,
}

/// Medians over services.
#[derive(Debug, Serialize)]
struct Calls {
    sidecar: &'static str,
    protocol: &'static str,
    first_ms: f64,
    later_ms: f64,
}

/// What is measured of one pod.
#[derive(Debug, Clone, Copy)]
struct Look {
    weight: Weight,
    ready_ms: f64,
}

impl Look {
    async fn at(pod: &Pod) -> Result<Self> {
        let weight = Weight::of(pod).await?;
        let envoy = pod.envoy().await?;
        Ok(Self {
            weight,
            ready_ms: envoy.initialization_ms().await?,
        })
    }
}

impl Row {
    fn of(sidecar: &'static str, when: &'static str, looks: &[Look], count: Count) -> Self {
        let middle = |value: fn(&Look) -> f64| median(looks.iter().map(value).collect());
        Self {
            sidecar,
            when,
            weight: Weight {
                heap: middle(|look| look.weight.heap as f64) as u64,
                rss: middle(|look| look.weight.rss as f64) as u64,
            },
            count,
            ready_ms: middle(|look| look.ready_ms),
        }
    }
}

/// The whole mesh in one sidecar may take minutes to come.
async fn plain_pod(shop: &Shop) -> Result<Pod> {
    let workload = shop.ns.workload("plain").no_app();
    workload.sidecar(|s| s.ready_limit = READY).start().await
}

async fn weigh(shop: &Shop, services: &Services) -> Result<Vec<Row>> {
    let (mut plain, mut hand, mut lazy) = (Kind::default(), Kind::default(), Kind::default());
    let (mut pairs, mut count) = (Vec::new(), None);
    for round in 0..ROUNDS {
        if round < PLAIN_ROUNDS {
            let pod = plain_pod(shop).await?;
            plain.before.push(Look::at(&pod).await?);
            call_three(&pod, services).await?;
            plain.after.push(Look::at(&pod).await?);
            count = Some(Count::of(&pod.envoy().await?).await?);
            pod.delete().await?;
        }
        let pair = Pair::start(shop, round).await?;
        hand.before.push(Look::at(&pair.hand).await?);
        lazy.before.push(Look::at(&pair.lazy).await?);
        pairs.push(pair);
    }
    let count = count.context("no round")?;
    ensure!(
        count.clusters > 2 * services.count as usize,
        "a plain sidecar has not the whole mesh: {count:?}"
    );
    let last = shop.client("uncalled").await?;
    let uncalled = Count::of(&last.envoy().await?).await?;
    for pair in &pairs {
        call_three(&pair.lazy, services).await?;
        call_three(&pair.hand, services).await?;
    }
    let (lazies, hands): (Vec<_>, Vec<_>) = pairs.iter().map(|p| (&p.lazy, &p.hand)).unzip();
    until_no_copies(&lazies, &hands).await?;
    for pair in &pairs {
        hand.after.push(Look::at(&pair.hand).await?);
        lazy.after.push(Look::at(&pair.lazy).await?);
    }
    let (mut learned, mut known) = (Kind::default(), count);
    for round in 0..ROUNDS {
        let pod = shop.client(&format!("lazy-{round}")).await?;
        learned.before.push(Look::at(&pod).await?);
        known = Count::of(&pod.envoy().await?).await?;
    }
    let counts = (
        Count::of(&pairs[0].hand.envoy().await?).await?,
        Count::of(&pairs[0].lazy.envoy().await?).await?,
    );
    Ok(vec![
        Row::of(PLAIN, BEFORE, &plain.before, count),
        Row::of(HAND, BEFORE, &hand.before, counts.0),
        Row::of(LAZY, BEFORE, &lazy.before, uncalled),
        Row::of(LEARNED, BEFORE, &learned.before, known),
        Row::of(PLAIN, AFTER, &plain.after, count),
        Row::of(HAND, AFTER, &hand.after, counts.0),
        Row::of(LAZY, AFTER, &lazy.after, counts.1),
    ])
}

#[derive(Debug, Default)]
struct Kind {
    before: Vec<Look>,
    after: Vec<Look>,
}

/// The hand-written Sidecar's row of the same time.
fn hand<'a>(rows: &'a [Row], row: &Row) -> Option<&'a Row> {
    rows.iter()
        .find(|other| other.sidecar == HAND && other.when == row.when)
}

fn print(size: u32, shape: Shape, rows: &[Row], calls: &[Calls]) {
    println!("\n{size} services, {}", shape.name());
    println!(
        "{:14} {:7} {:>9} {:>6} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9}",
        "sidecar",
        "",
        "heap MB",
        "ratio",
        "RSS MB",
        "ratio",
        "clusters",
        "listeners",
        "v. hosts",
        "ready ms"
    );
    for row in rows {
        let (heap, rss) = hand(rows, row).map_or((0.0, 0.0), |hand| row.weight.per(hand.weight));
        println!(
            "{:14} {:7} {:9.2} {heap:6.3} {:9.1} {rss:6.3} {:9} {:9} {:9} {:9.0}",
            row.sidecar,
            row.when,
            row.weight.heap as f64 / 1e6,
            row.weight.rss as f64 / 1e6,
            row.count.clusters,
            row.count.listeners,
            row.count.virtual_hosts,
            row.ready_ms,
        );
    }
    for calls in calls {
        println!(
            "{:14} {:4} first call {:6.2} ms, later {:6.2} ms: {:.2} ms over it",
            calls.sidecar,
            calls.protocol,
            calls.first_ms,
            calls.later_ms,
            calls.first_ms - calls.later_ms
        );
    }
}

/// Adds to the file, in place of what was measured of the same size and shape before.
fn write(size: u32, shape: Shape, rows: &[Row], calls: &[Calls]) -> Result<()> {
    let target = build_dir()?
        .parent()
        .map(PathBuf::from)
        .context("no parent")?;
    let file = target.join("bench/config.json");
    std::fs::create_dir_all(target.join("bench"))?;
    let mut all: Vec<Value> = match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| file.display().to_string())?,
        Err(_) => Vec::new(),
    };
    all.retain(|one| one["services"] != size || one["shape"] != shape.name());
    all.push(
        json!({"services": size, "shape": shape.name(), "sidecars": rows, "first_calls": calls}),
    );
    std::fs::write(&file, serde_json::to_string_pretty(&all)?)?;
    println!("-> {}", file.display());
    Ok(())
}

/// Weights only, which do not depend on what else the machine does, and only in the shape of which nothing must be kept.
fn judge(shape: Shape, rows: &[Row]) -> Result<()> {
    for row in rows.iter().filter(|row| row.sidecar == LAZY) {
        let hand = hand(rows, row).context("no hand-written one")?;
        let (heap, rss) = row.weight.per(hand.weight);
        ensure!(
            shape != Shape::Plain || heap <= MOST_HEAP && rss <= MOST_RSS,
            "{} the first calls a lazy sidecar has {heap:.3} of the heap and {rss:.3} of the resident set of a hand-written one",
            row.when
        );
    }
    Ok(())
}
