//! A controller for tests, over loopback: takes reports in, tells watches a state, and loses streams as it is told to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::api::dependency_graph_server::{DependencyGraph, DependencyGraphServer};
use dependency_graph::api::{
    CallsRequest, CallsResponse, Mode, NamespaceMode, Observation, ReportRequest, ReportResponse,
    WatchRequest, WatchResponse,
};
use mesh_runtime::drain::Drain;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A controller. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<Memory>>);

/// What a [`Fake`] was told, and is to do.
#[derive(Debug, Default)]
pub struct Memory {
    /// How many streams of reports are still to end after one batch that was not stored, without a word.
    pub lose_reports: u32,
    /// The batches that were stored.
    pub batches: Vec<Vec<Observation>>,
    /// How many watches are still to end once they were told the state.
    pub lose_watches: u32,
    /// What watches brought: the header `authorization`, and whether they are for namespaces only.
    pub watches: Vec<(String, bool)>,
    open: Vec<mpsc::Sender<Result<WatchResponse, Status>>>,
}

/// Takes one off a count. Whether there was one.
fn take_one(count: &mut u32) -> bool {
    let before = *count;
    *count = before.saturating_sub(1);
    before > 0
}

impl Fake {
    /// What it remembers. No stream goes on while this is held.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock()
    }

    /// Serves on a port of its own for as long as the runtime lives; returns its address, `http://HOST:PORT`.
    ///
    /// # Errors
    /// When it gets no port.
    pub async fn serve(&self) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let service = DependencyGraphServer::new(self.clone());
        tokio::spawn(async move {
            let never = Drain::new(Duration::ZERO);
            mesh_runtime::grpc::serve(listener, None, service, &never).await
        });
        Ok(address)
    }

    /// Takes a batch in. Whether the stream goes on.
    fn stored(&self, batch: Vec<Observation>) -> bool {
        let mut memory = self.memory();
        let goes_on = !take_one(&mut memory.lose_reports);
        if goes_on {
            memory.batches.push(batch);
        }
        goes_on
    }
}

#[tonic::async_trait]
impl DependencyGraph for Fake {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type CallsStream = ReceiverStream<Result<CallsResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut batches = request.into_inner();
        let (answers, outgoing) = mpsc::channel(1);
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                let sequence = batch.sequence;
                let goes_on = fake.stored(batch.observations);
                if !goes_on || answers.send(Ok(ReportResponse { sequence })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    /// The state comes in two parts: a namespace `first`, then a namespace `last`.
    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.and_then(|token| token.to_str().ok());
        let told = (
            token.unwrap_or_default().to_owned(),
            request.get_ref().namespaces_only,
        );
        let (answers, outgoing) = mpsc::channel(2);
        for (namespace, complete) in [("first", false), ("last", true)] {
            let part = WatchResponse {
                namespaces: vec![NamespaceMode {
                    namespace: namespace.to_owned(),
                    mode: Mode::Off.into(),
                    ..Default::default()
                }],
                snapshot_complete: complete,
                ..Default::default()
            };
            let sent = answers.send(Ok(part)).await;
            sent.map_err(|_| Status::aborted("gone"))?;
        }
        let mut memory = self.memory();
        memory.watches.push(told);
        if !take_one(&mut memory.lose_watches) {
            memory.open.push(answers);
        }
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn calls(
        &self,
        _: Request<Streaming<CallsRequest>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        Err(Status::unimplemented("nobody calls here"))
    }
}
