use serde_json::json;

use super::*;
use crate::mesh::Kind;
use crate::mesh::fixture::world;

fn shop() -> World {
    let mut world = world();
    world.service(
        "shop/reviews",
        "10.96.1.1",
        &["http:80", "x:81", "tcp:5432"],
    );
    world.service("bank/pay", "10.96.2.1", &["http:80"]);
    world.service("shop/db", "None", &["http:80", "tcp:5432"]);
    world.service("bank/db", "None", &["http:80"]);
    world.put(
        Kind::Service,
        "shop/six",
        json!({"spec": {"clusterIP": "fd00:10:96::7", "ports": [{"name": "http", "port": 80}]}}),
    );
    world
}

/// What is meant by a name called from `shop` on port 80, without the part that all have in common.
fn meant(world: &World, authority: &str) -> Option<String> {
    let found = by_authority(world, "shop", authority, 80)?;
    let host = found.dependency.host.to_string();
    Some(host.replace(".svc.cluster.local", ""))
}

#[test]
fn every_name_of_a_service_means_it() {
    let world = shop();
    for (authority, host) in [
        ("reviews", "reviews.shop"),
        ("reviews:8080", "reviews.shop"),
        ("REVIEWS.Shop:80", "reviews.shop"),
        ("reviews.shop.svc", "reviews.shop"),
        ("reviews.shop.svc.cluster.local", "reviews.shop"),
        ("reviews.shop.svc.cluster.local.", "reviews.shop"),
        ("reviews.shop.svc.cluster.local.:80", "reviews.shop"),
        ("10.96.1.1", "reviews.shop"),
        ("10.96.1.1:80", "reviews.shop"),
        ("[fd00:10:96::7]:80", "six.shop"),
        ("[fd00:10:96:0::7]", "six.shop"),
        ("pay.bank", "pay.bank"),
        ("pay.bank.svc:1", "pay.bank"),
        ("db", "db.shop"),
        ("pod-0.db", "db.shop"),
        ("a.pod-0.db", "db.shop"),
        ("pod-0.db.shop", "db.shop"),
        ("pod-0.db.bank.svc", "db.bank"),
        ("pod-0.db.bank.svc.cluster.local", "db.bank"),
        ("pod-0.db.bank.svc.cluster.local.", "db.bank"),
    ] {
        assert_eq!(
            meant(&world, authority).as_deref(),
            Some(host),
            "{authority}"
        );
    }
}

#[test]
fn other_names_mean_nothing() {
    let world = shop();
    let long = "a".repeat(5000);
    for authority in [
        "",
        ":80",
        "[",
        "[]:80",
        ".",
        "..",
        "pay",
        "reviews.",
        "reviews.shop.",
        "reviews.bank",
        "none.shop.svc.cluster.local",
        "reviews.shop.svc.other",
        "sub.reviews.shop",
        "example.com",
        "10.96.1.2",
        "10.96.1.1.",
        "*.shop",
        "réviews",
        "a\0b",
        &long,
    ] {
        assert_eq!(meant(&world, authority), None, "{authority}");
    }
}

#[test]
fn any_cluster_domain() {
    let mut world = World::new("mesh.internal");
    world.service("shop/reviews", "10.96.1.1", &["http:80"]);
    for name in [
        "reviews",
        "reviews.shop.svc",
        "reviews.shop.svc.mesh.internal.",
    ] {
        let found = by_authority(&world, "shop", name, 80).unwrap();
        let host = found.dependency.host.to_string();
        assert_eq!(host, "reviews.shop.svc.mesh.internal");
    }
    assert_eq!(
        by_authority(&world, "shop", "reviews.shop.svc.cluster.local", 80),
        None
    );
}

#[test]
fn the_port_called_must_be_one_of_the_service_and_carry_http() {
    let world = shop();
    let at = |port| by_authority(&world, "shop", "reviews", port).map(|r| r.dependency.protocol);
    assert_eq!(at(80), Some(Protocol::Http));
    assert_eq!(at(81), Some(Protocol::Http));
    assert_eq!(at(5432), None);
    assert_eq!(at(8080), None);
    let tcp = |port| {
        let address = SocketAddr::new("10.96.1.1".parse().unwrap(), port);
        by_address(&world, "shop", address).map(|r| r.dependency.protocol)
    };
    assert_eq!(tcp(80), Some(Protocol::Http));
    assert_eq!(tcp(81), Some(Protocol::Tcp));
    assert_eq!(tcp(5432), Some(Protocol::Tcp));
    assert_eq!(tcp(8080), None);
}

#[test]
fn addresses_of_the_older_kind_in_the_newer_one_are_the_same() {
    let world = shop();
    let found = by_address(&world, "shop", "[::ffff:10.96.2.1]:80".parse().unwrap()).unwrap();
    assert_eq!(found.namespace, "bank");
    assert_eq!(found.address, Some("10.96.2.1".parse().unwrap()));
}

#[test]
fn service_entries_and_what_is_below_their_wildcards() {
    let mut world = shop();
    let ports = json!([{"number": 80, "protocol": "HTTP"}]);
    world.put_entry(
        "bank/all",
        json!({"hosts": ["*.example.com"], "ports": ports}),
    );
    world.put_entry(
        "bank/sub",
        json!({"hosts": ["*.sub.example.com", "api.example.com"], "ports": ports}),
    );
    assert_eq!(by_authority(&world, "shop", "www.example.com", 81), None);
    for (name, host) in [
        ("www.example.com", "*.example.com"),
        ("a.b.example.com", "*.example.com"),
        ("a.sub.example.com", "*.sub.example.com"),
        ("API.example.com.", "api.example.com"),
    ] {
        assert_eq!(meant(&world, name).as_deref(), Some(host), "{name}");
    }
    assert_eq!(meant(&world, "example.com"), None);
    // A full name of a ServiceEntry wins over a short one of a service.
    world.put_entry("bank/short", json!({"hosts": ["pay.bank"], "ports": ports}));
    assert_eq!(meant(&world, "pay.bank").as_deref(), Some("pay.bank"));
    let entry = by_authority(&world, "shop", "pay.bank", 80).unwrap();
    assert_eq!(entry.dependency.host.as_str(), "pay.bank");
}

#[test]
fn what_is_not_exported_to_the_caller_means_nothing() {
    let mut world = shop();
    let ports = json!([{"number": 80, "protocol": "HTTP"}]);
    for (export_to, seen) in [
        (json!(["."]), false),
        (json!(["shop"]), true),
        (json!(["~"]), false),
    ] {
        world.put_entry(
            "bank/e",
            json!({"hosts": ["api.test"], "ports": ports, "exportTo": export_to}),
        );
        assert_eq!(meant(&world, "api.test").is_some(), seen);
    }
    // Of two with the same host the caller's own comes first.
    world.put_entry("bank/e", json!({"hosts": ["api.test"], "ports": ports}));
    world.put_entry("shop/e", json!({"hosts": ["api.test"], "ports": ports}));
    let found = by_authority(&world, "shop", "api.test", 80).unwrap();
    assert_eq!(found.namespace, "shop");
}

#[test]
fn another_name_means_itself_while_it_leads_to_a_service() {
    let mut world = shop();
    let alias = |target: &str| json!({"spec": {"type": "ExternalName", "externalName": target}});
    world.put(
        Kind::Service,
        "shop/out",
        alias("pay.bank.svc.cluster.local"),
    );
    assert_eq!(meant(&world, "out").as_deref(), Some("out.shop"));
    let found = by_authority(&world, "shop", "out.shop.svc", 80).unwrap();
    assert_eq!(found.address, Some("10.96.2.1".parse().unwrap()));
    assert_eq!(by_authority(&world, "shop", "out", 81), None);
    world.put(Kind::Service, "shop/out", alias("example.com"));
    assert_eq!(meant(&world, "out"), None);
    world.put(
        Kind::Service,
        "shop/out",
        alias("out.shop.svc.cluster.local"),
    );
    assert_eq!(meant(&world, "out"), None);
}

#[test]
fn a_call_goes_by_its_address_where_that_has_a_listener_of_its_own() {
    let world = shop();
    let meant = |authority: &str, destination: &str, protocol| {
        let destination = destination.parse().unwrap();
        let found = by_call(&world, "shop", authority, destination, protocol)?;
        let text = found.dependency.to_string();
        Some(text.replace(".svc.cluster.local", ""))
    };
    use Protocol::{Http, Tcp};
    for (authority, destination, protocol, expected) in [
        ("pay.bank", "10.96.2.1:80", Http, Some("pay.bank:80/HTTP")),
        // On a port that is HTTP the name decides.
        ("pay.bank", "10.96.1.1:80", Http, Some("pay.bank:80/HTTP")),
        ("example.com", "10.96.1.1:80", Http, None),
        ("", "10.96.1.1:80", Http, Some("reviews.shop:80/HTTP")),
        // Where the protocol is found out, and on TCP ports, the address does.
        (
            "example.com",
            "10.96.1.1:81",
            Http,
            Some("reviews.shop:81/HTTP"),
        ),
        (
            "pay.bank",
            "10.96.1.1:5432",
            Http,
            Some("reviews.shop:5432/TCP"),
        ),
        ("", "10.96.1.1:81", Tcp, Some("reviews.shop:81/TCP")),
        (
            "",
            "[::ffff:10.96.1.1]:5432",
            Tcp,
            Some("reviews.shop:5432/TCP"),
        ),
        ("pod-0.db", "10.244.0.7:80", Http, Some("db.shop:80/HTTP")),
        ("", "10.244.0.7:5432", Tcp, None),
        ("reviews", "10.96.1.1:99", Http, None),
        ("", "10.96.1.1:99", Tcp, None),
    ] {
        let found = meant(authority, destination, protocol);
        assert_eq!(found.as_deref(), expected, "{authority} {destination}");
    }
}
