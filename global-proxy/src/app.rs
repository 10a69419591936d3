//! Puts the global proxy together: binds first and says what it bound, then serves until the drain.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use graph_client::{Controller, SetupError};
use mesh_runtime::admin::{self, Admin};
use mesh_runtime::drain::Drain;
use mesh_runtime::readiness::Readiness;
use mesh_runtime::tasks::{self, Tasks};
use mesh_runtime::telemetry::LogControl;
use mesh_runtime::{metrics, port_file};
use thiserror::Error;
use tokio::net::TcpSocket;
use tracing::{info, warn};

use crate::config::Cli;
use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::worker::{self, Listeners, Settings};

/// Connections that wait to be accepted, per worker.
const BACKLOG: u32 = 1024;

/// Why the global proxy does not start, or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// Flags that do not go together.
    #[error("{0}")]
    Flags(String),
    /// A port cannot be had.
    #[error("{0}")]
    Bind(io::Error),
    /// Metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The ports cannot be written down.
    #[error("{0}")]
    PortFile(io::Error),
    /// A thread cannot be had.
    #[error("cannot start a worker: {0} (hint: --workers)")]
    Worker(io::Error),
    /// The controller cannot be dialed as the flags say.
    #[error(transparent)]
    Controller(#[from] SetupError),
    /// A part of it failed.
    #[error(transparent)]
    Task(#[from] tasks::Error),
}

/// A global proxy that has its ports.
#[derive(Debug)]
pub struct App {
    listeners: Vec<Listeners>,
    address: SocketAddr,
    tunnel_address: Option<SocketAddr>,
    admin: admin::Bound,
    settings: Settings,
    graph: Option<(Graph, Controller)>,
    readiness: Readiness,
    metrics: Metrics,
    drain: Drain,
}

impl App {
    /// Binds the ports.
    ///
    /// # Errors
    /// When something given by flags cannot be had.
    pub async fn bind(cli: &Cli, log: Option<LogControl>, drain: Drain) -> Result<Self, Error> {
        cli.check().map_err(Error::Flags)?;
        let registry = metrics::registry()?;
        let metrics = Metrics::new(&registry)?;
        let workers = cli.worker_count();
        let (http, address) = bind("--listen", cli.listen, workers)?;
        let tunnels = cli.tunnel_address();
        let tunnels = tunnels.map(|address| bind("--tunnel-listen", address, workers));
        let (tunnels, tunnel_address) = tunnels.transpose()?.unzip();
        let mut tunnels = tunnels.into_iter().flatten();
        let listeners: Vec<_> = http
            .into_iter()
            .map(|http| Listeners {
                http,
                tunnels: tunnels.next(),
            })
            .collect();
        let graph = graph(cli, &metrics)?;
        let name = "Lazymesh global-proxy";
        let readiness = Readiness::new();
        let mut admin = Admin::new(name, registry, readiness.clone(), drain.clone());
        if let Some(log) = log {
            admin = admin.log_control(log);
        }
        let admin = admin.bind(cli.admin_listen).await.map_err(Error::Bind)?;
        let settings = cli.settings();
        let tunnel = tunnel_address.map(tracing::field::display);
        info!(%address, tunnel, workers = listeners.len(), policy = ?settings.policy, controller = cli.controller.address, "global proxy");
        if settings.policy.is_none() && graph.is_none() {
            warn!("no policy is known: every request is refused (hint: --controller or --policy)");
        }
        let app = Self {
            listeners,
            address,
            tunnel_address,
            admin,
            settings,
            graph,
            readiness,
            metrics,
            drain,
        };
        if let Some(path) = &cli.port_file {
            let mut ports = vec![("http", app.address()), ("admin", app.admin_address())];
            ports.extend(app.tunnel_address().map(|address| ("tunnel", address)));
            port_file::write(path, &ports).map_err(Error::PortFile)?;
        }
        Ok(app)
    }

    /// Where callers' requests arrive.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where callers' tunnels arrive, if they may.
    #[must_use]
    pub fn tunnel_address(&self) -> Option<SocketAddr> {
        self.tunnel_address
    }

    /// Where the admin port listens.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until the drain is over.
    ///
    /// # Errors
    /// The first failure of a part.
    pub async fn run(self) -> Result<(), Error> {
        let mut tasks = Tasks::new(self.drain.clone());
        tasks.spawn_background("admin port", self.admin.serve());
        let graph = self.graph.as_ref().map(|(graph, _)| graph.clone());
        if let Some((graph, controller)) = self.graph {
            follow(&mut tasks, &self.readiness, graph, controller);
        }
        for (number, listeners) in self.listeners.into_iter().enumerate() {
            let (metrics, drain) = (self.metrics.clone(), self.drain.clone());
            let (settings, graph) = (self.settings, graph.clone());
            let end = worker::start(number, listeners, settings, graph, metrics, drain)
                .map_err(Error::Worker)?;
            tasks.spawn(format!("worker {number}"), async move {
                end.await
                    .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
            });
        }
        Ok(tasks.run().await?)
    }
}

fn graph(cli: &Cli, metrics: &Metrics) -> Result<Option<(Graph, Controller)>, Error> {
    let controller = cli.controller.controller()?;
    Ok(controller.map(|controller| (Graph::new(metrics.clone()), controller)))
}

/// Talks to the controller. The process is ready once it knows what namespaces allow: before, it would refuse them all.
fn follow(tasks: &mut Tasks, readiness: &Readiness, graph: Graph, controller: Controller) {
    let (watching, watched) = (graph.clone(), controller.clone());
    tasks.spawn_background("watch", async move {
        watching.watch(&watched).await;
        Ok::<(), Infallible>(())
    });
    let sending = graph.clone();
    tasks.spawn_background("calls", async move {
        sending.send(&controller).await;
        Ok::<(), Infallible>(())
    });
    let ready = readiness.register("the controller's first word");
    tasks.spawn_background("wait for controller", async move {
        graph.known().await;
        ready.mark_ready();
        Ok::<(), Infallible>(())
    });
}

/// Binds the address of a flag, and says what it bound.
fn bind(
    flag: &str,
    address: SocketAddr,
    workers: usize,
) -> Result<(Vec<std::net::TcpListener>, SocketAddr), Error> {
    let listeners = listen(address, workers).map_err(|error| {
        let text = format!("{flag} {address}: {error}");
        Error::Bind(io::Error::new(error.kind(), text))
    })?;
    let bound = match listeners.first() {
        Some(first) => first.local_addr().map_err(Error::Bind)?,
        None => address,
    };
    Ok((listeners, bound))
}

/// One listener per worker, all on one port.
fn listen(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        // Not for one worker: with it, two processes could share the port unnoticed.
        if workers > 1 {
            socket.set_reuseport(true)?;
        }
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?.into_std()?;
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}
