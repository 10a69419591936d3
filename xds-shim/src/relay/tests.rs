//! The relay over loopback, between a proxy and an istiod that are both the test's own.

use super::*;
use crate::ads::{DeltaRequest, DeltaResponse, ResponseWriter};
use bytes::Bytes;
use dependency_graph::{Workload, api};
use futures::future::BoxFuture;
use mesh_runtime::grpc;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::StreamingService;
use tonic::{Code, Request, Status, Streaming};

mod on_demand;
mod pass_through;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}"))
}

/// One stream that reached istiod.
struct Upstream {
    path: String,
    metadata: MetadataMap,
    requests: Streaming<Bytes>,
    responses: mpsc::Sender<Result<Bytes, Status>>,
}

impl Upstream {
    async fn request(&mut self) -> Bytes {
        soon("a request", self.requests.message())
            .await
            .unwrap()
            .expect("the stream ended")
    }

    async fn delta_request(&mut self) -> DeltaRequest {
        DeltaRequest::decode(&self.request().await).unwrap()
    }

    async fn respond(&self, message: impl Into<Bytes>) {
        self.responses.send(Ok(message.into())).await.unwrap();
    }
}

/// An istiod whose streams the test answers. Refuses everything when `refuse` is set.
#[derive(Clone)]
struct Istiod {
    streams: mpsc::Sender<Upstream>,
    refuse: Option<Status>,
}

impl tower::Service<http::Request<Body>> for Istiod {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let accept = Accept {
            path,
            istiod: self.clone(),
        };
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(RawCodec)
                .streaming(accept, request)
                .await)
        })
    }
}

struct Accept {
    path: String,
    istiod: Istiod,
}

impl StreamingService<Bytes> for Accept {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (responses, outgoing) = mpsc::channel(1);
        let (metadata, _, requests) = request.into_parts();
        let (path, istiod) = (self.path.clone(), self.istiod.clone());
        Box::pin(async move {
            if let Some(status) = istiod.refuse {
                return Err(status);
            }
            let upstream = Upstream {
                path,
                metadata,
                requests,
                responses,
            };
            istiod
                .streams
                .send(upstream)
                .await
                .map_err(|_| Status::aborted("test over"))?;
            Ok(tonic::Response::new(ReceiverStream::new(outgoing)))
        })
    }
}

/// A shim between an istiod and whoever dials it.
struct Mesh {
    shared: Arc<Shared>,
    address: SocketAddr,
    streams: mpsc::Receiver<Upstream>,
}

async fn serve<S>(service: S, drain: Drain) -> SocketAddr
where
    S: tower::Service<http::Request<Body>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { grpc::serve(listener, None, service, &drain).await });
    address
}

impl Mesh {
    async fn start(default_mode: Mode) -> Self {
        Self::start_with(default_mode, None).await
    }

    async fn start_with(default_mode: Mode, refuse: Option<Status>) -> Self {
        let (sender, streams) = mpsc::channel(16);
        let istiod = Istiod {
            streams: sender,
            refuse,
        };
        let istiod = serve(istiod, Drain::new(Duration::ZERO)).await;
        Self::towards(&format!("http://{istiod}"), default_mode, streams).await
    }

    async fn towards(istiod: &str, default_mode: Mode, streams: mpsc::Receiver<Upstream>) -> Self {
        let store = Store::default();
        let drain = Drain::new(Duration::from_secs(5));
        let istiod = Dialer::new(istiod, None, None).unwrap();
        let shared = Arc::new(Shared {
            istiod,
            graph: Graph::default(),
            reporter: None,
            wait_for_controller: Instant::now(),
            metrics: Metrics::new(&prometheus::Registry::new(), &store).unwrap(),
            store,
            on_demand: OnDemandConfig::new(Duration::from_secs(5)),
            default_mode,
            misunderstood: Shared::nobody_misunderstood(),
            streams: Streams::default(),
            route_names: Default::default(),
            buffers: Buffers::default(),
            drain: drain.clone(),
        });
        let address = serve(Relay(Arc::clone(&shared)), drain).await;
        Self {
            shared,
            address,
            streams,
        }
    }

    async fn upstream(&mut self) -> Upstream {
        soon("a stream at istiod", self.streams.recv())
            .await
            .unwrap()
    }

    /// Opens a stream as a proxy, with some metadata.
    async fn proxy(&self, path: &'static str) -> Proxy {
        let dialer = Dialer::new(&format!("http://{}", self.address), None, None).unwrap();
        let client = tonic::client::Grpc::new(dialer.connect().await.unwrap());
        let mut client = client.max_decoding_message_size(usize::MAX);
        client.ready().await.unwrap();
        let (requests, outgoing) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        let metadata = request.metadata_mut();
        metadata.insert("authorization", "Bearer token".parse().unwrap());
        metadata.insert("clusterid", "Kubernetes".parse().unwrap());
        metadata.insert(
            "x-forwarded-client-cert",
            "URI=spiffe://forged".parse().unwrap(),
        );
        let path = http::uri::PathAndQuery::from_static(path);
        let call = client.streaming(request, path, RawCodec);
        let responses = soon("the head of the answer", call)
            .await
            .map(tonic::Response::into_inner);
        Proxy {
            requests,
            responses,
        }
    }
}

/// The downstream side of a stream.
struct Proxy {
    requests: mpsc::Sender<Bytes>,
    responses: Result<Streaming<Bytes>, Status>,
}

impl Proxy {
    async fn send(&self, message: impl Into<Bytes>) {
        soon("room for a request", self.requests.send(message.into()))
            .await
            .unwrap();
    }

    async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        match &mut self.responses {
            Ok(responses) => soon("a response", responses.message()).await,
            Err(status) => Err(status.clone()),
        }
    }

    async fn delta_response(&mut self) -> DeltaResponse {
        DeltaResponse::decode(&self.message().await.unwrap().expect("the stream ended")).unwrap()
    }

    /// The status the stream ends with, whatever comes before it.
    async fn end(&mut self) -> Status {
        loop {
            match self.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

#[test]
fn only_what_could_forge_an_identity_is_kept_back() {
    let mut metadata = MetadataMap::new();
    for name in [
        "authorization",
        "clusterid",
        "x-custom",
        "x-forwarded-client-cert",
    ] {
        metadata.insert(name, "v".parse().unwrap());
    }
    let out = metadata_for_istiod(metadata);
    assert!(out.get("x-forwarded-client-cert").is_none());
    assert_eq!(out.len(), 3);
}
