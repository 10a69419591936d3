//! Where the graph is kept for good.

pub mod file;
pub mod kubernetes;
pub mod memory;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use dependency_graph::{Learned, Workload};
use futures::FutureExt;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::expiry::Verdict;
use crate::limits::Limits;
use crate::resource::{self, Said};
use crate::state::{State, Versioned};

/// What a write did.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The record as it is now.
    pub now: Versioned,
    /// How many dependencies were refused for want of room.
    pub refused: usize,
    /// How many changes by someone else it met on its way.
    pub conflicts: u32,
    /// Whether anything had to be written.
    pub wrote: bool,
}

/// What can go wrong with a store.
#[derive(Debug, Error)]
pub enum Error {
    /// It may work another time.
    #[error("{0}")]
    Unavailable(String),
    /// It will never work for this workload: its namespace is gone, or its record cannot be read.
    #[error("{0}")]
    Unwritable(String),
    /// The store cannot be used at all.
    #[error("{path}: {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A resource cannot be read.
    #[error(transparent)]
    Resource(#[from] resource::Error),
}

/// A place that keeps the graph. Several replicas may share one, if it says so.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Tells the state all there is and every change from then on. `stale` takes workloads whose status is to be
    /// written again because their spec changed; what does not fit in it is dropped, to be found another time.
    fn follow(
        self: Arc<Self>,
        state: State,
        stale: mpsc::Sender<Workload>,
    ) -> BoxFuture<'static, Result<(), Error>>;

    /// Adds calls to the record of a workload, which it makes if there is none. Once this returns they are kept for
    /// good. A set union: doing it twice is doing it once.
    fn learn<'a>(
        &'a self,
        workload: &'a Workload,
        calls: &'a Learned,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Stored, Error>>;

    /// Writes what is said of a workload in mode `sidecar` into its record, beside what is learned. Where there is no
    /// record it makes one if `make`. A store that nobody reads conditions in need not keep them.
    fn say<'a>(
        &'a self,
        workload: &'a Workload,
        said: &'a BTreeSet<Said>,
        make: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let _ = (workload, said, make);
        std::future::ready(Ok(())).boxed()
    }

    /// Does to the record of a workload what was judged of forgetting: the only call that takes anything away. `None`
    /// when there is no record any more. What was learned since it was judged stays, whoever wrote it.
    fn revise<'a>(
        &'a self,
        workload: &'a Workload,
        verdict: &'a Verdict,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Option<Stored>, Error>>;
}
