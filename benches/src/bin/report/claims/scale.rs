//! Claims about one shim and one controller, from what `make bench-scale` found.

use serde_json::Value;

use super::{Claim, Verdict};
use crate::found::{list, number};
use crate::show::{NOT_MEASURED, Unit};

const SIDECARS: f64 = 1000.0;
const SERVICES: f64 = 5000.0;
const MOST_RSS: f64 = 500e6;
const LEAST_INGEST: f64 = 500e6;
/// How many sidecars the time that the shim adds is claimed for.
const SIDECARS_OF_CHANGE: f64 = 100.0;
const MOST_ADDED_MS: f64 = 2.0;

const OF_CONTROLLER: [&str; 3] = [
    "controller: 10,000 workloads and 500,000 edges in at most 1 GB",
    "controller: 5,000 reports a second, sustained",
    "controller: a new shim has caught up after at most 5 s",
];

pub(super) fn all(scale: Option<&Value>) -> Vec<Claim> {
    let mut claims = vec![rss(scale), ingest(scale), added(scale), unused(scale)];
    let of_controller = scale.map(|scale| judged(scale, "controller_claims"));
    let of_controller = of_controller.unwrap_or_default();
    if of_controller.is_empty() {
        claims.extend(OF_CONTROLLER.map(|text| claim(text, None)));
    } else {
        claims.extend(of_controller);
    }
    claims
}

/// What a bench judged itself: a list of `{"claim": .., "holds": .., "shown": ..}`.
pub(crate) fn judged(file: &Value, name: &str) -> Vec<Claim> {
    let text = |claim: &Value, name: &str| Some(claim.get(name)?.as_str()?.to_owned());
    let claim = |claim: &Value| {
        Some(Claim {
            text: text(claim, "claim")?,
            shown: text(claim, "shown").unwrap_or_else(|| NOT_MEASURED.into()),
            verdict: match claim.get("holds").and_then(Value::as_bool) {
                Some(holds) => Verdict::of(holds),
                None => Verdict::NotMeasured,
            },
        })
    };
    list(file, name).filter_map(claim).collect()
}

/// Each case that was measured, or begun.
pub(crate) fn shim_rows(scale: &Value) -> impl Iterator<Item = &Value> {
    let names = ["shim", "shim_partial"].into_iter();
    names.flat_map(|name| list(scale, name))
}

fn rows(scale: Option<&Value>) -> impl Iterator<Item = &Value> {
    scale.into_iter().flat_map(shim_rows)
}

/// A number of the case that size and speed are claimed of.
fn of_case(scale: Option<&Value>, field: &str) -> Option<f64> {
    let is_it = |row: &&Value| {
        number(row, "sidecars") == Some(SIDECARS) && number(row, "services") == Some(SERVICES)
    };
    number(rows(scale).find(is_it)?, field)
}

fn rss(scale: Option<&Value>) -> Claim {
    let rss = of_case(scale, "rss_bytes");
    let finding = rss.map(|rss| (rss <= MOST_RSS, Unit::Bytes.show(rss)));
    claim(
        "one shim, 1,000 sidecars, 5,000 services: at most 500 MB resident",
        finding,
    )
}

fn ingest(scale: Option<&Value>) -> Claim {
    let ingest = of_case(scale, "ingest_bytes_per_core_s");
    let finding = ingest.map(|bytes| (bytes >= LEAST_INGEST, Unit::Bytes.show(bytes) + "/s"));
    claim(
        "one shim, 1,000 sidecars, 5,000 services: a full push is taken in at 500 MB/s per core or better",
        finding,
    )
}

/// The worst of the cases with so many sidecars, and of both kinds of changes.
fn added(scale: Option<&Value>) -> Claim {
    let cases = rows(scale).filter(|row| number(row, "sidecars") == Some(SIDECARS_OF_CHANGE));
    let of_kind = |row: &Value, kind: &str| {
        let p99 = |way: &str| number(row, &format!("{kind}.{way}.p99_ms"));
        Some(p99("shim")? - p99("without")?)
    };
    let kinds = ["change_of_one", "change_of_common"];
    let added = cases.flat_map(|row| kinds.map(|kind| of_kind(row, kind)));
    let worst = added.flatten().max_by(f64::total_cmp);
    claim(
        "one shim, 100 sidecars: an endpoint change of an admitted service comes at most 2 ms (p99) later by it",
        worst.map(|ms| (ms <= MOST_ADDED_MS, Unit::Milliseconds.show(ms))),
    )
}

fn unused(scale: Option<&Value>) -> Claim {
    let sent = rows(scale).filter_map(|row| number(row, "unused_change_bytes"));
    let most = sent.max_by(f64::total_cmp);
    claim(
        "one shim: an endpoint change of a service that nobody uses sends no byte to any sidecar",
        most.map(|bytes| (bytes == 0.0, Unit::Bytes.show(bytes))),
    )
}

fn claim(text: &str, finding: Option<(bool, String)>) -> Claim {
    Claim {
        text: text.to_owned(),
        verdict: finding
            .as_ref()
            .map_or(Verdict::NotMeasured, |(holds, _)| Verdict::of(*holds)),
        shown: finding.map_or_else(|| NOT_MEASURED.to_owned(), |(_, shown)| shown),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fails, Holds, NotMeasured};
    use super::*;
    use serde_json::json;

    fn found(scale: &Value) -> Vec<(String, Verdict)> {
        let claims = all(Some(scale)).into_iter();
        claims.map(|claim| (claim.shown, claim.verdict)).collect()
    }

    #[test]
    fn without_numbers_all_claims_are_listed() {
        let claims = all(None);
        assert_eq!(claims.len(), 7);
        assert!(claims.iter().all(|claim| claim.verdict == NotMeasured));
        assert_eq!(all(Some(&json!({"shim": []}))), claims);
    }

    #[test]
    fn size_and_speed_are_judged_in_their_case() {
        let row = |services: u32, rss: u64, ingest: u64| json!({"sidecars": 1000, "services": services, "rss_bytes": rss, "ingest_bytes_per_core_s": ingest});
        let scale = json!({"shim": [row(1000, 9, 9), row(5000, 400_000_000, 499_000_000)]});
        let found = found(&scale);
        assert_eq!(found[0], ("400 MB".into(), Holds));
        assert_eq!(found[1], ("499 MB/s".into(), Fails));
    }

    #[test]
    fn what_the_shim_adds_is_the_worst_with_100_sidecars() {
        let row = |sidecars: u32, one: f64, common: f64| {
            let beside =
                |ms: f64| json!({"shim": {"p99_ms": ms + 1.0}, "without": {"p99_ms": 1.0}});
            json!({"sidecars": sidecars, "services": 1000, "change_of_one": beside(one), "change_of_common": beside(common)})
        };
        let of = |one: f64, common: f64| {
            let scale =
                json!({"shim": [row(100, 0.5, 0.5), row(100, one, common), row(1000, 9.0, 9.0)]});
            found(&scale)[2].clone()
        };
        assert_eq!(of(1.0, 2.0), ("2.00 ms".into(), Holds));
        assert_eq!(of(2.25, 1.0), ("2.25 ms".into(), Fails));
        let alone = json!({"shim": [{"sidecars": 100, "change_of_one": {"shim": {"p99_ms": 1}, "without": null}}]});
        assert_eq!(found(&alone)[2].1, NotMeasured);
    }

    #[test]
    fn one_byte_for_nobody_is_too_much() {
        let of = |bytes: u64| {
            let scale = json!({"shim": [{"unused_change_bytes": 0}], "shim_partial": [{"unused_change_bytes": bytes}]});
            found(&scale)[3].1
        };
        assert_eq!((of(0), of(1)), (Holds, Fails));
    }

    #[test]
    fn what_a_bench_judged_is_taken_over() {
        let scale = json!({
            "controller_claims": [{"claim": "a", "holds": false, "shown": "3"}, {"claim": "b", "holds": null}],
        });
        let claims = all(Some(&scale));
        let found = claims[4..].iter().map(|c| (&*c.text, &*c.shown, c.verdict));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [("a", "3", Fails), ("b", "not measured", NotMeasured)]
        );
    }
}
