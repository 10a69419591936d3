//! Talks to the controller: what was learned goes there, what is known comes from there.
//!
//! The shim works without it. Both directions connect again by themselves for ever.

use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::pending::{Edge, Pending, Seen};
use dependency_graph::api::dependency_graph_client::DependencyGraphClient;
use dependency_graph::api::{Observation, ReportRequest, WatchRequest};
use mesh_runtime::grpc::{Dialer, TokenError, TokenFile};
use mesh_runtime::retry::Retry;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tracing::{info, warn};

/// Between attempts: it doubles up to the longest. A stranded first call waits for 5 s at the most.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is learned within this time goes in one report; and the call that taught it goes first.
const GATHERING: Duration = Duration::from_millis(20);

/// What streams tell; the sending is [`Controller::report`].
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

/// Why a stream to the controller ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Dial(#[from] mesh_runtime::grpc::Error),
    #[error("{0}")]
    Call(#[from] Box<Status>),
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("the controller ended the stream")]
    Ended,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// A controller to talk to.
#[derive(Debug, Clone)]
pub struct Controller {
    /// Where it is.
    pub dialer: Dialer,
    /// A service account token, read at every connection since the kubelet changes it.
    pub token: Option<TokenFile>,
}

impl Controller {
    /// Follows the graph, for ever.
    pub async fn watch(&self, graph: &Graph, metrics: &Metrics) {
        let mut retry = Retry::new(SHORTEST_WAIT, LONGEST_WAIT);
        loop {
            let outcome = self.follow(graph, metrics, &mut retry).await;
            metrics.controller.set(0);
            self.pause("watch", outcome, &mut retry).await;
        }
    }

    /// Reports what is learned, for ever.
    pub async fn report(&self, reporter: &Reporter) {
        let mut retry = Retry::new(SHORTEST_WAIT, LONGEST_WAIT);
        loop {
            let outcome = self.send(reporter, &mut retry).await;
            reporter.pending.lock().rewind();
            self.pause("report", outcome, &mut retry).await;
        }
    }

    async fn client(&self) -> Result<DependencyGraphClient<Channel>, Error> {
        // A graph of half a million edges is some tens of megabytes.
        let client = DependencyGraphClient::new(self.dialer.connect().await?);
        Ok(client.max_decoding_message_size(256 << 20))
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            token.authorize(&mut request)?;
        }
        Ok(request)
    }

    async fn pause(&self, stream: &str, outcome: Result<(), Error>, retry: &mut Retry) {
        let (controller, retry_in) = (self.dialer.address(), retry.failed());
        let error = outcome.err().unwrap_or(Error::Ended);
        warn!(stream, controller, %error, ?retry_in, "not connected to the controller");
        tokio::time::sleep(retry_in).await;
    }

    async fn follow(
        &self,
        graph: &Graph,
        metrics: &Metrics,
        retry: &mut Retry,
    ) -> Result<(), Error> {
        let request = self.request(WatchRequest::default())?;
        let mut updates = self.client().await?.watch(request).await?.into_inner();
        graph.begin();
        while let Some(update) = updates.message().await? {
            if update.snapshot_complete {
                info!(controller = self.dialer.address(), "the graph is known");
                metrics.controller.set(1);
                retry.succeeded();
            }
            for skipped in graph.apply(update) {
                warn!(
                    entry = skipped,
                    "the controller sent something that is not valid, skipped"
                );
            }
        }
        Ok(())
    }

    async fn send(&self, reporter: &Reporter, retry: &mut Retry) -> Result<(), Error> {
        let mut client = self.client().await?;
        let (batches, outgoing) = mpsc::channel(1);
        let request = self.request(ReceiverStream::new(outgoing))?;
        let answers = client.report(request);
        tokio::pin!(answers);
        let mut stored = None;
        let mut gathered_at = None;
        loop {
            if !reporter.pending.lock().has_unsent() {
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
                    let Some((sequence, observations)) = reporter.pending.lock().batch() else {
                        continue;
                    };
                    let observations = observations.into_iter().map(observation).collect();
                    room.send(ReportRequest { sequence, observations });
                }
                () = reporter.news.notified() => {}
                () = gathering => {}
                // The answer's head may come only with the first batch.
                begun = &mut answers, if stored.is_none() => {
                    stored = Some(begun?.into_inner());
                    retry.succeeded();
                }
                answer = next_of(&mut stored), if stored.is_some() => match answer? {
                    Some(answer) => {
                        let mut pending = reporter.pending.lock();
                        pending.stored(answer.sequence);
                        reporter.metrics.pending.set(i64::try_from(pending.len()).unwrap_or(i64::MAX));
                    }
                    None => return Ok(()),
                },
            }
        }
    }
}

async fn next_of<T>(stream: &mut Option<tonic::Streaming<T>>) -> Result<Option<T>, Status> {
    match stream {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
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
