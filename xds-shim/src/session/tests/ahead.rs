//! Route configurations that are asked for before listeners tell of them.

use super::*;
use crate::route_names::RouteNames;

const OF: [&str; 2] = ["9080", "80"];

fn expecting(names: &[&str]) -> (Stream, RouteNames) {
    let likely = RouteNames::default();
    likely.set(&names.iter().map(|&name| name.to_owned()).collect());
    let Stream { session } = Stream::new(&[]);
    let session = session.expecting(likely.clone());
    (Stream { session }, likely)
}

fn unsubscribed(seen: &Seen) -> Vec<&str> {
    let all = seen.to_istiod.iter();
    let all = all.flat_map(|r| &r.resource_names_unsubscribe);
    all.map(String::as_str).collect()
}

fn types(seen: &Seen) -> Vec<&str> {
    seen.to_istiod.iter().map(|r| r.type_url.as_str()).collect()
}

#[test]
fn what_others_used_is_asked_for_behind_clusters_and_listeners() {
    let (mut stream, _) = expecting(&OF);
    let seen = stream.asks(ads::CDS, &[]);
    assert_eq!(types(&seen), [ads::CDS, ads::LDS, ads::RDS]);
    assert_eq!(seen.subscribed(), ["80", "9080"]);
    // Who knows of nobody else asks when listeners tell, and tells others.
    let (mut first, likely) = expecting(&[]);
    assert_eq!(types(&first.asks(ads::CDS, &[])), [ads::CDS, ads::LDS]);
    first.pushes(ads::CDS, "c1", &[cluster(A)]);
    let seen = first.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    assert_eq!(seen.subscribed(), ["80"]);
    assert_eq!(likely.get().into_iter().collect::<Vec<_>>(), ["80"]);
}

#[test]
fn what_is_used_is_not_asked_for_twice_and_the_rest_let_go_of() {
    let (mut stream, likely) = expecting(&OF);
    stream.asks(ads::CDS, &[]);
    stream.pushes(ads::CDS, "c1", &[cluster(A)]);
    let listeners = [
        http_listener("0.0.0.0_80", "80"),
        http_listener("0.0.0.0_81", "81"),
    ];
    let seen = stream.pushes(ads::LDS, "l1", &listeners);
    assert_eq!(
        (seen.subscribed(), unsubscribed(&seen)),
        (vec!["81"], vec!["9080"])
    );
    assert_eq!(likely.get().into_iter().collect::<Vec<_>>(), ["80", "81"]);
    // What was on its way goes to nobody.
    let seen = stream.pushes(
        ads::RDS,
        "r1",
        &[routes("9080", A, &[]), routes("80", A, &[])],
    );
    assert_eq!(
        (seen.to_proxy.len(), seen.acknowledged()),
        (0, vec![("r1", false)])
    );
    stream.asks(ads::LDS, &[]);
    let seen = stream.asks(ads::RDS, &["80"]);
    assert_eq!(seen.order(), ["RouteConfiguration"]);
}

#[test]
fn what_the_proxy_asks_for_itself_is_no_guess() {
    let (mut stream, _) = expecting(&OF);
    stream.asks(ads::CDS, &[]);
    let seen = stream.asks_holding(ads::RDS, &["9080"], &[]);
    assert!(seen.subscribed().is_empty(), "istiod has been asked");
    stream.pushes(ads::CDS, "c1", &[cluster(A)]);
    let seen = stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    assert!(unsubscribed(&seen).is_empty());
    // No listener says that it asks on demand, so it gets all that is in it, and that first.
    let seen = stream.pushes(ads::RDS, "r1", &[routes("9080", A, &[])]);
    assert_eq!(seen.order(), ["Cluster"]);
    let seen = stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    assert!(
        seen.order().contains(&"RouteConfiguration"),
        "{:?}",
        seen.order()
    );
}

/// istiod answers in order; another one need not.
#[test]
fn before_listeners_are_there_nothing_is_given_for_routes() {
    let (mut stream, _) = expecting(&OF);
    stream.asks(ads::CDS, &[]);
    stream.pushes(ads::CDS, "c1", &[cluster(A), cluster(B)]);
    let seen = stream.pushes(ads::RDS, "r1", &[routes("80", A, &[B])]);
    assert_eq!(seen.given(), [B], "what is mirrored to");
    let seen = stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    assert!(seen.given().is_empty() && seen.subscribed().is_empty());
}
