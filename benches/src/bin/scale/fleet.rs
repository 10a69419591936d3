//! The simulated sidecars: each has a connection and a stream of its own, and does what it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::sleep;
use xds_shim::ads::DeltaResponse;
use xds_shim::envoy::config::core::v3::{BuildVersion, Node, node::UserAgentVersionType};
use xds_shim::envoy::google::protobuf::{Struct, Value, value::Kind as ValueKind};
use xds_shim::envoy::r#type::v3::SemanticVersion;

use crate::board::{Board, change_in};
use crate::envoy::Envoy;
use crate::grpc::Call;
use crate::mesh::{Use, Workload};
use crate::rules::Kind;

/// Where pods' addresses begin.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// Envoy's backoff after a stream that broke: a random time below a bound that doubles.
const BACKOFF: Duration = Duration::from_millis(500);
const MOST_BACKOFF: Duration = Duration::from_secs(30);

/// What a sidecar is to do. Whoever is ready then says so.
#[derive(Clone, Debug)]
struct Order {
    what: What,
    ready: UnboundedSender<()>,
}

/// See [`Order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Lose the connection, and come back with what it has.
    Reconnect,
    /// Begin anew, with nothing.
    Restart,
}

/// What all sidecars count.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Bytes of messages taken, without framing.
    pub(crate) bytes: AtomicU64,
    /// When the last of them came; before it, when they were made.
    pub(crate) last: Mutex<Instant>,
    /// Those of them in messages that hold the change that is awaited.
    pub(crate) bytes_of_change: AtomicU64,
    /// Clusters held that stand in for others.
    pub(crate) copies: AtomicUsize,
    /// Streams that broke though nobody wanted that.
    pub(crate) broken: AtomicU64,
    /// Why the last of these broke.
    pub(crate) why: Mutex<Option<String>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::default(),
            last: Mutex::new(Instant::now()),
            bytes_of_change: AtomicU64::default(),
            copies: AtomicUsize::default(),
            broken: AtomicU64::default(),
            why: Mutex::default(),
        }
    }
}

/// All sidecars; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Fleet {
    orders: Vec<UnboundedSender<Order>>,
    tasks: JoinSet<()>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) board: Arc<Board>,
}

impl Fleet {
    /// Sidecars of the shim at `address`, one after the other of each of the workloads in turn. None is connected yet.
    pub(crate) fn new(count: usize, workloads: &[Workload], address: SocketAddr) -> Self {
        let (counts, board) = (Arc::<Counts>::default(), Arc::<Board>::default());
        let mut tasks = JoinSet::new();
        let uses: Vec<Arc<[Use]>> = workloads
            .iter()
            .map(|one| one.uses.clone().into())
            .collect();
        let sidecars = workloads.iter().zip(&uses).cycle().take(count);
        let orders = sidecars.enumerate().map(|(number, (workload, uses))| {
            let (order, orders) = mpsc::unbounded_channel();
            let sidecar = Sidecar {
                envoy: Envoy::new(node(number, workload), Arc::clone(uses)),
                address,
                ready: None,
                copies: 0,
                counts: Arc::clone(&counts),
                board: Arc::clone(&board),
            };
            tasks.spawn(sidecar.run(orders));
            order
        });
        Self {
            orders: orders.collect(),
            tasks,
            counts,
            board,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.orders.len()
    }

    /// Has some sidecars do something, all at once, and waits until each of them is ready.
    ///
    /// # Errors
    /// When a sidecar is gone.
    pub(crate) async fn order(&self, which: impl Iterator<Item = usize>, what: What) -> Result<()> {
        let (ready, mut said) = mpsc::unbounded_channel();
        let mut waiting = 0_usize;
        for number in which {
            let order = Order {
                what,
                ready: ready.clone(),
            };
            let sidecar = self.orders.get(number).context("no such sidecar")?;
            sidecar.send(order).context("a sidecar is gone")?;
            waiting += 1;
        }
        drop(ready);
        for _ in 0..waiting {
            said.recv().await.context("a sidecar is gone")?;
        }
        Ok(())
    }

    /// Ends all of them.
    pub(crate) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

struct Sidecar {
    envoy: Envoy,
    address: SocketAddr,
    /// To be told once it is ready.
    ready: Option<UnboundedSender<()>>,
    copies: usize,
    counts: Arc<Counts>,
    board: Arc<Board>,
}

impl Sidecar {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        let mut broken = 0;
        let Some(mut next) = orders.recv().await else {
            return;
        };
        loop {
            if next.what == What::Restart {
                self.envoy = self.envoy.restarted();
                self.count_copies();
            }
            self.ready = Some(next.ready);
            next = loop {
                tokio::select! {
                    order = orders.recv() => match order {
                        Some(order) => break order,
                        None => return,
                    },
                    error = self.stream(&mut broken) => self.broke(&error),
                }
                broken += 1;
                let bound = MOST_BACKOFF.min(BACKOFF * 2_u32.saturating_pow(broken - 1));
                tokio::select! {
                    order = orders.recv() => match order {
                        Some(order) => break order,
                        None => return,
                    },
                    () = sleep(bound.mul_f64(fastrand::f64())) => {}
                }
            };
        }
    }

    fn broke(&self, error: &anyhow::Error) {
        self.counts.broken.fetch_add(1, Ordering::Relaxed);
        *self.counts.why.lock() = Some(format!("{error:#}"));
    }

    /// One stream, until it breaks; why it did.
    async fn stream(&mut self, broken: &mut u32) -> anyhow::Error {
        match self.try_stream(broken).await {
            Ok(()) => anyhow::anyhow!("the shim ended the stream"),
            Err(error) => error,
        }
    }

    async fn try_stream(&mut self, broken: &mut u32) -> Result<()> {
        let mut call = Call::open(self.address).await?;
        for message in self.envoy.connected() {
            call.say(message).await?;
        }
        while let Some(message) = call.from.next().await? {
            for answer in self.take(&message)? {
                call.say(answer).await?;
            }
            if self.ready.is_some() && self.envoy.is_ready() {
                *broken = 0;
                if let Some(ready) = self.ready.take() {
                    // Whoever gave the order may have given up.
                    let _ = ready.send(());
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, message: &Bytes) -> Result<Vec<Bytes>> {
        let response = DeltaResponse::decode(message)?;
        let size = message.len() as u64;
        self.counts.bytes.fetch_add(size, Ordering::Relaxed);
        *self.counts.last.lock() = Instant::now();
        if response.type_url == Kind::Endpoints.url() {
            let changes = response.resources.iter().filter_map(change_in);
            if let Some(change) = changes.into_iter().find(|one| self.board.awaits(*one)) {
                // Counted before it is told, for then the counts are read.
                let counted = &self.counts.bytes_of_change;
                counted.fetch_add(size, Ordering::Relaxed);
                self.board.arrived(change);
            }
        }
        let answers = self.envoy.on_response(&response)?;
        self.count_copies();
        Ok(answers)
    }

    fn count_copies(&mut self) {
        let before = std::mem::replace(&mut self.copies, self.envoy.copies());
        let all = &self.counts.copies;
        all.fetch_add(self.copies, Ordering::Relaxed);
        all.fetch_sub(before, Ordering::Relaxed);
    }
}

/// Who a sidecar is, as pilot-agent says it.
pub(crate) fn node(number: usize, workload: &Workload) -> Bytes {
    let Workload {
        namespace, name, ..
    } = workload;
    let address = u32::try_from(number).map(|number| Ipv4Addr::from(u32::from(PODS) + number));
    let address = address.unwrap_or(PODS);
    let text = |value: &str| Value {
        kind: Some(ValueKind::StringValue(value.to_owned())),
    };
    // By these a Sidecar picks its pods.
    let labels = ValueKind::StructValue(Struct {
        fields: [("app".to_owned(), text(name))].into(),
    });
    let owner = format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    let metadata = [
        ("NAMESPACE", text(namespace)),
        ("OWNER", text(&owner)),
        ("WORKLOAD_NAME", text(name)),
        ("CLUSTER_ID", text("Kubernetes")),
        ("LABELS", Value { kind: Some(labels) }),
    ];
    let version = SemanticVersion {
        major_number: 1,
        minor_number: 40,
        patch: 0,
    };
    let node = Node {
        id: format!("sidecar~{address}~{name}-{number}.{namespace}~{namespace}.svc.cluster.local"),
        cluster: format!("{name}.{namespace}"),
        user_agent_name: "envoy".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(version),
            metadata: None,
        })),
        metadata: Some(Struct {
            fields: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        }),
        ..Node::default()
    };
    node.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_shim::node::Proxy;

    #[test]
    fn the_shim_takes_a_node_for_a_sidecar_of_its_workload() {
        let workload = Workload {
            namespace: "ns-3".into(),
            name: "app-43".into(),
            uses: vec![],
        };
        let proxy = Proxy::decode(&node(300, &workload));
        assert_eq!(
            proxy.id,
            "sidecar~10.64.1.45~app-43-300.ns-3~ns-3.svc.cluster.local"
        );
        assert_eq!(proxy.workload.unwrap().to_string(), "ns-3/app-43");
        assert_eq!(proxy.envoy, Some((1, 40, 0)));
    }
}
