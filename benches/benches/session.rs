//! The decision what a lazy stream gets, in a mesh of 1,000 services, beside its baseline: what decoding
//! the same push with prost costs.

use bytes::Bytes;
use divan::{Bencher, black_box};
use mesh_tests::embedded::resources::Resources;
use mesh_tests::embedded::{CDS, LDS, MeshShape};
use prost::Message;
use std::time::Duration;
use xds_shim::ads::{DeltaRequest, ResponseWriter};
use xds_shim::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use xds_shim::listener::OnDemandConfig;
use xds_shim::session::Session;
use xds_shim::store::Store;

const SERVICES: u32 = 1000;
const ASKED: &str = "outbound|80||svc-7.ns-7.svc.cluster.local";

fn main() {
    divan::main();
}

/// A full push of a type, as it comes from istiod.
fn push(type_url: &str) -> Bytes {
    let snapshot = Resources::new(MeshShape::with_services(SERVICES)).snapshot("ns-0");
    let mut writer = ResponseWriter::new(type_url, "nonce", &[]);
    for resource in snapshot
        .table(type_url)
        .into_iter()
        .flat_map(|t| t.values())
    {
        writer.resource(resource, "");
    }
    writer.finish()
}

fn request(type_url: &str, names: &[&str]) -> Bytes {
    let subscribe = names.iter().map(|n| (*n).to_owned()).collect();
    DeltaRequest {
        type_url: type_url.to_owned(),
        subscribe,
        ..DeltaRequest::default()
    }
    .encode()
}

/// A stream whose proxy has asked for a type.
fn opened(store: &Store, type_url: &str) -> Session {
    let config = OnDemandConfig::new(Duration::from_secs(5));
    let mut session = Session::new(store.clone(), config, []);
    let outputs = session.on_request(&request(type_url, &[]));
    assert!(outputs.is_ok_and(|o| !o.is_empty()));
    session
}

/// What is compared against: the push decoded once.
#[divan::bench(args = [CDS, LDS])]
fn baseline_decoding_a_push(bencher: Bencher<'_, '_>, type_url: &str) {
    let push = push(type_url);
    bencher.bench(|| DeltaDiscoveryResponse::decode(black_box(push.clone())));
}

/// A push to the first stream of a kind: everything is new to the store.
#[divan::bench(args = [CDS, LDS])]
fn a_push_to_the_first_stream(bencher: Bencher<'_, '_>, type_url: &str) {
    let push = push(type_url);
    bencher
        .with_inputs(|| opened(&Store::default(), type_url))
        .bench_values(|mut session| session.on_response(black_box(&push)).map(|o| (o, session)));
}

/// A push to one more stream: the store has it all.
#[divan::bench(args = [CDS, LDS])]
fn a_push_to_another_stream(bencher: Bencher<'_, '_>, type_url: &str) {
    let push = push(type_url);
    let store = Store::default();
    let mut first = opened(&store, type_url);
    let kept = first.on_response(&push);
    bencher
        .with_inputs(|| opened(&store, type_url))
        .bench_values(|mut session| session.on_response(black_box(&push)).map(|o| (o, session)));
    drop(kept);
}

/// The answer to what a held call asks for.
#[divan::bench]
fn an_ask(bencher: Bencher<'_, '_>) {
    let push = push(CDS);
    let store = Store::default();
    let asked = request(CDS, &[ASKED]);
    bencher
        .with_inputs(|| {
            let mut session = opened(&store, CDS);
            let came = session.on_response(&push);
            (session, came.is_ok())
        })
        .bench_values(|(mut session, _)| {
            session
                .on_request(black_box(&asked))
                .map(|outputs| (outputs, session))
        });
}
