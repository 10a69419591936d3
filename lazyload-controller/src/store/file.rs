//! Keeps the graph in a folder of YAML documents: `Namespace` with the mode's label, and `WorkloadDependencies`.
//!
//! For running without Kubernetes. A record is written as a whole to a file beside it, which then takes its place, so
//! that no crash leaves half of one. Documents changed by hand are noticed within a poll, which takes longer the more of
//! them there are. One process at a time may have the folder: it holds a lock on it.

pub(crate) mod documents;
mod folder;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dependency_graph::{Learned, Workload};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::warn;

use super::{Error, Store, Stored};
use crate::expiry::Verdict;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::resource::Said;
use crate::state::State;

use folder::Folder;

/// How often the folder is looked at for changes by hand, where that takes no time.
pub const POLL_PERIOD: Duration = Duration::from_millis(250);
/// How much longer than a look the pause after it is.
const PAUSE: u32 = 9;
/// The longest pause because of that: the first look, which reads everything, is to be followed by another.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long to wait after a look that took so long. To find that none of ten thousand documents has changed takes a tenth
/// of a second: who looks keeps a tenth of a core busy with that, and not a third.
#[must_use]
pub fn pause(every: Duration, took: Duration) -> Duration {
    every.max(took.saturating_mul(PAUSE).min(LONGEST_PAUSE))
}

/// See the module.
#[derive(Clone, Debug)]
pub struct File {
    folder: Arc<Mutex<Folder>>,
    every: Duration,
}

impl File {
    /// Takes a folder, which must exist.
    ///
    /// # Errors
    /// When it cannot be read, or another process has it.
    pub fn open(
        path: impl Into<PathBuf>,
        every: Duration,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let folder = Folder::open(path.into(), metrics)?;
        Ok(Self {
            folder: Arc::new(Mutex::new(folder)),
            every,
        })
    }
}

impl Store for File {
    fn follow(
        self: Arc<Self>,
        state: State,
        _stale: mpsc::Sender<Workload>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        async move {
            loop {
                let (folder, told, began) = (self.folder.clone(), state.clone(), Instant::now());
                let look = move || folder.lock().look(&told);
                match tokio::task::spawn_blocking(look).await {
                    Ok(Ok(())) => {
                        state.namespaces_synced();
                        state.records_synced();
                    }
                    Ok(Err(error)) => warn!(%error, "looking at the folder; trying again"),
                    Err(error) => return Err(Error::Unavailable(error.to_string())),
                }
                tokio::time::sleep(pause(self.every, began.elapsed())).await;
            }
        }
        .boxed()
    }

    fn learn<'a>(
        &'a self,
        workload: &'a Workload,
        calls: &'a Learned,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Stored, Error>> {
        let (folder, workload, calls, limits) = (
            self.folder.clone(),
            workload.clone(),
            calls.clone(),
            *limits,
        );
        let learn = move || {
            folder
                .lock()
                .learn(&workload, &calls, &limits, SystemTime::now().into())
        };
        async move {
            let done = tokio::task::spawn_blocking(learn).await;
            done.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
        }
        .boxed()
    }

    /// In records that are there: a workload that settles has one, and who reads a folder finds the rest in `/debug/sidecars`.
    fn say<'a>(
        &'a self,
        workload: &'a Workload,
        said: &'a BTreeSet<Said>,
        _make: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (folder, workload, said) = (self.folder.clone(), workload.clone(), said.clone());
        let say = move || {
            folder
                .lock()
                .say(&workload, &said, SystemTime::now().into())
        };
        async move {
            let done = tokio::task::spawn_blocking(say).await;
            done.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
        }
        .boxed()
    }

    fn revise<'a>(
        &'a self,
        workload: &'a Workload,
        verdict: &'a Verdict,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        let (folder, workload, verdict, limits) = (
            self.folder.clone(),
            workload.clone(),
            verdict.clone(),
            *limits,
        );
        let revise = move || {
            let now = SystemTime::now().into();
            folder.lock().revise(&workload, &verdict, &limits, now)
        };
        async move {
            let done = tokio::task::spawn_blocking(revise).await;
            done.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
        }
        .boxed()
    }
}
