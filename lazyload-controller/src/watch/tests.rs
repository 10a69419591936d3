//! What a watcher reads.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::fallback::Policy;
use dependency_graph::{Mode, Namespace, Record, Workload};
use futures::{FutureExt, StreamExt};
use parking_lot::RwLock;
use prometheus::Registry;

use super::*;
use crate::expiry::Keeping;
use crate::mesh::fixture::world;
use crate::mesh::{Kind, Name};
use crate::metrics::Metrics;
use crate::resource::Entry;
use crate::state::Versioned;

fn state() -> State {
    let state = State::new(Metrics::new(&Registry::new()).unwrap());
    state.namespaces_synced();
    state.records_synced();
    state
}

fn set(state: &State, name: &str, revision: u64) {
    let workload = Workload::new("shop", "Deployment", name).unwrap();
    let record = Record {
        mode: Some(Mode::Off),
        ..Record::default()
    };
    state.set_record(Versioned {
        entry: Entry {
            workload,
            record,
            capped: false,
            stale: false,
            said: Default::default(),
            settle_after: None,
            keeping: Keeping::default(),
        },
        revision,
    });
}

fn drain() -> Drain {
    Drain::new(Duration::from_secs(1))
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[tokio::test]
async fn nothing_is_told_before_everything_is_known() {
    let state = State::new(Metrics::new(&Registry::new()).unwrap());
    let mut stream = pin!(watch(state.clone(), Scope::Everything, drain(), far()));
    state.records_synced();
    assert!(stream.next().now_or_never().is_none());
    state.namespaces_synced();
    assert!(stream.next().await.unwrap().unwrap().snapshot_complete);
}

#[tokio::test]
async fn a_snapshot_ends_once_and_changes_follow() {
    let state = state();
    for index in 0..ENTRIES + 1 {
        set(&state, &format!("w{index}"), 1);
    }
    let mut stream = pin!(watch(state.clone(), Scope::Everything, drain(), far()));
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (first.workloads.len(), first.snapshot_complete),
        (ENTRIES, false)
    );
    // A change while the snapshot is under way comes after it.
    state.set_namespace("shop", Mode::OnDemand.into());
    let second = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (second.workloads.len(), second.snapshot_complete),
        (1, true)
    );
    let third = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (third.namespaces.len(), third.snapshot_complete),
        (1, false)
    );
    assert!(stream.next().now_or_never().is_none());
}

#[tokio::test]
async fn what_came_and_went_unseen_is_told_as_gone() {
    let state = state();
    let mut stream = pin!(watch(state.clone(), Scope::Everything, drain(), far()));
    stream.next().await.unwrap().unwrap();
    set(&state, "a", 1);
    state.remove_record(&Workload::new("shop", "Deployment", "a").unwrap(), 2);
    set(&state, "b", 3);
    let told = stream.next().await.unwrap().unwrap();
    assert_eq!((told.workloads.len(), told.removed.len()), (1, 1));
}

#[tokio::test]
async fn who_wants_namespaces_only_hears_of_no_workload() {
    let state = state();
    let says = Namespace {
        mode: Some(Mode::Sidecar),
        fallback: Policy::RedirectOnly,
        ..Namespace::default()
    };
    state.set_namespace("shop", says);
    set(&state, "a", 1);
    let mut stream = pin!(watch(state.clone(), Scope::Namespaces, drain(), far()));
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.snapshot_complete && first.workloads.is_empty());
    assert_eq!(first.namespaces, [convert::namespace_mode("shop", says)]);
    set(&state, "b", 2);
    state.remove_record(&Workload::new("shop", "Deployment", "a").unwrap(), 3);
    assert!(stream.next().now_or_never().is_none());
    state.set_namespace("shop", Namespace::default());
    let gone = stream.next().await.unwrap().unwrap();
    assert_eq!(entries(&gone), 1);
    let message = &gone.namespaces[0];
    assert_eq!(convert::namespace(message), Ok(Namespace::default()));
}

#[tokio::test]
async fn a_drain_ends_it() {
    let (state, drain) = (state(), drain());
    let mut stream = pin!(watch(state, Scope::Everything, drain.clone(), far()));
    stream.next().await.unwrap().unwrap();
    drain.start();
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn age_ends_it_though_there_is_news() {
    let state = state();
    let until = Instant::now() + Duration::from_secs(60);
    let mut idle = pin!(watch(state.clone(), Scope::Everything, drain(), until));
    let mut busy = pin!(watch(state.clone(), Scope::Everything, drain(), until));
    idle.next().await.unwrap().unwrap();
    busy.next().await.unwrap().unwrap();
    assert!(idle.next().await.is_none());
    set(&state, "a", 1);
    assert!(busy.next().await.is_none());
}

#[tokio::test]
async fn the_ranges_of_services_are_told_with_the_state_and_when_they_change() {
    let state = state();
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    state.set_service_cidrs(ranges(&["10.96.0.0/16"]));
    let mut stream = pin!(watch(state.clone(), Scope::Namespaces, drain(), far()));
    let snapshot = stream.next().await.unwrap().unwrap();
    assert!(snapshot.snapshot_complete);
    assert_eq!(snapshot.service_cidrs, ["10.96.0.0/16"]);
    assert!(stream.next().now_or_never().is_none());
    // The same again is no news.
    state.set_service_cidrs(ranges(&["10.96.0.0/16"]));
    assert!(stream.next().now_or_never().is_none());
    state.set_service_cidrs(ranges(&["10.96.0.0/16", "fd00::/112"]));
    let change = stream.next().await.unwrap().unwrap();
    assert_eq!(change.service_cidrs, ["10.96.0.0/16", "fd00::/112"]);
    assert!(!change.snapshot_complete && change.namespaces.is_empty());
}

#[tokio::test]
async fn the_ranges_are_kubernetes_own_else_those_given() {
    let state = state();
    let mut told = state.service_cidrs();
    let world = Arc::new(RwLock::new(world()));
    let (changed, changes) = tokio::sync::watch::channel(());
    let (sync, synced) = tokio::sync::watch::channel(false);
    let mesh = Mesh {
        world: world.clone(),
        changes,
        synced,
    };
    let given: Vec<IpNet> = vec!["10.0.0.0/16".parse().unwrap()];
    let following = follow_service_cidrs(mesh, given.clone(), state.clone());
    let test = async {
        tokio::task::yield_now().await;
        assert_eq!(*told.borrow(), [], "not before the mesh is known");
        sync.send_replace(true);
        told.changed().await.unwrap();
        let own = told.borrow_and_update().clone();
        let own: Vec<_> = own.iter().map(IpNet::to_string).collect();
        assert_eq!(own, ["10.96.0.0/12", "fd00:10:96::/108"]);
        let name = Name::cluster("kubernetes");
        world.write().delete(Kind::ServiceCidr, &name);
        changed.send_replace(());
        told.changed().await.unwrap();
        assert_eq!(*told.borrow(), given);
    };
    tokio::select! {
        () = following => unreachable!("it never ends"),
        () = test => {}
    }
}

#[tokio::test]
async fn a_pause_is_told_with_the_state_and_as_it_changes() {
    let state = state().in_namespace("lazymesh-system");
    let says = |paused| Namespace {
        paused,
        ..Namespace::default()
    };
    state.set_namespace("shop", says(true));
    let mut stream = pin!(watch(state.clone(), Scope::Everything, drain(), far()));
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!((first.snapshot_complete, first.paused), (true, Some(false)));
    state.set_namespace("lazymesh-system", says(true));
    let mut told = None;
    while told.is_none() {
        told = stream.next().await.unwrap().unwrap().paused;
    }
    assert_eq!(told, Some(true));
    let mut late = pin!(watch(state.clone(), Scope::Everything, drain(), far()));
    assert_eq!(late.next().await.unwrap().unwrap().paused, Some(true));
    // A namespace that is gone says nothing any more.
    state.retain_namespaces(&Default::default());
    let mut told = None;
    while told.is_none() {
        told = stream.next().await.unwrap().unwrap().paused;
    }
    assert_eq!(told, Some(false));
}
