//! Takes calls that fell back to a global proxy, has what is new stored, and says what becomes of each: until the
//! caller's Sidecar gives it the service, or it is clear that it never will.
//!
//! One call is judged by `judge.rs`; what is still to be said is kept in `book.rs`; both are pure. Here a stream moves
//! calls in and answers out.

mod book;
mod judge;
mod metrics;
mod rate;

#[cfg(test)]
mod tests;

use std::future::pending;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use dependency_graph::api::{CallsRequest, CallsResponse};
use futures::future::{BoxFuture, ready};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt, poll, stream};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

pub use metrics::{Metrics, Outcome};

use crate::given::Given;
use crate::mesh::World;
use crate::report::Reports;
use book::{Book, Court, Entry, Work};
use judge::Known;
use rate::Rates;

/// How long after a look at all open calls the next one is, at the earliest: Sidecars change in bursts.
const PAUSE: Duration = Duration::from_millis(5);
/// The same for callers that are waited for: pods change all the time.
const RETRY: Duration = Duration::from_millis(20);

/// What is watched of the mesh. Clones share it.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// What is known.
    pub world: Arc<RwLock<World>>,
    /// Tells of every change of it, once it can be seen there; several may be told as one.
    pub changes: watch::Receiver<()>,
    /// Whether all there is was seen once. Before that no call is answered: a service that was not yet seen would be
    /// said to be none.
    pub synced: watch::Receiver<bool>,
}

/// What taking calls needs. Clones share it.
#[derive(Clone, Debug)]
pub struct Calls {
    reports: Reports,
    mesh: Option<Mesh>,
    given: Given,
    rates: Arc<Mutex<Rates>>,
    metrics: Metrics,
}

/// Messages come in.
type Incoming = Streaming<CallsRequest>;

/// Calls whose fate in the store is known, or of which nobody knows because the writer is gone.
type Stored = Result<Vec<Entry>, Vec<Entry>>;

struct Session {
    calls: Calls,
    incoming: Option<Incoming>,
    until: Instant,
    book: Book,
    unstored: FuturesUnordered<BoxFuture<'static, Stored>>,
    sidecars: News,
    pods: News,
}

/// Tells of changes, but not too often.
struct News {
    changes: Option<watch::Receiver<()>>,
    pause: Duration,
    not_before: Instant,
}

impl News {
    fn new(changes: Option<watch::Receiver<()>>, pause: Duration) -> Self {
        Self {
            changes,
            pause,
            not_before: Instant::now(),
        }
    }

    /// Returns at a change since it last returned; safe to drop.
    async fn come(&mut self) {
        sleep_until(self.not_before).await;
        let changed = match &mut self.changes {
            Some(changes) => changes.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            pending::<()>().await;
        }
        self.not_before = Instant::now() + self.pause;
    }
}

impl Calls {
    /// `mesh`: absent where nothing watches the mesh; every call is refused then.
    #[must_use]
    pub fn new(reports: Reports, mesh: Option<Mesh>, given: Given, metrics: Metrics) -> Self {
        Self {
            reports,
            mesh,
            given,
            rates: Arc::default(),
            metrics,
        }
    }

    /// The answers to a stream of calls. It ends at `until`, and once the drain has started and nothing is unsure: what
    /// is not said to be done is to be sent again.
    pub fn stream(
        self,
        incoming: Incoming,
        until: Instant,
    ) -> impl Stream<Item = Result<CallsResponse, Status>> + Send + 'static {
        let session = Session {
            incoming: Some(incoming),
            until,
            book: Book::new(self.metrics.clone()),
            unstored: FuturesUnordered::new(),
            sidecars: News::new(Some(self.given.changes()), PAUSE),
            pods: News::new(self.mesh.as_ref().map(|mesh| mesh.changes.clone()), RETRY),
            calls: self,
        };
        let begun = async move {
            let drain = session.calls.reports.drain.clone();
            tokio::select! {
                () = session.calls.synced() => Some(session),
                () = drain.started() => None,
                () = sleep_until(until) => None,
            }
        };
        stream::once(begun).flat_map(|session| {
            stream::unfold(session, |session| async {
                let mut session = session?;
                match session.next().await {
                    Ok(Some(response)) => Some((Ok(response), Some(session))),
                    Ok(None) => None,
                    Err(status) => Some((Err(status), None)),
                }
            })
        })
    }

    /// Returns once the graph and the mesh are known.
    async fn synced(&self) {
        self.reports.state.synced().await;
        if let Some(mesh) = &self.mesh
            && mesh.synced.clone().wait_for(|done| *done).await.is_err()
        {
            // Who watches is gone; it will never be known.
            pending::<()>().await;
        }
    }

    /// Does something with all that is known now; `None` where nothing watches the mesh.
    fn judge<T>(&self, work: impl FnOnce(&mut Court<'_>) -> T) -> Option<T> {
        let world = self.mesh.as_ref()?.world.read();
        let known = Known {
            world: &world,
            state: &self.reports.state,
            limits: &self.reports.limits,
            now: SystemTime::now().into(),
        };
        let mut court = Court {
            known,
            given: &self.given,
            rates: &mut self.rates.lock(),
            now: Instant::now(),
        };
        Some(work(&mut court))
    }
}

/// What happened on a stream.
enum Turn {
    Stored(Stored),
    Sidecars,
    Pods,
    Time,
    Closed,
    Read(Result<Option<CallsRequest>, Status>),
}

async fn read(incoming: &mut Option<Incoming>) -> Result<Option<CallsRequest>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => Ok(None),
    }
}

impl Session {
    /// The next answers; none when the stream is over.
    async fn next(&mut self) -> Result<Option<CallsResponse>, Status> {
        let drain = self.calls.reports.drain.clone();
        loop {
            if let Some(answers) = self.book.answers() {
                return Ok(Some(answers));
            }
            if self.incoming.is_none() && !self.book.owes() {
                return Ok(None);
            }
            let next_time = self.book.next_time().unwrap_or(self.until);
            let (open, waits) = (self.incoming.is_some(), self.book.waits());
            let reading = open && !self.book.is_full();
            let turn = tokio::select! {
                biased;
                Some(stored) = self.unstored.next() => Turn::Stored(stored),
                () = sleep_until(self.until) => return Ok(None),
                () = drain.started(), if open => Turn::Closed,
                () = self.sidecars.come() => Turn::Sidecars,
                () = self.pods.come(), if waits => Turn::Pods,
                () = sleep_until(next_time) => Turn::Time,
                message = read(&mut self.incoming), if reading => Turn::Read(message),
            };
            self.turn(turn).await?;
        }
    }

    async fn turn(&mut self, turn: Turn) -> Result<(), Status> {
        let Self { calls, book, .. } = self;
        let work = match turn {
            Turn::Stored(Ok(entries)) => {
                book.stored(&entries, &calls.reports.state, &calls.given, Instant::now());
                None
            }
            Turn::Stored(Err(_)) => {
                let lost = "shutting down before everything was stored";
                return Err(Status::unavailable(lost));
            }
            Turn::Sidecars => {
                book.look(&calls.given, Instant::now());
                None
            }
            Turn::Pods => calls.judge(|court| book.retry(court)),
            Turn::Time => {
                book.look(&calls.given, Instant::now());
                calls.judge(|court| book.retry(court))
            }
            Turn::Closed | Turn::Read(Ok(None)) => {
                self.incoming = None;
                None
            }
            Turn::Read(Ok(Some(message))) => {
                if calls.mesh.is_none() {
                    let hint = "this controller does not watch the mesh (hint: --store kubernetes)";
                    book.refuse(&message.calls, hint);
                }
                calls.judge(|court| book.take(message.calls, court))
            }
            Turn::Read(Err(status)) => return Err(status),
        };
        self.store(work.unwrap_or_default()).await;
        Ok(())
    }

    /// Hands on what is to be stored, and waits for it beside all else.
    async fn store(&mut self, work: Work) {
        for (workload, (learned, entries)) in work {
            let writer = self.calls.reports.writer.clone();
            let mut stored = async move {
                let ticket = writer.submit(workload, learned).await;
                match ticket.await {
                    Ok(()) => Ok(entries),
                    Err(_) => Err(entries),
                }
            }
            .boxed();
            // It begins now: whoever writes Sidecars is told while the first answer is on its way.
            let stored = match poll!(&mut stored) {
                Poll::Ready(done) => ready(done).boxed(),
                Poll::Pending => stored,
            };
            self.unstored.push(stored);
        }
    }
}
