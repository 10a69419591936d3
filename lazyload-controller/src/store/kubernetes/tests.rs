//! What Kubernetes' events and errors mean.

use kube::core::response::{Status, StatusCause, StatusDetails};

use prometheus::Registry;
use serde_json::{Value, json};

use super::*;

fn api_error(code: u16, reason: &str, kind: &str, cause: Option<&str>) -> Error {
    let causes = cause.map(|reason| StatusCause {
        reason: reason.into(),
        message: String::new(),
        field: String::new(),
    });
    let causes: Vec<_> = causes.into_iter().collect();
    let details = StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: kind.into(),
        uid: String::new(),
        causes,
        retry_after_seconds: 0,
    };
    let status = Status::failure("m", reason)
        .with_code(code)
        .with_details(details);
    fault(&kube::Error::Api(status.boxed()))
}

#[test]
fn only_what_can_never_work_is_given_up() {
    for (code, reason, kind, cause) in [
        (404, "NotFound", "namespaces", None),
        (403, "Forbidden", "", Some("NamespaceTerminating")),
        (422, "Invalid", "", None),
        (413, "RequestEntityTooLarge", "", None),
    ] {
        let fault = api_error(code, reason, kind, cause);
        assert!(matches!(fault, Error::Unwritable(_)), "{code} {fault:?}");
    }
    for (code, reason) in [
        (403, "Forbidden"),
        // The CRD is not there yet.
        (404, "NotFound"),
        (401, "Unauthorized"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
    ] {
        let fault = api_error(code, reason, "", None);
        assert!(matches!(fault, Error::Unavailable(_)), "{code} {fault:?}");
    }
}

#[test]
fn a_revision_that_is_no_number_is_the_latest() {
    let mut resource = new_record(&Workload::new("shop", "Deployment", "a").unwrap());
    resource.metadata.resource_version = Some("41".into());
    assert_eq!(revision(&resource.metadata), 41);
    resource.metadata.resource_version = Some("opaque".into());
    assert_eq!(revision(&resource.metadata), u64::MAX);
}

fn guard(name: &str, version: u64, spec: &Value) -> Guarded {
    serde_json::from_value(json!({
        "apiVersion": "lazymesh.dev/v1alpha1", "kind": "WorkloadDependencies",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version.to_string()},
        "spec": spec,
    }))
    .unwrap()
}

fn good(name: &str, version: u64) -> Guarded {
    let spec = json!({"workloadRef": {"kind": "Deployment", "name": name}});
    guard(&format!("deployment-{name}"), version, &spec)
}

#[test]
fn a_record_that_cannot_be_read_any_more_keeps_its_last_good_state() {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let state = State::new(metrics.clone());
    let (stale, _of_stale) = mpsc::channel(1);
    let mut records = Records {
        state: &state,
        stale: &stale,
        metrics: &metrics,
        listed: HashSet::new(),
        as_of: 0,
    };
    let workload = Workload::new("shop", "Deployment", "a").unwrap();
    for event in [Event::Init, Event::InitApply(good("a", 1)), Event::InitDone] {
        records.take_in(event);
    }
    let broken = |version| guard("deployment-a", version, &json!({"workloadRef": 7}));
    records.take_in(Event::Apply(broken(2)));
    assert!(state.record(&workload).is_some());
    // The watch breaks, and what is there is listed anew.
    for event in [
        Event::Init,
        Event::InitApply(broken(2)),
        Event::InitApply(good("b", 3)),
        Event::InitDone,
    ] {
        records.take_in(event);
    }
    assert!(state.record(&workload).is_some());
    assert_eq!(metrics.unreadable.get(), 2);
    records.take_in(Event::Delete(broken(4)));
    assert!(state.record(&workload).is_none());
    assert_eq!(metrics.records.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_is_given_up() {
    let hanging = std::future::pending::<Result<(), Error>>();
    assert!(matches!(in_time(hanging).await, Err(Error::Unavailable(_))));
}
