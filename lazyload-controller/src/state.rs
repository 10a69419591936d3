//! What this replica knows: the graph as of the store, and who must be told what of it changed.
//!
//! It is fed from two sides: by the store's own watch, and by each write as it is done, so that what was learned is
//! told without waiting for the store to echo it. Revisions keep an echo that is older than the write from undoing it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::{Change, Dependency, Graph, Mode, Observed, Record, Timestamp, Workload};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::resource::Entry;

/// A record of a store with the revision at which it was so. Later states have greater revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned {
    /// The record.
    pub entry: Entry,
    /// The revision.
    pub revision: u64,
}

/// The two things a store tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Synced {
    /// The modes of namespaces are known.
    pub namespaces: bool,
    /// The records are known.
    pub records: bool,
}

/// What this replica knows. Clones share it.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Mutex<Inner>>,
    synced: Arc<watch::Sender<Synced>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Inner {
    graph: Graph,
    known: HashMap<Workload, Known>,
    per_namespace: HashMap<String, usize>,
    dependencies: usize,
    watchers: HashMap<u64, Arc<Told>>,
    next_watcher: u64,
}

#[derive(Debug)]
struct Known {
    revision: u64,
    capped: bool,
}

/// What one watcher is still to be told: names only, so that a slow one costs no more than the graph has entries.
#[derive(Debug, Default)]
pub struct Told {
    dirty: Mutex<BTreeSet<Change>>,
    news: Notify,
}

impl Told {
    /// Up to `most` names of what changed since they were last taken.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Change> {
        let mut dirty = self.dirty.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(change) = dirty.pop_first()
        {
            taken.push(change);
        }
        taken
    }

    /// Gives back what was taken and not told.
    pub fn put_back(&self, changes: impl IntoIterator<Item = Change>) {
        self.dirty.lock().extend(changes);
        self.news.notify_one();
    }

    /// Returns when there may be something to take.
    pub async fn changed(&self) {
        self.news.notified().await;
    }
}

/// One watcher; dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    state: State,
    id: u64,
    told: Arc<Told>,
    /// All there was when the watch began, not told yet.
    pub snapshot: VecDeque<Change>,
}

impl Watcher {
    /// What changes from the start of the watch on.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.state.inner.lock().watchers.remove(&self.id);
        self.state.metrics.watches.dec();
    }
}

impl State {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let (synced, _) = watch::channel(Synced::default());
        Self {
            inner: Arc::default(),
            synced: Arc::new(synced),
            metrics,
        }
    }

    /// Says that all namespaces there are were told.
    pub fn namespaces_synced(&self) {
        self.synced.send_modify(|synced| synced.namespaces = true);
    }

    /// Says that all records there are were told.
    pub fn records_synced(&self) {
        self.synced.send_modify(|synced| synced.records = true);
    }

    /// Returns once all there is in the store is known.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in self: waiting cannot fail.
        let _ = synced
            .wait_for(|synced| synced.namespaces && synced.records)
            .await;
    }

    /// Sets or takes away the mode of a namespace.
    pub fn set_namespace(&self, namespace: &str, mode: Option<Mode>) {
        let mut inner = self.inner.lock();
        let change = inner.graph.set_namespace(namespace, mode);
        inner.tell(change);
    }

    /// Takes away the modes of all namespaces but these: what is not in a full list is gone.
    pub fn retain_namespaces(&self, listed: &HashSet<String>) {
        let mut inner = self.inner.lock();
        let names: Vec<String> = inner
            .graph
            .namespaces()
            .map(|(name, _)| name.into())
            .collect();
        for name in names.iter().filter(|name| !listed.contains(*name)) {
            let change = inner.graph.set_namespace(name, None);
            inner.tell(change);
        }
    }

    /// Takes in a record, unless a later one is known.
    pub fn set_record(&self, versioned: Versioned) {
        let Versioned { entry, revision } = versioned;
        let mut inner = self.inner.lock();
        if inner
            .known
            .get(&entry.workload)
            .is_some_and(|known| known.revision > revision)
        {
            return;
        }
        let known = Known {
            revision,
            capped: entry.capped,
        };
        inner.set(&entry.workload, Some((entry.record, known)));
        inner.measure(&self.metrics);
    }

    /// Takes in that a record is gone, unless a later one is known.
    pub fn remove_record(&self, workload: &Workload, revision: u64) {
        let mut inner = self.inner.lock();
        if inner
            .known
            .get(workload)
            .is_some_and(|known| known.revision > revision)
        {
            return;
        }
        inner.set(workload, None);
        inner.measure(&self.metrics);
    }

    /// The greatest revision known.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.inner
            .lock()
            .known
            .values()
            .map(|known| known.revision)
            .max()
            .unwrap_or_default()
    }

    /// Takes away all records but these: what is not in a full list is gone. Those later than `as_of`, what was known
    /// when the list began, may have been made since and stay.
    pub fn retain_records(&self, listed: &HashSet<Workload>, as_of: u64) {
        let mut inner = self.inner.lock();
        let gone = |(workload, known): &(&Workload, &Known)| {
            !listed.contains(*workload) && known.revision <= as_of
        };
        let gone: Vec<Workload> = inner
            .known
            .iter()
            .filter(gone)
            .map(|(w, _)| w.clone())
            .collect();
        for workload in gone {
            inner.set(&workload, None);
        }
        inner.measure(&self.metrics);
    }

    /// What a call would change. `seen`: absent when nobody knows when. Second: whether a refusal was written down.
    #[must_use]
    pub fn would(
        &self,
        workload: &Workload,
        dependency: &Dependency,
        seen: Option<Timestamp>,
        limits: &Limits,
    ) -> (Observed, bool) {
        let inner = self.inner.lock();
        let Some(record) = inner.graph.workload(workload) else {
            let count = inner
                .per_namespace
                .get(workload.namespace())
                .copied()
                .unwrap_or_default();
            let full = count >= limits.workloads || limits.dependencies == 0;
            return if full {
                (Observed::Refused, true)
            } else {
                (Observed::New, false)
            };
        };
        // A call at an unknown time never makes a last call later.
        let (seen, after) = match seen {
            Some(seen) => (seen, limits.refresh_after),
            None => (Timestamp::default(), Duration::MAX),
        };
        let would = record
            .learned
            .would(dependency, seen, limits.dependencies, after);
        (
            would,
            inner.known.get(workload).is_some_and(|known| known.capped),
        )
    }

    /// Starts a watch. Until everything is known there is nothing complete to tell: wait for [`State::synced`] first.
    #[must_use]
    pub fn watch(&self) -> Watcher {
        let told = Arc::new(Told::default());
        let mut inner = self.inner.lock();
        let id = inner.next_watcher;
        inner.next_watcher += 1;
        inner.watchers.insert(id, told.clone());
        let namespaces = inner
            .graph
            .namespaces()
            .map(|(name, _)| Change::Namespace(name.into()));
        let workloads = inner
            .graph
            .workloads()
            .map(|(w, _)| Change::Workload(w.clone()));
        let snapshot = namespaces.chain(workloads).collect();
        self.metrics.watches.inc();
        Watcher {
            state: self.clone(),
            id,
            told,
            snapshot,
        }
    }

    /// The mode of a namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Option<Mode> {
        self.inner.lock().graph.namespace(namespace)
    }

    /// The record of a workload.
    #[must_use]
    pub fn record(&self, workload: &Workload) -> Option<Arc<Record>> {
        self.inner.lock().graph.workload(workload).cloned()
    }

    /// The whole graph, as of now.
    #[must_use]
    pub fn graph(&self) -> Graph {
        self.inner.lock().graph.clone()
    }
}

impl Inner {
    fn set(&mut self, workload: &Workload, record: Option<(Record, Known)>) {
        let before = self
            .graph
            .workload(workload)
            .map(|record| record.learned.len());
        let after = record.as_ref().map(|(record, _)| record.learned.len());
        self.dependencies += after.unwrap_or_default();
        self.dependencies -= before.unwrap_or_default();
        let count = self
            .per_namespace
            .entry(workload.namespace().to_owned())
            .or_default();
        *count += usize::from(after.is_some());
        *count -= usize::from(before.is_some());
        if *count == 0 {
            self.per_namespace.remove(workload.namespace());
        }
        let change = match record {
            Some((record, known)) => {
                self.known.insert(workload.clone(), known);
                self.graph.set_workload(workload, Some(record))
            }
            None => {
                self.known.remove(workload);
                self.graph.set_workload(workload, None)
            }
        };
        self.tell(change);
    }

    fn tell(&self, change: Option<Change>) {
        let Some(change) = change else { return };
        for told in self.watchers.values() {
            told.put_back([change.clone()]);
        }
    }

    fn measure(&self, metrics: &Metrics) {
        metrics
            .records
            .set(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
        metrics
            .dependencies
            .set(i64::try_from(self.dependencies).unwrap_or(i64::MAX));
    }
}
