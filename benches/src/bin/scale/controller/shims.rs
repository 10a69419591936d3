//! Simulated shims: what a real one has towards the controller, of its own code. Each tells of its own workloads, and
//! follows the whole graph.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use dependency_graph::api::{WatchRequest, WatchResponse};
use graph_client::{Controller, Sink};
use prost::Message as _;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use xds_shim::controller::{Reporter, Watched};
use xds_shim::graph::Graph;
use xds_shim::metrics::Metrics;
use xds_shim::pending::MOST_PENDING;

use super::edges::edge;

const POLL: Duration = Duration::from_millis(2);
/// How often it is looked whether shims know everything: that looks at every edge.
const KNOWS_POLL: Duration = Duration::from_millis(200);

/// A shim, connected until it is dropped.
#[derive(Debug)]
pub(crate) struct Shim {
    reporter: Reporter,
    watch: Arc<Watch>,
    tasks: [AbortHandle; 2],
}

/// What it takes in, and what is counted of that.
#[derive(Debug)]
struct Watch {
    graph: Graph,
    metrics: Metrics,
    bytes: AtomicU64,
}

impl Sink for Watch {
    fn begin(&self) {
        self.graph.begin();
    }

    fn apply(&self, update: WatchResponse) -> Vec<String> {
        self.bytes
            .fetch_add(update.encoded_len() as u64, Ordering::Relaxed);
        self.watched().apply(update)
    }

    fn connected(&self, connected: bool) {
        self.watched().connected(connected);
    }
}

impl Watch {
    fn watched(&self) -> Watched<'_> {
        Watched {
            graph: &self.graph,
            metrics: &self.metrics,
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Shim {
    /// Connects; what it hears is yet to come.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn start(address: &str) -> Result<Self> {
        let metrics = Metrics::new(
            &prometheus::Registry::new(),
            &xds_shim::store::Store::default(),
        )?;
        let controller = Controller::new(address, None, None)?;
        let reporter = Reporter::new(metrics.clone());
        let watch = Arc::new(Watch {
            graph: Graph::default(),
            metrics,
            bytes: AtomicU64::new(0),
        });
        let (to, tells) = (controller.clone(), reporter.clone());
        let report = tokio::spawn(async move { tells.report(&to).await });
        let hears = Arc::clone(&watch);
        let watching = tokio::spawn(async move {
            controller.watch(WatchRequest::default(), &*hears).await;
        });
        Ok(Self {
            reporter,
            watch,
            tasks: [report.abort_handle(), watching.abort_handle()],
        })
    }

    /// Returns once it knows the graph.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub(crate) async fn heard(&self, limit: Duration) -> Result<()> {
        let heard = tokio::time::timeout(limit, self.watch.graph.heard()).await;
        heard.context("a shim does not get the graph")
    }

    /// Workloads and edges that it knows.
    pub(crate) fn knows(&self) -> (usize, usize) {
        let known = self.watch.graph.dump();
        (known.len(), known.values().map(Vec::len).sum())
    }

    /// Bytes of messages that it was sent about the graph.
    pub(crate) fn bytes(&self) -> u64 {
        self.watch.bytes.load(Ordering::Relaxed)
    }

    fn pending(&self) -> usize {
        usize::try_from(self.watch.metrics.pending.get()).unwrap_or_default()
    }
}

/// Shims of one controller.
#[derive(Debug)]
pub(crate) struct Shims(pub(crate) Vec<Shim>);

impl Shims {
    /// Connects so many at once, and waits until they know the graph.
    ///
    /// # Errors
    /// When one of them does not within `limit`.
    pub(crate) async fn start(count: usize, address: &str, limit: Duration) -> Result<Self> {
        let shims: Result<Vec<Shim>> = (0..count).map(|_| Shim::start(address)).collect();
        let shims = shims?;
        for shim in &shims {
            shim.heard(limit).await?;
        }
        Ok(Self(shims))
    }

    /// Has the shim of a workload learn an edge.
    pub(crate) fn learn(&self, (workload, nth): (usize, usize)) -> Result<()> {
        let shim = self.0.get(workload % self.0.len().max(1));
        let reporter = &shim.context("no shims")?.reporter;
        reporter.add(edge((workload, nth))?, Some(SystemTime::now()));
        Ok(())
    }

    /// Observations that are not acknowledged yet.
    pub(crate) fn pending(&self) -> usize {
        self.0.iter().map(Shim::pending).sum()
    }

    /// How many all of them together may have pending.
    pub(crate) fn room(&self) -> usize {
        self.0.len() * MOST_PENDING
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(Shim::bytes).sum()
    }

    /// Waits until all is acknowledged.
    ///
    /// # Errors
    /// When it takes longer than `limit`, or something was dropped.
    pub(crate) async fn acknowledged(&self, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let pending = self.pending();
            if pending == 0 {
                break;
            }
            ensure!(
                begin.elapsed() < limit,
                "{pending} reports are not acknowledged after {limit:?}"
            );
            sleep(POLL).await;
        }
        let dropped = self.0.iter().map(|shim| shim.watch.metrics.dropped.get());
        let dropped: u64 = dropped.sum();
        ensure!(dropped == 0, "shims dropped {dropped} observations");
        Ok(())
    }

    /// Waits until all know so many edges.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub(crate) async fn know(&self, edges: usize, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        for shim in &self.0 {
            while shim.knows().1 != edges {
                ensure!(
                    begin.elapsed() < limit,
                    "a shim does not get to know everything"
                );
                sleep(KNOWS_POLL).await;
            }
        }
        Ok(())
    }
}
