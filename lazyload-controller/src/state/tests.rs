//! Two sources of one truth, and what watchers are told of it.

use dependency_graph::{Mode, Port, Protocol, Source};
use prometheus::Registry;

use super::*;

fn state() -> State {
    State::new(Metrics::new(&Registry::new()).unwrap())
}

fn workload(name: &str) -> Workload {
    Workload::new("shop", "Deployment", name).unwrap()
}

fn dependency(host: &str) -> Dependency {
    let port = Port::try_from(80).unwrap();
    Dependency {
        host: host.parse().unwrap(),
        port,
        protocol: Protocol::Http,
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn versioned(name: &str, hosts: &[&str], revision: u64) -> Versioned {
    let mut record = Record::default();
    for host in hosts {
        record
            .learned
            .see(&dependency(host), at(1000), Source::OnDemand);
    }
    let entry = Entry {
        workload: workload(name),
        record,
        capped: false,
        stale: false,
        said: Default::default(),
        settle_after: None,
        keeping: Keeping::default(),
    };
    Versioned { entry, revision }
}

fn known(state: &State, name: &str) -> Option<usize> {
    state
        .record(&workload(name))
        .map(|record| record.learned.len())
}

#[test]
fn an_echo_older_than_the_write_does_not_undo_it() {
    let state = state();
    state.set_record(versioned("reviews", &["a.b", "c.d"], 5));
    state.set_record(versioned("reviews", &["a.b"], 4));
    assert_eq!(known(&state, "reviews"), Some(2));
    state.remove_record(&workload("reviews"), 4);
    assert_eq!(known(&state, "reviews"), Some(2));
    state.set_record(versioned("reviews", &["a.b"], 6));
    assert_eq!(known(&state, "reviews"), Some(1));
    state.remove_record(&workload("reviews"), 7);
    assert_eq!(known(&state, "reviews"), None);
}

#[test]
fn a_full_list_removes_what_is_gone_and_not_what_came_since() {
    let state = state();
    state.set_record(versioned("gone", &[], 1));
    state.set_record(versioned("stays", &[], 2));
    let as_of = state.revision();
    state.set_record(versioned("made-since", &[], 9));
    state.retain_records(&HashSet::from([workload("stays")]), as_of);
    let present = ["gone", "stays", "made-since"].map(|name| known(&state, name).is_some());
    assert_eq!(present, [false, true, true]);
}

#[test]
fn namespaces_not_in_a_full_list_lose_their_mode() {
    let state = state();
    state.set_namespace("a", Mode::OnDemand.into());
    state.set_namespace("b", Mode::OnDemand.into());
    state.retain_namespaces(&HashSet::from(["b".to_owned()]));
    assert_eq!(
        (state.namespace("a").mode, state.namespace("b").mode),
        (None, Some(Mode::OnDemand))
    );
}

#[test]
fn a_watch_begins_with_everything_and_goes_on_with_changes() {
    let state = state();
    state.set_namespace("shop", Mode::OnDemand.into());
    state.set_record(versioned("a", &["x.y"], 1));
    let watcher = state.watch();
    assert_eq!(watcher.snapshot.len(), 2);
    assert!(watcher.told().take(10).is_empty());
    state.set_record(versioned("b", &[], 2));
    assert_eq!(watcher.told().take(10), [Change::Workload(workload("b"))]);
    assert!(watcher.told().take(10).is_empty());
}

#[test]
fn a_watcher_that_sleeps_costs_a_name_each_and_no_more() {
    let state = state();
    let watcher = state.watch();
    for revision in 1..1000 {
        let hosts: Vec<String> = (0..revision % 7 + 1).map(|i| format!("h{i}.x")).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        state.set_record(versioned("a", &hosts, revision));
        state.set_record(versioned("b", &hosts, revision));
    }
    let taken = watcher.told().take(1);
    assert_eq!(taken, [Change::Workload(workload("a"))]);
    watcher.told().put_back(taken);
    assert_eq!(watcher.told().take(100).len(), 2);
}

#[test]
fn a_refreshed_time_is_told_to_nobody() {
    let state = state();
    state.set_record(versioned("a", &["x.y"], 1));
    let watcher = state.watch();
    let mut later = versioned("a", &["x.y"], 2);
    later
        .entry
        .record
        .learned
        .see(&dependency("x.y"), at(9999), Source::OnDemand);
    state.set_record(later);
    assert!(watcher.told().take(10).is_empty());
    let record = state.record(&workload("a")).unwrap();
    assert_eq!(record.learned.edges().next().unwrap().2.last_seen, at(9999));
}

#[test]
fn a_dropped_watcher_is_forgotten() {
    let state = state();
    let watcher = state.watch();
    assert_eq!(state.metrics.watches.get(), 1);
    drop(watcher);
    assert_eq!(state.metrics.watches.get(), 0);
    assert!(state.inner.lock().watchers.is_empty());
}

#[test]
fn records_and_dependencies_are_counted() {
    let state = state();
    state.set_record(versioned("a", &["x.y", "z.y"], 1));
    state.set_record(versioned("a", &["x.y"], 2));
    state.set_record(versioned("b", &["x.y"], 3));
    assert_eq!(
        (
            state.metrics.records.get(),
            state.metrics.dependencies.get()
        ),
        (2, 2)
    );
    state.remove_record(&workload("a"), 4);
    assert_eq!(
        (
            state.metrics.records.get(),
            state.metrics.dependencies.get()
        ),
        (1, 1)
    );
    state.remove_record(&workload("a"), 5);
    assert_eq!(
        (
            state.metrics.records.get(),
            state.metrics.dependencies.get()
        ),
        (1, 1)
    );
}

#[test]
fn calls_are_judged_by_what_is_known() {
    let state = state();
    let limits = Limits {
        dependencies: 2,
        workloads: 1,
        ..Limits::default()
    };
    let would = |name: &str, host: &str, seen: Option<u64>| {
        state.would(&workload(name), &dependency(host), seen.map(at), &limits)
    };
    assert_eq!(would("a", "x.y", None), (Observed::New, false));
    let mut full = versioned("a", &["x.y", "z.y"], 1);
    state.set_record(full.clone());
    assert_eq!(would("a", "x.y", Some(1001)), (Observed::Known, false));
    assert_eq!(
        would("a", "x.y", Some(1_000_000)),
        (Observed::Refreshed, false)
    );
    assert_eq!(
        would("a", "x.y", None),
        (Observed::Known, false),
        "nobody knows when"
    );
    assert_eq!(
        would("a", "new.y", Some(1)),
        (Observed::Refused, false),
        "to be written down"
    );
    full.entry.capped = true;
    state.set_record(full);
    assert_eq!(would("a", "new.y", Some(1)), (Observed::Refused, true));
    assert_eq!(
        would("b", "x.y", Some(1)),
        (Observed::Refused, true),
        "the namespace is full"
    );
}

#[tokio::test]
async fn it_is_synced_when_both_are_known() {
    let state = state();
    let waiting = tokio::spawn({
        let state = state.clone();
        async move { state.synced().await }
    });
    state.records_synced();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    state.namespaces_synced();
    waiting.await.unwrap();
}

fn calls(hosts: &[&str]) -> Learned {
    versioned("x", hosts, 0).entry.record.learned
}

fn told(state: &State, name: &str) -> Option<usize> {
    let view = state.view(&workload(name));
    view.map(|record| record.learned.len())
}

#[test]
fn what_is_on_its_way_is_told_and_not_taken_for_stored() {
    let state = state();
    let reviews = workload("reviews");
    state.set_record(versioned("reviews", &["a.b"], 1));
    state.expect(&reviews, &calls(&["a.b", "c.d", "e.f"]), 2);
    assert_eq!(told(&state, "reviews"), Some(2), "up to the limit");
    assert_eq!(known(&state, "reviews"), Some(1));
    let limits = Limits::default();
    let would = state.would(&reviews, &dependency("c.d"), Some(at(1000)), &limits);
    assert_eq!(would.0, Observed::New);
    // An echo of someone else's write does not take it back.
    state.set_record(versioned("reviews", &["a.b"], 2));
    assert_eq!(told(&state, "reviews"), Some(2));
    let stored = versioned("reviews", &["a.b", "c.d"], 3);
    state.settle(&reviews, Some(stored), Some(&calls(&["g.h"])), 9);
    assert_eq!(
        (known(&state, "reviews"), told(&state, "reviews")),
        (Some(2), Some(3))
    );
    state.settle(&reviews, None, None, 9);
    assert_eq!(told(&state, "reviews"), Some(2));
}

#[test]
fn workloads_on_their_way_count_towards_the_limit() {
    let state = state();
    let limits = Limits {
        workloads: 1,
        ..Limits::default()
    };
    state.expect(&workload("a"), &calls(&["a.b"]), 9);
    let would = |name| {
        state
            .would(&workload(name), &dependency("a.b"), None, &limits)
            .0
    };
    assert_eq!((would("a"), would("b")), (Observed::New, Observed::Refused));
    state.settle(&workload("a"), None, None, 9);
    assert_eq!(would("b"), Observed::New);
}

#[test]
fn a_late_answer_to_a_write_brings_back_no_deleted_record() {
    let state = state();
    state.set_record(versioned("reviews", &["a.b"], 5));
    state.remove_record(&workload("reviews"), 7);
    let late = versioned("reviews", &["a.b"], 6);
    state.settle(&workload("reviews"), Some(late), None, 9);
    assert_eq!(known(&state, "reviews"), None);
    let anew = versioned("reviews", &["a.b"], 8);
    state.settle(&workload("reviews"), Some(anew), None, 9);
    assert_eq!(known(&state, "reviews"), Some(1));
}

#[test]
fn when_it_is_to_settle_is_told_within_and_to_nobody_outside() {
    let state = state();
    state.set_record(versioned("a", &["x.y"], 1));
    let (outside, within) = (state.watch(), state.watch_within());
    let mut changed = versioned("a", &["x.y"], 2);
    changed.entry.settle_after = Some(Ok(Duration::from_secs(60)));
    state.set_record(changed.clone());
    assert!(outside.told().take(10).is_empty());
    assert_eq!(within.told().take(10), [Change::Workload(workload("a"))]);
    assert_eq!(state.wish(&workload("a")).after, changed.entry.settle_after);
    assert_eq!(state.wishes().len(), 1);
    assert!(state.knows(&changed.entry));
    // What is said of it is no reason to look at it again.
    changed.revision = 3;
    changed.entry.said = [crate::settle::said(Ok("shop/x"))].into();
    assert!(!state.knows(&changed.entry));
    state.set_record(changed);
    assert!(within.told().take(10).is_empty());
    assert!(state.wish(&workload("a")).begun);
    state.set_record(versioned("a", &["x.y"], 4));
    assert_eq!(within.told().take(10).len(), 1);
    assert!(state.wishes().is_empty());
}
