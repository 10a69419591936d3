use serde_json::{Value, json};

use super::super::Verdict::{Fails, Holds, NotMeasured};
use super::*;
use crate::found::tests::found;

fn claim(claims: &[Claim], begin: &str) -> Claim {
    let mut matching = claims.iter().filter(|claim| claim.text.starts_with(begin));
    let claim = matching
        .next()
        .unwrap_or_else(|| panic!("no claim {begin}"));
    assert_eq!(matching.next(), None, "{begin}");
    claim.clone()
}

/// Claims, with the same at each of the three sizes.
fn with(ways: &Value) -> Vec<Claim> {
    let sizes = json!({"200": ways, "1000": ways, "5000": ways});
    all(&found(json!({ "sizes": sizes }), None, None))
}

#[test]
fn without_numbers_nothing_is_claimed_to_hold() {
    for claim in all(&Found::default()) {
        assert_eq!(claim.verdict, NotMeasured, "{}", claim.text);
    }
}

#[test]
fn one_size_over_the_limit_fails_and_one_missing_is_not_measured() {
    let of = |heap: u64| {
        json!({
            "hand_written": {"heap_bytes": 1000, "heap_before_bytes": 500},
            "on_demand": {"heap_bytes": heap, "heap_before_bytes": 450},
        })
    };
    let mut sizes = json!({"200": of(900), "1000": of(1030), "5000": of(1031)});
    let begin = "`on-demand`: config heap";
    let claims = all(&found(json!({"sizes": sizes}), None, None));
    let over = claim(&claims, begin);
    assert_eq!(over.verdict, Fails);
    assert_eq!(
        over.shown,
        "200: 0.900, then 0.900; 1,000: 0.900, then 1.030; 5,000: 0.900, then 1.031"
    );
    sizes["5000"] = of(1000);
    let claims = all(&found(json!({"sizes": sizes}), None, None));
    assert_eq!(claim(&claims, begin).verdict, Holds);
    sizes["5000"] = json!({});
    let claims = all(&found(json!({"sizes": sizes}), None, None));
    let missing = claim(&claims, begin);
    assert_eq!(missing.verdict, NotMeasured);
    assert!(missing.shown.ends_with("5,000: not measured"));
}

#[test]
fn ready_may_take_half_more_or_a_tenth_of_a_second() {
    let of = |hand: f64, lazy: f64| {
        let ways = json!({"hand_written": {"ready_ms": hand}, "sidecar": {"ready_ms": lazy}});
        claim(&with(&ways), "`sidecar`: ready").verdict
    };
    assert_eq!(of(30.0, 130.0), Holds);
    assert_eq!(of(30.0, 131.0), Fails);
    assert_eq!(of(1000.0, 1500.0), Holds);
    assert_eq!(of(1000.0, 1501.0), Fails);
}

#[test]
fn steady_load_is_judged_by_the_spread() {
    let way = |rps: [f64; 3], p99: [f64; 3]| {
        json!({
            "steady": {"rps": rps[1], "p50_ms": 1.0, "p99_ms": p99[1]},
            "spread": {"steady.rps": [rps[0], rps[2]], "steady.p50_ms": [1, 1], "steady.p99_ms": [p99[0], p99[2]]},
        })
    };
    let of = |lazy: Value| {
        let plain = way([90.0, 100.0, 110.0], [2.0, 3.0, 4.0]);
        let ways = json!({"plain": plain, "settled": lazy});
        claim(&with(&ways), "`on-demand`, settled: steady").verdict
    };
    assert_eq!(of(way([80.0, 85.0, 91.0], [3.5, 4.5, 5.0])), Holds);
    assert_eq!(of(way([80.0, 85.0, 89.0], [2.0, 3.0, 4.0])), Fails);
    assert_eq!(of(way([90.0, 95.0, 99.0], [4.1, 5.0, 6.0])), Fails);
    // Better is good.
    assert_eq!(of(way([200.0, 201.0, 202.0], [0.1, 0.2, 0.3])), Holds);
    // Without the spread nobody knows.
    assert_eq!(of(json!({"steady": {"rps": 1.0}})), NotMeasured);
}

#[test]
fn first_calls_are_judged_at_one_size() {
    let of = |first: Value| {
        let later = json!({"p50": 1.0, "p99": 2.0});
        let way = json!({"first_call_tcp_ms": first, "later_call_tcp_ms": later});
        let ways = json!({ "on_demand": way });
        let claims = all(&found(json!({"sizes": {"1000": ways}}), None, None));
        claim(&claims, "`on-demand`, 1,000 services, TCP")
    };
    let good = of(json!({"p50": 6.0, "p99": 22.0}));
    assert_eq!(good.verdict, Holds);
    assert_eq!(good.shown, "5.00 ms (p50), 20.0 ms (p99) over");
    assert_eq!(of(json!({"p50": 6.1, "p99": 9.0})).verdict, Fails);
    assert_eq!(of(json!({"p50": 2.0, "p99": 22.1})).verdict, Fails);
    assert_eq!(of(json!({"p50": 2.0})).verdict, NotMeasured);
}

#[test]
fn a_settled_one_costs_istiod_little() {
    let of = |cpu: f64, bytes: u64| {
        let push = |cpu: f64, bytes: u64| json!({"changes": {"full_push": {"istiod_cpu_ms": cpu, "bytes_from_istiod": bytes}}});
        let ways = json!({"plain": push(100.0, 1000), "settled": push(cpu, bytes)});
        claim(&with(&ways), "settled").verdict
    };
    assert_eq!(of(15.0, 150), Holds);
    assert_eq!(of(16.0, 10), Fails);
    assert_eq!(of(1.0, 160), Fails);
}

#[test]
fn all_there_is_complete() {
    let one = json!({"heap_bytes": 1});
    let ways = json!({
        "plain": one, "hand_written": one, "sidecar": one, "on_demand": one, "settled": one,
    });
    assert_eq!(claim(&with(&ways), "measured").verdict, Holds);
    let claims = with(&json!({ "plain": one }));
    let part = claim(&claims, "measured");
    assert_eq!((part.verdict, &*part.shown), (NotMeasured, "3 of 15"));
}
