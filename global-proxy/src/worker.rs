//! A worker: one thread with its own listener, connections, pool and limits, so that nothing is shared on the way of a
//! request. The kernel spreads connections over the workers' listeners (`SO_REUSEPORT`).

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dependency_graph::Protocol;
use dependency_graph::fallback::Policy;
use mesh_runtime::drain::Drain;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{interval, sleep};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::decide;
use crate::graph::{Call, Graph, Ticket};
use crate::incoming::{Incoming, Trust};
use crate::kept::Room;
use crate::limits::{Limiter, Limits, Permit};
use crate::metrics::{Counted, Metrics};
use crate::pool::Pool;
use crate::serve::{Via, serve};
use crate::tunnel;

/// How often idle connections to servers are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of descriptors, it would fail again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a worker goes by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What may be believed of connections.
    pub trust: Trust,
    /// What all namespaces allow without a controller, if that is known.
    pub policy: Option<Policy>,
    /// The settings of decisions.
    pub decide: decide::Settings,
    /// The limits of this worker.
    pub limits: Limits,
    /// The longest head of a request, in bytes.
    pub header_bytes: usize,
    /// The longest a connection to a server takes to open.
    pub connect_timeout: Duration,
    /// How long a connection to a server is kept without a request.
    pub server_idle: Duration,
    /// How long a connection of a caller is kept without a request.
    pub caller_idle: Duration,
    /// How long a tunnel is kept in which nothing moves.
    pub tunnel_idle: Duration,
}

/// The sockets of one worker.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) http: std::net::TcpListener,
    pub(crate) tunnels: Option<std::net::TcpListener>,
}

/// What the tasks of a worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    /// What the controller says; without one, `settings.policy` holds.
    pub(crate) graph: Option<Graph>,
    /// For bodies that are kept.
    pub(crate) room: Room,
    pub(crate) limiter: Limiter,
    pub(crate) pool: Rc<Pool>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) tasks: TaskTracker,
}

impl Worker {
    pub(crate) fn new(
        settings: Settings,
        graph: Option<Graph>,
        metrics: Metrics,
        drain: Drain,
    ) -> Rc<Self> {
        Rc::new(Self {
            settings,
            graph,
            room: Room::default(),
            limiter: Limiter::new(settings.limits),
            pool: Pool::new(
                settings.connect_timeout,
                settings.server_idle,
                metrics.clone(),
            ),
            metrics,
            drain,
            tasks: TaskTracker::new(),
        })
    }

    /// What a namespace allows, if that is known.
    pub(crate) fn policy(&self, namespace: &str) -> Option<Policy> {
        match &self.graph {
            Some(graph) => graph.policy(namespace),
            None => self.settings.policy,
        }
    }

    /// Tells the controller of a call, if there is one to be told.
    pub(crate) fn report(
        &self,
        incoming: &Incoming,
        authority: &[u8],
        protocol: Protocol,
    ) -> Option<Ticket> {
        let graph = self.graph.as_ref()?;
        Some(graph.report(Call {
            spiffe_id: incoming.caller.spiffe.to_string(),
            pod: incoming.caller.pod.clone(),
            authority: String::from_utf8_lossy(authority).into_owned(),
            destination: incoming.original,
            protocol,
        }))
    }
}

/// Starts a worker's thread. The receiver hears how it ended; nothing, if it panicked.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn start(
    number: usize,
    listeners: Listeners,
    settings: Settings,
    graph: Option<Graph>,
    metrics: Metrics,
    drain: Drain,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let outcome = runtime.and_then(|runtime| {
                let local = LocalSet::new();
                runtime.block_on(local.run_until(run(listeners, settings, graph, metrics, drain)))
            });
            let _ = ended.send(outcome);
        })?;
    Ok(end)
}

async fn run(
    listeners: Listeners,
    settings: Settings,
    graph: Option<Graph>,
    metrics: Metrics,
    drain: Drain,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listeners.http)?;
    let tunnels = listeners.tunnels.map(TcpListener::from_std).transpose()?;
    let worker = Worker::new(settings, graph, metrics, drain.clone());
    // Connections over the limit that are told so; beyond these, they are closed without a word.
    let shed = Limiter::new(Limits {
        connections: settings.limits.connections.div_ceil(8).max(16),
        ..settings.limits
    });
    let mut sweeps = interval(SWEEP);
    loop {
        tokio::select! {
            biased;
            () = drain.started() => break,
            _ = sweeps.tick() => worker.pool.sweep(Instant::now()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => accept(&worker, &shed, stream),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_RETRY).await;
                }
            },
            accepted = next(tunnels.as_ref()) => match accepted {
                Ok(stream) => accept_tunnel(&worker, stream),
                Err(error) => {
                    warn!(%error, "cannot accept a tunnel");
                    sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    drop((listener, tunnels));
    worker.tasks.close();
    tokio::select! {
        () = worker.tasks.wait() => {}
        () = drain.ended() => {}
    }
    Ok(())
}

/// The next connection; none comes without a listener.
async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// Over the limit it is closed without a word: what is in it need not be HTTP.
fn accept_tunnel(worker: &Rc<Worker>, stream: TcpStream) {
    let Ok(permit) = worker.limiter.connection() else {
        worker.metrics.connections_shed.inc();
        return;
    };
    let counted = Counted::new(&worker.metrics.connections);
    let of_task = worker.clone();
    worker.tasks.spawn_local(async move {
        let _held: (Permit, Counted) = (permit, counted);
        tunnel::serve(of_task, stream).await;
    });
}

fn accept(worker: &Rc<Worker>, shed: &Limiter, stream: TcpStream) {
    let admitted = worker.limiter.connection();
    let over = admitted.is_err();
    if over {
        worker.metrics.connections_shed.inc();
    }
    let Ok(permit) = admitted.or_else(|_| shed.connection()) else {
        return;
    };
    let counted = Counted::new(&worker.metrics.connections);
    let of_task = worker.clone();
    worker.tasks.spawn_local(async move {
        let _held: (Permit, Counted) = (permit, counted);
        let via = if over { Via::Shed } else { Via::Sidecar };
        serve(of_task, stream, via).await;
    });
}
