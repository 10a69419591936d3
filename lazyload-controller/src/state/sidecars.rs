//! What the mode `sidecar`, and settling, ask of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dependency_graph::{Graph, Source, Timestamp, Workload, mode};
use ipnet::IpNet;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Known, State};
use crate::resource::{Entry, Said};
use crate::settle::{self, Wish};

impl State {
    /// Sets the ranges of services' addresses, as watchers are told.
    pub fn set_service_cidrs(&self, cidrs: Vec<IpNet>) {
        self.cidrs.send_if_modified(|known| {
            let other = *known != cidrs;
            *known = cidrs;
            other
        });
    }

    /// The ranges of services' addresses, and what becomes of them.
    #[must_use]
    pub fn service_cidrs(&self) -> watch::Receiver<Vec<IpNet>> {
        self.cidrs.subscribe()
    }

    /// Whether all of Lazymesh is paused, and what becomes of that.
    #[must_use]
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Looks at what the own namespace says of that.
    pub(super) fn see_pause(&self) {
        let says = self.namespace(&self.own_namespace).paused;
        let changed = self
            .paused
            .send_if_modified(|paused| std::mem::replace(paused, says) != says);
        match (changed, says) {
            (true, true) => warn!(
                namespace = &*self.own_namespace,
                label = mode::PAUSED,
                "paused: all is in mode off"
            ),
            (true, false) => info!("no longer paused"),
            (false, _) => {}
        }
    }

    /// The whole graph, as it is told: with what is on its way to the store, as seen at `now`.
    #[must_use]
    pub fn told_graph(&self, now: Timestamp) -> Graph {
        let inner = self.inner.lock();
        let mut graph = inner.graph.clone();
        for (workload, calls) in &inner.ahead {
            let stored = graph.workload(workload).cloned();
            let mut record = stored.map(Arc::unwrap_or_clone).unwrap_or_default();
            for call in calls.dependencies() {
                record.learned.see(&call, now, Source::OnDemand);
            }
            graph.set_workload(workload, Some(record));
        }
        graph
    }

    /// What the record of a workload says of the mode `sidecar`; `None` if it has none.
    #[must_use]
    pub fn said(&self, workload: &Workload) -> Option<BTreeSet<Said>> {
        let inner = self.inner.lock();
        inner.known.get(workload).map(|known| known.said.clone())
    }

    /// What the record of a workload says of settling.
    #[must_use]
    pub fn wish(&self, workload: &Workload) -> Wish {
        let inner = self.inner.lock();
        inner.known.get(workload).map(wish).unwrap_or_default()
    }

    /// What records say of settling, of those that say anything. It looks at every one.
    #[must_use]
    pub fn wishes(&self) -> BTreeMap<Workload, Wish> {
        let inner = self.inner.lock();
        let known = inner.known.iter();
        known
            .map(|(workload, known)| (workload, wish(known)))
            .filter(|(_, wish)| *wish != Wish::default())
            .map(|(workload, wish)| (workload.clone(), wish))
            .collect()
    }

    /// Whether just this is known of a record.
    #[must_use]
    pub fn knows(&self, entry: &Entry) -> bool {
        let inner = self.inner.lock();
        let record = inner.graph.workload(&entry.workload);
        let known = inner.known.get(&entry.workload);
        record.is_some_and(|record| **record == entry.record)
            && known.is_some_and(|known| {
                known.keeping == entry.keeping
                    && known.said == entry.said
                    && known.settle_after == entry.settle_after
            })
    }

    /// The workloads of a namespace whose records say something of the mode `sidecar`. It looks at every one.
    #[must_use]
    pub fn saying(&self, namespace: &str) -> Vec<Workload> {
        let inner = self.inner.lock();
        let known = inner.known.iter();
        known
            .filter(|(w, known)| w.namespace() == namespace && !known.said.is_empty())
            .map(|(workload, _)| workload.clone())
            .collect()
    }
}

fn wish(known: &Known) -> Wish {
    Wish {
        after: known.settle_after.clone(),
        begun: settle::begun(&known.said),
    }
}
