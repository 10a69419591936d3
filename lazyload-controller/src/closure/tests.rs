use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;
use crate::mesh::fixture::{name, world};

fn hosts(world: &World, from: &str, host: &str) -> Vec<String> {
    let mut closures = Closures::new(world, from);
    let hosts = closures.of(host).iter();
    // Shorter to read.
    hosts
        .map(|host| host.to_string().replace(".svc.cluster.local", ""))
        .collect()
}

fn full(host: &str) -> String {
    format!("{host}.svc.cluster.local")
}

fn shop() -> World {
    let mut world = world();
    for (at, address) in [
        ("shop/reviews", "10.96.1.1"),
        ("shop/reviews-v2", "10.96.1.2"),
        ("shop/shadow", "10.96.1.3"),
        ("bank/pay", "10.96.2.1"),
        ("bank/pay-v2", "10.96.2.2"),
    ] {
        world.service(at, address, &["http:80"]);
    }
    world
}

#[test]
fn a_service_is_named_in_its_own_namespace() {
    let world = shop();
    assert_eq!(
        hosts(&world, "front", &full("reviews.shop")),
        ["shop/reviews.shop"]
    );
    assert_eq!(hosts(&world, "front", &full("none.shop")), [""; 0]);
    assert_eq!(hosts(&world, "front", "example.com"), [""; 0]);
}

#[test]
fn a_service_not_exported_to_the_caller_is_not_named() {
    let mut world = shop();
    world.put(
        Kind::Service,
        "bank/pay",
        json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "."}}, "spec": {}}),
    );
    assert_eq!(hosts(&world, "front", &full("pay.bank")), [""; 0]);
    assert_eq!(hosts(&world, "bank", &full("pay.bank")), ["bank/pay.bank"]);
}

#[test]
fn all_kinds_of_destinations_come_along_and_theirs() {
    let mut world = shop();
    world.service("bank/tcp", "10.96.2.3", &["tcp:5432"]);
    world.service("bank/tls", "10.96.2.4", &["tls:443"]);
    world.virtual_service(
        "shop/reviews",
        json!({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews-v2"}}],
            "mirror": {"host": "shadow"}, "mirrors": [{"destination": {"host": "pay.bank.svc.cluster.local"}}]}],
            "tcp": [{"route": [{"destination": {"host": "tcp.bank.svc.cluster.local"}}]}],
            "tls": [{"route": [{"destination": {"host": "tls.bank.svc.cluster.local"}}]}]}),
    );
    world.virtual_service(
        "bank/pay",
        json!({"hosts": ["pay"], "http": [{"route": [{"destination": {"host": "pay-v2"}}]}]}),
    );
    let all = [
        "bank/pay-v2.bank",
        "bank/pay.bank",
        "bank/tcp.bank",
        "bank/tls.bank",
        "shop/reviews-v2.shop",
        "shop/reviews.shop",
        "shop/shadow.shop",
    ];
    assert_eq!(hosts(&world, "front", &full("reviews.shop")), all);
    // What vanishes takes with it what only it led to.
    world.delete(Kind::VirtualService, &name("bank/pay"));
    assert_eq!(
        hosts(&world, "front", &full("reviews.shop")).len(),
        all.len() - 1
    );
    world.delete(Kind::VirtualService, &name("shop/reviews"));
    assert_eq!(
        hosts(&world, "front", &full("reviews.shop")),
        ["shop/reviews.shop"]
    );
}

#[test]
fn a_rule_in_a_third_namespace_is_named_by_it() {
    let mut world = shop();
    world.virtual_service(
        "routing/reviews",
        json!({"hosts": ["reviews.shop.svc.cluster.local"],
               "http": [{"route": [{"destination": {"host": "pay.bank.svc.cluster.local"}}]}]}),
    );
    assert_eq!(
        hosts(&world, "front", &full("reviews.shop")),
        ["bank/pay.bank", "routing/reviews.shop", "shop/reviews.shop"]
    );
    // A rule of the caller's own namespace, private to it, holds for it alone.
    world.virtual_service(
        "front/mine",
        json!({"hosts": ["pay.bank.svc.cluster.local"], "exportTo": ["."]}),
    );
    assert_eq!(
        hosts(&world, "front", &full("pay.bank")),
        ["bank/pay.bank", "front/pay.bank"]
    );
    assert_eq!(hosts(&world, "other", &full("pay.bank")), ["bank/pay.bank"]);
}

#[test]
fn delegates_bring_what_they_lead_to() {
    let mut world = shop();
    world.virtual_service(
        "shop/root",
        json!({"hosts": ["reviews"], "http": [{"delegate": {"name": "part", "namespace": "bank"}}, {"delegate": {"name": "gone"}}]}),
    );
    world.virtual_service(
        "bank/part",
        json!({"http": [{"route": [{"destination": {"host": "pay"}}], "mirror": {"host": "pay-v2"}}]}),
    );
    assert_eq!(
        hosts(&world, "front", &full("reviews.shop")),
        ["bank/pay-v2.bank", "bank/pay.bank", "shop/reviews.shop"]
    );
}

#[test]
fn hosts_of_one_rule_come_together() {
    let mut world = shop();
    world.virtual_service("shop/two", json!({"hosts": ["reviews", "shadow"]}));
    let both = ["shop/reviews.shop", "shop/shadow.shop"];
    assert_eq!(hosts(&world, "front", &full("reviews.shop")), both);
    assert_eq!(hosts(&world, "front", &full("shadow.shop")), both);
}

#[test]
fn a_wildcard_rule_brings_all_below_it() {
    let mut world = shop();
    world.virtual_service(
        "routing/all",
        json!({"hosts": ["*.bank.svc.cluster.local"], "http": [{"route": [{"destination": {"host": "reviews.shop.svc.cluster.local"}}]}]}),
    );
    let found = hosts(&world, "front", &full("pay.bank"));
    assert_eq!(
        found,
        [
            "bank/pay-v2.bank",
            "bank/pay.bank",
            "routing/*.bank",
            "routing/pay-v2.bank",
            "routing/pay.bank",
            "shop/reviews.shop"
        ]
    );
    assert_eq!(
        hosts(&world, "front", &full("shadow.shop")),
        ["shop/shadow.shop"]
    );
}

#[test]
fn a_pinned_wildcard_stands_for_all_below_it() {
    let world = shop();
    assert_eq!(
        hosts(&world, "front", &full("*.bank")),
        ["bank/pay-v2.bank", "bank/pay.bank"]
    );
}

#[test]
fn routes_of_gateway_api_count() {
    let mut world = shop();
    world.put(
        Kind::GrpcRoute,
        "routing/r",
        json!({"spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "reviews", "namespace": "shop"}],
            "rules": [{"backendRefs": [{"name": "pay", "namespace": "bank"}],
                       "filters": [{"requestMirror": {"backendRef": {"name": "shadow", "namespace": "shop"}}}]}]}}),
    );
    assert_eq!(
        hosts(&world, "front", &full("reviews.shop")),
        [
            "bank/pay.bank",
            "routing/reviews.shop",
            "shop/reviews.shop",
            "shop/shadow.shop"
        ]
    );
}

#[test]
fn service_entries_and_the_routes_on_them() {
    let mut world = shop();
    world.put_entry("shop/out", json!({"hosts": ["*.example.com", "api.test"]}));
    world.put(
        Kind::TlsRoute,
        "routing/r",
        json!({"spec": {"parentRefs": [{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "out", "namespace": "shop"}],
            "rules": [{"backendRefs": [{"name": "pay", "namespace": "bank"}]}]}}),
    );
    assert_eq!(
        hosts(&world, "front", "api.test"),
        ["bank/pay.bank", "routing/api.test", "shop/api.test"]
    );
    // A name below the wildcard brings the wildcard: there is no more exact service.
    assert_eq!(
        hosts(&world, "front", "www.example.com"),
        [
            "bank/pay.bank",
            "routing/*.example.com",
            "shop/*.example.com"
        ]
    );
}

#[test]
fn one_host_in_several_namespaces_is_named_in_each() {
    let mut world = shop();
    for at in ["a/e", "b/e"] {
        world.put_entry(at, json!({"hosts": ["api.test"]}));
    }
    assert_eq!(hosts(&world, "b", "api.test"), ["a/api.test", "b/api.test"]);
}

#[test]
fn another_name_brings_the_service_and_is_kept_with_it() {
    let mut world = shop();
    let alias = |target: &str| json!({"spec": {"type": "ExternalName", "externalName": target}});
    world.put(
        Kind::Service,
        "front/out",
        alias("middle.front.svc.cluster.local"),
    );
    world.put(
        Kind::Service,
        "front/middle",
        alias("pay.bank.svc.cluster.local"),
    );
    assert_eq!(
        hosts(&world, "front", &full("out.front")),
        ["bank/out.front", "bank/pay.bank", "front/out.front"]
    );
    world.put(
        Kind::Service,
        "front/middle",
        alias("out.front.svc.cluster.local"),
    );
    assert_eq!(
        hosts(&world, "front", &full("out.front")),
        ["front/out.front"]
    );
}

#[test]
fn rules_that_lead_in_a_circle_end() {
    let mut world = shop();
    for (one, other) in [
        ("reviews", "shadow"),
        ("shadow", "reviews-v2"),
        ("reviews-v2", "reviews"),
    ] {
        world.virtual_service(
            &format!("shop/{one}"),
            json!({"hosts": [one], "http": [{"route": [{"destination": {"host": other}}]}]}),
        );
    }
    assert_eq!(hosts(&world, "shop", &full("reviews.shop")).len(), 3);
}

#[test]
fn hosts_match_as_istios_do() {
    for (one, other, covered, either) in [
        ("a.b", "a.b", true, true),
        ("a.b", "*.b", true, true),
        ("*.b", "a.b", false, true),
        ("*.a.b", "*.b", true, true),
        ("*.b", "*.a.b", false, true),
        ("a.b", "*", true, true),
        ("a.b", "c.b", false, false),
        ("*.a", "*.b", false, false),
    ] {
        assert_eq!(subset_of(one, other), covered, "{one} {other}");
        assert_eq!(matches(one, other), either, "{one} {other}");
    }
}

proptest! {
    /// Whatever the rules are: they bring along what each host they lead to brings along, and more rules bring more.
    #[test]
    fn a_closure_is_closed_and_grows_with_the_rules(
        rules in proptest::collection::vec((0_usize..6, 0_usize..6, select(vec!["a", "b", "third"])), 0..10),
    ) {
        let names = ["a/s0", "a/s1", "a/s2", "b/s3", "b/s4", "b/s5"];
        let host = |at: usize| {
            let (namespace, name) = names[at].split_once('/').unwrap();
            full(&format!("{name}.{namespace}"))
        };
        let mut world = world();
        for (number, at) in names.iter().enumerate() {
            world.service(at, &format!("10.96.3.{number}"), &["http:80"]);
        }
        let mut before: Vec<BTreeSet<EgressHost>> = Vec::new();
        for (number, (from, to, namespace)) in rules.iter().enumerate() {
            world.virtual_service(
                &format!("{namespace}/r{number}"),
                json!({"hosts": [host(*from)], "http": [{"route": [{"destination": {"host": host(*to)}}]}]}),
            );
            let mut closures = Closures::new(&world, "a");
            let all: Vec<_> = (0..6).map(|at| closures.of(&host(at)).clone()).collect();
            for (at, of) in all.iter().enumerate() {
                prop_assert!(of.iter().any(|h| h.host == host(at)));
                for (other, of_other) in all.iter().enumerate() {
                    if of.iter().any(|h| h.host == host(other)) {
                        prop_assert!(of_other.is_subset(of));
                    }
                }
                if let Some(before) = before.get(at) {
                    prop_assert!(before.is_subset(of));
                }
            }
            prop_assert!(all[*from].contains(&EgressHost::new(namespace, &host(*from))));
            before = all;
        }
    }
}
