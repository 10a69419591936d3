//! Who watches, and what is still to be told to each.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use dependency_graph::Change;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::State;

/// What a watcher wants to know.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Scope {
    /// All there is.
    #[default]
    Everything,
    /// What namespaces say, and nothing of workloads.
    Namespaces,
    /// All there is, and after which time workloads are to settle, which is told to nobody outside.
    Within,
}

/// What one watcher is still to be told: names only, so that a slow one costs no more than the graph has entries.
#[derive(Debug, Default)]
pub struct Told {
    pub(super) scope: Scope,
    dirty: Mutex<BTreeSet<Change>>,
    news: Notify,
}

impl Scope {
    pub(super) fn covers(self, change: &Change) -> bool {
        self != Self::Namespaces || matches!(change, Change::Namespace(_))
    }
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
    counted: bool,
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
        if self.counted {
            self.state.metrics.watches.dec();
        }
    }
}

impl State {
    /// Starts a watch. Until everything is known there is nothing complete to tell: wait for [`State::synced`] first.
    #[must_use]
    pub fn watch(&self) -> Watcher {
        self.metrics.watches.inc();
        self.listen(true, Scope::Everything)
    }

    /// As [`State::watch`], for part of it.
    #[must_use]
    pub fn watch_scope(&self, scope: Scope) -> Watcher {
        self.metrics.watches.inc();
        self.listen(true, scope)
    }

    /// The same for a part of this process, which is not counted among the watches.
    #[must_use]
    pub fn watch_within(&self) -> Watcher {
        self.listen(false, Scope::Within)
    }

    fn listen(&self, counted: bool, scope: Scope) -> Watcher {
        let told = Arc::new(Told {
            scope,
            ..Told::default()
        });
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
        let ahead = inner
            .ahead
            .keys()
            .filter(|w| inner.graph.workload(w).is_none())
            .map(|w| Change::Workload(w.clone()));
        let snapshot = namespaces
            .chain(workloads)
            .chain(ahead)
            .filter(|change| scope.covers(change))
            .collect();
        Watcher {
            state: self.clone(),
            id,
            told,
            counted,
            snapshot,
        }
    }
}
