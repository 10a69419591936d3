//! The control plane as a server: listens, gives each stream its driver, and is the handle that tests hold.

use super::follow::Following;
use super::istio::Documents;
use super::proxy::Proxy;
use super::record::{Log, StreamRecord};
use super::resources::{Change, Push, Resources, Snapshot, everything};
use super::shape::MeshShape;
use super::stream::{self, Delta, Sotw};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use xds_shim::envoy::service::discovery::v3 as discovery;
use xds_shim::envoy::service::discovery::v3::aggregated_discovery_service_server as ads;

/// Pushes a slow stream may lag behind before it gets everything again instead.
const PUSHES_KEPT: usize = 256;

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address} (is another control plane running there?): {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What all streams share.
#[derive(Debug)]
pub(super) struct Shared {
    resources: Mutex<(Resources, u64)>,
    pub(super) pushes: broadcast::Sender<Arc<Pushed>>,
    /// Changes when all streams are to end.
    pub(super) cut: watch::Sender<u64>,
    pub(super) log: Mutex<Log>,
}

/// What streams are told that something changed.
#[derive(Debug)]
pub(super) struct Pushed {
    pub(super) what: Push,
    /// Only proxies in these; without, all.
    pub(super) namespaces: Option<BTreeSet<String>>,
}

impl Shared {
    /// What a proxy is to be given, and the version of the last push.
    pub(super) fn snapshot(&self, proxy: &Proxy) -> (Snapshot, u64) {
        let mut resources = self.resources.lock();
        let version = resources.1;
        (resources.0.snapshot_for(proxy), version)
    }

    /// Replaces Istio's resources; gives the new version.
    pub(super) fn put_documents(&self, documents: Documents) -> u64 {
        self.change(|resources| Pushed {
            namespaces: resources.put_documents(documents),
            what: everything(),
        })
    }

    /// Makes a change; gives the new version. Pushes under the lock, so that streams see pushes in the order of their
    /// versions.
    fn change(&self, change: impl FnOnce(&mut Resources) -> Pushed) -> u64 {
        let mut resources = self.resources.lock();
        let pushed = change(&mut resources.0);
        resources.1 += 1;
        // No stream, no harm.
        let _ = self.pushes.send(Arc::new(pushed));
        resources.1
    }
}

/// A running control plane. Dropping it ends all streams and closes the port.
#[derive(Debug)]
pub struct ControlPlane {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl ControlPlane {
    /// Starts serving a mesh in plain text; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(address: SocketAddr, shape: MeshShape) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            resources: Mutex::new((Resources::new(shape), 1)),
            pushes: broadcast::channel(PUSHES_KEPT).0,
            cut: watch::channel(0).0,
            log: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let service = ads::AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&shared)));
        let serving = tonic::transport::Server::builder()
            // As istiod's keepalive enforcement, so that a peer that relies on pings is tried too.
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped.map(|_| ()));
        let server = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the embedded control plane ended");
            }
        });
        Ok(Self {
            shared,
            address,
            stop: Some(stop),
            server: Some(server),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the mesh and pushes what istiod would push; gives the new version.
    pub fn change(&self, change: Change) -> u64 {
        self.shared.change(|resources| Pushed {
            what: resources.apply(change),
            namespaces: None,
        })
    }

    /// Replaces Istio's resources, and pushes everything to the proxies they may matter to; gives the new version.
    pub fn put_documents(&self, documents: Documents) -> u64 {
        self.shared.put_documents(documents)
    }

    /// Takes Istio's resources from folders of YAML from now on.
    pub fn follow(&self, folders: Vec<PathBuf>) -> Following {
        Following::start(Arc::clone(&self.shared), folders)
    }

    /// The mesh as it is now.
    pub fn shape(&self) -> MeshShape {
        self.shared.resources.lock().0.shape().clone()
    }

    /// What a proxy in `namespace` would be given now.
    pub fn snapshot(&self, namespace: &str) -> Snapshot {
        self.shared.snapshot(&Proxy::in_namespace(namespace)).0
    }

    /// What a proxy would be given now.
    pub fn snapshot_for(&self, proxy: &Proxy) -> Snapshot {
        self.shared.snapshot(proxy).0
    }

    /// All streams so far, oldest first.
    pub fn streams(&self) -> Vec<StreamRecord> {
        self.shared.log.lock().streams.iter().cloned().collect()
    }

    /// Ends all streams with UNAVAILABLE, as a restart of istiod does; the port stays open.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Ends all streams and closes the port; returns when it is closed.
    pub async fn stop(mut self) {
        self.cut();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(server) = self.server.take() {
            // Ends by itself once the streams have; their tasks were told above.
            let _ = server.await;
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.cut();
        // The server's task closes the port and says goodbye on each connection, then ends.
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

#[derive(Debug)]
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream =
        BoxStream<'static, Result<discovery::DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream =
        BoxStream<'static, Result<discovery::DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(
            stream::serve::<Sotw>(Arc::clone(&self.0), request).boxed(),
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(
            stream::serve::<Delta>(Arc::clone(&self.0), request).boxed(),
        ))
    }
}

#[cfg(test)]
mod tests;
