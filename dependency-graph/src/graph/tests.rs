//! Changes of the graph, and the diff between two.

use proptest::prelude::*;

use super::*;
use crate::learned::Source;
use crate::strategies::{any_graph, dependency, workload};
use crate::time::Timestamp;

fn record(calls: &[&str], seen: u64) -> Record {
    let mut record = Record::default();
    for call in calls {
        record.learned.see(
            &dependency(call),
            Timestamp::from_seconds(seen),
            Source::OnDemand,
        );
    }
    record
}

#[test]
fn only_what_watchers_see_is_a_change() {
    let mut graph = Graph::new();
    let reviews = workload("shop/reviews");
    let change = Some(Change::Workload(reviews.clone()));
    assert_eq!(
        graph.set_workload(&reviews, Some(record(&["a.b:80"], 1))),
        change
    );
    assert_eq!(
        graph.set_workload(&reviews, Some(record(&["a.b:80"], 2))),
        None
    );
    assert_eq!(
        graph.set_workload(&reviews, Some(record(&["a.b:80", "a.b:81"], 2))),
        change
    );
    let observed = Record {
        mode: Some(Mode::Observe),
        ..record(&["a.b:80", "a.b:81"], 2)
    };
    assert_eq!(graph.set_workload(&reviews, Some(observed)), change);
    assert_eq!(graph.set_workload(&reviews, None), change);
    assert_eq!(graph.set_workload(&reviews, None), None);
}

#[test]
fn an_empty_record_is_not_none() {
    let mut graph = Graph::new();
    let reviews = workload("shop/reviews");
    assert!(
        graph
            .set_workload(&reviews, Some(Record::default()))
            .is_some()
    );
}

#[test]
fn a_mode_of_its_own_goes_before_that_of_the_namespace() {
    let mut graph = Graph::new();
    let reviews = workload("shop/reviews");
    assert_eq!(graph.mode_of(&reviews), Mode::Off);
    assert!(graph.set_namespace("shop", Mode::OnDemand.into()).is_some());
    assert!(graph.set_namespace("shop", Mode::OnDemand.into()).is_none());
    assert_eq!(graph.mode_of(&reviews), Mode::OnDemand);
    graph.set_workload(
        &reviews,
        Some(Record {
            mode: Some(Mode::Off),
            ..Record::default()
        }),
    );
    assert_eq!(graph.mode_of(&reviews), Mode::Off);
    assert!(graph.set_namespace("shop", Namespace::default()).is_some());
    assert!(graph.set_namespace("shop", Namespace::default()).is_none());
}

#[test]
fn a_policy_is_a_change_and_the_default_is_not_kept() {
    let mut graph = Graph::new();
    let change = Some(Change::Namespace("shop".into()));
    let strict = Namespace {
        fallback: Policy::RedirectOnly,
        ..Namespace::default()
    };
    let mut before = graph.clone();
    assert_eq!(graph.set_namespace("shop", Namespace::default()), None);
    assert_eq!(graph.set_namespace("shop", strict), change);
    assert_eq!(graph.set_namespace("shop", strict), None);
    assert_eq!(graph.namespace("shop"), strict);
    assert_eq!(before.diff(&graph), change.iter().cloned().collect());
    assert_eq!(before.set_namespace("shop", strict), change);
    assert_eq!(before, graph);
    assert_eq!(graph.set_namespace("shop", Namespace::default()), change);
    assert_eq!(graph.namespaces().count(), 0);
}

proptest! {
    #[test]
    fn a_graph_does_not_differ_from_itself(graph in any_graph()) {
        prop_assert!(graph.diff(&graph.clone()).is_empty());
    }

    #[test]
    fn applying_a_diff_leads_to_the_other(mut from in any_graph(), to in any_graph()) {
        for change in from.diff(&to) {
            let told = match &change {
                Change::Namespace(name) => from.set_namespace(name, to.namespace(name)),
                Change::Workload(w) => from.set_workload(w, to.workload(w).map(|r| (**r).clone())),
            };
            prop_assert_eq!(told, Some(change));
        }
        prop_assert!(from.diff(&to).is_empty());
        prop_assert!(from.workloads().map(|(w, _)| w).eq(to.workloads().map(|(w, _)| w)));
    }
}
