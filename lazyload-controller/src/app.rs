//! Puts the controller together: binds first and says what it bound, then serves until the drain.

mod mode_sidecar;
mod page;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::admin::{self, Admin, Reply};
use mesh_runtime::drain::Drain;
use mesh_runtime::port_file;
use mesh_runtime::readiness::Readiness;
use mesh_runtime::tasks::{self, Tasks};
use mesh_runtime::telemetry::LogControl;
use mesh_runtime::tls::{self, ServerTls};
use mesh_runtime::{grpc, metrics};
use parking_lot::RwLock;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tracing::info;

use crate::api::GraphApi;
use crate::auth::{self, Allowed, Auth, TokenFile, TokenReview};
use crate::calls::{self, Calls};
use crate::config::{AuthKind, Serve, StoreKind};
use crate::given::Given;
use crate::history::{self, History};
use crate::lease::Leading;
use crate::mesh::World;
use crate::metrics::Metrics;
use crate::prometheus::{Prometheus, Unusable};
use crate::report::Reports;
use crate::settle;
use crate::state::State;
use crate::store::file::{self, File};
use crate::store::kubernetes::Kubernetes;
use crate::store::memory::Memory;
use crate::store::{self, Store};
use crate::writer::Writer;
use mode_sidecar::{ModeSidecar, Place};

/// Workloads waiting for their status to be written again; the rest are found another time.
const STALE: usize = 1024;

/// Why the controller does not start, or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// Flags that do not go together.
    #[error("{0}")]
    Flags(String),
    /// A port cannot be had.
    #[error("{0}")]
    Bind(std::io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The store cannot be used.
    #[error("store: {0}")]
    Store(#[from] store::Error),
    /// Kubernetes cannot be reached.
    #[error("Kubernetes: {0} (hint: --kubeconfig)")]
    Kubernetes(String),
    /// Callers cannot be checked.
    #[error("--auth: {0}")]
    Auth(#[from] auth::Error),
    /// Metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Prometheus cannot be asked.
    #[error(transparent)]
    Prometheus(#[from] Unusable),
    /// The ports cannot be written down.
    #[error("{0}")]
    PortFile(io::Error),
    /// A part of it failed.
    #[error(transparent)]
    Task(#[from] tasks::Error),
}

/// A controller that has its ports.
#[derive(Debug)]
pub struct App {
    grpc: TcpListener,
    address: SocketAddr,
    admin: admin::Bound,
    tls: Option<ServerTls>,
    auth: Auth,
    store: Arc<dyn Store>,
    reports: Reports,
    calls: Calls,
    known: Known,
    mode_sidecar: Option<ModeSidecar>,
    history: History,
    max_stream_age: Duration,
    readiness: Readiness,
    drain: Drain,
}

/// What is known of the mesh in mode `sidecar`, for whoever answers calls.
#[derive(Clone, Debug)]
pub struct Known {
    /// The mesh; empty where the mode is not acted on.
    pub world: Arc<RwLock<World>>,
    /// What workloads are given.
    pub given: Given,
}

impl App {
    /// Opens the store and binds the ports.
    ///
    /// # Errors
    /// When something given by flags cannot be had.
    pub async fn bind(serve: &Serve, log: Option<LogControl>, drain: Drain) -> Result<Self, Error> {
        let auth = serve.checked_auth().map_err(Error::Flags)?;
        serve.check_prometheus().map_err(Error::Flags)?;
        let registry = metrics::registry()?;
        let metrics = Metrics::new(&registry)?;
        let of_calls = calls::Metrics::new(&registry)?;
        let client = match serve.store {
            StoreKind::Kubernetes => Some(client(serve.kubeconfig.as_deref()).await?),
            _ => None,
        };
        let store = store(serve, client.clone(), &metrics)?;
        let known = Known {
            world: Arc::new(RwLock::new(
                World::new(&serve.sidecars.cluster_domain)
                    .looking_for_ready_pods(&serve.sidecars.global_proxy_service.namespace)
                    .in_namespace(&serve.sidecars.namespace),
            )),
            given: Given::default(),
        };
        let auth = authentication(auth, serve, client.clone())?;
        let tls = match (&serve.tls_cert, &serve.tls_key) {
            (Some(cert), Some(key)) => Some(ServerTls::load(cert, key)?),
            _ => None,
        };
        let state = State::new(metrics.clone()).in_namespace(&serve.sidecars.namespace);
        let (limits, window) = (serve.limits(), serve.write_window);
        let writer = Writer::new(
            store.clone(),
            state.clone(),
            limits,
            window,
            metrics.clone(),
        );
        let readiness = Readiness::new();
        let acts = serve.sidecars.enabled(&serve.store);
        let place = match (client, &serve.store) {
            _ if acts != Ok(true) => None,
            (Some(client), _) => Some(Place::Kubernetes(client)),
            (None, StoreKind::File(path)) => Some(Place::Folder(path.clone())),
            (None, _) => None,
        };
        let mode_sidecar = match place {
            Some(place) => {
                let parts = (&store, &state, &known);
                let args = &serve.sidecars;
                Some(ModeSidecar::new(place, args, parts, &registry)?)
            }
            None => None,
        };
        let history = History::new(history::Parts {
            prometheus: Prometheus::new(&serve.prometheus)?,
            state: state.clone(),
            writer: writer.clone(),
            store: store.clone(),
            world: mode_sidecar.as_ref().map(|_| known.world.clone()),
            limits,
            args: serve.history.clone(),
            metrics: metrics.clone(),
            leader: leading(&serve.store, mode_sidecar.as_ref()),
        });
        let mode_sidecar = mode_sidecar.map(|mode| mode.after(history.warm_start()));
        let admin = admin(registry, readiness.clone(), drain.clone(), &state, log);
        let admin = match &mode_sidecar {
            Some(mode) => mode.with_page(admin),
            None => admin,
        };
        let admin = admin.bind(serve.admin_listen).await.map_err(Error::Bind)?;
        let failed = |e: std::io::Error| {
            Error::Bind(std::io::Error::new(
                e.kind(),
                format!("--listen {}: {e}", serve.listen),
            ))
        };
        let grpc = TcpListener::bind(serve.listen).await.map_err(failed)?;
        let address = grpc.local_addr().map_err(failed)?;
        info!(%address, tls = tls.is_some(), store = ?serve.store, "graph API");
        let reports = Reports {
            state,
            writer,
            limits,
            metrics,
            drain: drain.clone(),
        };
        let mesh = mode_sidecar.as_ref().map(ModeSidecar::mesh);
        let app = Self {
            grpc,
            address,
            admin,
            tls,
            auth,
            store,
            calls: Calls::new(reports.clone(), mesh, known.given.clone(), of_calls),
            reports,
            known,
            mode_sidecar,
            history,
            max_stream_age: serve.max_stream_age,
            readiness,
            drain,
        };
        if let Some(path) = &serve.port_file {
            let ports = [("grpc", app.address()), ("admin", app.admin_address())];
            port_file::write(path, &ports).map_err(Error::PortFile)?;
        }
        Ok(app)
    }

    /// Where the graph API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin port listens.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// What it knows of the mesh in mode `sidecar`: for tests that run it in their own process.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Serves until the drain is over.
    ///
    /// # Errors
    /// The first failure of a part.
    pub async fn run(self) -> Result<(), Error> {
        let Self {
            grpc,
            admin,
            tls,
            auth,
            store,
            reports,
            calls,
            mode_sidecar,
            history,
            max_stream_age,
            readiness,
            drain,
            ..
        } = self;
        let mut tasks = Tasks::new(drain.clone());
        let (stale, of_stale) = mpsc::channel(STALE);
        tasks.spawn(
            "writer",
            reports.writer.clone().run(of_stale, drain.clone()),
        );
        let (state, synced) = (reports.state.clone(), readiness.register("graph loaded"));
        let of_settling = store.clone();
        tasks.spawn_background("store", store.follow(state.clone(), stale));
        tasks.spawn_background("ready", async move {
            state.synced().await;
            synced.mark_ready();
            Ok::<_, std::convert::Infallible>(())
        });
        let (mesh, of_history) = (mode_sidecar.as_ref().map(ModeSidecar::mesh), drain.clone());
        tasks.spawn_background("history", async move {
            if let Some(mut mesh) = mesh {
                // What is no service yet would not be learned.
                let _ = mesh.synced.wait_for(|synced| *synced).await;
            }
            history.run(of_history).await
        });
        tasks.spawn_background("admin port", admin.serve());
        match mode_sidecar {
            Some(mode) => mode.spawn(&mut tasks, &drain),
            None => {
                let (state, drain) = (reports.state.clone(), drain.clone());
                let says = settle::off::run(state, of_settling, drain);
                tasks.spawn_background("what never settles", says);
            }
        }
        let routes = Routes::new(GraphApi::server(auth, reports, calls, max_stream_age)).prepare();
        tasks.spawn("graph API", async move {
            grpc::serve(grpc, tls, routes, &drain).await
        });
        Ok(tasks.run().await?)
    }
}

/// Who decides for all replicas: the holder of the Lease; of a folder, or a memory, there is but one.
fn leading(store: &StoreKind, mode_sidecar: Option<&ModeSidecar>) -> Leading {
    match (mode_sidecar, store) {
        (Some(mode), _) => mode.leading(),
        (None, StoreKind::Kubernetes) => Leading::default(),
        (None, StoreKind::File(_) | StoreKind::Memory) => Leading::alone(),
    }
}

pub(crate) async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client, Error> {
    let fault = |error: &dyn std::error::Error| Error::Kubernetes(error.to_string());
    let config = match kubeconfig {
        Some(path) => {
            let read = kube::config::Kubeconfig::read_from(path).map_err(|e| fault(&e))?;
            let options = kube::config::KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(read, &options)
                .await
                .map_err(|e| fault(&e))?
        }
        None => kube::Config::infer().await.map_err(|e| fault(&e))?,
    };
    kube::Client::try_from(config).map_err(|e| fault(&e))
}

fn store(
    serve: &Serve,
    client: Option<kube::Client>,
    metrics: &Metrics,
) -> Result<Arc<dyn Store>, Error> {
    Ok(match (&serve.store, client) {
        (StoreKind::Kubernetes, Some(client)) => Arc::new(Kubernetes::new(client, metrics.clone())),
        (StoreKind::Kubernetes, None) => return Err(Error::Kubernetes("no client".into())),
        (StoreKind::File(path), _) => {
            Arc::new(File::open(path, file::POLL_PERIOD, metrics.clone())?)
        }
        (StoreKind::Memory, _) => Arc::new(Memory::default()),
    })
}

fn authentication(
    kind: AuthKind,
    serve: &Serve,
    client: Option<kube::Client>,
) -> Result<Auth, Error> {
    Ok(match (kind, client) {
        (AuthKind::None, _) => Auth::None,
        (AuthKind::TokenFile(path), _) => Auth::TokenFile(TokenFile::open(path)?),
        (AuthKind::TokenReview, Some(client)) => {
            let allowed = Allowed::new(&serve.allowed, &serve.global_proxies);
            Auth::TokenReview(Box::new(TokenReview::new(client, allowed)))
        }
        (AuthKind::TokenReview, None) => return Err(Error::Kubernetes("no client".into())),
    })
}

fn admin(
    registry: prometheus::Registry,
    readiness: Readiness,
    drain: Drain,
    state: &State,
    log: Option<LogControl>,
) -> Admin {
    let state = state.clone();
    let admin = Admin::new("Lazymesh lazyload-controller", registry, readiness, drain).route(
        "/debug/graph",
        "the graph as this replica knows it",
        move || Reply::json(&page::dump(&state.graph())),
    );
    match log {
        Some(log) => admin.log_control(log),
        None => admin,
    }
}
