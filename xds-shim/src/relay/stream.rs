//! One ADS stream: a task between a proxy and istiod.
//!
//! Reading requests never waits for writing responses, or both sides could wait for each other
//! (istio#39209). What is read from istiod waits until the proxy took what came before. When one
//! side ends, the other does: the agent dials again, with a fresh token.

use super::head::Head;
use super::{FIRST_MESSAGE, Shared, ads, upstream};
use crate::streams::Stream as Listed;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::server::StreamingService;
use tonic::{Request, Response, Status, Streaming};

mod relaying;

use relaying::{Lazy, Relaying, every};

/// How many messages a connection may have before it that it did not take: a cluster and its
/// endpoints go out in one go, a slow peer is noticed soon.
const WAITING_MESSAGES: usize = 4;

/// How often a stream puts away what it does not need any longer.
const TIDY: Duration = Duration::from_secs(5);

/// Which of the two kinds of ADS a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    Delta,
    StateOfTheWorld,
}

impl Flavor {
    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Delta => ads::DELTA_PATH,
            Self::StateOfTheWorld => ads::SOTW_PATH,
        })
    }
}

/// Accepts streams.
pub(super) struct Accept {
    pub(super) shared: Arc<Shared>,
    pub(super) flavor: Flavor,
}

impl StreamingService<Bytes> for Accept {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (to_proxy, responses) = mpsc::channel(WAITING_MESSAGES);
        let peer = request
            .remote_addr()
            .map(|a| a.to_string())
            .unwrap_or_default();
        let (metadata, _, from_proxy) = request.into_parts();
        let (shared, flavor) = (Arc::clone(&self.shared), self.flavor);
        tokio::spawn(run(shared, flavor, peer, metadata, from_proxy, to_proxy));
        async move { Ok(Response::new(ReceiverStream::new(responses))) }.boxed()
    }
}

/// Whose doing the end of a stream was, and what the other side hears of it.
#[derive(Debug)]
struct End {
    by: &'static str,
    status: Option<Status>,
}

impl End {
    fn new(by: &'static str, status: Status) -> Self {
        Self {
            by,
            status: Some(status),
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    flavor: Flavor,
    peer: String,
    metadata: MetadataMap,
    mut from_proxy: Streaming<Bytes>,
    to_proxy: mpsc::Sender<Result<Bytes, Status>>,
) {
    let first = tokio::select! {
        first = tokio::time::timeout(FIRST_MESSAGE, from_proxy.message()) => first,
        () = shared.drain.started() => return,
    };
    let Ok(Ok(Some(first))) = first else {
        tracing::debug!(peer, "a stream ended before its first message");
        return;
    };
    let head = Head::read(&shared, flavor, &first).await;
    let label = head.label();
    tracing::info!(
        proxy = head.proxy.id,
        peer,
        treatment = label,
        "stream opened"
    );
    let listed = shared.streams.add(Listed {
        proxy: head.proxy.id.clone(),
        peer,
        treatment: label,
        workload: head.proxy.workload.as_ref().map(ToString::to_string),
        clusters: None,
    });
    shared.metrics.streams.with_label_values(&[label]).inc();
    let (to_istiod, from_istiod) =
        upstream::call(&shared, flavor.path(), metadata, WAITING_MESSAGES);
    let mut known = head.workload().map(|w| shared.graph.follow(w));
    let relay = Relaying {
        proxy: head.proxy.clone(),
        lazy: head
            .workload()
            .zip(known.as_mut())
            .map(|(w, known)| Lazy::new(&shared, w, known)),
        known,
        shared: Arc::clone(&shared),
        flavor,
        from_proxy,
        to_proxy,
        from_istiod,
        to_istiod,
        for_proxy: VecDeque::new(),
        for_istiod: VecDeque::new(),
        asks: Vec::new(),
        tidy: every(TIDY),
        listed,
        unlisted: false,
    };
    let end = relay.run(first).await;
    if head.workload().is_some() {
        tokio::spawn(shared.buffers.clone().tidy_later());
    }
    if end.by == "shim" && head.workload().is_some() {
        // It would end in the same way again: the proxy gets everything for a while.
        shared.misunderstood.insert(head.proxy.id.clone(), ());
    }
    shared.metrics.streams.with_label_values(&[label]).dec();
    shared.metrics.ended.with_label_values(&[end.by]).inc();
    let why = end.status.as_ref().map(ToString::to_string);
    tracing::info!(proxy = head.proxy.id, by = end.by, why, "stream ended");
}

impl From<crate::session::Error> for End {
    fn from(error: crate::session::Error) -> Self {
        use crate::session::Error;
        let text = error.to_string();
        Self::new(
            "shim",
            match error {
                Error::Decode { from: "istiod", .. } => Status::internal(text),
                Error::Decode { .. } => Status::invalid_argument(text),
                Error::TooManyOpenResponses => Status::resource_exhausted(text),
                // The proxy dials again and gets everything.
                Error::CannotAsk(_) => Status::unavailable(text),
            },
        )
    }
}
