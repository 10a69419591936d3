//! The gRPC service pods see: ADS streams are taken apart, every other call is handed through.
//!
//! One upstream stream per downstream stream, on a connection of its own, with the caller's own
//! metadata: istiod authenticates the pod, not the shim.

mod buffers;
mod forward;
mod head;
mod stream;
mod upstream;

use crate::ads;
use crate::graph::Graph;
use crate::listener::OnDemandConfig;
use crate::metrics::Metrics;
use crate::raw::RawCodec;
use crate::route_names::ByNamespace;
use crate::store::Store;
use crate::streams::Streams;
use dependency_graph::Mode;
use mesh_runtime::drain::Drain;
use mesh_runtime::grpc::Dialer;
use moka::sync::Cache;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

pub use buffers::Buffers;

/// The largest request taken from a proxy. istiod itself takes 4 MiB; a pod cannot make the shim
/// hold more than this for a stream before istiod has had its say.
const MOST_REQUEST_BYTES: usize = 16 << 20;

/// What every stream shares.
#[derive(Debug)]
pub struct Shared {
    /// To istiod.
    pub istiod: Dialer,
    /// What the controller says.
    pub graph: Graph,
    /// What is told to the controller; `None` without one.
    pub reporter: Option<crate::controller::Reporter>,
    /// Until when a new stream waits for the controller's first word.
    pub wait_for_controller: Instant,
    /// One copy of everything.
    pub store: Store,
    /// What goes into listeners.
    pub on_demand: OnDemandConfig,
    /// The mode of namespaces that nobody labelled.
    pub default_mode: Mode,
    /// Counters.
    pub metrics: Metrics,
    /// Proxies whose on-demand stream ended by an error of ours: they get everything for a while.
    pub misunderstood: Cache<String, ()>,
    /// The open streams.
    pub streams: Streams,
    /// What streams ask for before their listeners tell.
    pub route_names: ByNamespace,
    /// For istiod's messages.
    pub buffers: Buffers,
    /// When to end.
    pub drain: Drain,
}

impl Shared {
    /// An empty [`Shared::misunderstood`].
    pub fn nobody_misunderstood() -> Cache<String, ()> {
        Cache::builder()
            .max_capacity(10_000)
            .time_to_live(MISUNDERSTOOD_FOR)
            .build()
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Relay(pub Arc<Shared>);

type Response = http::Response<Body>;

impl tower::Service<http::Request<Body>> for Relay {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let flavor = match request.uri().path() {
                ads::DELTA_PATH => stream::Flavor::Delta,
                ads::SOTW_PATH => stream::Flavor::StateOfTheWorld,
                _ => return Ok(forward::forward(&shared, request).await),
            };
            let mut grpc =
                tonic::server::Grpc::new(RawCodec).max_decoding_message_size(MOST_REQUEST_BYTES);
            Ok(grpc
                .streaming(stream::Accept { shared, flavor }, request)
                .await)
        })
    }
}

/// The caller's metadata as istiod is to see it: all of it, but for what only a trusted proxy in
/// front of istiod may say.
///
/// `x-forwarded-client-cert` would make istiod believe the caller is anyone, where the shim's
/// address is among its `TRUSTED_GATEWAY_CIDR`.
fn metadata_for_istiod(mut metadata: MetadataMap) -> MetadataMap {
    metadata.remove("x-forwarded-client-cert");
    metadata
}

/// How long a proxy gets everything after an error of ours.
const MISUNDERSTOOD_FOR: Duration = Duration::from_secs(600);

/// How long a proxy may take for its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
