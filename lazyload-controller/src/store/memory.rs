//! Keeps the graph for as long as the process lives. For tests and trials.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use dependency_graph::{Learned, Workload};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Error, Store, Stored};
use crate::expiry::Verdict;
use crate::limits::Limits;
use crate::resource::{Learning, WorkloadDependencies, learn, new_record, revise};
use crate::state::{State, Versioned};

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    kept: Mutex<(u64, HashMap<Workload, WorkloadDependencies>)>,
}

impl Memory {
    fn learn_now(
        &self,
        workload: &Workload,
        calls: &Learned,
        limits: &Limits,
    ) -> Result<Stored, Error> {
        let mut kept = self.kept.lock();
        let (revision, records) = &mut *kept;
        let resource = records
            .entry(workload.clone())
            .or_insert_with(|| new_record(workload));
        let learning = learn(resource, calls, limits, SystemTime::now().into())?;
        Ok(write(resource, learning, revision))
    }

    fn revise_now(
        &self,
        workload: &Workload,
        verdict: &Verdict,
        limits: &Limits,
    ) -> Result<Option<Stored>, Error> {
        let mut kept = self.kept.lock();
        let (revision, records) = &mut *kept;
        let Some(resource) = records.get_mut(workload) else {
            return Ok(None);
        };
        let learning = revise(resource, verdict, limits, SystemTime::now().into())?;
        Ok(Some(write(resource, learning, revision)))
    }
}

fn write(resource: &mut WorkloadDependencies, learning: Learning, revision: &mut u64) -> Stored {
    let wrote = learning.status.is_some();
    if wrote {
        resource.status = learning.status;
        *revision += 1;
    }
    let now = Versioned {
        entry: learning.entry,
        revision: *revision,
    };
    Stored {
        now,
        refused: learning.refused,
        conflicts: 0,
        wrote,
    }
}

impl Store for Memory {
    fn follow(
        self: Arc<Self>,
        state: State,
        _stale: mpsc::Sender<Workload>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        state.namespaces_synced();
        state.records_synced();
        std::future::pending().boxed()
    }

    fn learn<'a>(
        &'a self,
        workload: &'a Workload,
        calls: &'a Learned,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Stored, Error>> {
        std::future::ready(self.learn_now(workload, calls, limits)).boxed()
    }

    fn revise<'a>(
        &'a self,
        workload: &'a Workload,
        verdict: &'a Verdict,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        std::future::ready(self.revise_now(workload, verdict, limits)).boxed()
    }
}
