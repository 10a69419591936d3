//! Whether the process is ready, and what it still waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::info;

/// The set of things that must be done before the process is ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeMap<u64, String>>>,
    next: Arc<Mutex<u64>>,
}

/// One thing that must be done. Dropping it does not make it done: a part that dies early leaves the process unready.
#[derive(Debug)]
#[must_use = "the process stays unready until mark_ready is called"]
pub struct Task {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// Nothing to wait for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the process unready until the task is marked. `name` is shown to whoever asks what is pending.
    pub fn register(&self, name: impl Into<String>) -> Task {
        let id = {
            let mut next = self.next.lock();
            *next += 1;
            *next
        };
        self.pending.lock().insert(id, name.into());
        Task {
            readiness: self.clone(),
            id,
        }
    }

    /// What is not done yet, in the order it was registered. Empty: the process is ready.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        self.pending.lock().values().cloned().collect()
    }
}

impl Task {
    /// Says that it is done. Later calls do nothing.
    pub fn mark_ready(&self) {
        let (name, left) = {
            let mut pending = self.readiness.pending.lock();
            (pending.remove(&self.id), pending.len())
        };
        if let Some(name) = name {
            info!(task = name, pending = left, "ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_task_is_marked() {
        let readiness = Readiness::new();
        let first = readiness.register("first");
        let second = readiness.register("second");
        assert_eq!(readiness.pending(), ["first", "second"]);
        first.mark_ready();
        first.mark_ready();
        assert_eq!(readiness.pending(), ["second"]);
        second.mark_ready();
        assert!(readiness.pending().is_empty());
    }

    #[test]
    fn dropping_a_task_does_not_make_it_ready() {
        let readiness = Readiness::new();
        drop(readiness.register("store"));
        assert_eq!(readiness.pending(), ["store"]);
    }

    #[test]
    fn two_tasks_of_one_name_are_two() {
        let readiness = Readiness::new();
        let one = readiness.register("watch");
        let _other = readiness.register("watch");
        one.mark_ready();
        assert_eq!(readiness.pending(), ["watch"]);
    }
}
