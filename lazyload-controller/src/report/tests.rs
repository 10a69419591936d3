//! What is made of a batch, without a stream.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use super::*;
use crate::expiry::Keeping;
use crate::resource::Entry;
use crate::state::Versioned;
use crate::store::memory::Memory;

const NOW: u64 = 100_000_000;

fn reports() -> Reports {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let (state, limits) = (State::new(metrics.clone()), Limits::default());
    let store = Arc::new(Memory::default());
    let writer = Writer::new(
        store,
        state.clone(),
        limits,
        Duration::ZERO,
        metrics.clone(),
    );
    Reports {
        state,
        writer,
        limits,
        metrics,
        drain: Drain::new(Duration::ZERO),
    }
}

fn seen(host: &str, seen: Option<u64>) -> api::Observation {
    let dependency = dependency_graph::Dependency {
        host: host.parse().unwrap(),
        port: 80_u32.try_into().unwrap(),
        protocol: dependency_graph::Protocol::Http,
    };
    let workload = Workload::new("shop", "Deployment", "reviews").unwrap();
    Observation {
        workload,
        dependency,
        seen: seen.map(Timestamp::from_seconds),
    }
    .into()
}

fn judge(reports: &Reports, batch: Vec<api::Observation>) -> Vec<(String, u64)> {
    let new = reports.judge(batch, Timestamp::from_seconds(NOW));
    let edges = new.values().flat_map(Learned::edges);
    edges
        .map(|(host, _, edge)| (host.to_string(), edge.last_seen.seconds()))
        .collect()
}

#[test]
fn times_are_believed_within_reason() {
    let reports = reports();
    let oldest = NOW - reports.limits.oldest.as_secs();
    let newest = NOW + reports.limits.newest.as_secs();
    let batch = vec![
        seen("oldest.x", Some(oldest)),
        seen("older.x", Some(oldest - 1)),
        seen("newest.x", Some(newest)),
        seen("newer.x", Some(newest + 1)),
        seen("unknown.x", None),
    ];
    let expected = [
        ("newer.x", NOW),
        ("newest.x", NOW),
        ("older.x", NOW),
        ("oldest.x", oldest),
        ("unknown.x", NOW),
    ];
    assert_eq!(
        judge(&reports, batch),
        expected.map(|(host, seen)| (host.to_owned(), seen))
    );
}

#[test]
fn what_is_known_is_not_written_again_until_it_is_old() {
    let reports = reports();
    let workload = Workload::new("shop", "Deployment", "reviews").unwrap();
    let mut record = dependency_graph::Record::default();
    let known = Observation::try_from(seen("known.x", None))
        .unwrap()
        .dependency;
    record.learned.see(
        &known,
        Timestamp::from_seconds(NOW - 30_000),
        Source::OnDemand,
    );
    let entry = Entry {
        workload,
        record,
        capped: false,
        stale: false,
        said: Default::default(),
        settle_after: None,
        keeping: Keeping::default(),
    };
    reports.state.set_record(Versioned { entry, revision: 1 });
    assert_eq!(judge(&reports, vec![seen("known.x", None)]), []);
    assert_eq!(
        judge(&reports, vec![seen("known.x", Some(NOW - 20_000))]),
        []
    );
    let nonsense = judge(&reports, vec![seen("known.x", Some(2 * NOW))]);
    assert_eq!(nonsense, [], "a nonsense time makes no last call later");
    let fresh = judge(&reports, vec![seen("known.x", Some(NOW))]);
    assert_eq!(fresh, [("known.x".to_owned(), NOW)]);
}

#[test]
fn a_batch_has_an_end() {
    let reports = reports();
    let batch = (0..BATCH + 5)
        .map(|index| seen(&format!("h{index}.x"), None))
        .collect();
    assert_eq!(judge(&reports, batch).len(), BATCH);
}
