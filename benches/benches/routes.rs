//! Route configurations in which one virtual host stands for many, beside their baseline: what decoding the same
//! one with prost and encoding it again costs.

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mesh_benches::mesh::routes as config;
use mesh_benches::must;
use prost::Message;
use std::collections::BTreeSet;
use xds_shim::envoy::config::route::v3::RouteConfiguration;
use xds_shim::envoy::service::discovery::v3::Resource;
use xds_shim::stand_in::routes::{Meaning, Routes, View};

const SIZES: [u32; 2] = [1000, 5000];
const GIVEN: [&str; 3] = [
    "outbound|80||svc-0.ns-0.svc.cluster.local",
    "outbound|80||svc-1.ns-0.svc.cluster.local",
    "outbound|80||svc-13.ns-1.svc.cluster.local",
];

fn main() {
    divan::main();
}

fn taken_apart(config: &Bytes) -> Routes {
    let Some(routes) = must(Routes::parse(config)) else {
        panic!("not understood");
    };
    routes
}

/// What is compared against.
#[divan::bench(args = SIZES)]
fn baseline_decoding_and_encoding(bencher: Bencher<'_, '_>, services: u32) {
    let config = config(services);
    bencher.counter(BytesCount::new(config.len())).bench(|| {
        let mut resource = must(Resource::decode(black_box(&*config)));
        if let Some(any) = &mut resource.resource {
            let routes = must(RouteConfiguration::decode(&*any.value));
            any.value = routes.encode_to_vec();
        }
        resource.encode_to_vec()
    });
}

/// Once for all streams that were sent the same.
#[divan::bench(args = SIZES)]
fn taking_apart(bencher: Bencher<'_, '_>, services: u32) {
    let config = config(services);
    let (all, held) = taken_apart(&config).count();
    assert_eq!((all, held), (services as usize + 1, services as usize));
    bencher
        .counter(BytesCount::new(config.len()))
        .bench(|| Routes::parse(black_box(&config)));
}

/// For each stream that lacks it: three virtual hosts, and one for all others.
#[divan::bench(args = SIZES)]
fn putting_together(bencher: Bencher<'_, '_>, services: u32) {
    compose(bencher, services, false);
}

/// The same without wildcards: every name of the others is written out.
#[divan::bench(args = SIZES)]
fn putting_together_names(bencher: Bencher<'_, '_>, services: u32) {
    compose(bencher, services, true);
}

fn compose(bencher: Bencher<'_, '_>, services: u32, exact: bool) {
    let config = config(services);
    let routes = taken_apart(&config);
    let nobody = BTreeSet::new();
    let view = View {
        gives: &|cluster| GIVEN.contains(&cluster),
        nobody: &nobody,
        exact,
    };
    // Not the whole, and not nothing.
    let composed = must(routes.compose(&config, view)).len();
    assert!(
        (500..config.len() / 2).contains(&composed),
        "{composed} bytes"
    );
    bencher
        .counter(BytesCount::new(config.len()))
        .bench_local(|| routes.compose(black_box(&config), view));
}

/// Which service a held call is to, by its authority.
#[divan::bench(args = SIZES)]
fn what_an_authority_means(bencher: Bencher<'_, '_>, services: u32) {
    let routes = taken_apart(&config(services));
    let authority = "svc-7.ns-0.svc.cluster.local:80";
    let meaning = routes.meaning(authority);
    assert!(matches!(meaning, Meaning::Service { .. }), "{meaning:?}");
    bencher.bench(|| routes.meaning(black_box(authority)) == Meaning::Other);
}
