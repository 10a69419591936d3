//! A workload settles: what was asked for just as istiod took it away, and what it falls back to.

use super::model::mesh::{self, FALLBACKS};
use super::stand_ins::host;
use super::*;
use dependency_graph::fallback::FALLBACK_ROUTE;
use std::time::Instant;

const HTTP_FALLBACK: &str = FALLBACKS[0];
const TCP_FALLBACK: &str = FALLBACKS[1];
const DB: [&str; 2] = ["outbound|3306||db", "outbound|3306||db-2"];
const LAZY_A: &str = "lazy|80|a.shop";
const LAZY_TYPO: &str = "lazy|80|typo.shop";
const LAZY_DB: &str = "lazytcp|3306|10.0.0.1";

fn routes(services: &[&str], falls_back: bool) -> pb::Resource {
    let service = |name: &&str| {
        let full = format!("{name}.shop.svc.cluster.local");
        let short = format!("{name}.shop");
        host(&full, &[&full, &short], &format!("outbound|80||{full}"))
    };
    let mut hosts: Vec<_> = services.iter().map(service).collect();
    let mut rest = host("rest", &["*"], SPECIAL);
    if falls_back {
        let mut first = host("", &[], HTTP_FALLBACK).routes.remove(0);
        first.name = FALLBACK_ROUTE.into();
        rest.routes.insert(0, first);
    }
    hosts.push(rest);
    mesh::configuration("80", hosts)
}

/// `virtualOutbound`, and listeners of two databases.
fn listeners(falls_back: bool) -> Vec<pb::Resource> {
    let database = |(at, cluster): (&str, &str)| {
        let mut listener = mesh::listener(at, 3306);
        listener.filter_chains = vec![mesh::chain("", &mesh::proxy(cluster))];
        resource(&listener.name, &listener)
    };
    let all = [("10.0.0.1", DB[0]), ("10.0.0.2", DB[1])].map(database);
    let outer = mesh::virtual_outbound(falls_back);
    let mut all = all.to_vec();
    all.push(resource("virtualOutbound", &outer));
    all.push(http_listener("0.0.0.0_80", "80"));
    all
}

fn named(name: &str) -> pb::Resource {
    cluster_with(name, |cluster| {
        cluster.eds_cluster_config = Some(cds::cluster::EdsClusterConfig {
            service_name: name.into(),
            ..Default::default()
        });
    })
}

/// A stream that runs, in a mesh with two HTTP services and two databases; with the fallback or before it.
fn open(falls_back: bool) -> Stream {
    let mut clusters = vec![cluster(SPECIAL)];
    clusters.extend([A, B, DB[0], DB[1], HTTP_FALLBACK, TCP_FALLBACK].map(named));
    let mut stream = Stream::started(&[], &clusters);
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &listeners(falls_back));
    stream.asks(ads::RDS, &["80"]);
    stream.pushes(ads::RDS, "r1", &[routes(&["a", "b"], falls_back)]);
    stream
}

/// What a copy that was given is a copy of.
fn copy_of(seen: &Seen, name: &str) -> String {
    let mut all = seen.to_proxy.iter().flat_map(|r| &r.resources);
    let found = all.rfind(|r| r.name == name).unwrap();
    let found = cds::Cluster::decode(&*found.resource.as_ref().unwrap().value).unwrap();
    found.alt_stat_name
}

#[test]
fn what_it_falls_back_to_is_given_at_once_and_never_learned() {
    let mut stream = open(false);
    let seen = stream.pushes(ads::LDS, "l2", &listeners(true));
    let given = seen.given();
    let at = |name| given.iter().position(|given| *given == name);
    assert!(at(TCP_FALLBACK).unwrap() < at("virtualOutbound").unwrap());
    // Listeners stay held beside it.
    assert_eq!(at("10.0.0.1_3306"), None);
    let seen = stream.pushes(ads::RDS, "r2", &[routes(&["a", "b"], true)]);
    assert_eq!(seen.given(), [HTTP_FALLBACK, "80"]);
    assert_eq!(seen.asks, []);
    // Nor if a proxy asks for it, before it has it or on another stream.
    for name in [HTTP_FALLBACK, TCP_FALLBACK] {
        assert_eq!(stream.asks(ads::CDS, &[name]).asks, [], "{name}");
    }
}

#[test]
fn a_request_that_was_held_as_its_virtual_host_went_goes_where_it_led() {
    let mut stream = open(true);
    stream.pushes(ads::RDS, "r2", &[routes(&["b"], true)]);
    let seen = stream.asks(ads::CDS, &[LAZY_A]);
    assert_eq!(copy_of(&seen, LAZY_A), A);
    assert_eq!(seen.asks.len(), 1, "it is learned");
    assert_eq!(seen.asks[0].service, a());
    // A while later nobody can have been held by it.
    let start = Instant::now();
    stream.session.tidy(start);
    stream.session.tidy(start + Duration::from_secs(30));
    let seen = stream.asks(ads::CDS, &["lazy|80|a.shop.svc.cluster.local"]);
    assert_eq!(seen.asks, []);
}

#[test]
fn one_whose_cluster_is_gone_as_well_fails_at_once() {
    let mut stream = open(true);
    stream.push(ads::CDS, "c2", &[], &[A]);
    stream.pushes(ads::RDS, "r2", &[routes(&["b"], true)]);
    let seen = stream.asks(ads::CDS, &[LAZY_A]);
    // A cluster without endpoints.
    assert_eq!(
        (seen.given(), copy_of(&seen, LAZY_A)),
        (vec![LAZY_A], String::new())
    );
}

#[test]
fn a_name_that_was_nobodys_as_the_fallback_came_is_passed_through() {
    let mut stream = open(false);
    stream.pushes(ads::RDS, "r2", &[routes(&["a", "b"], true)]);
    let seen = stream.asks(ads::CDS, &[LAZY_TYPO]);
    assert_eq!(
        (copy_of(&seen, LAZY_TYPO).as_str(), seen.asks),
        (SPECIAL, vec![])
    );
}

#[test]
fn a_connection_that_was_held_as_its_listener_went_goes_where_it_led() {
    let mut stream = open(true);
    stream.push(ads::LDS, "l2", &[], &["10.0.0.1_3306"]);
    let seen = stream.asks(ads::CDS, &[LAZY_DB]);
    assert_eq!(copy_of(&seen, LAZY_DB), DB[0]);
    let ask = &seen.asks[0];
    assert_eq!(ask.service, ServicePort::new("db", 3306));
    assert_eq!(ask.protocol, Protocol::Tcp);
    let mut stream = open(true);
    stream.push(ads::LDS, "l2", &[], &["10.0.0.1_3306"]);
    let seen = stream.asks(ads::CDS, &[DB[0]]);
    assert_eq!(seen.asks[0].protocol, Protocol::Tcp);
    // Without a cluster it is closed: past the mesh it must not go.
    let mut stream = open(true);
    stream.push(ads::CDS, "c2", &[], &[DB[0]]);
    stream.push(ads::LDS, "l2", &[], &["10.0.0.1_3306"]);
    let seen = stream.asks(ads::CDS, &[LAZY_DB]);
    assert_eq!(
        (copy_of(&seen, LAZY_DB), seen.asks),
        (String::new(), vec![])
    );
}
