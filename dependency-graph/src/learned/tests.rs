//! The laws of merging, and learning within limits.

use proptest::prelude::*;

use super::*;
use crate::strategies::{any_learned, dependency};

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn learned(calls: &[(&str, u64)]) -> Learned {
    let mut learned = Learned::new();
    for (text, seen) in calls {
        learned.see(&dependency(text), at(*seen), Source::OnDemand);
    }
    learned
}

fn merged(mut one: Learned, other: &Learned) -> Learned {
    one.merge(other);
    one
}

proptest! {
    #[test]
    fn merging_is_commutative(a in any_learned(), b in any_learned()) {
        prop_assert_eq!(merged(a.clone(), &b), merged(b, &a));
    }

    #[test]
    fn merging_is_associative(a in any_learned(), b in any_learned(), c in any_learned()) {
        let left = merged(merged(a.clone(), &b), &c);
        prop_assert_eq!(left, merged(a, &merged(b, &c)));
    }

    #[test]
    fn merging_is_idempotent(a in any_learned(), b in any_learned()) {
        prop_assert_eq!(merged(a.clone(), &a), a.clone());
        let once = merged(a, &b);
        prop_assert_eq!(merged(once.clone(), &b), once);
    }

    #[test]
    fn merging_loses_nothing(a in any_learned(), b in any_learned()) {
        let both = merged(a.clone(), &b);
        for dependency in a.dependencies().chain(b.dependencies()) {
            prop_assert!(both.contains(&dependency));
        }
        prop_assert_eq!(both.len(), both.dependencies().count());
    }

    #[test]
    fn a_limited_merge_keeps_what_was_there_and_counts_the_rest(
        a in any_learned(), b in any_learned(), limit in 0_usize..20
    ) {
        let mut limited = a.clone();
        let refused = limited.merge_up_to(&b, limit);
        prop_assert!(a.dependencies().all(|dependency| limited.contains(&dependency)));
        prop_assert!(limited.len() <= limit.max(a.len()));
        prop_assert_eq!(limited.len() + refused, merged(a.clone(), &b).len());
        prop_assert_eq!(limited.len(), limited.dependencies().count());
        if refused == 0 {
            prop_assert_eq!(limited, merged(a, &b));
        }
    }

    #[test]
    fn what_is_removed_is_gone_whole_and_the_rest_stays(a in any_learned(), b in any_learned()) {
        let mut left = a.clone();
        let mut gone = 0;
        for (host, protocol, _) in b.edges() {
            let removed = left.remove(host, protocol);
            prop_assert_eq!(removed.as_ref(), a.get(host, protocol));
            gone += removed.map_or(0, |edge| edge.ports.len());
            prop_assert_eq!(left.get(host, protocol), None);
        }
        prop_assert_eq!(left.len() + gone, a.len());
        prop_assert_eq!(left.len(), left.dependencies().count());
        let mut kept = a.clone();
        kept.retain(|host, protocol, _| b.get(host, protocol).is_none());
        prop_assert_eq!(kept, left);
    }
}

#[test]
fn a_second_port_joins_its_host() {
    let both = learned(&[("a.b:80", 10), ("a.b:81", 5), ("a.b:80/TCP", 7)]);
    let edges: Vec<_> = both
        .edges()
        .map(|(_, protocol, edge)| (protocol, edge.clone()))
        .collect();
    assert_eq!(both.len(), 3);
    assert_eq!(edges.len(), 2);
    assert_eq!(
        (edges[0].1.first_seen, edges[0].1.last_seen),
        (at(5), at(10))
    );
    assert_eq!(both.last_learned(), Some(at(7)));
}

#[test]
fn an_observation_says_what_it_would_change() {
    let known = learned(&[("a.b:80", 1000)]);
    let would = |text, seen, limit| known.would(&dependency(text), at(seen), limit, HOUR);
    assert_eq!(would("a.b:80", 1000, 9), Observed::Known);
    assert_eq!(would("a.b:80", 500, 9), Observed::Known);
    assert_eq!(would("a.b:80", 4599, 9), Observed::Known);
    assert_eq!(would("a.b:80", 4600, 9), Observed::Refreshed);
    assert_eq!(would("a.b:80", 4600, 0), Observed::Refreshed);
    assert_eq!(would("a.b:81", 1000, 9), Observed::New);
    assert_eq!(would("a.b:80/TCP", 1000, 9), Observed::New);
    assert_eq!(would("c.d:80", 1000, 1), Observed::Refused);
}

#[test]
fn a_refresh_period_of_nothing_still_needs_a_later_call() {
    let known = learned(&[("a.b:80", 1000)]);
    let would = |seen| known.would(&dependency("a.b:80"), at(seen), 9, Duration::ZERO);
    assert_eq!(
        (would(1000), would(1001)),
        (Observed::Known, Observed::Refreshed)
    );
}

#[test]
fn an_edge_without_ports_is_nothing() {
    let mut learned = Learned::new();
    let mut edge = Edge::once(Port::try_from(1).unwrap(), at(1), Source::OnDemand);
    edge.ports.clear();
    learned.add("a.b".parse().unwrap(), Protocol::Http, edge);
    assert_eq!(learned, Learned::new());
}
