//! A lazyload controller of the tests' own: says what a test tells it to, and remembers what it was told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::api::call_answer::State;
use dependency_graph::api::dependency_graph_server::{DependencyGraph, DependencyGraphServer};
use dependency_graph::api::{
    Call, CallAnswer, CallsRequest, CallsResponse, Dependency, FallbackPolicy, Mode, NamespaceMode,
    ReportRequest, ReportResponse, WatchRequest, WatchResponse,
};
use mesh_runtime::drain::Drain;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::support::until;

type Answering = Arc<dyn Fn(&Call) -> Vec<CallAnswer> + Send + Sync>;
type Open<T> = Mutex<Vec<mpsc::Sender<Result<T, Status>>>>;

#[derive(Default)]
struct Seen {
    batches: Mutex<Vec<Vec<Call>>>,
    calls: Open<CallsResponse>,
    watches: Open<WatchResponse>,
}

/// See the module.
pub(crate) struct Controller {
    address: SocketAddr,
    service: Service,
    drain: Drain,
}

#[derive(Clone)]
struct Service {
    namespaces: Arc<Mutex<Vec<NamespaceMode>>>,
    /// Where services are: on loopback.
    ranges: Arc<Mutex<Vec<String>>>,
    answering: Answering,
    seen: Arc<Seen>,
}

/// That namespace `shop` has this policy.
pub(crate) fn shop(fallback: FallbackPolicy) -> NamespaceMode {
    NamespaceMode {
        namespace: "shop".into(),
        mode: Mode::Sidecar.into(),
        fallback: fallback.into(),
    }
}

/// An answer that is the last. What is called is a service, of the protocol of the call, unless no name is known.
pub(crate) fn answer(call: &Call, state: State) -> CallAnswer {
    CallAnswer {
        id: call.id,
        state: state.into(),
        done: true,
        written_ms_ago: 10_000,
        resolved: (state != State::UnknownName).then(|| service(call.protocol)),
        ..Default::default()
    }
}

/// A service whose port is carried as this protocol.
pub(crate) fn service(protocol: i32) -> Dependency {
    Dependency {
        host: "server.shop.svc.cluster.local".into(),
        port: 80,
        protocol,
    }
}

impl Controller {
    /// One that has something to say of each call at once.
    pub(crate) async fn start(
        policy: FallbackPolicy,
        answering: impl Fn(&Call) -> Vec<CallAnswer> + Send + Sync + 'static,
    ) -> Self {
        let service = Service {
            namespaces: Arc::new(Mutex::new(vec![shop(policy)])),
            ranges: Arc::new(Mutex::new(vec!["127.0.0.0/8".into()])),
            answering: Arc::new(answering),
            seen: Arc::default(),
        };
        Self::serve("127.0.0.1:0".parse().unwrap(), service).await
    }

    /// One that says this of each call at once.
    pub(crate) async fn saying(policy: FallbackPolicy, state: State) -> Self {
        Self::start(policy, move |call| vec![answer(call, state)]).await
    }

    /// One that says nothing of itself.
    pub(crate) async fn silent(policy: FallbackPolicy) -> Self {
        Self::start(policy, |_| vec![]).await
    }

    async fn serve(address: SocketAddr, service: Service) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new(Duration::ZERO);
        let (served, until) = (DependencyGraphServer::new(service.clone()), drain.clone());
        tokio::spawn(
            async move { mesh_runtime::grpc::serve(listener, None, served, &until).await },
        );
        Self {
            address,
            service,
            drain,
        }
    }

    /// Goes away, with all its streams.
    pub(crate) async fn stop(&self) {
        self.cut();
        self.drain.end_now();
        let free = async || TcpListener::bind(self.address).await.is_ok();
        until("its port is free", free).await;
    }

    /// Comes back where it was, knowing what it knew.
    pub(crate) async fn again(&self) -> Self {
        Self::serve(self.address, self.service.clone()).await
    }

    /// Breaks all its streams.
    pub(crate) fn cut(&self) {
        self.service.seen.calls.lock().clear();
        self.service.seen.watches.lock().clear();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What came, batch by batch.
    pub(crate) fn batches(&self) -> Vec<Vec<Call>> {
        self.service.seen.batches.lock().clone()
    }

    /// What came.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.batches().concat()
    }

    /// What came, once so many did.
    pub(crate) async fn heard(&self, count: usize) -> Vec<Call> {
        until("they are told", async || self.calls().len() >= count).await;
        self.calls()
    }

    /// Says something of its own accord.
    pub(crate) async fn say(&self, answers: Vec<CallAnswer>) {
        let open = self.service.seen.calls.lock().clone();
        for stream in open {
            let answers = answers.clone();
            let _ = stream.send(Ok(CallsResponse { answers })).await;
        }
    }

    /// Says that services are elsewhere from now on.
    pub(crate) async fn ranges(&self, ranges: &[&str]) {
        let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
        self.service.ranges.lock().clone_from(&ranges);
        let open = self.service.seen.watches.lock().clone();
        for stream in open {
            let update = WatchResponse {
                service_cidrs: ranges.clone(),
                ..Default::default()
            };
            let _ = stream.send(Ok(update)).await;
        }
    }

    /// Says that a namespace is otherwise now.
    pub(crate) async fn change(&self, namespace: NamespaceMode) {
        let open = self.service.seen.watches.lock().clone();
        for stream in open {
            let update = WatchResponse {
                namespaces: vec![namespace.clone()],
                ..Default::default()
            };
            let _ = stream.send(Ok(update)).await;
        }
    }
}

#[tonic::async_trait]
impl DependencyGraph for Service {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type CallsStream = ReceiverStream<Result<CallsResponse, Status>>;

    async fn report(
        &self,
        _: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        Err(Status::unimplemented("a global proxy reports calls"))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        assert!(request.get_ref().namespaces_only);
        let (updates, outgoing) = mpsc::channel(8);
        let state = WatchResponse {
            namespaces: self.namespaces.lock().clone(),
            snapshot_complete: true,
            service_cidrs: self.ranges.lock().clone(),
            ..Default::default()
        };
        let sent = updates.send(Ok(state)).await;
        sent.map_err(|_| Status::aborted("gone"))?;
        self.seen.watches.lock().push(updates);
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn calls(
        &self,
        request: Request<Streaming<CallsRequest>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        let mut batches = request.into_inner();
        let (answers, outgoing) = mpsc::channel(8);
        self.seen.calls.lock().push(answers.clone());
        let (service, answers) = (self.clone(), answers.downgrade());
        tokio::spawn(async move {
            while let Ok(Some(CallsRequest { calls })) = batches.message().await {
                let said = calls.iter().flat_map(|call| (service.answering)(call));
                let said: Vec<_> = said.collect();
                service.seen.batches.lock().push(calls);
                // Gone when the stream was cut.
                let Some(answers) = answers.upgrade() else {
                    return;
                };
                if !said.is_empty() {
                    let _ = answers.send(Ok(CallsResponse { answers: said })).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
