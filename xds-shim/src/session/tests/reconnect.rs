//! A proxy that comes back: after 30 minutes, after a restart of the shim or of istiod.

use super::*;

/// A first life of a stream: A was asked for, and all was taken.
struct Before {
    clusters: Vec<(String, String)>,
    endpoints: Vec<(String, String)>,
}

fn versions(seen: &Seen, type_url: &str) -> Vec<(String, String)> {
    let of_type = seen.to_proxy.iter().filter(|r| r.type_url == type_url);
    of_type
        .flat_map(|r| &r.resources)
        .map(|r| (r.name.clone(), r.version.clone()))
        .collect()
}

fn before() -> Before {
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &[]);
    let special = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(A), cluster(B)]);
    let asked = stream.asks(ads::CDS, &[A]);
    let came = stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    Before {
        clusters: [versions(&special, ads::CDS), versions(&asked, ads::CDS)].concat(),
        endpoints: versions(&came, ads::EDS),
    }
}

fn held(versions: &[(String, String)]) -> Vec<(&str, &str)> {
    versions
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect()
}

/// A second life: what Envoy says first. It lists every name it ever asked for (FACTS, trap 2).
fn back(before: &Before) -> (Stream, Seen) {
    let mut stream = Stream::new(&[]);
    let seen = stream.asks_holding(ads::CDS, &["*", A], &held(&before.clusters));
    (stream, seen)
}

#[test]
fn upstream_it_begins_clean_and_no_name_goes_up() {
    let (_, seen) = back(&before());
    assert_eq!(seen.to_istiod.len(), 2);
    assert!(seen.subscribed().is_empty());
    let mut asked = seen.to_istiod.iter();
    assert!(asked.all(|r| r.initial_resource_versions.is_empty()));
}

#[test]
fn only_what_changed_is_sent() {
    let before = before();
    let (mut stream, _) = back(&before);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(A), cluster(B)]);
    assert_eq!(
        (seen.order(), seen.given(), seen.removed()),
        (vec!["Cluster"], vec![], vec![])
    );
    let seen = stream.asks_holding(ads::EDS, &[A], &held(&before.endpoints));
    assert_eq!(seen.subscribed(), [A]);
    let seen = stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    assert_eq!(
        (seen.to_proxy.len(), seen.acknowledged()),
        (0, vec![("e1", false)])
    );
}

#[test]
fn what_changed_meanwhile_is_sent() {
    let before = before();
    let (mut stream, _) = back(&before);
    let changed = cluster_with(A, |c| c.alt_stat_name = "x".into());
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), changed, cluster(B)]);
    assert_eq!((seen.given(), seen.subscribed()), (vec![A], vec![A]));
    // The same endpoints, but the changed cluster needs them again.
    stream.asks_holding(ads::EDS, &[A], &held(&before.endpoints));
    assert_eq!(
        stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]).given(),
        [A]
    );
}

#[test]
fn what_is_gone_meanwhile_is_stood_in_for_once() {
    let mut before = before();
    let (mut stream, _) = back(&before);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(B)]);
    assert_eq!((seen.given(), seen.removed()), (vec![A], vec![]));
    before.clusters = versions(&seen, ads::CDS);
    let (mut stream, _) = back(&before);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(B)]);
    assert_eq!(seen.given(), [SPECIAL]);
    assert_eq!(stream.pushes(ads::CDS, "c2", &[cluster(A)]).given(), [A]);
}

#[test]
fn what_was_given_unasked_and_is_gone_is_removed() {
    let before = before();
    let mut stream = Stream::new(&[]);
    stream.asks_holding(ads::CDS, &[], &held(&before.clusters));
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(B)]);
    assert_eq!((seen.given(), seen.removed()), (vec![], vec![A]));
}

#[test]
fn names_it_asked_for_before_are_reported_as_of_an_unknown_time() {
    let mut stream = Stream::new(&[]);
    stream.asks_holding(ads::CDS, &["*", A], &[]);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(A), cluster(B)]);
    assert_eq!((seen.given(), seen.asks.len()), (vec![A], 0));
    // Listeners tell the protocol.
    stream.asks(ads::LDS, &[]);
    let seen = stream.pushes(ads::LDS, "l1", &[]);
    assert_eq!(
        seen.asks,
        [Ask {
            service: a(),
            protocol: Protocol::Http,
            now: false
        }]
    );
}

#[test]
fn a_name_it_was_given_unasked_stays_too() {
    let before = before();
    let mut stream = Stream::new(&[]);
    stream.asks_holding(ads::CDS, &[], &held(&before.clusters));
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(A), cluster(B)]);
    assert_eq!(
        (seen.given(), seen.removed(), seen.asks.len()),
        (vec![], vec![], 0)
    );
}

#[test]
fn a_proxy_that_had_istiods_own_config_keeps_it_and_is_given_versions() {
    let mut stream = Stream::new(&[]);
    stream.asks_holding(ads::CDS, &[], &[(A, ""), (SPECIAL, "")]);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(A), cluster(B)]);
    assert_eq!((seen.given(), seen.removed()), (vec![SPECIAL, A], vec![]));
}

#[test]
fn listeners_that_vanished_are_removed_and_the_rest_is_left() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::LDS, &[]);
    let first = stream.pushes(
        ads::LDS,
        "l1",
        &[http_listener("one", "80"), http_listener("two", "81")],
    );
    let versions = versions(&first, ads::LDS);
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks_holding(ads::LDS, &[], &held(&versions));
    let seen = stream.pushes(ads::LDS, "l1", &[http_listener("one", "80")]);
    assert_eq!((seen.given(), seen.removed()), (vec![], vec!["two"]));
}
