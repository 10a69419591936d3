//! Instructions of the hot paths, counted by callgrind: where noise would hide a change. `make bench-micro` runs it where
//! valgrind and gungraun-runner are. What a bench takes it gives back: dropping it is not counted.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what the macros make; nothing else here is unsafe"
)]

use std::collections::BTreeSet;
use std::hint::black_box;

use bytes::Bytes;
use dependency_graph::{Dependency, Learned, Protocol, Source, Timestamp};
use gungraun::{library_benchmark, library_benchmark_group, main};
use mesh_benches::mesh::{opened, push, pushed, request, routes};
use mesh_benches::must;
use mesh_tests::embedded::shape::numbered_service;
use xds_shim::ads::CDS;
use xds_shim::session::{Output, Session};
use xds_shim::stand_in::routes::{Routes, View};
use xds_shim::store::Store;

const SERVICES: u32 = 1000;

/// A push, one stream that has it, and one that has not.
fn another_stream() -> (Session, Session, Bytes) {
    let push = push(CDS, SERVICES);
    let store = Store::default();
    (pushed(&store, CDS, &push), opened(&store, CDS), push)
}

#[library_benchmark]
#[bench::clusters(another_stream())]
fn a_push_to_another_stream(streams: (Session, Session, Bytes)) -> (Vec<Output>, Session, Session) {
    let (first, mut other, push) = streams;
    (must(other.on_response(black_box(&push))), other, first)
}

#[library_benchmark]
#[bench::clusters(another_stream())]
fn a_push_that_changes_nothing(
    streams: (Session, Session, Bytes),
) -> (Vec<Output>, Session, Session) {
    let (mut first, other, push) = streams;
    (must(first.on_response(black_box(&push))), other, first)
}

#[library_benchmark]
#[bench::clusters(another_stream())]
fn an_ask(streams: (Session, Session, Bytes)) -> (Vec<Output>, Session, Session) {
    let (mut first, other, _) = streams;
    let asked = request(CDS, &[&numbered_service(7).cluster(80)]);
    (must(first.on_request(black_box(&asked))), other, first)
}

fn taken_apart() -> (Bytes, Option<Routes>) {
    let config = routes(SERVICES);
    let routes = must(Routes::parse(&config));
    (config, routes)
}

#[library_benchmark]
#[bench::thousand(taken_apart())]
fn taking_routes_apart(
    config: (Bytes, Option<Routes>),
) -> (Option<Routes>, (Bytes, Option<Routes>)) {
    (must(Routes::parse(black_box(&config.0))), config)
}

#[library_benchmark]
#[bench::thousand(taken_apart())]
fn putting_routes_together(
    config: (Bytes, Option<Routes>),
) -> (Option<Vec<u8>>, (Bytes, Option<Routes>)) {
    let given = numbered_service(7).cluster(80);
    let nobody = BTreeSet::new();
    let view = View {
        gives: &|cluster| cluster == given,
        nobody: &nobody,
        exact: false,
    };
    let compose = |routes: &Routes| must(routes.compose(black_box(&config.0), view));
    (config.1.as_ref().map(compose), config)
}

/// What two replicas learned, half of it the same.
fn two_replicas() -> (Learned, Learned) {
    (learned(0..50), learned(25..75))
}

fn learned(numbers: std::ops::Range<u32>) -> Learned {
    let mut learned = Learned::new();
    for number in numbers {
        let dependency = Dependency {
            host: must(numbered_service(number).host().parse()),
            port: must(80.try_into()),
            protocol: Protocol::Http,
        };
        let seen = Timestamp::from_seconds(u64::from(number));
        learned.see(&dependency, seen, Source::OnDemand);
    }
    learned
}

#[library_benchmark]
#[bench::fifty(two_replicas())]
fn a_merge(both: (Learned, Learned)) -> (Learned, Learned) {
    let (mut one, other) = both;
    one.merge(black_box(&other));
    (one, other)
}

library_benchmark_group!(
    name = hot_paths;
    benchmarks = a_push_to_another_stream, a_push_that_changes_nothing, an_ask, taking_routes_apart, putting_routes_together, a_merge
);

main!(library_benchmark_groups = hot_paths);
