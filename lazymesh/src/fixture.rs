//! Values for tests.

use serde_json::{Value, json};
use workload_dependencies::WorkloadDependencies;

use crate::snapshot::Snapshot;

/// A Deployment's record that learned these hosts with their ports.
pub(crate) fn record(
    namespace: &str,
    name: &str,
    learned: &[(&str, &[i32])],
) -> WorkloadDependencies {
    let dependencies = learned.iter().map(|(host, ports)| {
        json!({
            "host": host, "ports": ports, "protocol": "HTTP", "source": "OnDemand",
            "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": "2026-01-02T00:00:00Z",
        })
    });
    let count: usize = learned.iter().map(|(_, ports)| ports.len()).sum();
    read(json!({
        "apiVersion": "lazymesh.dev/v1alpha1", "kind": "WorkloadDependencies",
        "metadata": {"namespace": namespace, "name": format!("deployment-{name}")},
        "spec": {"workloadRef": {"kind": "Deployment", "name": name}},
        "status": {
            "phase": "Learning", "dependencyCount": count, "lastLearned": "2026-01-01T00:00:00Z",
            "dependencies": dependencies.collect::<Vec<_>>(),
        },
    }))
}

/// The record with a condition.
pub(crate) fn with_condition(
    mut record: WorkloadDependencies,
    kind: &str,
    holds: bool,
    reason: &str,
) -> WorkloadDependencies {
    let condition = json!({
        "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason,
        "message": format!("{reason}, in full"), "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = record.status.get_or_insert_default();
    status.conditions.push(read(condition));
    record
}

/// A namespace with this mode.
pub(crate) fn namespace(snapshot: &mut Snapshot, name: &str, mode: &str) {
    let namespace = json!({"metadata": {"name": name, "labels": {"lazymesh.dev/mode": mode}}});
    snapshot.namespaces.insert(name.to_owned(), read(namespace));
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
