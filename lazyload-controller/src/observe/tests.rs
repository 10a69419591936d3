//! Who and what telemetry means.

use dependency_graph::{Dependency, Graph, Port, Record};
use serde_json::json;

use super::*;
use crate::mesh::Kind;
use crate::mesh::fixture::{pod_of, world};
use crate::plan::modes;

const AT: u64 = 1_000_000;

fn mesh() -> World {
    let mut world = world();
    let observed = json!({"metadata": {"labels": {"lazymesh.dev/mode": "observe"}}});
    world.put(Kind::Namespace, "shop", observed);
    world.put(Kind::Namespace, "far", json!({}));
    world.service(
        "shop/reviews",
        "10.96.1.1",
        &["http:80", "grpc-api:9000", "tcp-db:3306", "plain:7000"],
    );
    world.service("far/ratings", "10.96.1.2", &["http:80"]);
    world.put_pod("shop/cart-5d4f-x", "cart");
    world
}

fn workload(kind: &str, name: &str) -> Workload {
    Workload::new("shop", kind, name).unwrap()
}

fn row(workload: &str, service: &str) -> Row {
    Row {
        workload: workload.into(),
        service: service.into(),
        value: 1.0,
    }
}

fn told(rows: &[(&str, &str, Protocol)]) -> Calls {
    let mut calls = Calls::new();
    for (workload, service, protocol) in rows {
        assert_eq!(take_in(&mut calls, &[row(workload, service)], *protocol), 0);
    }
    calls
}

fn observed(world: &World, graph: &Graph, calls: &Calls) -> Observed {
    let modes = modes(world, graph, "shop");
    let at = Timestamp::from_seconds(AT);
    observe(world, "shop", &modes, &[Mode::Observe], calls, at)
}

fn learned(observed: &Observed, workload: &Workload) -> Vec<String> {
    let learned = observed.learned.get(workload);
    let all = learned.into_iter().flat_map(Learned::dependencies);
    all.map(|dependency| dependency.to_string()).collect()
}

const REVIEWS: &str = "reviews.shop.svc.cluster.local";
const RATINGS: &str = "ratings.far.svc.cluster.local";

#[test]
fn a_service_stands_for_all_its_ports_of_the_protocol() {
    let calls = told(&[("cart", REVIEWS, Protocol::Http)]);
    let observed = observed(&mesh(), &Graph::new(), &calls);
    let cart = workload("Deployment", "cart");
    // A port that says nothing may carry either.
    let expected = [80, 7000, 9000].map(|port| format!("{REVIEWS}:{port}/HTTP"));
    assert_eq!(learned(&observed, &cart), expected);
    let (_, _, edge) = observed.learned[&cart].edges().next().unwrap();
    assert_eq!(
        (edge.source, edge.last_seen.seconds()),
        (Source::Telemetry, AT)
    );
    let calls = told(&[("cart", REVIEWS, Protocol::Tcp)]);
    let tcp = super::tests::observed(&mesh(), &Graph::new(), &calls);
    let expected = [3306, 7000].map(|port| format!("{REVIEWS}:{port}/TCP"));
    assert_eq!(learned(&tcp, &cart), expected);
}

#[test]
fn what_is_no_service_is_never_learned() {
    let mut world = mesh();
    world.put_entry(
        "shop/example",
        json!({"hosts": ["api.example.com", "*.wild.example.com"],
               "ports": [{"number": 443, "protocol": "TLS"}]}),
    );
    let hidden = json!({"clusterIP": "10.96.1.9", "ports": [{"name": "http", "port": 80}]});
    let unexported = json!({"networking.istio.io/exportTo": "."});
    world.put(
        Kind::Service,
        "far/hidden",
        json!({"metadata": {"annotations": unexported}, "spec": hidden}),
    );
    for (service, protocol, ports) in [
        (RATINGS, Protocol::Http, 1),
        ("api.example.com", Protocol::Tcp, 1),
        ("*.wild.example.com", Protocol::Tcp, 1),
        // Over another protocol than its ports have, not told in full, of nobody, not to be seen.
        ("api.example.com", Protocol::Http, 0),
        ("reviews", Protocol::Http, 0),
        ("reviews.shop", Protocol::Http, 0),
        ("unknown", Protocol::Http, 0),
        ("a.wild.example.com", Protocol::Tcp, 0),
        ("evil.example.org", Protocol::Http, 0),
        ("hidden.far.svc.cluster.local", Protocol::Http, 0),
        (RATINGS, Protocol::Tcp, 0),
    ] {
        let observed = observed(&world, &Graph::new(), &told(&[("cart", service, protocol)]));
        let count = observed.learned.values().map(Learned::len).sum::<usize>();
        assert_eq!(count, ports, "{service} {protocol}");
        assert_eq!(observed.unknown_host, usize::from(ports == 0), "{service}");
    }
}

#[test]
fn a_name_stands_for_all_that_have_it() {
    let mut world = mesh();
    let mut pod = pod_of("cart");
    pod["metadata"]["ownerReferences"][0]["kind"] = json!("StatefulSet");
    pod["metadata"]["ownerReferences"][0]["name"] = json!("cart");
    world.put(Kind::Pod, "shop/cart-0", pod);
    // A job that has no pods now, and a namesake elsewhere.
    let mut graph = Graph::new();
    let job = workload("CronJob", "cart");
    graph.set_workload(&job, Some(Record::default()));
    let elsewhere = Workload::new("far", "Deployment", "cart").unwrap();
    graph.set_workload(&elsewhere, Some(Record::default()));
    let calls = told(&[("cart", RATINGS, Protocol::Http)]);
    let observed = observed(&world, &graph, &calls);
    let all: Vec<_> = observed.learned.keys().cloned().collect();
    let expected = [
        job,
        workload("Deployment", "cart"),
        workload("StatefulSet", "cart"),
    ];
    assert_eq!(all, expected);
}

#[test]
fn who_is_not_known_or_not_observed_is_skipped_and_counted() {
    let mut world = mesh();
    let mut pod = pod_of("off");
    pod["metadata"]["labels"]["lazymesh.dev/mode"] = json!("off");
    world.put(Kind::Pod, "shop/off-5d4f-x", pod);
    let calls = told(&[
        ("off", RATINGS, Protocol::Http),
        ("gone", RATINGS, Protocol::Http),
        ("gone", REVIEWS, Protocol::Http),
        ("", RATINGS, Protocol::Http),
        ("unknown", RATINGS, Protocol::Http),
        ("cart", RATINGS, Protocol::Http),
    ]);
    let mut graph = Graph::new();
    let seen = observed(&world, &graph, &calls);
    assert_eq!((seen.unknown_workload, seen.other_mode), (4, 1));
    assert_eq!(seen.learned.len(), 1);
    // The record's word is the last.
    let own = Record {
        mode: Some(Mode::OnDemand),
        ..Record::default()
    };
    graph.set_workload(&workload("Deployment", "cart"), Some(own));
    let seen = observed(&world, &graph, &calls);
    assert_eq!((seen.other_mode, seen.learned.len()), (2, 0));
}

#[test]
fn names_that_are_none_are_counted() {
    let mut calls = Calls::new();
    let long = "a".repeat(1 << 16);
    let rows = [
        row("cart", "Reviews.Shop.svc.cluster.local"),
        row("cart", "10.0.0.1:80"),
        row("cart", ""),
        row("cart", "a b"),
        row("cart", &long),
    ];
    assert_eq!(take_in(&mut calls, &rows, Protocol::Http), 4);
    let expected = (REVIEWS.parse().unwrap(), Protocol::Http);
    assert_eq!(calls["cart"], BTreeSet::from([expected]));
}

#[test]
fn other_names_of_a_service_are_called_with_it() {
    let mut world = mesh();
    world.put(
        Kind::Service,
        "shop/alias",
        json!({"spec": {"type": "ExternalName", "externalName": REVIEWS}}),
    );
    let mut calls = told(&[
        ("cart", REVIEWS, Protocol::Http),
        ("x", RATINGS, Protocol::Http),
    ]);
    add_aliases(&world, &mut calls);
    let alias: Called = (
        "alias.shop.svc.cluster.local".parse().unwrap(),
        Protocol::Http,
    );
    assert!(calls["cart"].contains(&alias));
    assert_eq!(calls["x"].len(), 1);
    let observed = observed(&world, &Graph::new(), &calls);
    let dependency = Dependency {
        host: alias.0,
        port: Port::try_from(80).unwrap(),
        protocol: Protocol::Http,
    };
    let cart = &observed.learned[&workload("Deployment", "cart")];
    assert!(cart.contains(&dependency));
}
