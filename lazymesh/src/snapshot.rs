//! What there is in a cluster, as far as this command looks.

use std::collections::BTreeMap;

use dependency_graph::{Mode, Workload};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::Deserialize;
use workload_dependencies::WorkloadDependencies;

/// Read at about the same time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Lazymesh's own.
    pub system_namespace: String,
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Of the namespaces that were asked for.
    pub records: Vec<WorkloadDependencies>,
    /// Of the namespaces that were asked for.
    pub pods: Vec<Pod>,
    /// Of Lazymesh's own namespace.
    pub system_pods: Vec<Pod>,
    /// Whose holder writes Sidecars, if there is one.
    pub lease: Option<Lease>,
    /// What the shims that were asked have open; absent if none was asked.
    pub streams: Option<Vec<Stream>>,
    /// How many shims that were.
    pub shims_asked: usize,
    /// What could not be read, and why.
    pub unread: Vec<(&'static str, String)>,
}

/// A sidecar's stream, as a shim's `/debug/streams` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Stream {
    /// The proxy's node id, `sidecar~IP~POD.NAMESPACE~...`.
    pub proxy: String,
    /// `on_demand`, or the reason why the proxy is given everything.
    pub treatment: String,
    /// The workload it is of, `namespace/name`.
    pub workload: Option<String>,
    /// What is held and given.
    #[serde(default)]
    pub clusters: Option<Clusters>,
}

/// Outbound clusters of one sidecar.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Clusters {
    /// Kept back.
    pub held: u64,
    /// The proxy has them.
    pub admitted: u64,
    /// Why nothing is held, where that is so.
    #[serde(default)]
    pub whole: Option<String>,
}

impl Stream {
    /// The pod's namespace and name.
    #[must_use]
    pub fn pod(&self) -> Option<(&str, &str)> {
        let (name, namespace) = self.proxy.split('~').nth(2)?.rsplit_once('.')?;
        Some((namespace, name))
    }
}

impl Snapshot {
    /// What a namespace's label says; nothing when there is none, or it is no mode.
    #[must_use]
    pub fn mode_of_namespace(&self, namespace: &str) -> Option<Mode> {
        let labels = self.namespaces.get(namespace)?.metadata.labels.as_ref()?;
        labels.get(dependency_graph::mode::LABEL)?.parse().ok()
    }

    /// Whether all of Lazymesh is paused, as far as its namespace was read.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let own = self.namespaces.get(&self.system_namespace);
        let labels = own.and_then(|own| own.metadata.labels.as_ref());
        labels
            .and_then(|labels| labels.get(dependency_graph::mode::PAUSED))
            .is_some_and(|says| says == "true")
    }

    /// The mode in force: off while all is paused, else the record's, else the namespace's. A pod template's label is not looked at.
    #[must_use]
    pub fn mode_of(&self, record: &WorkloadDependencies) -> Mode {
        let namespace = record.metadata.namespace.as_deref().unwrap_or_default();
        self.mode_in(namespace, Some(record))
    }

    /// The same of a workload of a namespace, with its record if there is one.
    #[must_use]
    pub fn mode_in(&self, namespace: &str, record: Option<&WorkloadDependencies>) -> Mode {
        if self.is_paused() {
            return Mode::Off;
        }
        let own = record.and_then(|record| record.spec.mode.map(Mode::from));
        own.or_else(|| self.mode_of_namespace(namespace))
            .unwrap_or(Mode::Off)
    }

    /// The record of a workload.
    #[must_use]
    pub fn record(&self, workload: &Workload) -> Option<&WorkloadDependencies> {
        let named = workload.record_name();
        self.records.iter().find(|record| {
            let meta = &record.metadata;
            meta.namespace.as_deref() == Some(workload.namespace())
                && meta.name.as_deref() == Some(&named)
        })
    }
}
