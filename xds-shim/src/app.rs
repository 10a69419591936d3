//! Puts the parts together.

use crate::config::Config;
use crate::controller::{Reporter, Watched};
use crate::graph::Graph;
use crate::listener::OnDemandConfig;
use crate::metrics::Metrics;
use crate::relay::{Buffers, Relay, Shared};
use crate::route_names::ByNamespace;
use crate::store::Store;
use crate::streams::Streams;
use anyhow::Context;
use dependency_graph::api::WatchRequest;
use graph_client::Controller;
use mesh_runtime::admin::{Admin, Reply};
use mesh_runtime::drain::Drain;
use mesh_runtime::grpc::{self, Dialer};
use mesh_runtime::readiness::Readiness;
use mesh_runtime::tasks::Tasks;
use mesh_runtime::telemetry::LogControl;
use mesh_runtime::tls::{ClientTls, ServerTls};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tracing::{info, warn};

/// A shim whose sockets are open.
#[derive(Debug)]
pub struct App {
    /// Where proxies connect.
    pub address: SocketAddr,
    /// Where the admin pages are.
    pub admin_address: SocketAddr,
    tasks: Tasks,
}

impl App {
    /// Opens the sockets and starts every part.
    ///
    /// # Errors
    /// When a file, an address or a port cannot be used; the text says which.
    pub async fn start(config: &Config, log: LogControl, drain: Drain) -> anyhow::Result<Self> {
        let registry = mesh_runtime::metrics::registry()?;
        let readiness = Readiness::new();
        let mut tasks = Tasks::new(drain.clone());
        let shared = Arc::new(shared(config, &registry, drain.clone())?);

        let admin = admin(&shared, registry, readiness.clone(), log)
            .bind(config.admin_listen)
            .await;
        let admin = admin.with_context(|| format!("--admin-listen {}", config.admin_listen))?;
        let admin_address = admin.address();
        tasks.spawn_background("admin", async move { admin.serve().await });

        let controller = config.controller.controller()?;
        if let (Some(controller), Some(reporter)) = (controller, shared.reporter.clone()) {
            start_controller(&mut tasks, controller, reporter, &shared);
            wait_for_controller(&mut tasks, &readiness, &shared);
        }
        let tls = server_tls(config)?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.with_context(|| format!("--listen {}", config.listen))?;
        let address = listener.local_addr()?;
        let relay = Relay(Arc::clone(&shared));
        tasks.spawn("relay", async move {
            grpc::serve(listener, tls, relay, &drain).await
        });
        info!(%address, admin = %admin_address, istiod = config.upstream, controller = config.controller.address,
            default_mode = %config.default_mode, "xds-shim runs");
        if let Some(path) = &config.port_file {
            mesh_runtime::port_file::write(path, &[("xds", address), ("admin", admin_address)])?;
        }
        Ok(Self {
            address,
            admin_address,
            tasks,
        })
    }

    /// Runs until the drain is over.
    ///
    /// # Errors
    /// The first part that failed.
    pub async fn run(self) -> anyhow::Result<()> {
        Ok(self.tasks.run().await?)
    }
}

fn shared(
    config: &Config,
    registry: &prometheus::Registry,
    drain: Drain,
) -> anyhow::Result<Shared> {
    let store = Store::default();
    let metrics = Metrics::new(registry, &store)?;
    let istiod = istiod(config)?;
    Ok(Shared {
        istiod,
        graph: Graph::default(),
        reporter: config
            .controller
            .address
            .as_ref()
            .map(|_| Reporter::new(metrics.clone())),
        wait_for_controller: Instant::now() + config.controller_wait,
        store,
        on_demand: OnDemandConfig::new(config.on_demand_timeout).holding(config.hold),
        default_mode: config.default_mode,
        metrics,
        misunderstood: Shared::nobody_misunderstood(),
        streams: Streams::default(),
        route_names: ByNamespace::default(),
        buffers: Buffers::default(),
        drain,
    })
}

fn istiod(config: &Config) -> anyhow::Result<Dialer> {
    let (scheme, tls) = match &config.upstream_ca {
        Some(roots) => (
            "https",
            Some(ClientTls::load(roots).context("--upstream-ca")?),
        ),
        None => ("http", None),
    };
    let address = format!("{scheme}://{}", config.upstream);
    Dialer::new(&address, tls, config.upstream_server_name.as_deref()).context("--upstream")
}

fn server_tls(config: &Config) -> anyhow::Result<Option<ServerTls>> {
    match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Ok(Some(
            ServerTls::load(cert, key).context("--tls-cert and --tls-key")?,
        )),
        _ => {
            warn!("--plaintext: proxies' tokens travel in the clear");
            Ok(None)
        }
    }
}

fn admin(
    shared: &Arc<Shared>,
    registry: prometheus::Registry,
    readiness: Readiness,
    log: LogControl,
) -> Admin {
    let (streams, graph) = (shared.streams.clone(), shared.graph.clone());
    Admin::new("xds-shim", registry, readiness, shared.drain.clone())
        .log_control(log)
        .route(
            "/debug/streams",
            "open ADS streams: proxy, treatment, held and admitted clusters",
            move || Reply::json(&streams.list()),
        )
        .route(
            "/debug/graph",
            "what each workload is known to use",
            move || Reply::json(&graph.dump()),
        )
}

fn start_controller(
    tasks: &mut Tasks,
    controller: Controller,
    reporter: Reporter,
    shared: &Arc<Shared>,
) {
    let (watching, for_watch) = (controller.clone(), Arc::clone(shared));
    tasks.spawn_background("watch", async move {
        let watched = Watched {
            graph: &for_watch.graph,
            metrics: &for_watch.metrics,
        };
        watching.watch(WatchRequest::default(), &watched).await;
        Ok::<(), Infallible>(())
    });
    tasks.spawn_background("report", async move {
        reporter.report(&controller).await;
        Ok::<(), Infallible>(())
    });
}

/// The shim is ready once it knows the modes, or has waited long enough for them: proxies that come
/// earlier would all get everything.
fn wait_for_controller(tasks: &mut Tasks, readiness: &Readiness, shared: &Arc<Shared>) {
    let task = readiness.register("the controller's first word");
    let shared = Arc::clone(shared);
    tasks.spawn_background("wait for controller", async move {
        let heard = tokio::time::timeout_at(shared.wait_for_controller, shared.graph.heard()).await;
        if heard.is_err() {
            warn!("no word from the controller: going on without, by --default-mode");
        }
        task.mark_ready();
        Ok::<(), Infallible>(())
    });
}
