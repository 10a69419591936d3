use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::mesh::sidecar::MANAGED_BY;

fn watched() -> Watched {
    let world = Arc::new(RwLock::new(World::new("cluster.local")));
    Watched::new(world, Metrics::new(&Registry::new()).unwrap())
}

fn sidecar(revision: u64, uid: &str, ours: bool, host: &str) -> DynamicObject {
    let labels = if ours {
        json!({MANAGED_BY.0: MANAGED_BY.1})
    } else {
        json!({})
    };
    serde_json::from_value(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
        "metadata": {"name": "lazymesh-deployment-cart", "namespace": "shop", "uid": uid,
                     "resourceVersion": revision.to_string(), "labels": labels},
        "spec": {"egress": [{"hosts": [host]}]},
    }))
    .unwrap()
}

fn name() -> Name {
    Name::new("shop", "lazymesh-deployment-cart")
}

fn host(watched: &Watched) -> Option<String> {
    let world = watched.world().read();
    let found = world.sidecar(&name())?;
    let spec = found.ours.as_ref().map(|ours| &ours.spec);
    let written = spec.and_then(|spec| spec["egress"][0]["hosts"][0].as_str());
    let read = || found.egress[0].hosts[0].clone();
    Some(written.map_or_else(read, str::to_owned))
}

#[test]
fn a_write_is_known_at_once_and_older_news_does_not_undo_it() {
    let watched = watched();
    watched.wrote(Kind::Sidecar, &sidecar(7, "u", true, "b/b"));
    assert_eq!(host(&watched).as_deref(), Some("b/b"));
    watched.apply(Kind::Sidecar, &sidecar(5, "u", true, "a/a"));
    assert_eq!(host(&watched).as_deref(), Some("b/b"));
    watched.apply(Kind::Sidecar, &sidecar(7, "u", true, "b/b"));
    assert!(watched.news().is_empty());
    // What comes after it holds.
    watched.apply(Kind::Sidecar, &sidecar(9, "u", true, "c/c"));
    assert_eq!(host(&watched).as_deref(), Some("c/c"));
    assert_eq!(watched.news().ours, BTreeSet::from([name()]));
}

#[test]
fn what_was_deleted_does_not_come_back_by_old_news() {
    let watched = watched();
    watched.apply(Kind::Sidecar, &sidecar(5, "u", true, "a/a"));
    watched.deleted(Kind::Sidecar, &name(), "u");
    watched.apply(Kind::Sidecar, &sidecar(5, "u", true, "a/a"));
    assert_eq!(host(&watched), None);
    watched.apply(Kind::Sidecar, &sidecar(9, "v", false, "z/z"));
    assert_eq!(host(&watched).as_deref(), Some("z/z"));
}

#[test]
fn what_becomes_ours_or_a_user_s_is_planned_anew() {
    let watched = watched();
    watched.apply(Kind::Sidecar, &sidecar(5, "u", false, "a/a"));
    assert_eq!(watched.news().namespaces, BTreeSet::from(["shop".into()]));
    watched.apply(Kind::Sidecar, &sidecar(6, "u", true, "a/a"));
    assert_eq!(watched.news().namespaces, BTreeSet::from(["shop".into()]));
    watched.apply(Kind::Sidecar, &sidecar(7, "u", true, "b/b"));
    let news = watched.news();
    assert!(news.namespaces.is_empty() && news.ours.contains(&name()));
}

#[tokio::test]
async fn synced_once_every_kind_is_listed_or_absent() {
    let watched = watched();
    for kind in Kind::ALL {
        assert!(watched.unlisted().contains(&kind));
        if kind == Kind::TcpRoute {
            watched.absent(kind);
        } else {
            watched.listed(kind, &BTreeSet::new());
        }
    }
    assert!(watched.unlisted().is_empty());
    watched.synced().await;
}

#[test]
fn a_kind_that_may_not_be_listed_is_said_until_it_may() {
    let watched = watched();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod) {
        watched.listed(kind, &BTreeSet::new());
    }
    watched.failed(Kind::Pod, "forbidden");
    let expected = BTreeMap::from([(Kind::Pod, "forbidden".to_owned())]);
    assert_eq!(watched.troubles(), expected);
    watched.listed(Kind::Pod, &BTreeSet::new());
    assert_eq!(watched.troubles(), BTreeMap::new());
}

#[test]
fn an_object_that_cannot_be_read_is_counted_and_left_out() {
    let watched = watched();
    let mut broken = sidecar(5, "u", false, "a/a");
    broken.data["spec"]["egress"] = json!("no list");
    watched.apply(Kind::Sidecar, &broken);
    assert_eq!(host(&watched), None);
    assert!(watched.news().everything);
    assert_eq!(watched.world().read().unreadable().count(), 1);
}

#[test]
fn a_new_fallback_is_planned_for_and_a_changed_one_is_not() {
    let filter = |revision: u64, created: &str| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
            "metadata": {"name": "lazymesh-fallback", "namespace": "shop", "uid": "u", "creationTimestamp": created,
                         "resourceVersion": revision.to_string(), "labels": {MANAGED_BY.0: MANAGED_BY.1}},
            "spec": {"priority": revision},
        }))
        .unwrap()
    };
    let watched = watched();
    watched.wrote(Kind::EnvoyFilter, &filter(5, "2026-01-01T00:00:00Z"));
    assert_eq!(watched.news().namespaces, BTreeSet::from(["shop".into()]));
    watched.wrote(Kind::EnvoyFilter, &filter(6, "2026-01-01T00:00:00Z"));
    assert!(watched.news().is_empty());
    watched.apply(Kind::EnvoyFilter, &filter(7, "2026-01-01T00:00:01Z"));
    assert_eq!(watched.news().namespaces, BTreeSet::from(["shop".into()]));
}
