//! Gathers what is learned per workload, so that a burst of first calls is one write, and keeps at it until it is
//! stored. Watchers are told at once; who reported is told once it is stored.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::{Learned, Workload};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use mesh_runtime::drain::Drain;

use crate::limits::Limits;
use crate::metrics::{Metrics, Outcome, Refusal};
use crate::state::{State, Versioned};
use crate::store::{Error, Store, Stored};

/// Dependencies not yet stored, of all workloads together. Who would add to as many waits.
const ROOM: usize = 100_000;
/// Writes under way at once.
const WRITES: usize = 16;
/// First wait after a failed write of a workload, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Takes in what is learned. Clones share it.
#[derive(Clone, Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    state: State,
    limits: Limits,
    metrics: Metrics,
    window: Duration,
    pending: Mutex<HashMap<Workload, Pending>>,
    news: Notify,
    room: Arc<Semaphore>,
}

/// What is to be written of one workload.
#[derive(Debug)]
struct Pending {
    calls: Learned,
    since: Instant,
    not_before: Instant,
    failures: u32,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    stored: oneshot::Sender<()>,
    _room: OwnedSemaphorePermit,
}

/// Says when something is stored for good, or will never be. An error: the writer is gone, and nobody knows.
pub type Ticket = oneshot::Receiver<()>;

impl Pending {
    fn new(since: Instant, not_before: Instant) -> Self {
        Self {
            calls: Learned::new(),
            since,
            not_before,
            failures: 0,
            waiting: Vec::new(),
        }
    }
}

impl Writer {
    /// A writer that waits for `window` after the first report of a burst before it writes.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        state: State,
        limits: Limits,
        window: Duration,
        metrics: Metrics,
    ) -> Self {
        let (pending, news) = (Mutex::default(), Notify::new());
        let room = Arc::new(Semaphore::new(ROOM));
        let shared = Shared {
            store,
            state,
            limits,
            metrics,
            window,
            pending,
            news,
            room,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes in calls of a workload; waits while too much is not stored yet.
    pub async fn submit(&self, workload: Workload, calls: Learned) -> Ticket {
        let (sender, ticket) = oneshot::channel();
        let size = u32::try_from(calls.len().clamp(1, ROOM)).unwrap_or(1);
        // The semaphore is never closed; if it were, the ticket would say that nobody knows.
        if let Ok(room) = self.shared.room.clone().acquire_many_owned(size).await {
            self.shared.add(
                workload,
                &calls,
                Some(Waiting {
                    stored: sender,
                    _room: room,
                }),
            );
        }
        ticket
    }

    /// Writes until the drain starts and everything taken in is stored. `stale` brings workloads whose status is to be
    /// written again though nothing was learned.
    ///
    /// # Errors
    /// Never: what fails is tried again.
    pub async fn run(
        self,
        mut stale: mpsc::Receiver<Workload>,
        drain: Drain,
    ) -> Result<(), Infallible> {
        let shared = &self.shared;
        let mut writes = JoinSet::new();
        // The workloads of the writes under way. One that panics must not keep its workload busy.
        let mut busy = HashMap::new();
        loop {
            let due = shared.start_due(&mut writes, &mut busy);
            if drain.is_draining() && writes.is_empty() && shared.pending.lock().is_empty() {
                return Ok(());
            }
            let next_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next_due => {}
                () = shared.news.notified() => {}
                Some(workload) = stale.recv() => shared.add(workload, &Learned::new(), None),
                Some(done) = writes.join_next_with_id() => match done {
                    Ok((id, ())) => { busy.remove(&id); }
                    Err(error) => {
                        warn!(%error, "a write ended badly; what it was to store is not acknowledged");
                        if let Some(workload) = busy.remove(&error.id()) {
                            shared.settle(&workload, None);
                        }
                    }
                },
                () = drain.started(), if !drain.is_draining() => {}
            }
        }
    }
}

impl Shared {
    fn add(&self, workload: Workload, calls: &Learned, waiting: Option<Waiting>) {
        let now = Instant::now();
        let mut pending = self.pending.lock();
        // Under the lock, as in settle: what is told follows what is pending.
        self.state
            .expect(&workload, calls, self.limits.dependencies);
        let entry = pending
            .entry(workload)
            .or_insert_with(|| Pending::new(now, now + self.window));
        entry.calls.merge(calls);
        entry.waiting.extend(waiting);
        self.news.notify_one();
    }

    /// Tells what became of a write.
    fn settle(&self, workload: &Workload, stored: Option<Versioned>) {
        let pending = self.pending.lock();
        let rest = pending.get(workload).map(|pending| &pending.calls);
        self.state
            .settle(workload, stored, rest, self.limits.dependencies);
    }

    /// Starts what is due, and says when the next will be. Never two writes of one workload at once: they would only
    /// meet each other's conflict.
    fn start_due(
        self: &Arc<Self>,
        writes: &mut JoinSet<()>,
        busy: &mut HashMap<Id, Workload>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut pending = self.pending.lock();
        let is_busy = |busy: &HashMap<Id, Workload>, workload: &Workload| {
            busy.values().any(|one| one == workload)
        };
        let due = pending
            .iter()
            .filter(|(workload, p)| p.not_before <= now && !is_busy(busy, workload));
        let room = WRITES.saturating_sub(writes.len());
        let due: Vec<Workload> = due
            .map(|(workload, _)| workload.clone())
            .take(room)
            .collect();
        for workload in due {
            if let Some(taken) = pending.remove(&workload) {
                let (shared, of) = (self.clone(), workload.clone());
                let write = writes.spawn(async move { shared.write(&of, taken).await });
                busy.insert(write.id(), workload);
            }
        }
        // When no more writes may start, the end of one is what is waited for.
        let waiting = pending
            .iter()
            .filter(|(workload, _)| !is_busy(busy, workload));
        let next = waiting.map(|(_, pending)| pending.not_before).min();
        next.filter(|_| writes.len() < WRITES)
    }

    async fn write(&self, workload: &Workload, pending: Pending) {
        match self
            .store
            .learn(workload, &pending.calls, &self.limits)
            .await
        {
            Ok(stored) => {
                self.count(&stored);
                self.settle(workload, Some(stored.now));
                self.metrics
                    .write_seconds
                    .observe(pending.since.elapsed().as_secs_f64());
                acknowledge(pending.waiting);
            }
            Err(Error::Unavailable(error)) => self.retry(workload, pending, &error),
            Err(error) => {
                warn!(%workload, %error, "what was learned is dropped: it can never be stored");
                let refused = Outcome::Refused(Refusal::Unwritable);
                self.metrics.observed(refused, pending.calls.len());
                self.settle(workload, None);
                acknowledge(pending.waiting);
            }
        }
    }

    fn count(&self, stored: &Stored) {
        self.metrics.writes.inc_by(u64::from(stored.wrote));
        self.metrics.conflicts.inc_by(u64::from(stored.conflicts));
        if stored.refused > 0 {
            debug!(workload = %stored.now.entry.workload, refused = stored.refused, "at its limit");
            self.metrics
                .observed(Outcome::Refused(Refusal::Capped), stored.refused);
        }
    }

    fn retry(&self, workload: &Workload, failed: Pending, error: &str) {
        self.metrics.write_failures.inc();
        let failures = failed.failures + 1;
        let wait = RETRY
            .0
            .saturating_mul(2_u32.saturating_pow(failures - 1))
            .min(RETRY.1);
        warn!(%workload, error, failures, retry_in = ?wait, "not stored yet");
        let not_before = Instant::now() + wait;
        let mut pending = self.pending.lock();
        let entry = pending
            .entry(workload.clone())
            .or_insert_with(|| Pending::new(failed.since, not_before));
        entry.calls.merge(&failed.calls);
        entry.waiting.extend(failed.waiting);
        entry.since = entry.since.min(failed.since);
        entry.not_before = not_before;
        entry.failures = failures;
        self.news.notify_one();
    }
}

fn acknowledge(waiting: Vec<Waiting>) {
    for waiting in waiting {
        // Who asked may have gone.
        let _ = waiting.stored.send(());
    }
}
