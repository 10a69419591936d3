//! What Prometheus tells of the past: learned from in mode `observe` and before a namespace's first config, and forgotten
//! by. Only one replica does it; what it learns and forgets is in the records, and so with every other.

mod expire;
mod flags;
mod gather;
mod learn;
mod warm;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dependency_graph::{Timestamp, Workload};
use mesh_runtime::drain::Drain;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, sleep_until};

use crate::expiry::Evidence;
use crate::lease::Leading;
use crate::limits::Limits;
use crate::mesh::World;
use crate::metrics::Metrics;
use crate::prometheus::Prometheus;
use crate::state::State;
use crate::store::Store;
use crate::writer::Writer;

pub use flags::Args;
pub use warm::{Warm, WarmStart};

/// What it takes.
#[derive(Clone)]
pub struct Parts {
    /// Whom to ask; without it nothing is learned or forgotten.
    pub prometheus: Option<Prometheus>,
    /// What is known.
    pub state: State,
    /// Where what is learned goes.
    pub writer: Writer,
    /// Where what is forgotten goes.
    pub store: Arc<dyn Store>,
    /// The mesh; without it nothing is learned, since nobody knows what is a service.
    pub world: Option<Arc<RwLock<World>>>,
    /// How much is learned at most.
    pub limits: Limits,
    /// How often, and how far back.
    pub args: Args,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether this replica is the one.
    pub leader: Leading,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("prometheus", &self.prometheus)
            .field("world", &self.world.is_some())
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct History {
    parts: Parts,
    warm: WarmStart,
    memory: Arc<Mutex<Memory>>,
}

/// What is remembered between looks. As large as there are workloads that forget and namespaces that observe.
#[derive(Debug, Default)]
struct Memory {
    /// The evidence as of the last look; what is written is older.
    evidence: HashMap<Workload, Evidence>,
    /// Namespaces whose last look failed: the next one is short.
    failed: BTreeSet<String>,
    /// Until when each namespace was observed.
    observed: BTreeMap<String, Timestamp>,
}

impl History {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        // Without the mesh a name means nothing, so there is nothing to wait for.
        let able = parts.prometheus.is_some() && parts.world.is_some();
        Self {
            warm: WarmStart::new(able),
            parts,
            memory: Arc::default(),
        }
    }

    /// For who writes a namespace's first config: it waits until the past is learned.
    #[must_use]
    pub fn warm_start(&self) -> WarmStart {
        self.warm.clone()
    }

    /// Learns and forgets, as long as this replica is the one, until the drain starts. To be run once all there is of
    /// the mesh is known: what is no service yet would not be learned.
    ///
    /// # Errors
    /// Never: what fails is tried again.
    pub async fn run(self, drain: Drain) -> Result<(), Infallible> {
        let working = async {
            self.parts.state.synced().await;
            tokio::join!(
                self.every(self.parts.args.expiry_period, |now| self.expire(now)),
                self.every(self.parts.args.observe_period, |now| self.observe(now)),
                self.warm_namespaces(),
            )
        };
        tokio::select! {
            _ = working => Ok(()),
            () = drain.started() => Ok(()),
        }
    }

    /// Does something again and again, beginning when this replica becomes the one.
    async fn every<F: Future<Output = ()>>(&self, period: Duration, work: impl Fn(Timestamp) -> F) {
        let mut next = Instant::now();
        loop {
            self.leading().await;
            sleep_until(next).await;
            // It may have been lost while waiting.
            if self.parts.leader.now() {
                next = Instant::now() + period;
                work(SystemTime::now().into()).await;
            }
        }
    }

    /// Returns once this replica is the one; it may never be.
    async fn leading(&self) {
        let mut changes = self.parts.leader.changes();
        // The sender lives in parts: waiting cannot fail.
        while !self.parts.leader.now() && changes.changed().await.is_ok() {}
    }
}
