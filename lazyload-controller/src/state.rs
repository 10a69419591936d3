//! What this replica knows: the graph as of the store, and who must be told what of it changed.
//!
//! What is stored comes from two sides: from the store's own watch, and from each write as it is done. Revisions keep
//! an echo that is older than the write from undoing it.
//!
//! What is learned and not stored yet is told at once, since a store may take seconds. It is no part of what is known:
//! what is reported again is judged by what is stored, so that nothing counts as kept because it was told.

mod sidecars;
#[cfg(test)]
mod tests;
mod watcher;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::{
    Change, Dependency, Graph, Learned, Namespace, Observed, Record, Source, Timestamp, Workload,
};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::expiry::Keeping;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::resource::{Entry, Said};

pub use watcher::{Scope, Told, Watcher};

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
    /// What namespaces say is known.
    pub namespaces: bool,
    /// The records are known.
    pub records: bool,
}

/// What this replica knows. Clones share it.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Mutex<Inner>>,
    synced: Arc<watch::Sender<Synced>>,
    /// The ranges of services' addresses.
    cidrs: Arc<watch::Sender<Vec<IpNet>>>,
    /// Lazymesh's own namespace, whose label says whether all of it is paused.
    own_namespace: Arc<str>,
    paused: Arc<watch::Sender<bool>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Inner {
    graph: Graph,
    known: HashMap<Workload, Known>,
    /// What is told of a workload beyond what is stored of it. As large as what the writer has not stored, at most.
    ahead: HashMap<Workload, Learned>,
    /// Workloads of which anything is told.
    per_namespace: HashMap<String, usize>,
    dependencies: usize,
    /// The greatest revision at which the store was found to have no more of a record.
    gone_at: u64,
    watchers: HashMap<u64, Arc<Told>>,
    next_watcher: u64,
}

#[derive(Debug)]
struct Known {
    revision: u64,
    capped: bool,
    said: BTreeSet<Said>,
    settle_after: Option<Result<Duration, String>>,
    keeping: Keeping,
}

impl State {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let (synced, _) = watch::channel(Synced::default());
        Self {
            inner: Arc::default(),
            synced: Arc::new(synced),
            cidrs: Arc::default(),
            own_namespace: Arc::default(),
            paused: Arc::default(),
            metrics,
        }
    }

    /// The same with Lazymesh's own namespace, whose label says whether all of it is paused.
    #[must_use]
    pub fn in_namespace(self, own: &str) -> Self {
        let own_namespace = own.into();
        Self {
            own_namespace,
            ..self
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

    /// Sets what a namespace says; the default takes it away.
    pub fn set_namespace(&self, namespace: &str, says: Namespace) {
        let mut inner = self.inner.lock();
        let change = inner.graph.set_namespace(namespace, says);
        inner.tell(change);
        drop(inner);
        self.see_pause();
    }

    /// Takes away what all namespaces say but these: what is not in a full list is gone.
    pub fn retain_namespaces(&self, listed: &HashSet<String>) {
        let mut inner = self.inner.lock();
        let names: Vec<String> = inner
            .graph
            .namespaces()
            .map(|(name, _)| name.into())
            .collect();
        for name in names.iter().filter(|name| !listed.contains(*name)) {
            let change = inner.graph.set_namespace(name, Namespace::default());
            inner.tell(change);
        }
        drop(inner);
        self.see_pause();
    }

    /// Takes in a record, unless a later one is known.
    pub fn set_record(&self, versioned: Versioned) {
        let mut inner = self.inner.lock();
        let workload = versioned.entry.workload.clone();
        inner.change(&workload, |inner| inner.set_record(versioned));
        inner.measure(&self.metrics);
    }

    /// Tells of calls that are on their way to the store, as far as the workload has room for them.
    pub fn expect(&self, workload: &Workload, calls: &Learned, limit: usize) {
        let mut inner = self.inner.lock();
        inner.change(workload, |inner| inner.expect(workload, calls, limit));
    }

    /// Takes in what became of the calls that were on their way: the record as it was written, if it was, and the
    /// calls that came since and are on their way now.
    pub fn settle(
        &self,
        workload: &Workload,
        stored: Option<Versioned>,
        rest: Option<&Learned>,
        limit: usize,
    ) {
        let mut inner = self.inner.lock();
        inner.change(workload, |inner| {
            inner.ahead.remove(workload);
            // The answer to a write may come after the news that the record was deleted since.
            let gone_since = |stored: &Versioned| {
                !inner.known.contains_key(workload) && stored.revision < inner.gone_at
            };
            if let Some(stored) = stored.filter(|stored| !gone_since(stored)) {
                inner.set_record(stored);
            }
            if let Some(calls) = rest {
                inner.expect(workload, calls, limit);
            }
        });
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
        inner.gone_at = inner.gone_at.max(revision);
        inner.remove(workload);
        inner.measure(&self.metrics);
    }

    /// The workload whose record has this name, if it is known. It looks at every one: for what is rare.
    #[must_use]
    pub fn named(&self, namespace: &str, record_name: &str) -> Option<Workload> {
        let inner = self.inner.lock();
        let mut known = inner.known.keys();
        known
            .find(|w| w.namespace() == namespace && w.record_name() == record_name)
            .cloned()
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
        inner.gone_at = inner.gone_at.max(as_of);
        for workload in gone {
            inner.remove(&workload);
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
            if inner.ahead.contains_key(workload) {
                return (Observed::New, false);
            }
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
        let known = inner.known.get(workload);
        let forgotten = known.is_some_and(|known| {
            let forgotten = &known.keeping.forgotten;
            forgotten.blocks(&dependency.host, dependency.protocol, seen)
        });
        if forgotten {
            return (Observed::Known, false);
        }
        // A call at an unknown time never makes a last call later.
        let (seen, after) = match seen {
            Some(seen) => (seen, limits.refresh_after),
            None => (Timestamp::default(), Duration::MAX),
        };
        let would = record
            .learned
            .would(dependency, seen, limits.dependencies, after);
        (would, known.is_some_and(|known| known.capped))
    }

    /// What a namespace says.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Namespace {
        self.inner.lock().graph.namespace(namespace)
    }

    /// What is told of a workload: its record, and what is on its way there.
    #[must_use]
    pub fn view(&self, workload: &Workload) -> Option<Arc<Record>> {
        self.inner.lock().view(workload)
    }

    /// The record of a workload, as it is stored.
    #[must_use]
    pub fn record(&self, workload: &Workload) -> Option<Arc<Record>> {
        self.inner.lock().graph.workload(workload).cloned()
    }

    /// What the record of a workload says of forgetting.
    #[must_use]
    pub fn keeping(&self, workload: &Workload) -> Option<Keeping> {
        let inner = self.inner.lock();
        inner.known.get(workload).map(|known| known.keeping.clone())
    }

    /// The whole graph, as it is stored.
    #[must_use]
    pub fn graph(&self) -> Graph {
        self.inner.lock().graph.clone()
    }
}

impl Inner {
    fn view(&self, workload: &Workload) -> Option<Arc<Record>> {
        let stored = self.graph.workload(workload).cloned();
        let Some(calls) = self.ahead.get(workload) else {
            return stored;
        };
        let mut record = stored.map(Arc::unwrap_or_clone).unwrap_or_default();
        record.learned.merge(calls);
        Some(Arc::new(record))
    }

    /// Changes what is known of a workload, and tells if that changes what is told of it.
    fn change(&mut self, workload: &Workload, change: impl FnOnce(&mut Self)) {
        let (before, settled) = (self.view(workload), self.settle_after(workload));
        change(self);
        let after = self.view(workload);
        let count = self
            .per_namespace
            .entry(workload.namespace().to_owned())
            .or_default();
        *count += usize::from(after.is_some());
        *count -= usize::from(before.is_some());
        if *count == 0 {
            self.per_namespace.remove(workload.namespace());
        }
        let same = match (&before, &after) {
            (Some(before), Some(after)) => before.same_view(after),
            (before, after) => before.is_none() && after.is_none(),
        };
        if !same {
            self.tell(Some(Change::Workload(workload.clone())));
        } else if settled != self.settle_after(workload) {
            self.tell_those(&Change::Workload(workload.clone()), |scope| {
                scope == Scope::Within
            });
        }
    }

    fn settle_after(&self, workload: &Workload) -> Option<Result<Duration, String>> {
        self.known.get(workload)?.settle_after.clone()
    }

    fn remove(&mut self, workload: &Workload) {
        self.change(workload, |inner| inner.set(workload, None));
    }

    /// Unless a later one is known. Only within [`Inner::change`].
    fn set_record(&mut self, versioned: Versioned) {
        let Versioned { entry, revision } = versioned;
        let known = self.known.get(&entry.workload);
        if known.is_some_and(|known| known.revision > revision) {
            return;
        }
        let known = Known {
            revision,
            capped: entry.capped,
            said: entry.said,
            settle_after: entry.settle_after,
            keeping: entry.keeping,
        };
        self.set(&entry.workload, Some((entry.record, known)));
    }

    /// Only within [`Inner::change`].
    fn set(&mut self, workload: &Workload, record: Option<(Record, Known)>) {
        let stored = self.graph.workload(workload);
        self.dependencies -= stored.map_or(0, |record| record.learned.len());
        let record = match record {
            Some((record, known)) => {
                self.dependencies += record.learned.len();
                self.known.insert(workload.clone(), known);
                Some(record)
            }
            None => {
                self.known.remove(workload);
                None
            }
        };
        self.graph.set_workload(workload, record);
    }

    /// Adds to what is told of a workload, for as long as there is room. Only within [`Inner::change`].
    fn expect(&mut self, workload: &Workload, calls: &Learned, limit: usize) {
        let told = [
            self.graph.workload(workload).map(|record| &record.learned),
            self.ahead.get(workload),
        ];
        let told = || told.iter().flatten();
        let room = limit.saturating_sub(told().map(|learned| learned.len()).sum());
        let forgotten = self.known.get(workload).map(|k| &k.keeping.forgotten);
        let passing = forgotten.map_or_else(|| calls.clone(), |f| f.passing(calls));
        let new = passing
            .dependencies()
            .filter(|call| !told().any(|learned| learned.contains(call)));
        let new: Vec<Dependency> = new.take(room).collect();
        if new.is_empty() {
            return;
        }
        let ahead = self.ahead.entry(workload.clone()).or_default();
        for call in new {
            // Times are not told.
            ahead.see(&call, Timestamp::default(), Source::OnDemand);
        }
    }

    fn tell(&self, change: Option<Change>) {
        let Some(change) = change else { return };
        self.tell_those(&change, |scope| scope.covers(&change));
    }

    fn tell_those(&self, change: &Change, which: impl Fn(Scope) -> bool) {
        for told in self.watchers.values().filter(|told| which(told.scope)) {
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
