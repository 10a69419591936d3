//! What is learned of workloads, and the cover of the mesh's names.
//!
//! Baselines: the union of plain sets of the same dependencies; regular expressions that say the same as the cover.

use dependency_graph::cover::Cover;
use dependency_graph::{Dependency, Graph, Learned, Protocol, Record, Source, Timestamp, Workload};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ipnet::IpNet;
use mesh_benches::must;
use regex::RegexSet;
use std::collections::BTreeSet;

/// Dependencies of a workload.
const DEPENDENCIES: [u32; 2] = [50, 1000];
const WORKLOADS: u32 = 5000;
const NAMESPACES: u32 = 20;
const AUTHORITIES: [&str; 4] = [
    "svc-7.ns-7.svc.cluster.local:80",
    "svc-7.ns-7",
    "10.96.3.7:8080",
    "api.example.com",
];

fn main() {
    divan::main();
}

fn dependency(number: u32) -> Dependency {
    let host = format!("svc-{number}.ns-{}.svc.cluster.local", number % NAMESPACES);
    Dependency {
        host: must(host.parse()),
        port: must(80.try_into()),
        protocol: Protocol::Http,
    }
}

fn learned(numbers: impl Iterator<Item = u32>) -> Learned {
    let mut learned = Learned::new();
    for number in numbers {
        let seen = Timestamp::from_seconds(u64::from(number));
        learned.see(&dependency(number), seen, Source::OnDemand);
    }
    learned
}

/// What is compared against: the sets, with nothing known of when.
#[divan::bench(args = DEPENDENCIES)]
fn baseline_union_of_sets(bencher: Bencher<'_, '_>, count: u32) {
    let one: BTreeSet<_> = (0..count).map(dependency).collect();
    let other: BTreeSet<_> = (count / 2..count + count / 2).map(dependency).collect();
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| one.clone())
        .bench_values(|mut one| {
            one.extend(black_box(&other).iter().cloned());
            one
        });
}

/// What two replicas learned of a workload, half of it the same.
#[divan::bench(args = DEPENDENCIES)]
fn a_merge(bencher: Bencher<'_, '_>, count: u32) {
    let one = learned(0..count);
    let other = learned(count / 2..count + count / 2);
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| one.clone())
        .bench_values(|mut one| {
            one.merge(black_box(&other));
            one
        });
}

/// The same with as many as a workload may have.
#[divan::bench(args = DEPENDENCIES)]
fn a_merge_up_to_a_limit(bencher: Bencher<'_, '_>, count: u32) {
    let one = learned(0..count);
    let other = learned(count / 2..count + count / 2);
    let limit = one.len() + one.len() / 4;
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| one.clone())
        .bench_values(|mut one| (one.merge_up_to(black_box(&other), limit), one));
}

/// 5,000 workloads with ten dependencies each.
fn graph() -> Graph {
    let mut graph = Graph::new();
    for number in 0..WORKLOADS {
        let record = Record {
            learned: learned(number..number + 10),
            ..Record::default()
        };
        graph.set_workload(&workload(number), Some(record));
    }
    graph
}

fn workload(number: u32) -> Workload {
    let namespace = format!("ns-{}", number % NAMESPACES);
    must(Workload::new(
        &namespace,
        "Deployment",
        &format!("app-{number}"),
    ))
}

/// What is compared against: whether two graphs that share their records are the same at all.
#[divan::bench]
fn baseline_are_graphs_equal(bencher: Bencher<'_, '_>) {
    let before = graph();
    let after = before.clone();
    bencher.bench(|| black_box(&before) == black_box(&after));
}

/// What shims must be told after one of 5,000 workloads learned something.
#[divan::bench]
fn a_diff(bencher: Bencher<'_, '_>) {
    let before = graph();
    let mut after = before.clone();
    let record = Record {
        learned: learned(0..1),
        ..Record::default()
    };
    after.set_workload(&workload(7), Some(record));
    assert_eq!(before.diff(&after).len(), 1);
    bencher.bench(|| black_box(&before).diff(&after));
}

fn cover() -> Cover {
    let namespaces: Vec<_> = (0..NAMESPACES).map(|n| format!("ns-{n}")).collect();
    let ranges: [IpNet; 1] = [must("10.96.0.0/12".parse())];
    let namespaces = namespaces.iter().map(String::as_str);
    Cover::of(namespaces, ["db"], "cluster.local", &ranges)
}

/// What is compared against: the same question put to regular expressions, as Envoy does.
#[divan::bench(args = AUTHORITIES)]
fn baseline_regexes(bencher: Bencher<'_, '_>, authority: &str) {
    let cover = cover();
    let whole = cover.authority_regexes();
    let whole = whole.iter().map(|regex| format!("^(?:{regex})$"));
    let regexes = must(RegexSet::new(whole));
    assert_eq!(regexes.is_match(authority), cover.matches(authority));
    bencher.bench(|| regexes.is_match(black_box(authority)));
}

/// Whether an authority may be a name of the mesh.
#[divan::bench(args = AUTHORITIES)]
fn a_cover_matches(bencher: Bencher<'_, '_>, authority: &str) {
    let cover = cover();
    bencher.bench(|| cover.matches(black_box(authority)));
}

/// The cover of 20 namespaces, made and written as regular expressions.
#[divan::bench]
fn making_a_cover(bencher: Bencher<'_, '_>) {
    bencher.bench(|| black_box(cover()).authority_regexes());
}
