//! Reports to the controller what was learned, and takes in what it says of the graph.
//!
//! The shim works without it. Both directions connect again by themselves for ever.

use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::pending::{Edge, Pending, Seen};
use dependency_graph::api::{Observation, ReportRequest, WatchResponse};
use graph_client::{Controller, Error, Sink, next_of};
use mesh_runtime::retry::Retry;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// What is learned within this time goes in one report; and the call that taught it goes first.
const GATHERING: Duration = Duration::from_millis(20);

/// What streams tell; the sending is [`Reporter::report`].
#[derive(Debug, Clone)]
pub struct Reporter {
    pending: Arc<Mutex<Pending>>,
    news: Arc<Notify>,
    metrics: Metrics,
}

impl Reporter {
    /// Nothing to tell yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            pending: Arc::default(),
            news: Arc::default(),
            metrics,
        }
    }

    /// Takes in what a proxy asked for. `seen`: `None` for a time that nobody knows.
    pub fn add(&self, edge: Edge, seen: Option<SystemTime>) {
        let mut pending = self.pending.lock();
        if !pending.add(edge, seen) {
            self.metrics.dropped.inc();
        }
        self.metrics
            .pending
            .set(i64::try_from(pending.len()).unwrap_or(i64::MAX));
        self.news.notify_one();
    }
}

/// Where what the controller says goes.
#[derive(Debug)]
pub struct Watched<'a> {
    /// The graph that is kept up to date.
    pub graph: &'a Graph,
    /// Where it is shown whether the watch is open.
    pub metrics: &'a Metrics,
}

impl Sink for Watched<'_> {
    fn begin(&self) {
        self.graph.begin();
    }

    fn apply(&self, update: WatchResponse) -> Vec<String> {
        self.graph.apply(update)
    }

    fn connected(&self, connected: bool) {
        self.metrics.controller.set(connected.into());
    }
}

impl Reporter {
    /// Reports what is learned, for ever.
    pub async fn report(&self, controller: &Controller) {
        let mut retry = Controller::retry();
        loop {
            let outcome = self.send(controller, &mut retry).await;
            self.pending.lock().rewind();
            controller.pause("report", outcome, &mut retry).await;
        }
    }

    async fn send(&self, controller: &Controller, retry: &mut Retry) -> Result<(), Error> {
        let mut client = controller.client().await?;
        let (batches, outgoing) = mpsc::channel(1);
        let request = controller.request(ReceiverStream::new(outgoing))?;
        let answers = client.report(request);
        tokio::pin!(answers);
        let mut stored = None;
        let mut gathered_at = None;
        loop {
            if !self.pending.lock().has_unsent() {
                gathered_at = None;
            } else if gathered_at.is_none() {
                gathered_at = Some(Instant::now() + GATHERING);
            }
            let gathered = gathered_at.is_some_and(|at| at <= Instant::now());
            let gathering = async {
                match gathered_at {
                    Some(at) if !gathered => tokio::time::sleep_until(at).await,
                    _ => std::future::pending().await,
                }
            };
            // Sending waits beside the others: the call itself, and so the reading of what is sent,
            // only goes on while it is polled.
            tokio::select! {
                room = batches.reserve(), if gathered => {
                    let Ok(room) = room else { return Ok(()) };
                    let Some((sequence, observations)) = self.pending.lock().batch() else {
                        continue;
                    };
                    let observations = observations.into_iter().map(observation).collect();
                    room.send(ReportRequest { sequence, observations });
                }
                () = self.news.notified() => {}
                () = gathering => {}
                // The answer's head may come only with the first batch.
                begun = &mut answers, if stored.is_none() => {
                    stored = Some(begun?.into_inner());
                    retry.succeeded();
                }
                answer = next_of(&mut stored), if stored.is_some() => match answer? {
                    Some(answer) => {
                        let mut pending = self.pending.lock();
                        pending.stored(answer.sequence);
                        self.metrics.pending.set(i64::try_from(pending.len()).unwrap_or(i64::MAX));
                    }
                    None => return Ok(()),
                },
            }
        }
    }
}

fn observation(((workload, dependency), seen): Seen) -> Observation {
    Observation {
        workload: Some((&workload).into()),
        dependency: Some((&dependency).into()),
        seen: seen.map(Into::into),
    }
}

#[cfg(test)]
mod tests;
