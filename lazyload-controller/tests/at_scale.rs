//! The mode `sidecar` with many workloads, on a real kube-apiserver, with controllers that are processes: nothing is lost
//! and nothing is written without need, and what it costs is measured. `LAZYMESH_SCALE` says how many.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/harness.rs"]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fleet::*;
use kube::core::DynamicObject;
use serde_json::json;

/// Calls whose way into a Sidecar is timed, one after the other.
const TIMED: usize = 50;

/// By name: the revision, and how often the spec was written.
type Written = BTreeMap<String, (String, i64)>;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: the mesh tests controller::* run it"]
async fn many_workloads_are_written_once_and_lose_nothing() {
    let size = Size::chosen();
    let begun = Instant::now();
    let fleet = Fleet::make(size).await;
    let (all, took) = (size.all(), begun.elapsed());
    tell(&format!("{size:?}: {all} workloads made after {took:.1?}"));

    let (first, second) = all_get_a_sidecar(&fleet).await;
    let (first, second) = restarts_write_nothing(&fleet, first, second).await;
    a_service_that_nobody_uses_is_no_reason_to_write(&fleet, &first).await;
    a_rule_is_written_to_those_it_matters_to(&fleet, &first).await;
    learning_takes(&fleet, &first).await;
    a_leader_dies_in_a_burst(&fleet, first, second).await;
    // A mesh of the full size is the test's own, and ends with it.
    if all < 1000 {
        fleet.end().await;
    }
}

async fn all_get_a_sidecar(fleet: &Fleet) -> (Replica, Replica) {
    let (before, begun) = (fleet.api_calls().await, Instant::now());
    let first = Replica::start(fleet, &[]).await;
    within(fleet.size.limit(), "it does not lead", async || {
        let leads = first.metric("lazymesh_controller_leader ").await;
        (leads == 1.0).then_some(())
    })
    .await;
    let second = Replica::start(fleet, &[]).await;
    first.settled(fleet, true).await;
    let took = begun.elapsed();
    second.settled(fleet, false).await;
    let calls = since(&before, &fleet.api_calls().await);
    tell(&format!(
        "all Sidecars and conditions written after {took:.1?}; API calls: {calls:?}"
    ));
    say_memory("the leader", &first);
    say_memory("the other", &second);
    say_plans(&first, (0.0, 0.0)).await;
    let written = fleet.written().await;
    let sidecars = written.keys().filter(|name| name.starts_with("Sidecar"));
    assert_eq!(sidecars.count(), fleet.size.all());
    let often: Vec<_> = written
        .iter()
        .filter(|(_, (_, times))| *times > 1)
        .collect();
    assert!(often.is_empty(), "written more than once: {often:?}");
    (first, second)
}

/// The leader ends, and the other takes over; both end, and begin anew.
async fn restarts_write_nothing(
    fleet: &Fleet,
    first: Replica,
    second: Replica,
) -> (Replica, Replica) {
    let before = (fleet.written().await, fleet.records().await);
    let begun = Instant::now();
    first.stop().await;
    second.settled(fleet, true).await;
    tell(&format!(
        "another replica leads and is settled after {:.1?}",
        begun.elapsed()
    ));
    assert_eq!(second.writes().await, 0.0);
    second.stop().await;
    let begun = Instant::now();
    let first = Replica::start(fleet, &[]).await;
    first.settled(fleet, true).await;
    tell(&format!(
        "a controller that starts is settled after {:.1?}",
        begun.elapsed()
    ));
    say_memory("restarted", &first);
    let second = Replica::start(fleet, &[]).await;
    second.settled(fleet, false).await;
    assert_eq!(first.writes().await + second.writes().await, 0.0);
    assert!(
        before == (fleet.written().await, fleet.records().await),
        "something was written"
    );
    (first, second)
}

async fn a_service_that_nobody_uses_is_no_reason_to_write(fleet: &Fleet, leader: &Replica) {
    let (before, plans) = (fleet.written().await, plans(leader).await);
    let ports = json!([{"name": "http", "port": 80}]);
    fleet.service(ELSEWHERE, "nobodys", ports).await;
    within(fleet.size.limit(), "not planned again", async || {
        let planned = plans_total(leader).await - plans.2;
        (planned >= fleet.size.namespaces as f64).then_some(())
    })
    .await;
    leader.settled(fleet, true).await;
    say_plans(leader, (plans.0, plans.2)).await;
    assert_eq!(leader.writes().await, 0.0);
    assert_eq!(changed(&before, &fleet.written().await), BTreeMap::new());
}

async fn a_rule_is_written_to_those_it_matters_to(fleet: &Fleet, leader: &Replica) {
    let before = fleet.written().await;
    let begun = Instant::now();
    fleet.lead(fleet.rare(), fleet.spare()).await;
    for number in fleet.use_rare() {
        until_given(fleet, number, fleet.spare()).await;
    }
    let took = begun.elapsed();
    leader.settled(fleet, true).await;
    tell(&format!("what a rule leads to is given after {took:.2?}"));
    let changed = changed(&before, &fleet.written().await);
    let wanted = fleet.use_rare().map(|number| name_of(fleet, number));
    assert_eq!(
        changed.keys().cloned().collect::<BTreeSet<_>>(),
        wanted.into()
    );
}

/// From a report to the write that announces it: with nothing else to do, and while all is planned.
async fn learning_takes(fleet: &Fleet, leader: &Replica) {
    let mut reporter = leader.report().await;
    for (nth, busy) in [(0, false), (1, true)] {
        let mut took = Vec::new();
        for round in 0..TIMED {
            let number = round * fleet.size.all() / TIMED;
            if busy {
                let ports = json!([{"name": "http", "port": 80}]);
                let name = format!("other{round}");
                fleet.service(ELSEWHERE, &name, ports).await;
            }
            let service = fleet.unused(number)[nth];
            let begun = Instant::now();
            reporter.send(vec![fleet.seen(number, service)]);
            until_said(fleet, number, service, false).await;
            took.push(begun.elapsed());
            reporter.stored().await;
        }
        took.sort();
        let while_ = if busy {
            "while all is planned"
        } else {
            "else idle"
        };
        let (median, worst) = (took[TIMED / 2], took[TIMED - 1]);
        tell(&format!(
            "announced, {while_}, after {median:.1?} (median of {TIMED}), {worst:.1?} (worst)"
        ));
    }
    leader.settled(fleet, true).await;
    say_memory("after that", leader);
}

/// A tenth of the workloads learn something; half way the leader is killed.
async fn a_leader_dies_in_a_burst(fleet: &Fleet, leader: Replica, other: Replica) {
    let (before, records) = (fleet.written().await, fleet.records().await);
    let learn: Vec<usize> = (5..fleet.size.all()).step_by(10).collect();
    let (mut to_leader, mut to_other) = (leader.report().await, other.report().await);
    let mut killed = Some(leader);
    for (index, number) in learn.iter().enumerate() {
        let seen = vec![fleet.seen(*number, fleet.unused(*number)[0])];
        if index == learn.len() / 2
            && let Some(leader) = killed.take()
        {
            for _ in 0..to_leader.sequence {
                to_leader.stored().await;
            }
            leader.kill();
        }
        if killed.is_some() && index % 2 == 0 {
            to_leader.send(seen);
        } else {
            to_other.send(seen);
        }
    }
    let begun = Instant::now();
    for _ in 0..to_other.sequence {
        to_other.stored().await;
    }
    other.settled(fleet, true).await;
    for number in &learn {
        let sidecar = fleet.sidecar(*number).await;
        assert!(
            says(fleet, &sidecar, fleet.unused(*number)[0], true),
            "{sidecar:?}"
        );
    }
    let took = begun.elapsed();
    let changed = changed(&before, &fleet.written().await);
    let wanted: BTreeSet<String> = learn.iter().map(|number| name_of(fleet, *number)).collect();
    assert_eq!(changed.keys().cloned().collect::<BTreeSet<_>>(), wanted);
    let often = changed.values().filter(|times| **times > 2).count();
    assert_eq!(
        often, 0,
        "written more often than its two steps: {changed:?}"
    );
    assert_eq!(fleet.records().await.1, records.1 + learn.len());
    let learned = learn.len();
    tell(&format!(
        "another leader had written all of {learned} after {took:.1?}"
    ));
    say_memory("the new leader", &other);
    other.stop().await;
}

/// What was written, and how often.
fn changed(before: &Written, after: &Written) -> BTreeMap<String, i64> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name));
    let times = |of: &Written, name: &String| of.get(name).map_or(0, |(_, times)| *times);
    differ
        .map(|name| (name.clone(), times(after, name) - times(before, name)))
        .collect()
}

fn name_of(fleet: &Fleet, number: usize) -> String {
    let (namespace, name) = fleet.at(number);
    format!("Sidecar {namespace}/lazymesh-deployment-{name}")
}

fn says(fleet: &Fleet, sidecar: &DynamicObject, service: usize, given: bool) -> bool {
    let end = format!("/{}", fleet.host(service));
    let listeners = sidecar.data["spec"]["egress"].as_array().unwrap().iter();
    let mut listeners = listeners.filter(|one| !given || one["port"].is_null());
    listeners.any(|one| {
        let mut hosts = one["hosts"].as_array().unwrap().iter();
        hosts.any(|host| host.as_str().unwrap().ends_with(&end))
    })
}

async fn until_given(fleet: &Fleet, number: usize, service: usize) {
    until_said(fleet, number, service, true).await;
}

async fn until_said(fleet: &Fleet, number: usize, service: usize, given: bool) {
    let what = format!("{number} is not told of {service}");
    let pause = Duration::from_millis(3);
    asked_every(pause, fleet.size.limit(), &what, async || {
        let sidecar = fleet.sidecar(number).await;
        says(fleet, &sidecar, service, given).then_some(())
    })
    .await;
}

/// Calls other than reads since then.
fn since(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let differ = after.iter().filter_map(|(name, count)| {
        let more = count - before.get(name).copied().unwrap_or_default();
        (more > 0.0).then(|| (name.clone(), more))
    });
    let own = [
        "sidecars",
        "envoyfilters",
        "workloaddependencies",
        "leases",
        "pods",
        "services",
    ];
    let of = |name: &str| own.contains(&name.split(' ').nth(1).unwrap_or_default());
    differ.filter(|(name, _)| of(name)).collect()
}

/// Seconds that planning has taken, how often, and namespaces planned.
async fn plans(replica: &Replica) -> (f64, f64, f64) {
    let sum = replica
        .metric("lazymesh_controller_plan_seconds_sum ")
        .await;
    let count = replica
        .metric("lazymesh_controller_plan_seconds_count ")
        .await;
    (sum, count, plans_total(replica).await)
}

async fn plans_total(replica: &Replica) -> f64 {
    replica.metric("lazymesh_controller_plans_total ").await
}

async fn say_plans(replica: &Replica, before: (f64, f64)) {
    let (seconds, _, namespaces) = plans(replica).await;
    let (seconds, namespaces) = (seconds - before.0, namespaces - before.1);
    let each = Duration::from_secs_f64(seconds / namespaces.max(1.0));
    tell(&format!(
        "{namespaces} namespaces planned after {seconds:.2} s, {each:.2?} each"
    ));
}

fn say_memory(who: &str, replica: &Replica) {
    let (now, most) = replica.memory();
    tell(&format!(
        "{who} has {now} MB of memory, {most} at most, after that"
    ));
}

fn tell(what: &str) {
    eprintln!("at scale: {what}");
}
