//! Takes reports: judges each observation, hands what is new to the writer, and acknowledges a batch when all of it
//! is stored.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::SystemTime;

use dependency_graph::api::{self, ReportRequest, ReportResponse};
use dependency_graph::convert::Observation;
use dependency_graph::{Learned, Source, Timestamp, Workload};
use futures::future::{BoxFuture, try_join_all};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, Stream, StreamExt, stream};
use mesh_runtime::drain::Drain;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};
use tracing::debug;

use crate::limits::Limits;
use crate::metrics::{Metrics, Outcome, Refusal};
use crate::observation::{Due, believed, due};
use crate::state::State;
use crate::writer::Writer;

/// Observations a batch may have.
pub const BATCH: usize = 1000;
/// Batches of one stream that are not stored yet. Then no more are read, and HTTP/2 holds up the sender.
const UNSTORED: usize = 64;

/// What taking reports needs.
#[derive(Clone, Debug)]
pub struct Reports {
    /// What is known.
    pub state: State,
    /// Where what is new goes.
    pub writer: Writer,
    /// How much is learned at most.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Metrics,
    /// When to stop.
    pub drain: Drain,
}

/// Batches come in.
type Incoming = Streaming<ReportRequest>;

struct Session {
    reports: Reports,
    incoming: Option<Incoming>,
    last: Option<u64>,
    until: Instant,
    /// Batches in order, each to be waited for until it is stored.
    unstored: FuturesOrdered<BoxFuture<'static, Result<u64, Status>>>,
}

impl Reports {
    /// The acknowledgements of a stream of batches. It ends at `until`, whether all is stored or not: what is not
    /// acknowledged is still stored, and will be reported again.
    pub fn stream(
        self,
        incoming: Incoming,
        until: Instant,
    ) -> impl Stream<Item = Result<ReportResponse, Status>> + Send + 'static {
        let unstored = FuturesOrdered::new();
        let session = Session {
            reports: self,
            incoming: Some(incoming),
            last: None,
            until,
            unstored,
        };
        stream::unfold(Some(session), |session| async {
            let mut session = session?;
            match session.next().await {
                Ok(Some(sequence)) => Some((Ok(ReportResponse { sequence }), Some(session))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    /// Judges a batch, and says what of it is to be stored.
    fn judge(&self, batch: Vec<api::Observation>, now: Timestamp) -> BTreeMap<Workload, Learned> {
        let beyond = batch.len().saturating_sub(BATCH);
        if beyond > 0 {
            self.metrics
                .observed(Outcome::Refused(Refusal::BatchTooLarge), beyond);
        }
        let mut new = BTreeMap::<Workload, Learned>::new();
        for message in batch.into_iter().take(BATCH) {
            let outcome = match checked(message, now, &self.limits) {
                Err(refusal) => Outcome::Refused(refusal),
                Ok(observation) => self.sort(observation, now, &mut new),
            };
            self.metrics.observed(outcome, 1);
        }
        new
    }

    fn sort(
        &self,
        observation: Observation,
        now: Timestamp,
        new: &mut BTreeMap<Workload, Learned>,
    ) -> Outcome {
        let Observation {
            workload,
            dependency,
            seen,
        } = observation;
        match due(&self.state, &self.limits, &workload, &dependency, seen) {
            Due::Nothing => return Outcome::Known,
            Due::Refusing => return Outcome::Refused(Refusal::Capped),
            Due::Storing | Due::Saying => {}
        }
        let learned = new.entry(workload).or_default();
        learned.see(&dependency, seen.unwrap_or(now), Source::OnDemand);
        Outcome::Accepted
    }
}

/// An observation that makes sense.
fn checked(
    message: api::Observation,
    now: Timestamp,
    limits: &Limits,
) -> Result<Observation, Refusal> {
    let observation = Observation::try_from(message).map_err(|error| {
        debug!(%error, "an observation is malformed");
        Refusal::Malformed
    })?;
    Ok(Observation {
        seen: believed(observation.seen, now, limits),
        ..observation
    })
}

/// What happened on a stream.
enum Turn {
    Stored(Result<u64, Status>),
    Closed,
    Read(Result<Option<ReportRequest>, Status>),
}

async fn read(incoming: &mut Option<Incoming>) -> Result<Option<ReportRequest>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => Ok(None),
    }
}

impl Session {
    /// The next batch that is stored; none when the stream is over.
    async fn next(&mut self) -> Result<Option<u64>, Status> {
        let drain = self.reports.drain.clone();
        loop {
            let Self {
                incoming,
                unstored,
                until,
                ..
            } = self;
            let open = incoming.is_some();
            let reading = open && unstored.len() < UNSTORED;
            let turn = tokio::select! {
                biased;
                Some(stored) = unstored.next() => Turn::Stored(stored),
                () = sleep_until(*until), if open || !unstored.is_empty() => return Ok(None),
                () = drain.started(), if open => Turn::Closed,
                batch = read(incoming), if reading => Turn::Read(batch),
                else => return Ok(None),
            };
            match turn {
                Turn::Stored(stored) => return stored.map(Some),
                Turn::Closed => self.incoming = None,
                Turn::Read(batch) => match batch? {
                    Some(batch) => self.take(batch).await?,
                    None => self.incoming = None,
                },
            }
        }
    }

    async fn take(&mut self, batch: ReportRequest) -> Result<(), Status> {
        let sequence = batch.sequence;
        if self.last.is_some_and(|last| sequence <= last) {
            let message = format!("sequence {sequence} does not rise");
            return Err(Status::invalid_argument(message));
        }
        self.last = Some(sequence);
        self.reports.metrics.reports.inc();
        let mut tickets = Vec::new();
        for (workload, calls) in self
            .reports
            .judge(batch.observations, SystemTime::now().into())
        {
            tickets.push(self.reports.writer.submit(workload, calls).await);
        }
        let lost = |_| Status::unavailable("shutting down before everything was stored");
        let stored = try_join_all(tickets).map(move |done| done.map(|_| sequence).map_err(lost));
        self.unstored.push_back(stored.boxed());
        Ok(())
    }
}
