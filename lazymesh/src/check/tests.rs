use serde_json::{Value, json};

use super::*;
use crate::fixture::{namespace, read, record, with_condition};

const NOW: u64 = 1_767_312_000; // 2026-01-02T00:00:00Z

fn pod(
    namespace: &str,
    name: &str,
    containers: &[&str],
    more: Value,
) -> k8s_openapi::api::core::v1::Pod {
    let containers: Vec<_> = containers
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    let mut pod = json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"containers": containers},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    if let (Some(metadata), Value::Object(more)) = (pod["metadata"].as_object_mut(), more) {
        metadata.extend(more);
    }
    read(pod)
}

fn behind_shim() -> Value {
    json!({"annotations": {"proxy.istio.io/config": "discoveryAddress: xds-shim.lazymesh-system.svc:15012\n"}})
}

/// All parts there and ready, and a pod in each mode that is as it should be.
fn healthy() -> Snapshot {
    let mut snapshot = Snapshot {
        system_namespace: "lazymesh-system".into(),
        ..Snapshot::default()
    };
    namespace(&mut snapshot, "shop", "on-demand");
    namespace(&mut snapshot, "bank", "sidecar");
    let system =
        |name: &str, containers: &[&str]| pod("lazymesh-system", name, containers, json!({}));
    snapshot.system_pods = vec![
        system("controller", &["lazyload-controller"]),
        system("shim", &["xds-shim"]),
        system("proxy", &["global-proxy", "istio-proxy"]),
    ];
    snapshot.pods = vec![
        pod("shop", "web", &["app", "istio-proxy"], behind_shim()),
        pod("bank", "web", &["app", "istio-proxy"], json!({})),
        pod("plain", "web", &["app"], json!({})),
    ];
    snapshot.records = vec![with_condition(
        record("bank", "web", &[]),
        "SidecarWritten",
        true,
        "Written",
    )];
    snapshot.lease = Some(lease("2026-01-01T23:59:55.000000Z"));
    snapshot
}

fn lease(renewed: &str) -> k8s_openapi::api::coordination::v1::Lease {
    read(json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": renewed}}))
}

/// The words of what is found once something is planted.
fn planted(plant: impl FnOnce(&mut Snapshot)) -> Vec<&'static str> {
    let mut snapshot = healthy();
    plant(&mut snapshot);
    let found = findings(&snapshot, Timestamp::from_seconds(NOW));
    assert!(
        found
            .iter()
            .all(|one| !one.hint.is_empty() && !one.of.is_empty())
    );
    found.into_iter().map(|one| one.problem).collect()
}

#[test]
fn nothing_is_said_of_a_healthy_mesh() {
    let found = findings(&healthy(), Timestamp::from_seconds(NOW));
    assert_eq!(found, []);
    assert_eq!(show(&found, Format::Table).unwrap(), "nothing found\n");
}

#[test]
fn a_pause_is_said() {
    let paused = json!({"metadata": {"labels": {"lazymesh.dev/paused": "true"}}});
    let pause = |s: &mut Snapshot| {
        s.namespaces.insert("lazymesh-system".into(), read(paused));
    };
    assert_eq!(planted(pause), ["paused"]);
}

#[test]
fn nothing_is_wanted_where_nobody_opted_in() {
    assert!(findings(&Snapshot::default(), Timestamp::from_seconds(NOW)).is_empty());
}

#[test]
fn parts_that_are_missing_are_found() {
    for part in 0..3 {
        assert_eq!(
            planted(|s| drop(s.system_pods.remove(part))),
            ["part-down"],
            "{part}"
        );
    }
    let unready = |s: &mut Snapshot| s.system_pods[1].status = None;
    assert_eq!(planted(unready), ["part-down"]);
    let bare = |s: &mut Snapshot| {
        s.system_pods[2] = pod("lazymesh-system", "proxy", &["global-proxy"], json!({}))
    };
    assert_eq!(planted(bare), ["no-sidecar"]);
}

#[test]
fn a_lease_that_nobody_renews_is_found() {
    assert_eq!(planted(|s| s.lease = None), ["no-leader"]);
    assert_eq!(
        planted(|s| s.lease = Some(lease("2026-01-01T23:00:00.000000Z"))),
        ["no-leader"]
    );
    assert_eq!(
        planted(|s| s.lease = Some(lease("2026-01-02T01:00:00.000000Z"))),
        ["clock"]
    );
}

#[test]
fn a_native_sidecar_is_one() {
    let native = |s: &mut Snapshot| {
        let mut pod = pod("shop", "native", &["app"], behind_shim());
        pod.spec.get_or_insert_default().init_containers = Some(read(
            json!([{"name": "istio-proxy", "restartPolicy": "Always"}]),
        ));
        s.pods.push(pod);
    };
    assert!(planted(native).is_empty());
}

#[test]
fn pods_that_are_not_as_they_should_be_are_found() {
    let add = |containers: &'static [&str], more: Value| {
        move |s: &mut Snapshot| s.pods.push(pod("shop", "x", containers, more))
    };
    assert_eq!(
        planted(add(&["app", "istio-proxy"], json!({}))),
        ["not-behind-shim"]
    );
    assert_eq!(planted(add(&["app"], json!({}))), ["not-injected"]);
    for by in ["annotations", "labels"] {
        let no = json!({by: {"sidecar.istio.io/inject": "false"}});
        assert!(planted(add(&["app"], no)).is_empty());
    }
    let istiods = json!({"annotations": {"proxy.istio.io/config": "discoveryAddress: istiod.istio-system.svc:15012"}});
    assert_eq!(
        planted(add(&["app", "istio-proxy"], istiods)),
        ["not-behind-shim"]
    );
    let odd = json!({"labels": {"lazymesh.dev/mode": "ondemand"}, "annotations": behind_shim()["annotations"]});
    assert_eq!(planted(add(&["istio-proxy"], odd)), ["unknown-mode"]);
    let off = json!({"labels": {"lazymesh.dev/mode": "off"}});
    assert!(planted(add(&["app", "istio-proxy"], off)).is_empty());
    assert_eq!(
        planted(|s| namespace(s, "typo", "on_demand")),
        ["unknown-mode"]
    );
}

#[test]
fn what_shims_say_is_looked_at() {
    let said = |proxy: &str, treatment: &str| {
        let stream = json!([{"proxy": format!("sidecar~10.0.0.1~{proxy}~shop.svc.cluster.local"), "treatment": treatment, "workload": "shop/web"}]);
        move |s: &mut Snapshot| (s.streams, s.shims_asked) = (Some(read(stream)), 1)
    };
    assert!(planted(said("web.shop", "on_demand")).is_empty());
    assert_eq!(planted(said("web.shop", "old_envoy")), ["not-lazy"]);
    assert_eq!(planted(said("other.shop", "on_demand")), ["not-connected"]);
    // Behind which of two it is one of them alone cannot say.
    let other = said("other.shop", "on_demand");
    let two = |s: &mut Snapshot| {
        other(s);
        let second = s.system_pods[1].clone();
        s.system_pods.push(second);
    };
    assert_eq!(planted(two), ["shims-not-asked"]);
}

#[test]
fn a_records_mode_comes_first() {
    let owned = json!({
        "labels": {"pod-template-hash": "5d"}, "annotations": {},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x-5d", "uid": "1", "controller": true}],
    });
    let with = |mode: &'static str| {
        let owned = owned.clone();
        move |s: &mut Snapshot| {
            s.pods
                .push(pod("shop", "x-5d-1", &["app", "istio-proxy"], owned));
            let mut record = record("shop", "x", &[]);
            record.spec.mode = read(json!(mode));
            s.records.push(record);
        }
    };
    assert!(planted(with("off")).is_empty());
    assert_eq!(planted(with("on-demand")), ["not-behind-shim"]);
}

#[test]
fn conditions_are_said_with_what_to_do() {
    let with = |kind: &'static str, holds| {
        move |s: &mut Snapshot| {
            s.records
                .push(with_condition(record("shop", "x", &[]), kind, holds, kind))
        }
    };
    for (kind, word) in [
        ("UserSidecar", "user-sidecar"),
        ("NoEvidence", "stale-graph"),
        ("Capped", "capped"),
    ] {
        assert_eq!(planted(with(kind, true)), [word]);
        assert!(planted(with(kind, false)).is_empty());
    }
    assert_eq!(planted(with("SidecarWritten", false)), ["sidecar-failed"]);
    assert_eq!(planted(with("Newer", true)), ["condition"]);
}

#[test]
fn what_could_not_be_read_is_said_and_nothing_made_of_it() {
    let denied = |s: &mut Snapshot| {
        (s.system_pods, s.pods) = Default::default();
        s.unread.push(("pods", "forbidden".into()));
    };
    assert_eq!(planted(denied), ["unread"]);
    let denied = |s: &mut Snapshot| {
        s.lease = None;
        s.unread
            .push(("the controllers' Lease", "forbidden".into()));
    };
    assert_eq!(planted(denied), ["unread"]);
}
