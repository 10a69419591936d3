//! Claims about one shim and one controller, from what `make bench-scale` found.

use serde_json::Value;

use super::{Claim, Verdict};
use crate::found::number;
use crate::show::{NOT_MEASURED, Unit};

const SIDECARS: f64 = 1000.0;
const SERVICES: f64 = 5000.0;
const MOST_RSS: f64 = 500e6;
const LEAST_INGEST: f64 = 500e6;

/// What is claimed of a shim, and not judged from the rows here.
const OF_SHIM: [&str; 2] = [
    "one shim, 100 sidecars: an endpoint change of an admitted service comes at most 2 ms (p99) later by it",
    "one shim: an endpoint change of a service that nobody uses sends no byte to any sidecar",
];
const OF_CONTROLLER: [&str; 3] = [
    "controller: 10,000 workloads and 500,000 edges in at most 1 GB",
    "controller: 5,000 reports a second, sustained",
    "controller: a new shim has caught up after at most 5 s",
];

pub(super) fn all(scale: Option<&Value>) -> Vec<Claim> {
    let mut claims = scale.map(judged).unwrap_or_default();
    if claims.is_empty() {
        claims.extend(of_rows(scale));
        claims.extend(OF_SHIM.map(not_measured));
    }
    let controller = scale.and_then(|scale| scale.get("controller"));
    if controller.is_none_or(Value::is_null) {
        claims.extend(OF_CONTROLLER.map(not_measured));
    }
    claims
}

/// What the bench judged itself: a list of `{"claim": .., "holds": .., "shown": ..}`.
pub(crate) fn judged(file: &Value) -> Vec<Claim> {
    let claims = file.get("claims").and_then(Value::as_array);
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
    claims.into_iter().flatten().filter_map(claim).collect()
}

fn of_rows(scale: Option<&Value>) -> [Claim; 2] {
    let rows = scale.and_then(|scale| scale.get("shim")?.as_array());
    let mut rows = rows.into_iter().flatten();
    let case = rows.find(|row| {
        number(row, "sidecars") == Some(SIDECARS) && number(row, "services") == Some(SERVICES)
    });
    let claim = |text: &str, field: &str, unit: Unit, good: fn(f64) -> bool| {
        let value = case.and_then(|row| number(row, field));
        Claim {
            text: format!("one shim, 1,000 sidecars, 5,000 services: {text}"),
            shown: unit.show_if(value),
            verdict: value.map_or(Verdict::NotMeasured, |value| Verdict::of(good(value))),
        }
    };
    [
        claim("at most 500 MB resident", "rss_bytes", Unit::Bytes, |rss| {
            rss <= MOST_RSS
        }),
        claim(
            "a full push is taken in at 500 MB/s per core or better",
            "ingest_bytes_per_core_s",
            Unit::Bytes,
            |ingest| ingest >= LEAST_INGEST,
        ),
    ]
}

fn not_measured(text: &str) -> Claim {
    Claim {
        text: text.to_owned(),
        shown: NOT_MEASURED.to_owned(),
        verdict: Verdict::NotMeasured,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fails, Holds, NotMeasured};
    use super::*;
    use serde_json::json;

    #[test]
    fn without_numbers_all_claims_are_listed() {
        let claims = all(None);
        assert_eq!(claims.len(), 7);
        assert!(claims.iter().all(|claim| claim.verdict == NotMeasured));
    }

    #[test]
    fn rows_are_judged_where_the_bench_says_nothing_itself() {
        let row = |services: u32, rss: u64, ingest: u64| json!({"sidecars": 1000, "services": services, "rss_bytes": rss, "ingest_bytes_per_core_s": ingest});
        let scale = json!({"shim": [row(1000, 9, 9), row(5000, 400_000_000, 499_000_000)]});
        let claims = all(Some(&scale));
        let found: Vec<_> = claims[..2].iter().map(|c| (&*c.shown, c.verdict)).collect();
        assert_eq!(found, [("400 MB", Holds), ("499 MB", Fails)]);
    }

    #[test]
    fn what_the_bench_judged_is_taken_over() {
        let scale = json!({
            "claims": [{"claim": "a", "holds": false, "shown": "3"}, {"claim": "b", "holds": null}],
            "controller": {},
        });
        let claims = all(Some(&scale));
        let found = claims.iter().map(|c| (&*c.text, &*c.shown, c.verdict));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [("a", "3", Fails), ("b", "not measured", NotMeasured)]
        );
    }
}
