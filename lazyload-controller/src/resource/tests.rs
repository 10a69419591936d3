//! Reading and writing records, without a cluster.

use dependency_graph::{Learned, Mode, Port, Protocol, Source, Timestamp, Workload};
use serde_json::json;

use super::*;
use crate::limits::Limits;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn calls(hosts: &[&str], seen: u64) -> Learned {
    let mut learned = Learned::new();
    for host in hosts {
        let (host, port) = (host.parse().unwrap(), Port::try_from(80).unwrap());
        let protocol = Protocol::Http;
        let dependency = dependency_graph::Dependency {
            host,
            port,
            protocol,
        };
        learned.see(&dependency, at(seen), Source::OnDemand);
    }
    learned
}

fn fresh() -> WorkloadDependencies {
    let mut resource = new_record(&Workload::new("shop", "Deployment", "reviews").unwrap());
    resource.metadata.generation = Some(1);
    resource
}

/// The resource after learning, and whether that wrote.
fn after(
    mut resource: WorkloadDependencies,
    calls: &Learned,
    limits: &Limits,
) -> (WorkloadDependencies, bool) {
    let learning = learn(&resource, calls, limits, at(1000)).unwrap();
    let wrote = learning.status.is_some();
    resource.status = learning.status.or(resource.status);
    assert_eq!(
        entry(&resource).unwrap(),
        learning.entry,
        "it reads back as it was told"
    );
    (resource, wrote)
}

#[test]
fn what_is_learned_is_written_and_read_back() {
    let (resource, wrote) = after(
        fresh(),
        &calls(&["a.shop", "b.shop"], 7),
        &Limits::default(),
    );
    assert!(wrote);
    let status = resource.status.as_ref().unwrap();
    assert_eq!(
        (status.dependency_count, status.phase),
        (2, Some(Phase::Learning))
    );
    assert_eq!(
        status.last_learned.as_ref().unwrap().0.to_string(),
        "1970-01-01T00:00:07Z"
    );
    assert_eq!(status.observed_generation, Some(1));
    let json = serde_json::to_value(&status.dependencies[0]).unwrap();
    let expected = json!({
        "host": "a.shop", "ports": [80], "protocol": "HTTP", "source": "OnDemand",
        "firstSeen": "1970-01-01T00:00:07Z", "lastSeen": "1970-01-01T00:00:07Z",
    });
    assert_eq!(json, expected);
}

#[test]
fn learning_the_same_again_writes_nothing() {
    let some = calls(&["a.shop"], 7);
    let (resource, _) = after(fresh(), &some, &Limits::default());
    let (resource, wrote) = after(resource, &some, &Limits::default());
    assert!(!wrote);
    let (_, wrote) = after(resource, &Learned::new(), &Limits::default());
    assert!(!wrote);
}

#[test]
fn a_changed_spec_is_stale_until_written_again() {
    let (mut resource, _) = after(fresh(), &calls(&["a.shop"], 7), &Limits::default());
    assert!(!entry(&resource).unwrap().stale);
    resource.metadata.generation = Some(2);
    assert!(entry(&resource).unwrap().stale);
    let (resource, wrote) = after(resource, &Learned::new(), &Limits::default());
    assert!(wrote && !entry(&resource).unwrap().stale);
}

#[test]
fn the_limit_is_said_until_there_is_room_again() {
    let two = Limits {
        dependencies: 2,
        ..Limits::default()
    };
    let learning = learn(
        &fresh(),
        &calls(&["a.shop", "b.shop", "c.shop"], 7),
        &two,
        at(9),
    )
    .unwrap();
    assert_eq!((learning.refused, learning.entry.capped), (1, true));
    let mut resource = WorkloadDependencies {
        status: learning.status,
        ..fresh()
    };
    // Refused again: nothing new to say, and the condition's time stays.
    let again = learn(&resource, &calls(&["d.shop"], 8), &two, at(99)).unwrap();
    assert_eq!((again.refused, again.status), (1, None));
    let room = learn(&resource, &Learned::new(), &Limits::default(), at(99)).unwrap();
    let condition = &room.status.as_ref().unwrap().conditions[0];
    assert_eq!(
        (condition.status.as_str(), room.entry.capped),
        ("False", false)
    );
    assert_eq!(condition.last_transition_time.0.as_second(), 99);
    resource.status = room.status;
    assert!(!entry(&resource).unwrap().capped);
}

#[test]
fn conditions_of_others_stay() {
    let (mut resource, _) = after(fresh(), &calls(&["a.shop"], 7), &Limits::default());
    let mut other = resource.status.as_ref().unwrap().conditions[0].clone();
    other.type_ = "SidecarConflict".into();
    resource
        .status
        .as_mut()
        .unwrap()
        .conditions
        .insert(0, other.clone());
    let (resource, _) = after(resource, &calls(&["b.shop"], 8), &Limits::default());
    assert!(resource.status.unwrap().conditions.contains(&other));
}

#[test]
fn pins_and_modes_are_read_and_left_alone() {
    let mut resource = fresh();
    resource.spec.mode = Some(ModeName::Observe);
    resource.spec.pinned = vec![Pinned {
        host: "*.db".into(),
        ports: vec![5432, 1],
    }];
    let spec = resource.spec.clone();
    let (resource, _) = after(resource, &calls(&["a.shop"], 7), &Limits::default());
    assert_eq!(resource.spec, spec);
    let record = entry(&resource).unwrap().record;
    assert_eq!((record.mode, record.pinned.len()), (Some(Mode::Observe), 1));
}

#[test]
fn what_cannot_be_read_is_said_and_never_written_over() {
    let broken = |edit: fn(&mut WorkloadDependencies)| {
        let (mut resource, _) = after(fresh(), &calls(&["a.shop"], 7), &Limits::default());
        edit(&mut resource);
        let refused = learn(&resource, &calls(&["b.shop"], 8), &Limits::default(), at(9));
        assert!(refused.is_err());
        entry(&resource).unwrap_err().to_string()
    };
    assert!(broken(|r| r.metadata.name = Some("reviews".into())).contains("deployment-reviews"));
    assert!(broken(|r| r.metadata.namespace = None).contains("namespace"));
    assert!(broken(|r| r.spec.workload_ref.kind = "deployment".into()).contains("kind"));
    let bad_pin = |r: &mut WorkloadDependencies| {
        r.spec.pinned = vec![Pinned {
            host: "a.b".into(),
            ports: vec![-1],
        }];
    };
    assert!(broken(bad_pin).contains("port -1"));
    assert!(
        broken(|r| r.status.as_mut().unwrap().dependencies[0].protocol = "UDP".into())
            .contains("UDP")
    );
    assert!(
        broken(|r| r.status.as_mut().unwrap().dependencies[0].source = "Magic".into())
            .contains("Magic")
    );
    assert!(
        broken(|r| r.status.as_mut().unwrap().dependencies[0].host = "A".into()).contains("host")
    );
}

#[test]
fn modes_of_the_resource_are_those_of_the_label() {
    for mode in [
        ModeName::OnDemand,
        ModeName::Sidecar,
        ModeName::Observe,
        ModeName::Off,
    ] {
        assert_eq!(
            serde_json::to_value(mode).unwrap(),
            json!(Mode::from(mode).as_str())
        );
    }
}

#[test]
fn the_manifest_has_no_bare_off() {
    let manifest = manifest().unwrap();
    assert!(manifest.contains("- 'off'\n"));
    assert!(!manifest.contains("- off\n"));
}

#[test]
fn learning_leaves_the_phase_that_is_said() {
    let (mut resource, _) = after(fresh(), &calls(&["a.shop"], 7), &Limits::default());
    resource.spec.settle_after = Some("24h".into());
    let day = std::time::Duration::from_secs(86_400);
    assert_eq!(entry(&resource).unwrap().settle_after, Some(Ok(day)));
    let said = [crate::settle::said(Ok("shop/x"))].into();
    resource.status = conditions::say(&resource, &said, at(9)).unwrap().status;
    let phase = |resource: &WorkloadDependencies| resource.status.as_ref().unwrap().phase;
    assert_eq!(phase(&resource), Some(Phase::Settled));
    let (mut resource, wrote) = after(resource, &calls(&["b.shop"], 8), &Limits::default());
    assert_eq!((phase(&resource), wrote), (Some(Phase::Settled), true));
    let none = std::collections::BTreeSet::new();
    resource.status = conditions::say(&resource, &none, at(10)).unwrap().status;
    assert_eq!(phase(&resource), Some(Phase::Learning));
}
