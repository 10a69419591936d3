//! A worker: one thread with its own listener, connections, pool and limits, so that nothing is shared on the way of a
//! request. The kernel spreads connections over the workers' listeners (`SO_REUSEPORT`).

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dependency_graph::fallback::Policy;
use mesh_runtime::drain::Drain;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{interval, sleep};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::decide;
use crate::graph::Graph;
use crate::incoming::Trust;
use crate::kept::Room;
use crate::limits::{Limiter, Limits, Permit};
use crate::metrics::{Counted, Metrics};
use crate::pool::Pool;
use crate::serve::serve;

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

/// Starts a worker's thread. The receiver hears how it ended; nothing, if it panicked.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn start(
    number: usize,
    listener: std::net::TcpListener,
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
                runtime.block_on(local.run_until(run(listener, settings, graph, metrics, drain)))
            });
            let _ = ended.send(outcome);
        })?;
    Ok(end)
}

async fn run(
    listener: std::net::TcpListener,
    settings: Settings,
    graph: Option<Graph>,
    metrics: Metrics,
    drain: Drain,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let worker = Rc::new(Worker {
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
        drain: drain.clone(),
        tasks: TaskTracker::new(),
    });
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
        }
    }
    drop(listener);
    worker.tasks.close();
    tokio::select! {
        () = worker.tasks.wait() => {}
        () = drain.ended() => {}
    }
    Ok(())
}

fn accept(worker: &Rc<Worker>, shed: &Limiter, stream: tokio::net::TcpStream) {
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
        serve(of_task, stream, over).await;
    });
}
