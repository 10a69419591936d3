use std::collections::BTreeMap;

use super::*;

/// What must be tried by some of 60 seeds, each by its beginning.
const EVERY: [&str; 78] = [
    "port/Http",
    "port/Http2",
    "port/Grpc",
    "port/Tcp",
    "port/TcpServerFirst",
    "port/Tls",
    "port/AutoHttp",
    "port/AutoTcp",
    "service/headless",
    "service/external-name",
    "service/no-endpoints",
    "service/two-endpoints",
    "service/export-to",
    "server/strict",
    "server/guarded",
    "server/refusing",
    "server/outside",
    "entry/static",
    "entry/dns",
    "entry/wildcard-none",
    "entry/wildcard-static",
    "entry/address",
    "entry/no-address",
    "entry/export-to",
    "rule/subsets",
    "rule/round-robin",
    "rule/hash-header",
    "rule/hash-source-ip",
    "rule/hash-maglev",
    "rule/proxy-protocol",
    "rule/tls-disable",
    "rule/tls-mutual",
    "rule/tls-simple",
    "rule/outlier",
    "rule/selects-client",
    "rule/selects-nobody",
    "rule/export-to",
    "route/subset",
    "route/rewrite",
    "route/rewrite-host",
    "route/redirect",
    "route/redirect-host",
    "route/answer",
    "route/fault",
    "route/mirror",
    "route/headers",
    "route/retries",
    "route/all-to-one",
    "route/halves",
    "route/no-service",
    "route/no-subset",
    "route/delegate",
    "route/tcp",
    "route/tls",
    "route/export-to",
    "route/gateways",
    "route/wildcard-host",
    "route/of-no-service",
    "match/header",
    "match/labels",
    "gateway-api/HTTPRoute",
    "gateway-api/GRPCRoute",
    "sidecar/REGISTRY_ONLY",
    "sidecar/ALLOW_ANY",
    "sidecar/mesh",
    "sidecar/named",
    "change/Service-comes",
    "change/Service-goes",
    "change/Service-becomes-another",
    "change/VirtualService-comes",
    "change/VirtualService-goes",
    "change/VirtualService-becomes-another",
    "change/DestinationRule-comes",
    "name/upper",
    "name/dot",
    "name/nobodys",
    "probe/other-protocol",
    "probe/foreign-port",
];

#[test]
fn the_same_seed_makes_the_same() {
    for seed in [0, 1, 17, u64::MAX] {
        assert_eq!(scenario(seed), scenario(seed));
    }
    assert_ne!(scenario(1).probes, scenario(2).probes);
}

#[test]
fn every_kind_is_tried_within_some_seeds() {
    let mut tried = BTreeMap::<String, u32>::new();
    for seed in 1..=60 {
        for feature in scenario(seed).features {
            *tried.entry(feature).or_default() += 1;
        }
    }
    for kind in EVERY {
        assert!(
            tried.keys().any(|feature| feature.starts_with(kind)),
            "{kind} is never tried; tried are {tried:?}"
        );
    }
}

#[test]
fn what_is_made_can_be_applied() {
    for seed in 1..=200 {
        let scenario = scenario(seed);
        let mut names = BTreeSet::new();
        for resource in &scenario.resources {
            assert!(!resource.name().contains('?'), "{:?}", resource.object);
            let text = resource.object.to_string();
            assert!(!text.contains("null"), "{text}");
            assert!(names.insert(resource.name()), "twice: {}", resource.name());
        }
        let mut addresses = BTreeSet::new();
        for resource in &scenario.resources {
            let address = resource.object["spec"]["clusterIP"].as_str();
            if let Some(address) = address.filter(|address| *address != "None") {
                assert!(addresses.insert(address), "twice: {address}");
            }
        }
        for probe in &scenario.probes {
            assert!(
                !probe.host.is_empty() && !probe.address.is_empty() && probe.port > 0,
                "{probe}"
            );
        }
        assert!(!scenario.probes.is_empty());
    }
}
