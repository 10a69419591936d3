//! What counts as evidence, what expires on it, and what does not come back.

use dependency_graph::{Dependency, Edge, Port, Source};
use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A moment long after the beginning of time.
const NOW: u64 = 1_000 * 86_400;

const SETTINGS: Settings = Settings {
    refresh_after: Duration::from_secs(6 * 3600),
    patience: Duration::from_secs(3 * 3600),
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn ago(how_long: Duration) -> Timestamp {
    at(NOW - how_long.as_secs())
}

fn host(name: &str) -> Host {
    format!("{name}.shop.svc.cluster.local").parse().unwrap()
}

fn http(name: &str) -> Called {
    (host(name), Protocol::Http)
}

fn port(number: u32) -> Port {
    Port::try_from(number).unwrap()
}

fn record(calls: &[(&str, Duration)]) -> Record {
    let mut record = Record::default();
    for (name, age) in calls {
        let edge = Edge {
            ports: BTreeSet::from([port(80), port(8080)]),
            first_seen: at(1),
            last_seen: ago(*age),
            source: Source::OnDemand,
        };
        record.learned.add(host(name), Protocol::Http, edge);
    }
    record
}

/// Evidence without a gap from so long ago until an hour ago.
fn evidence(since: Duration) -> Option<Evidence> {
    Some(Evidence {
        since: ago(since),
        until: ago(HOUR),
    })
}

/// A look at the last two hours.
fn look(called: &[Called]) -> Look {
    Look {
        from: ago(2 * HOUR),
        at: at(NOW),
        called: called.iter().cloned().collect(),
        coverage: Coverage::Whole,
        protocols: BTreeSet::from([Protocol::Http, Protocol::Tcp]),
    }
}

fn judged(record: &Record, latest: Option<Evidence>, look: Result<&Look, Lack>) -> Verdict {
    let keeping = Keeping {
        evidence: latest,
        ..Keeping::default()
    };
    let after = Some(30 * DAY);
    judge(record, &keeping, latest, after, look, at(NOW), &SETTINGS)
}

fn names(verdict: &Verdict) -> Vec<String> {
    let name = |e: &Expired| e.called.0.as_str().split('.').next().unwrap().to_owned();
    verdict.expired.iter().map(name).collect()
}

#[test]
fn what_was_not_called_for_long_enough_expires_on_evidence() {
    let record = record(&[("old", 40 * DAY), ("newer", 29 * DAY), ("called", 40 * DAY)]);
    let verdict = judged(&record, evidence(60 * DAY), Ok(&look(&[http("called")])));
    assert_eq!(names(&verdict), ["old"]);
    assert_eq!(verdict.called, BTreeSet::from([http("called")]));
    assert_eq!(verdict.lack, None);
    let evidence = verdict.evidence.unwrap();
    assert_eq!((evidence.since, evidence.until), (ago(60 * DAY), at(NOW)));
    assert!(verdict.worth_writing);
}

#[test]
fn the_time_without_evidence_does_not_count() {
    let record = record(&[("old", 400 * DAY)]);
    // Never looked before: the look itself is all there is.
    let first = judged(&record, None, Ok(&look(&[])));
    assert!(first.expired.is_empty());
    assert_eq!(first.evidence.unwrap().since, ago(2 * HOUR));
    for (since, expired) in [(29, 0), (30, 0), (31, 1)] {
        let verdict = judged(&record, evidence(since * DAY), Ok(&look(&[])));
        assert_eq!(verdict.expired.len(), expired, "evidence of {since} days");
    }
}

#[test]
fn no_look_is_no_evidence() {
    let record = record(&[("old", 400 * DAY)]);
    for lack in Lack::ALL {
        let verdict = judged(&record, evidence(300 * DAY), Err(lack));
        assert!(verdict.expired.is_empty(), "{lack}");
        assert_eq!(verdict.evidence, evidence(300 * DAY), "{lack}: it is kept");
    }
}

#[test]
fn a_workload_without_series_loses_nothing_and_begins_anew() {
    let record = record(&[("old", 400 * DAY)]);
    let mut none = look(&[]);
    none.coverage = Coverage::None;
    let verdict = judged(&record, evidence(300 * DAY), Ok(&none));
    assert_eq!((verdict.expired.len(), verdict.evidence), (0, None));
    assert_eq!(verdict.lack, Some(Lack::NoSeries));
    assert!(verdict.worth_writing);
    // Back again, it must be seen for the whole time.
    let mut part = look(&[]);
    part.coverage = Coverage::Part;
    let verdict = judged(&record, None, Ok(&part));
    assert_eq!(verdict.evidence.unwrap().since, at(NOW));
    assert!(verdict.expired.is_empty());
}

#[test]
fn a_hole_in_the_series_breaks_the_evidence() {
    let record = record(&[("old", 400 * DAY)]);
    let mut part = look(&[]);
    part.coverage = Coverage::Part;
    let verdict = judged(&record, evidence(300 * DAY), Ok(&part));
    assert!(verdict.expired.is_empty());
    assert_eq!(verdict.evidence.unwrap().since, at(NOW));
    assert_eq!(
        verdict.lack, None,
        "there are series: nobody need do anything"
    );
}

#[test]
fn a_look_that_does_not_reach_back_to_the_last_one_begins_anew() {
    let record = record(&[("old", 400 * DAY)]);
    let gap = Some(Evidence {
        since: ago(300 * DAY),
        until: ago(3 * HOUR),
    });
    let verdict = judged(&record, gap, Ok(&look(&[])));
    assert!(verdict.expired.is_empty());
    assert_eq!(verdict.evidence.unwrap().since, ago(2 * HOUR));
    let mut longer = look(&[]);
    longer.from = ago(3 * HOUR);
    let verdict = judged(&record, gap, Ok(&longer));
    assert_eq!(names(&verdict), ["old"]);
}

#[test]
fn the_window_covers_the_gap() {
    let until = |age: Duration| {
        Some(Evidence {
            since: at(0),
            until: ago(age),
        })
    };
    let window = |all: &[Option<Evidence>]| window(all.iter().copied(), at(NOW), 2 * HOUR, DAY);
    for (all, expected) in [
        (vec![], 2 * HOUR),
        (vec![None], 2 * HOUR),
        (vec![until(HOUR)], 2 * HOUR),
        (vec![until(5 * HOUR), until(HOUR), None], 5 * HOUR),
        // Too far back to be asked at once: it begins anew, and costs the others no long look.
        (vec![until(10 * DAY), until(HOUR)], 2 * HOUR),
        (vec![until(10 * DAY), until(20 * HOUR)], 20 * HOUR),
    ] {
        assert_eq!(window(&all), expected, "{all:?}");
    }
}

#[test]
fn what_is_pinned_never_expires() {
    for pin in ["old.shop.svc.cluster.local", "*.shop.svc.cluster.local"] {
        let mut record = record(&[("old", 400 * DAY)]);
        record.pinned.insert(Pin {
            host: pin.parse().unwrap(),
            ports: BTreeSet::new(),
        });
        let verdict = judged(&record, evidence(300 * DAY), Ok(&look(&[])));
        assert!(verdict.expired.is_empty(), "{pin}");
    }
    let mut record = record(&[("old", 400 * DAY)]);
    record.pinned.insert(Pin {
        host: "*.other.svc.cluster.local".parse().unwrap(),
        ports: BTreeSet::new(),
    });
    let verdict = judged(&record, evidence(300 * DAY), Ok(&look(&[])));
    assert_eq!(names(&verdict), ["old"]);
}

#[test]
fn a_protocol_whose_metric_is_switched_off_tells_nothing() {
    let record = record(&[("old", 400 * DAY)]);
    let mut tcp_only = look(&[]);
    tcp_only.protocols = BTreeSet::from([Protocol::Tcp]);
    let verdict = judged(&record, evidence(300 * DAY), Ok(&tcp_only));
    assert!(verdict.expired.is_empty());
}

#[test]
fn a_call_over_one_protocol_says_nothing_of_the_other() {
    let mut record = record(&[("both", 400 * DAY)]);
    let dependency = Dependency {
        host: host("both"),
        port: port(3306),
        protocol: Protocol::Tcp,
    };
    record
        .learned
        .see(&dependency, ago(400 * DAY), Source::OnDemand);
    let verdict = judged(&record, evidence(300 * DAY), Ok(&look(&[http("both")])));
    let expired: Vec<_> = verdict.expired.iter().map(|e| e.called.1).collect();
    assert_eq!(expired, [Protocol::Tcp]);
}

#[test]
fn a_wildcard_is_called_by_what_is_below_it() {
    let mut record = Record::default();
    let dependency = Dependency {
        host: "*.example.com".parse().unwrap(),
        port: port(443),
        protocol: Protocol::Tcp,
    };
    record
        .learned
        .see(&dependency, ago(400 * DAY), Source::OnDemand);
    for (called, expired) in [
        ("*.example.com", 0),
        ("a.b.example.com", 0),
        ("example.com", 1),
        ("notexample.com", 1),
    ] {
        let look = look(&[(called.parse().unwrap(), Protocol::Tcp)]);
        let verdict = judged(&record, evidence(300 * DAY), Ok(&look));
        assert_eq!(verdict.expired.len(), expired, "{called}");
    }
}

#[test]
fn who_is_not_told_to_forget_forgets_nothing() {
    let record = record(&[("old", 400 * DAY)]);
    let look = look(&[]);
    let quiet = Keeping::default();
    let verdict = judge(&record, &quiet, None, None, Ok(&look), at(NOW), &SETTINGS);
    assert!(verdict.expired.is_empty() && !verdict.worth_writing);
    // Told before, and no more: what was said of it goes.
    let told = Keeping {
        evidence: evidence(DAY),
        ..Keeping::default()
    };
    let verdict = judge(&record, &told, None, None, Ok(&look), at(NOW), &SETTINGS);
    assert!(verdict.worth_writing);
    assert_eq!((verdict.evidence, verdict.lack), (None, None));
}

#[test]
fn what_is_no_news_is_not_written() {
    let fresh = record(&[("called", HOUR)]);
    let known = evidence(60 * DAY);
    let calls = look(&[http("called")]);
    assert!(!judged(&fresh, known, Ok(&calls)).worth_writing);
    let stale = record(&[("called", 7 * HOUR)]);
    assert!(judged(&stale, known, Ok(&calls)).worth_writing);
    let written_long_ago = Keeping {
        evidence: Some(Evidence {
            since: ago(60 * DAY),
            until: ago(7 * HOUR),
        }),
        ..Keeping::default()
    };
    let after = Some(30 * DAY);
    let verdict = judge(
        &fresh,
        &written_long_ago,
        known,
        after,
        Ok(&calls),
        at(NOW),
        &SETTINGS,
    );
    assert!(verdict.worth_writing, "else a restart would find a gap");
}

#[test]
fn short_times_are_refreshed_in_time() {
    let record = record(&[("called", HOUR)]);
    let keeping = Keeping {
        evidence: evidence(DAY),
        ..Keeping::default()
    };
    let calls = look(&[http("called")]);
    let after = Some(4 * HOUR);
    let verdict = judge(
        &record,
        &keeping,
        evidence(DAY),
        after,
        Ok(&calls),
        at(NOW),
        &SETTINGS,
    );
    assert!(verdict.worth_writing, "an hour is a quarter of the time");
    // Not called in this look, but maybe just before what was last written.
    let quiet = look(&[]);
    let after = Some(HOUR - Duration::from_secs(1));
    let verdict = judge(
        &record,
        &keeping,
        evidence(DAY),
        after,
        Ok(&quiet),
        at(NOW),
        &SETTINGS,
    );
    assert!(verdict.expired.is_empty(), "a quarter more is waited for");
}

#[test]
fn a_failure_is_said_when_it_lasts() {
    let record = record(&[("old", DAY)]);
    let until = |age| {
        Some(Evidence {
            since: ago(60 * DAY),
            until: ago(age),
        })
    };
    let verdict = judged(&record, until(2 * HOUR), Err(Lack::QueryFailed));
    assert_eq!((verdict.lack, verdict.worth_writing), (None, false));
    let verdict = judged(&record, until(4 * HOUR), Err(Lack::QueryFailed));
    assert_eq!(verdict.lack, Some(Lack::QueryFailed));
    assert!(verdict.worth_writing);
    let said = Keeping {
        lack: Some(Lack::QueryFailed),
        ..Keeping::default()
    };
    let after = Some(DAY);
    let again = judge(
        &record,
        &said,
        None,
        after,
        Err(Lack::QueryFailed),
        at(NOW),
        &SETTINGS,
    );
    assert!(!again.worth_writing, "once is enough");
}

#[test]
fn the_record_wins_then_the_namespace_then_the_default() {
    let said = |text: &str| Keeping {
        expire_after: Some(parse(text)),
        ..Keeping::default()
    };
    let silent = Keeping::default();
    let default = Some(9 * DAY);
    for (keeping, annotation, expected) in [
        (said("720h"), Some("48h"), Ok(Some(30 * DAY))),
        (silent.clone(), Some("48h"), Ok(Some(2 * DAY))),
        (silent.clone(), None, Ok(default)),
        (said("0s"), Some("48h"), Ok(None)),
        (silent.clone(), Some("0s"), Ok(None)),
        (said("a while"), Some("48h"), Err(Lack::InvalidExpireAfter)),
        (silent.clone(), Some(""), Err(Lack::InvalidExpireAfter)),
        (said("1h30m"), None, Ok(Some(HOUR * 3 / 2))),
    ] {
        assert_eq!(
            after(&keeping, annotation, default),
            expected,
            "{keeping:?}"
        );
    }
    assert_eq!(after(&silent, None, None), Ok(None));
    let long = parse(&"9".repeat(1000)).unwrap_err();
    assert!(long.len() <= 32);
}

/// Judged and applied at once.
fn forgotten(calls: &[(&str, Duration)]) -> (Record, Keeping, Verdict) {
    let mut record = record(calls);
    let mut keeping = Keeping::default();
    let verdict = judged(&record, evidence(300 * DAY), Ok(&look(&[])));
    assert_eq!(apply(&mut record, &mut keeping, &verdict), 2);
    (record, keeping, verdict)
}

#[test]
fn what_was_forgotten_comes_back_by_a_new_call_only() {
    let (record, keeping, _) = forgotten(&[("old", 400 * DAY)]);
    assert!(record.learned.is_empty());
    let blocks = |seen| keeping.forgotten.blocks(&host("old"), Protocol::Http, seen);
    assert!(blocks(Some(ago(HOUR))) && blocks(Some(at(NOW))));
    assert!(blocks(None), "a proxy that holds it says so without a time");
    assert!(!blocks(Some(at(NOW + 1))));
    let forgotten = &keeping.forgotten;
    assert!(!forgotten.blocks(&host("old"), Protocol::Tcp, None));
    assert!(!forgotten.blocks(&host("other"), Protocol::Http, None));
    let mut calls = Learned::new();
    for (name, seen) in [("old", NOW - 5), ("new", NOW - 5)] {
        let dependency = Dependency {
            host: host(name),
            port: port(80),
            protocol: Protocol::Http,
        };
        calls.see(&dependency, at(seen), Source::OnDemand);
    }
    assert_eq!(forgotten.passing(&calls).len(), 1);
}

#[test]
fn what_was_called_since_it_was_judged_stays() {
    let judged_record = record(&[("old", 400 * DAY), ("older", 500 * DAY)]);
    let verdict = judged(&judged_record, evidence(300 * DAY), Ok(&look(&[])));
    let mut now = judged_record.clone();
    let dependency = Dependency {
        host: host("old"),
        port: port(80),
        protocol: Protocol::Http,
    };
    now.learned
        .see(&dependency, ago(Duration::from_secs(5)), Source::OnDemand);
    let mut keeping = Keeping::default();
    assert_eq!(apply(&mut now, &mut keeping, &verdict), 2);
    assert!(now.learned.contains(&dependency));
    assert_eq!(keeping.forgotten.iter().count(), 1);
}

#[test]
fn a_change_of_mind_since_it_was_judged_holds() {
    let before = record(&[("old", 400 * DAY)]);
    let verdict = judged(&before, evidence(300 * DAY), Ok(&look(&[])));
    let mut pinned = before.clone();
    pinned.pinned.insert(Pin {
        host: host("old"),
        ports: BTreeSet::new(),
    });
    assert_eq!(apply(&mut pinned, &mut Keeping::default(), &verdict), 0);
    let mut longer = Keeping {
        expire_after: Some(Ok(900 * DAY)),
        ..Keeping::default()
    };
    assert_eq!(apply(&mut before.clone(), &mut longer, &verdict), 0);
}

#[test]
fn applying_twice_is_applying_once() {
    let (mut record, mut keeping, verdict) = forgotten(&[("old", 400 * DAY), ("new", DAY)]);
    let once = (record.clone(), keeping.clone());
    assert_eq!(apply(&mut record, &mut keeping, &verdict), 0);
    assert_eq!((record, keeping), once);
}

#[test]
fn what_is_remembered_is_bounded_and_tidied() {
    let mut forgotten = Forgotten::new();
    for i in 0..MOST_FORGOTTEN as u64 + 500 {
        forgotten.add(
            http(&format!("h{i}")),
            ago(DAY + Duration::from_secs(5000 - i)),
        );
    }
    forgotten.add(http("again"), at(NOW));
    forgotten.add(http("ancient"), ago(40 * DAY));
    forgotten.tidy(&record(&[("again", HOUR)]).learned, at(NOW), 30 * DAY);
    assert_eq!(forgotten.iter().count(), MOST_FORGOTTEN);
    let has = |name| forgotten.blocks(&host(name), Protocol::Http, None);
    assert!(!has("again") && !has("ancient"));
    assert!(!has("h499") && has("h500"), "the oldest go first");
    // However soon a workload forgets, what is on its way must not bring it back.
    let mut short = Forgotten::new();
    short.add(http("x"), ago(HOUR / 2));
    short.tidy(&Learned::new(), at(NOW), Duration::from_secs(1));
    assert_eq!(short.iter().count(), 1);
}

#[test]
fn every_lack_is_named_and_helps() {
    for lack in Lack::ALL {
        assert_eq!(Lack::named(lack.as_str()), Some(lack));
        assert!(lack.hint().contains("hint"), "{lack}");
    }
    assert_eq!(Lack::named("Other"), None);
}

prop_compose! {
    fn any_case()(
        ages in prop::collection::vec(0_u64..100, 1..6),
        called in prop::collection::vec(any::<bool>(), 6),
        since in 0_u64..100, until in 0_u64..10, from in 0_u64..12,
        after in 1_u64..50, covered in 0_u8..3, pinned in any::<bool>(),
    ) -> (Record, Option<Evidence>, Look, Duration) {
        let names: Vec<String> = (0..ages.len()).map(|i| format!("h{i}")).collect();
        let calls: Vec<_> = names.iter().zip(&ages)
            .map(|(name, age)| (name.as_str(), HOUR * u32::try_from(*age).unwrap())).collect();
        let mut record = record(&calls);
        if pinned {
            record.pinned.insert(Pin { host: host("h0"), ports: BTreeSet::new() });
        }
        let hours = |n: u64| ago(HOUR * u32::try_from(n).unwrap());
        let latest = (since > until).then(|| Evidence { since: hours(since), until: hours(until) });
        let called = names.iter().zip(&called).filter(|(_, c)| **c).map(|(n, _)| http(n)).collect();
        let coverage = [Coverage::None, Coverage::Part, Coverage::Whole][usize::from(covered)];
        let look = Look { from: hours(from), called, coverage, ..look(&[]) };
        (record, latest, look, HOUR * u32::try_from(after).unwrap())
    }
}

proptest! {
    #[test]
    fn nothing_expires_that_may_have_been_called((record, latest, look, after) in any_case()) {
        let keeping = Keeping::default();
        let verdict = judge(&record, &keeping, latest, Some(after), Ok(&look), at(NOW), &SETTINGS);
        for expired in &verdict.expired {
            let (host, protocol) = &expired.called;
            let edge = record.learned.get(host, *protocol).unwrap();
            prop_assert!(!look.called.contains(&expired.called));
            prop_assert!(!is_pinned(&record.pinned, host));
            prop_assert_eq!(look.coverage, Coverage::Whole);
            // Evidence holds from before the time began to count, without a gap.
            let begin = at(NOW - after.as_secs());
            prop_assert!(edge.last_seen < begin);
            let goes_on = latest.is_some_and(|e| e.since <= begin && e.until >= look.from);
            prop_assert!(look.from <= begin || goes_on);
        }
    }

    #[test]
    fn a_record_loses_only_what_was_judged((record, latest, look, after) in any_case()) {
        let mut keeping = Keeping::default();
        let verdict = judge(&record, &keeping, latest, Some(after), Ok(&look), at(NOW), &SETTINGS);
        let mut left = record.clone();
        let gone = apply(&mut left, &mut keeping, &verdict);
        prop_assert_eq!(left.learned.len() + gone, record.learned.len());
        prop_assert_eq!(gone, 2 * verdict.expired.len());
        for (host, protocol, edge) in left.learned.edges() {
            let before = record.learned.get(host, protocol).unwrap();
            prop_assert_eq!(&edge.ports, &before.ports);
            prop_assert!(edge.last_seen >= before.last_seen);
            prop_assert_eq!(edge.first_seen, before.first_seen);
        }
    }
}
