//! The whole graph: what namespaces say, and a record for each workload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::dependency::Pin;
use crate::fallback::Policy;
use crate::learned::Learned;
use crate::mode::Mode;
use crate::workload::Workload;

#[cfg(test)]
mod tests;

/// All that is known of one workload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    /// Overrides the mode of the namespace.
    pub mode: Option<Mode>,
    /// Hosts someone wants known, learned or not. They never expire.
    pub pinned: BTreeSet<Pin>,
    /// What was seen.
    pub learned: Learned,
}

/// What a namespace says of itself. The default stands for one that says nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    /// Its mode, if it has the label.
    pub mode: Option<Mode>,
    /// What its calls get that fall back.
    pub fallback: Policy,
    /// Whether it has the label [`PAUSED`](crate::mode::PAUSED), which counts on Lazymesh's own namespace only. It is not told as
    /// something of a namespace.
    pub paused: bool,
}

impl From<Mode> for Namespace {
    fn from(mode: Mode) -> Self {
        Self {
            mode: Some(mode),
            ..Self::default()
        }
    }
}

/// What namespaces say, and the records of workloads. A clone is cheap in records: they are shared.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Graph {
    /// Those that say anything.
    namespaces: BTreeMap<String, Namespace>,
    workloads: BTreeMap<Workload, Arc<Record>>,
}

/// What became different.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Change {
    /// What a namespace says: its mode or its fallback policy.
    Namespace(String),
    /// The record of a workload: made, changed or gone.
    Workload(Workload),
}

impl Record {
    /// Whether both would be told alike to who watches: times do not matter to them.
    #[must_use]
    pub fn same_view(&self, other: &Self) -> bool {
        self.mode == other.mode
            && self.pinned == other.pinned
            && self.learned.len() == other.learned.len()
            && self.learned.dependencies().eq(other.learned.dependencies())
    }
}

impl Graph {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a namespace says.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Namespace {
        self.namespaces.get(namespace).copied().unwrap_or_default()
    }

    /// Every namespace that says anything.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, Namespace)> {
        self.namespaces
            .iter()
            .map(|(name, says)| (name.as_str(), *says))
    }

    /// The record of a workload.
    #[must_use]
    pub fn workload(&self, workload: &Workload) -> Option<&Arc<Record>> {
        self.workloads.get(workload)
    }

    /// Every record.
    pub fn workloads(&self) -> impl Iterator<Item = (&Workload, &Arc<Record>)> {
        self.workloads.iter()
    }

    /// Sets what a namespace says; the default takes it away. Says whether that is a change.
    pub fn set_namespace(&mut self, namespace: &str, says: Namespace) -> Option<Change> {
        let before = if says == Namespace::default() {
            self.namespaces.remove(namespace)
        } else {
            self.namespaces.insert(namespace.to_owned(), says)
        };
        let before = before.unwrap_or_default();
        (before != says).then(|| Change::Namespace(namespace.to_owned()))
    }

    /// Sets the record of a workload, or with `None` takes it away. Says whether who watches must be told.
    pub fn set_workload(&mut self, workload: &Workload, record: Option<Record>) -> Option<Change> {
        let record = record.map(Arc::new);
        let before = match &record {
            Some(record) => self.workloads.insert(workload.clone(), record.clone()),
            None => self.workloads.remove(workload),
        };
        let same = match (&before, &record) {
            (Some(before), Some(after)) => before.same_view(after),
            (None, None) => true,
            _ => false,
        };
        (!same).then(|| Change::Workload(workload.clone()))
    }

    /// The mode that holds for a workload: its own, else its namespace's, else off.
    #[must_use]
    pub fn mode_of(&self, workload: &Workload) -> Mode {
        let own = self.workloads.get(workload).and_then(|record| record.mode);
        own.or(self.namespace(workload.namespace()).mode)
            .unwrap_or(Mode::Off)
    }

    /// All that who watches must be told to get from this state to `next`.
    #[must_use]
    pub fn diff(&self, next: &Self) -> BTreeSet<Change> {
        let names = self.namespaces.keys().chain(next.namespaces.keys());
        let namespaces = names
            .filter(|name| self.namespace(name) != next.namespace(name))
            .map(|name| Change::Namespace(name.clone()));
        let same = |workload: &Workload| match (self.workload(workload), next.workload(workload)) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after) || before.same_view(after),
            (before, after) => before.is_none() && after.is_none(),
        };
        let workloads = self.workloads.keys().chain(next.workloads.keys());
        let workloads = workloads
            .filter(|workload| !same(workload))
            .cloned()
            .map(Change::Workload);
        namespaces.chain(workloads).collect()
    }
}
