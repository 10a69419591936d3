//! `virtualOutbound` with a chain that takes ranges of addresses, as the fallback of a workload that settles has it.

use super::*;
use crate::envoy::config::core::v3::CidrRange;
use dependency_graph::fallback::FALLBACK_CHAIN;

const PROXY: &str = "outbound|15009||global-proxy.lazymesh-system.svc.cluster.local";
const CATCH_ALL: &str = "virtualOutbound-catchall-tcp";

fn by_ranges(name: &str, ranges: &[(&str, u32)]) -> FilterChain {
    let ranges = ranges.iter().map(|(address, length)| CidrRange {
        address_prefix: (*address).into(),
        prefix_len: Some(UInt32Value { value: *length }),
    });
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            prefix_ranges: ranges.collect(),
            ..Default::default()
        }),
        ..chain(name, &proxy(PROXY))
    }
}

fn with_chains(more: &[FilterChain]) -> Listener {
    let mut listener = virtual_outbound();
    listener.filter_chains.extend_from_slice(more);
    listener
}

/// In halves, as the EnvoyFilter of one workload says them.
fn fallback() -> FilterChain {
    let halves = [("10.96.0.0", 17), ("10.96.128.0", 17), ("fd00:96::", 109)];
    by_ranges(FALLBACK_CHAIN, &halves)
}

#[test]
fn ours_go_first_and_the_fallback_takes_what_is_left_of_its_ranges() {
    let listeners = [
        service("a", "10.96.0.1", 3306),
        service("b", "10.96.0.2", 3306),
        with_chains(&[fallback()]),
    ];
    let connections = with(&listeners);
    assert_eq!(held(&connections, Way::Cluster).len(), 2);
    assert_eq!(connections.fallbacks().collect::<Vec<_>>(), [PROXY]);
    let outer = outer(&connections);
    let leads = |address: &str, port| chain_for(&outer, &to(address, port));
    assert!(leads("10.96.0.1", 3306).starts_with("lazymesh-tcp-"));
    for (address, port) in [
        ("10.96.0.3", 3306),
        ("10.96.0.1", 3307),
        ("10.96.200.1", 5432),
        ("fd00:96::7", 5432),
    ] {
        assert_eq!(leads(address, port), FALLBACK_CHAIN, "{address}:{port}");
    }
    assert_eq!(leads("192.0.2.1", 3306), CATCH_ALL);
    assert_eq!(leads("192.0.2.1", 80), CATCH_ALL);
    // istiod's own port is its own, whatever the address.
    assert_eq!(leads("10.96.0.1", 15_001), "virtualOutbound-blackhole");
    // A connection that falls back is more than one to its cluster.
    assert_eq!(connections.rest(&to("10.96.0.3", 3306)), None);
    assert_eq!(
        connections.rest(&to("192.0.2.1", 3306)),
        Some("PassthroughCluster")
    );
}

#[test]
fn its_chains_are_those_that_were_there() {
    let plain = [
        service("a", "10.96.0.1", 3306),
        service("b", "10.96.0.2", 3306),
    ];
    let of = |last: Listener| {
        let mut all = plain.to_vec();
        all.push(last);
        outer(&with(&all)).filter_chains
    };
    let (before, after) = (of(virtual_outbound()), of(with_chains(&[fallback()])));
    // Connections are in them: they stay for as long as they are the same.
    assert!(before.iter().all(|chain| after.contains(chain)));
    assert_eq!(after.len(), before.len() + 1);
    let tunnels = after
        .iter()
        .find(|chain| chain.name == FALLBACK_CHAIN)
        .unwrap();
    assert_eq!(tunnels.filter_chain_match, fallback().filter_chain_match);
}

#[test]
fn without_anything_held_it_is_a_matcher_all_the_same() {
    let outer = outer(&with(&[with_chains(&[fallback()])]));
    assert_eq!(chain_for(&outer, &to("10.96.0.1", 3306)), FALLBACK_CHAIN);
    assert_eq!(chain_for(&outer, &to("192.0.2.1", 3306)), CATCH_ALL);
}

#[test]
fn what_a_matcher_cannot_say_is_left_as_it_is() {
    let mut of_port = fallback();
    let matches = of_port.filter_chain_match.as_mut().unwrap();
    matches.destination_port = Some(UInt32Value { value: 80 });
    let wider = by_ranges("wider", &[("10.0.0.0", 8)]);
    let broken = by_ranges("broken", &[("10.96.0.0", 33)]);
    for chains in [
        vec![of_port],
        vec![fallback(), wider],
        vec![broken],
        // Two of one name, in the moment in which one form makes way for another.
        vec![fallback(), by_ranges(FALLBACK_CHAIN, &[("172.16.0.0", 12)])],
    ] {
        let listener = with_chains(&chains);
        assert!(!matches!(kind(&listener), Kind::Outer(_)), "{chains:?}");
    }
}
