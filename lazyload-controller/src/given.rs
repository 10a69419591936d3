//! What the Sidecars of ours give their workloads, as they were last written: whoever waits for a call to go direct
//! waits for this.
//!
//! Filled by what writes and watches Sidecars, asked by [`crate::calls`]. Every replica has one: the one that writes
//! Sidecars knows of a write as it is done, the others by their watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use dependency_graph::Workload;
use parking_lot::Mutex;
use tokio::sync::watch;

/// How a workload stands to a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The workload has no Sidecar of ours, and why, for a person.
    None(String),
    /// It has one, which does not give it the host.
    Lacking,
    /// Its Sidecar gives it the host, since then as far as this replica knows.
    Given(Instant),
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Given {
    workloads: Arc<Mutex<BTreeMap<Workload, Sidecar>>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Debug)]
enum Sidecar {
    None(String),
    Gives(BTreeMap<String, Instant>),
}

impl Default for Given {
    fn default() -> Self {
        Self {
            workloads: Arc::default(),
            changed: Arc::new(watch::channel(()).0),
        }
    }
}

impl Given {
    /// The workload's Sidecar gives it these hosts and no others. Those it gave before keep their time.
    pub fn gives(&self, workload: &Workload, hosts: BTreeSet<String>, now: Instant) {
        let mut workloads = self.workloads.lock();
        let before = match workloads.remove(workload) {
            Some(Sidecar::Gives(before)) => before,
            Some(Sidecar::None(_)) | None => BTreeMap::new(),
        };
        let since = |host: String| {
            let since = before.get(&host).copied().unwrap_or(now);
            (host, since)
        };
        let gives = hosts.into_iter().map(since).collect();
        workloads.insert(workload.clone(), Sidecar::Gives(gives));
        drop(workloads);
        self.changed.send_replace(());
    }

    /// The workload has no Sidecar of ours, and why, for a person.
    pub fn none(&self, workload: &Workload, reason: &str) {
        let none = Sidecar::None(reason.to_owned());
        self.workloads.lock().insert(workload.clone(), none);
        self.changed.send_replace(());
    }

    /// Nothing is known of the workload any more.
    pub fn forget(&self, workload: &Workload) {
        self.workloads.lock().remove(workload);
        self.changed.send_replace(());
    }

    /// How a workload stands to a host: the full name istiod uses.
    #[must_use]
    pub fn standing(&self, workload: &Workload, host: &str) -> Standing {
        match self.workloads.lock().get(workload) {
            Some(Sidecar::None(reason)) => Standing::None(reason.clone()),
            None => Standing::None(format!("{workload} has no Sidecar of ours")),
            Some(Sidecar::Gives(gives)) => gives
                .get(host)
                .map_or(Standing::Lacking, |since| Standing::Given(*since)),
        }
    }

    /// Tells of every change from now on; several may be told as one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOST: &str = "reviews.shop.svc.cluster.local";

    fn cart() -> Workload {
        Workload::new("shop", "Deployment", "cart").unwrap()
    }

    fn hosts(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|host| (*host).to_owned()).collect()
    }

    #[test]
    fn a_host_is_given_from_when_it_first_was() {
        let (given, start) = (Given::default(), Instant::now());
        assert!(matches!(given.standing(&cart(), HOST), Standing::None(_)));
        given.gives(&cart(), hosts(&[]), start);
        assert_eq!(given.standing(&cart(), HOST), Standing::Lacking);
        given.gives(&cart(), hosts(&[HOST]), start);
        let later = start + Duration::from_secs(1);
        given.gives(&cart(), hosts(&["other", HOST]), later);
        assert_eq!(given.standing(&cart(), HOST), Standing::Given(start));
        assert_eq!(given.standing(&cart(), "other"), Standing::Given(later));
    }

    #[test]
    fn one_that_comes_back_is_given_anew() {
        let (given, start) = (Given::default(), Instant::now());
        given.gives(&cart(), hosts(&[HOST]), start);
        given.none(&cart(), "because");
        let none = Standing::None("because".to_owned());
        assert_eq!(given.standing(&cart(), HOST), none);
        let later = start + Duration::from_secs(1);
        given.gives(&cart(), hosts(&[HOST]), later);
        assert_eq!(given.standing(&cart(), HOST), Standing::Given(later));
        given.forget(&cart());
        assert!(matches!(given.standing(&cart(), HOST), Standing::None(_)));
    }

    #[test]
    fn changes_are_told() {
        let given = Given::default();
        let mut changes = given.changes();
        assert!(!changes.has_changed().unwrap());
        given.gives(&cart(), hosts(&[]), Instant::now());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        given.forget(&cart());
        assert!(changes.has_changed().unwrap());
    }
}
