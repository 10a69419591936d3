//! There and back, and what a peer may get wrong.

use proptest::prelude::*;

use super::*;
use crate::strategies::{any_dependency, any_record, any_workload, dependency, workload};

fn good() -> api::Observation {
    Observation {
        workload: workload("shop/reviews"),
        dependency: dependency("a.b:80"),
        seen: Some(Timestamp::from_seconds(7)),
    }
    .into()
}

fn broken(edit: impl FnOnce(&mut api::Observation)) -> Error {
    let mut message = good();
    edit(&mut message);
    Observation::try_from(message).unwrap_err()
}

#[test]
fn every_fault_of_an_observation_is_named() {
    assert!(Observation::try_from(good()).is_ok());
    assert_eq!(broken(|m| m.workload = None), Error::Missing("workload"));
    assert_eq!(
        broken(|m| m.dependency = None),
        Error::Missing("dependency")
    );
    assert_eq!(
        broken(|m| m.seen.as_mut().unwrap().seconds = -1),
        Error::Time(-1)
    );
    assert_eq!(
        broken(|m| m.seen.as_mut().unwrap().seconds = i64::MAX),
        Error::Time(i64::MAX)
    );
    let of_workload = broken(|m| m.workload.as_mut().unwrap().kind.clear());
    assert!(matches!(of_workload, Error::Workload(_)));
    let in_dependency =
        |edit: fn(&mut api::Dependency)| broken(|m| edit(m.dependency.as_mut().unwrap()));
    assert!(matches!(
        in_dependency(|d| d.host = "a|b".into()),
        Error::Host(_)
    ));
    assert_eq!(in_dependency(|d| d.port = 0), Error::Port(PortError(0)));
    assert_eq!(
        in_dependency(|d| d.port = 70_000),
        Error::Port(PortError(70_000))
    );
    assert_eq!(
        in_dependency(|d| d.protocol = 0),
        Error::Missing("protocol")
    );
    let unknown = Error::Unknown {
        name: "protocol",
        value: 9,
    };
    assert_eq!(in_dependency(|d| d.protocol = 9), unknown);
}

#[test]
fn modes_go_there_and_back() {
    for given in Mode::ALL.into_iter().map(Some).chain([None]) {
        assert_eq!(mode(mode_message(given).into()), Ok(given));
    }
    assert_eq!(
        mode(17),
        Err(Error::Unknown {
            name: "mode",
            value: 17
        })
    );
}

#[test]
fn namespaces_go_there_and_back() {
    for mode in Mode::ALL.into_iter().map(Some).chain([None]) {
        for fallback in Policy::ALL {
            let says = Namespace {
                mode,
                fallback,
                ..Namespace::default()
            };
            let message = namespace_mode("shop", says);
            assert_eq!(message.namespace, "shop");
            assert_eq!(namespace(&message), Ok(says));
        }
    }
    let explicit = api::FallbackPolicy::PreferRedirect;
    assert_eq!(policy(explicit.into()), Ok(Policy::PreferRedirect));
    let unknown = Error::Unknown {
        name: "fallback policy",
        value: 9,
    };
    assert_eq!(policy(9), Err(unknown));
}

#[test]
fn pinned_hosts_are_told_with_learned_ones() {
    let ports = [80, 81].map(|port: u32| port.try_into().unwrap());
    let mut record = Record {
        mode: Some(Mode::Off),
        ..Record::default()
    };
    record.learned.see(
        &dependency("a.b:80"),
        Timestamp::default(),
        crate::Source::OnDemand,
    );
    record.pinned.insert(Pin {
        host: "c.d".parse().unwrap(),
        ports: ports.into(),
    });
    record.pinned.insert(Pin {
        host: "*.e".parse().unwrap(),
        ports: [].into(),
    });
    let state = workload_state(&workload("shop/reviews"), &record);
    let told: Vec<_> = state
        .dependencies
        .iter()
        .map(|d| (d.host.as_str(), d.port, d.protocol))
        .collect();
    assert_eq!(
        told,
        [
            ("a.b", 80, 1),
            ("*.e", 0, 0),
            ("c.d", 80, 0),
            ("c.d", 81, 0)
        ]
    );
    assert_eq!(state.mode(), api::Mode::Off);
}

proptest! {
    #[test]
    fn observations_go_there_and_back(
        workload in any_workload(), dependency in any_dependency(), seen in proptest::option::of(0_u64..253_402_300_799)
    ) {
        let seen = seen.map(Timestamp::from_seconds);
        let observation = Observation { workload, dependency, seen };
        prop_assert_eq!(Observation::try_from(api::Observation::from(observation.clone())), Ok(observation));
    }

    #[test]
    fn what_is_told_can_be_read(record in any_record()) {
        let state = workload_state(&workload("shop/reviews"), &record);
        let learned = record.learned.len();
        for (index, message) in state.dependencies.iter().enumerate() {
            let (_, port, protocol) = watched(message).unwrap();
            prop_assert_eq!(protocol.is_some(), index < learned);
            prop_assert!(port.is_some() || index >= learned);
        }
    }
}
