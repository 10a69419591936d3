//! The decision what a lazy stream gets, in a mesh of 1,000 services, beside its baseline: what decoding
//! the same push with prost costs.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mesh_benches::mesh::{opened, push, pushed, request};
use mesh_tests::embedded::shape::numbered_service;
use prost::Message;
use xds_shim::ads::{CDS, LDS};
use xds_shim::cluster::ServicePort;
use xds_shim::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use xds_shim::session::Session;
use xds_shim::store::Store;

const SERVICES: u32 = 1000;

fn main() {
    divan::main();
}

/// What is compared against: the push decoded once.
#[divan::bench(args = [CDS, LDS])]
fn baseline_decoding_a_push(bencher: Bencher<'_, '_>, type_url: &str) {
    let push = push(type_url, SERVICES);
    bencher
        .counter(BytesCount::new(push.len()))
        .bench(|| DeltaDiscoveryResponse::decode(black_box(push.clone())));
}

/// A push to the first stream of a kind: everything is new to the store.
#[divan::bench(args = [CDS, LDS])]
fn a_push_to_the_first_stream(bencher: Bencher<'_, '_>, type_url: &str) {
    let push = push(type_url, SERVICES);
    bencher
        .counter(BytesCount::new(push.len()))
        .with_inputs(|| opened(&Store::default(), type_url))
        .bench_values(|mut session| session.on_response(black_box(&push)).map(|o| (o, session)));
}

/// A push to one more stream: the store has it all.
#[divan::bench(args = [CDS, LDS])]
fn a_push_to_another_stream(bencher: Bencher<'_, '_>, type_url: &str) {
    let push = push(type_url, SERVICES);
    let store = Store::default();
    let first = pushed(&store, type_url, &push);
    bencher
        .counter(BytesCount::new(push.len()))
        .with_inputs(|| opened(&store, type_url))
        .bench_values(|mut session| session.on_response(black_box(&push)).map(|o| (o, session)));
    drop(first);
}

/// A full push that changes nothing, to a stream that has it all: what istiod does when it cannot tell what changed.
#[divan::bench(args = [CDS, LDS])]
fn a_push_that_changes_nothing(bencher: Bencher<'_, '_>, type_url: &str) {
    let push = push(type_url, SERVICES);
    let mut session = pushed(&Store::default(), type_url, &push);
    bencher
        .counter(BytesCount::new(push.len()))
        .bench_local(|| session.on_response(black_box(&push)));
}

/// The answer to what a held call asks for.
#[divan::bench]
fn an_ask(bencher: Bencher<'_, '_>) {
    let push = push(CDS, SERVICES);
    let store = Store::default();
    let asked = request(CDS, &[&numbered_service(7).cluster(80)]);
    let mut session = pushed(&store, CDS, &push);
    let outputs = session.on_request(&asked);
    let known = session.summary();
    assert!(
        (known.admitted, known.unknown) == (1, 0),
        "{outputs:?} {known:?}"
    );
    bencher
        .with_inputs(|| pushed(&store, CDS, &push))
        .bench_values(|mut session| {
            session
                .on_request(black_box(&asked))
                .map(|outputs| (outputs, session))
        });
}

/// What another pod of the workload learned, given before it is asked for.
#[divan::bench(args = [1, 10])]
fn an_admission(bencher: Bencher<'_, '_>, services: u32) {
    let push = push(CDS, SERVICES);
    let store = Store::default();
    let services = (0..services).map(|i| ServicePort::new(&numbered_service(i).host(), 80));
    let services: Vec<_> = services.collect();
    let admit = |mut session: Session| (session.admit(services.clone()), session);
    let (_, session) = admit(pushed(&store, CDS, &push));
    assert_eq!(session.summary().admitted, services.len());
    bencher
        .with_inputs(|| pushed(&store, CDS, &push))
        .bench_values(admit);
}
