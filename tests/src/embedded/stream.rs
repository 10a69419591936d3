//! One ADS stream: reads requests, takes pushes, and writes what the session decides.
//!
//! Reading never waits for writing: responses queue here, and a peer that asks for ever without reading is cut off.

use super::plane::{Pushed, Shared};
use super::proxy::Proxy;
use super::record::{RequestRecord, Variant};
use super::resources::{Push, Snapshot, everything};
use super::session::Session;
use futures::{Stream, StreamExt};
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use xds_shim::envoy::config::core::v3::Node;
use xds_shim::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

/// Responses that may wait to be written; more means the peer does not read.
const QUEUE: usize = 4096;

/// What differs between the two variants of the protocol.
pub(super) trait Protocol: Send + 'static {
    /// A request.
    type Request: Send + 'static;
    /// A response.
    type Response: Message + Send + 'static;
    /// Its name.
    const VARIANT: Variant;

    fn node(request: &Self::Request) -> Option<&Node>;
    fn record(request: &Self::Request) -> RequestRecord;
    fn on_request(
        session: &mut Session,
        request: &Self::Request,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<Self::Response>;
    fn on_push(
        session: &mut Session,
        push: &Push,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<Self::Response>;
    /// Type URL and number of resources.
    fn describe(response: &Self::Response) -> (&str, usize);
}

/// Delta ADS.
#[derive(Debug)]
pub(super) struct Delta;
/// State-of-the-world ADS.
#[derive(Debug)]
pub(super) struct Sotw;

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn record(request: &Self::Request) -> RequestRecord {
        request.into()
    }
    fn on_request(
        session: &mut Session,
        request: &Self::Request,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<Self::Response> {
        session.on_delta_request(request, snapshot, version)
    }
    fn on_push(s: &mut Session, push: &Push, at: &Snapshot, version: u64) -> Vec<Self::Response> {
        s.on_delta_push(push, at, version)
    }
    fn describe(response: &Self::Response) -> (&str, usize) {
        (&response.type_url, response.resources.len())
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::Sotw;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn record(request: &Self::Request) -> RequestRecord {
        request.into()
    }
    fn on_request(
        session: &mut Session,
        request: &Self::Request,
        snapshot: &Snapshot,
        version: u64,
    ) -> Vec<Self::Response> {
        session.on_sotw_request(request, snapshot, version)
    }
    fn on_push(s: &mut Session, push: &Push, at: &Snapshot, version: u64) -> Vec<Self::Response> {
        s.on_sotw_push(push, at, version)
    }
    fn describe(response: &Self::Response) -> (&str, usize) {
        (&response.type_url, response.resources.len())
    }
}

/// Starts serving a stream and gives its responses.
pub(super) fn serve<P: Protocol>(
    shared: Arc<Shared>,
    request: Request<Streaming<P::Request>>,
) -> impl Stream<Item = Result<P::Response, Status>> + Send + 'static + use<P> {
    let id = shared.log.lock().open(P::VARIANT, text_metadata(&request));
    let (responses, output) = mpsc::channel(1);
    let driver = Driver::<P> {
        pushes: shared.pushes.subscribe(),
        cut: shared.cut.subscribe(),
        shared,
        id,
        proxy: None,
        session: Session::default(),
        queue: VecDeque::new(),
    };
    tokio::spawn(driver.run(request.into_inner(), responses));
    ReceiverStream::new(output)
}

fn text_metadata<T>(request: &Request<T>) -> BTreeMap<String, String> {
    let pairs = request.metadata().iter().filter_map(|entry| match entry {
        tonic::metadata::KeyAndValueRef::Ascii(key, value) => {
            Some((key.to_string(), value.to_str().ok()?.to_owned()))
        }
        tonic::metadata::KeyAndValueRef::Binary(..) => None,
    });
    pairs.collect()
}

struct Driver<P: Protocol> {
    shared: Arc<Shared>,
    id: u64,
    pushes: broadcast::Receiver<Arc<Pushed>>,
    cut: watch::Receiver<u64>,
    /// None before its first request.
    proxy: Option<Proxy>,
    session: Session,
    queue: VecDeque<P::Response>,
}

impl<P: Protocol> Driver<P> {
    async fn run(
        mut self,
        mut requests: Streaming<P::Request>,
        responses: mpsc::Sender<Result<P::Response, Status>>,
    ) {
        let end = self.serve(&mut requests, &responses).await;
        if let Some(stream) = self.shared.log.lock().stream(self.id) {
            stream.open = false;
        }
        if let Err(status) = end {
            // The peer may be gone already.
            let _ = responses.send(Err(status)).await;
        }
    }

    async fn serve(
        &mut self,
        requests: &mut Streaming<P::Request>,
        responses: &mpsc::Sender<Result<P::Response, Status>>,
    ) -> Result<(), Status> {
        loop {
            // Requests before pushes, as istiod does it.
            tokio::select! {
                biased;
                _ = self.cut.changed() => return Err(Status::unavailable("cut by the test")),
                request = requests.next() => match request {
                    Some(request) => self.request(&request?)?,
                    None => return Ok(()),
                },
                permit = responses.reserve(), if !self.queue.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(response) = self.queue.pop_front() {
                        permit.send(Ok(response));
                    }
                },
                push = self.pushes.recv() => self.push(push)?,
            }
            if self.queue.len() > QUEUE {
                return Err(Status::resource_exhausted(
                    "the peer does not read its responses",
                ));
            }
        }
    }

    fn request(&mut self, request: &P::Request) -> Result<(), Status> {
        let proxy = match &self.proxy {
            Some(proxy) => proxy,
            None => {
                let node = P::node(request);
                let id = node.map(|node| node.id.as_str()).unwrap_or_default();
                let proxy = node.and_then(Proxy::of).ok_or_else(|| {
                    Status::invalid_argument(format!("no namespace in node id {id:?}"))
                })?;
                if let Some(stream) = self.shared.log.lock().stream(self.id) {
                    stream.node = id.to_owned();
                }
                self.proxy.insert(proxy)
            }
        };
        let (snapshot, version) = self.shared.snapshot(proxy);
        let made = P::on_request(&mut self.session, request, &snapshot, version);
        self.note(Some(P::record(request)), &made);
        self.queue.extend(made);
        Ok(())
    }

    fn push(
        &mut self,
        push: Result<Arc<Pushed>, broadcast::error::RecvError>,
    ) -> Result<(), Status> {
        let pushed = match push {
            Ok(pushed) => pushed,
            // Missed some: everything again covers them.
            Err(broadcast::error::RecvError::Lagged(_)) => Arc::new(Pushed {
                what: everything(),
                namespaces: None,
            }),
            Err(broadcast::error::RecvError::Closed) => {
                return Err(Status::unavailable("the control plane stops"));
            }
        };
        let concerned = |proxy: &&Proxy| {
            let mut namespaces = pushed.namespaces.iter();
            namespaces.all(|all| all.contains(&proxy.namespace))
        };
        if let Some(proxy) = self.proxy.as_ref().filter(concerned) {
            let (snapshot, version) = self.shared.snapshot(proxy);
            let made = P::on_push(&mut self.session, &pushed.what, &snapshot, version);
            self.note(None, &made);
            self.queue.extend(made);
        }
        Ok(())
    }

    fn note(&self, request: Option<RequestRecord>, made: &[P::Response]) {
        let mut log = self.shared.log.lock();
        let Some(stream) = log.stream(self.id) else {
            return;
        };
        request.into_iter().for_each(|request| stream.note(request));
        for response in made {
            let (url, resources) = P::describe(response);
            stream.note_sent(url, resources, response.encoded_len());
        }
    }
}
