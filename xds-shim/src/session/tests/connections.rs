//! Connections that come by what stands for held listeners; with the listeners istiod sent a sidecar.

use super::*;
use std::time::Instant;

const TCP: &str = "outbound|9000||server.all-1.svc.cluster.local";
const TCP_LISTENER: &str = "10.96.142.38_9000";
const LAZY_TCP: &str = "lazytcp|9000|10.96.142.38";
const SNIFFED: &str = "outbound|4000||auto-1.all-1.svc.cluster.local";
const SNIFFED_LISTENER: &str = "10.96.92.252_4000";
const SNIFFED_ROUTES: &str = "auto-1.all-1.svc.cluster.local:4000";
const LAZY_SNIFFED: &str = "lazyin|4000|10.96.92.252";
const OUTER: &str = "virtualOutbound";

fn of_istiod() -> Vec<pb::Resource> {
    let raw = include_bytes!("../../../testdata/istiod-listeners.bin");
    pb::DeltaDiscoveryResponse::decode(&raw[..])
        .unwrap()
        .resources
}

/// As istiod writes it: endpoints by the cluster's name.
fn service(name: &str) -> pb::Resource {
    cluster_with(name, |c| {
        let service_name = name.into();
        c.eds_cluster_config = Some(cds::cluster::EdsClusterConfig {
            service_name,
            ..Default::default()
        });
    })
}

fn open(known: &[ServicePort]) -> (Stream, Seen) {
    let mut stream = Stream::started(known, &[cluster(SPECIAL), service(TCP), service(SNIFFED)]);
    stream.asks(ads::LDS, &[]);
    let seen = stream.pushes(ads::LDS, "l1", &of_istiod());
    (stream, seen)
}

fn server() -> ServicePort {
    ServicePort::new("server.all-1.svc.cluster.local", 9000)
}

#[test]
fn listeners_are_held_until_their_service_is_known() {
    let (_, seen) = open(&[]);
    let given = seen.given();
    for held in [TCP_LISTENER, SNIFFED_LISTENER] {
        assert!(!given.contains(&held), "{held}");
    }
    // Behind a wildcard of its port a TCP listener is given, ahead of that.
    let place = |name| given.iter().position(|n| *n == name);
    assert!(place("10.96.219.164_3306").unwrap() < place("0.0.0.0_3306").unwrap());
    assert_eq!(given.last(), Some(&OUTER));
    let (_, seen) = open(&[server()]);
    assert!(seen.given().contains(&TCP_LISTENER));
    assert!(!seen.given().contains(&"10.96.142.38_9001"));
}

#[test]
fn a_connection_gets_a_copy_first_and_then_the_service_its_listener() {
    let (mut stream, _) = open(&[]);
    let asked = stream.asks(ads::CDS, &[LAZY_TCP]);
    assert_eq!(
        (asked.given(), asked.subscribed()),
        (vec![LAZY_TCP], vec![TCP])
    );
    let learned = Ask {
        service: server(),
        protocol: Protocol::Tcp,
        now: true,
    };
    assert_eq!(asked.asks, [learned]);
    let seen = stream.takes(&asked);
    assert_eq!(seen.given(), [TCP, TCP, TCP_LISTENER]);
    assert_eq!(
        seen.order(),
        ["Cluster", "ClusterLoadAssignment", "Listener"]
    );
    // Nothing leads to the copy then; virtualOutbound never changed.
    let start = Instant::now();
    assert!(stream.session.tidy(start).is_empty());
    assert_eq!(
        Seen::of(stream.session.tidy(start + LINGER)).removed(),
        [LAZY_TCP]
    );
}

#[test]
fn a_connection_to_a_sniffed_port_is_led_through_a_copy_of_the_listener() {
    let (mut stream, _) = open(&[]);
    let seen = stream.asks(ads::CDS, &[LAZY_SNIFFED]);
    assert_eq!(
        (seen.given().len(), seen.subscribed()),
        (0, vec![SNIFFED_ROUTES])
    );
    // Its routes go behind it, since Envoy takes them only when something uses them; the cluster that leads
    // there comes last.
    let seen = stream.pushes(ads::RDS, "r1", &[routes(SNIFFED_ROUTES, SNIFFED, &[])]);
    let order = [LAZY_SNIFFED, SNIFFED_ROUTES, SNIFFED, LAZY_SNIFFED];
    assert_eq!(seen.given(), order);
    assert_eq!(seen.asks.len(), 1);
    let seen = stream.takes(&seen);
    assert_eq!(seen.given(), [SNIFFED_LISTENER]);
    let start = Instant::now();
    stream.session.tidy(start);
    let seen = Seen::of(stream.session.tidy(start + LINGER));
    assert_eq!(seen.removed(), [LAZY_SNIFFED], "the cluster goes");
    assert_eq!(
        seen.order(),
        ["Cluster"],
        "and the copy of the listener stays"
    );
}

/// Found by the differential test: the cluster overtook the copy that it leads to, and the connection ended.
#[test]
fn what_leads_to_a_copy_waits_with_it_for_what_its_routes_mirror_to() {
    let (mut stream, _) = open(&[]);
    stream.asks(ads::CDS, &[LAZY_SNIFFED]);
    let mirrors = [routes(SNIFFED_ROUTES, SNIFFED, &[TCP])];
    let seen = stream.pushes(ads::RDS, "r1", &mirrors);
    assert_eq!((seen.given(), seen.subscribed()), (vec![TCP], vec![TCP]));
    let seen = stream.pushes(ads::EDS, "e1", &[endpoints(TCP, 1)]);
    let given = seen.given();
    let places = |name| -> Vec<_> {
        let all = given.iter().enumerate();
        all.filter(|(_, given)| **given == name)
            .map(|(at, _)| at)
            .collect()
    };
    let ([copy, cluster], [.., routes]) = (&places(LAZY_SNIFFED)[..], &places(SNIFFED_ROUTES)[..])
    else {
        panic!("{given:?}")
    };
    assert!(copy < routes && routes < cluster, "{given:?}");
    assert_eq!(seen.order()[..1], ["ClusterLoadAssignment"]);
}

#[test]
fn a_proxy_that_comes_back_keeps_its_copies_of_listeners() {
    let mut stream = Stream::new(&[]);
    stream.asks_holding(
        ads::CDS,
        &["*", LAZY_SNIFFED, LAZY_TCP],
        &[(SNIFFED, "lm-1")],
    );
    stream.pushes(
        ads::CDS,
        "c1",
        &[cluster(SPECIAL), service(TCP), service(SNIFFED)],
    );
    let held = [
        (LAZY_SNIFFED, "lm-2"),
        (SNIFFED_LISTENER, "lm-3"),
        ("1.2.3.4_5", "lm-4"),
    ];
    stream.asks_holding(ads::LDS, &[], &held);
    let seen = stream.pushes(ads::LDS, "l1", &of_istiod());
    assert_eq!(seen.removed(), ["1.2.3.4_5"]);
    assert!(!seen.given().contains(&LAZY_SNIFFED));
    // What was asked for while no shim was there waits for its answer.
    assert!(seen.given().contains(&LAZY_TCP));
    assert!(seen.given().contains(&TCP_LISTENER));
}

#[test]
fn a_listener_that_goes_leaves_its_address_to_the_rest() {
    let (mut stream, _) = open(&[]);
    let seen = stream.push(ads::LDS, "l2", &[], &[TCP_LISTENER]);
    assert_eq!((seen.given(), seen.removed()), (vec![OUTER], vec![]));
    // A connection that was faster gets what it would have had.
    let seen = stream.asks(ads::CDS, &[LAZY_TCP]);
    let copy = &seen.to_proxy[0].resources[0];
    let copy = cds::Cluster::decode(&*copy.resource.as_ref().unwrap().value).unwrap();
    assert_eq!(
        (copy.name.as_str(), copy.alt_stat_name.as_str()),
        (LAZY_TCP, SPECIAL)
    );
    // When it comes again it is given: Envoy would not ask again.
    let again: Vec<_> = of_istiod()
        .into_iter()
        .filter(|r| r.name == TCP_LISTENER)
        .collect();
    let seen = stream.pushes(ads::LDS, "l3", &again);
    assert!(seen.given().contains(&TCP_LISTENER));
}

#[test]
fn what_others_learned_brings_its_listener() {
    let (mut stream, _) = open(&[]);
    let seen = Seen::of(stream.session.admit([server()]));
    assert_eq!(seen.given(), [TCP, TCP_LISTENER]);
}

#[test]
fn a_refused_stand_in_ends_the_stream() {
    let (mut stream, seen) = open(&[]);
    let why = "Error adding/updating listener(s) virtualOutbound: no such matcher";
    let refusal = refusal(&seen.to_proxy[0], why).encode_to_vec();
    let error = stream.session.on_request(&refusal.into()).unwrap_err();
    assert_eq!(error, Error::CannotAsk(why.into()));
}

#[test]
fn with_clusters_only_every_listener_is_given_as_it_came() {
    let config =
        OnDemandConfig::new(Duration::from_secs(5)).holding(crate::listener::Hold::Clusters);
    let session = Session::new(Store::default(), config, []);
    let mut stream = Stream { session };
    stream.asks(ads::LDS, &[]);
    let seen = stream.pushes(ads::LDS, "l1", &of_istiod());
    assert_eq!(seen.given().len(), of_istiod().len());
    let outer = |all: &[pb::Resource]| {
        all.iter()
            .find(|r| r.name == OUTER)
            .unwrap()
            .resource
            .clone()
    };
    assert_eq!(outer(&seen.to_proxy[0].resources), outer(&of_istiod()));
}
