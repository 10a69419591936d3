//! Sidecars without a shim in between: what an endpoint change takes by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;
use xds_shim::ads::{DeltaRequest, DeltaResponse};

use crate::board::{Board, change_in};
use crate::fleet::node;
use crate::grpc::Call;
use crate::mesh::Workload;
use crate::rules::Kind;

/// All of them; dropping it ends them. They watch the endpoints that sidecars of their workloads watch, and nothing
/// else.
#[derive(Debug)]
pub(crate) struct Direct {
    tasks: JoinSet<Result<()>>,
    pub(crate) board: Arc<Board>,
}

impl Direct {
    /// Connects so many to the control plane at `address`; they have their endpoints when this returns.
    ///
    /// # Errors
    /// When one of them cannot.
    pub(crate) async fn connect(
        count: usize,
        workloads: &[Workload],
        address: SocketAddr,
    ) -> Result<Self> {
        let board = Arc::<Board>::default();
        let (ready, mut said) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let workloads = workloads.iter().cycle().take(count);
        for (number, workload) in workloads.enumerate() {
            let names = workload.uses.iter().map(|one| one.cluster.clone());
            let first = DeltaRequest {
                node: Some(node(number, workload)),
                type_url: Kind::Endpoints.url().to_owned(),
                subscribe: names.collect(),
                ..DeltaRequest::default()
            };
            let board = Arc::clone(&board);
            tasks.spawn(follow(address, first.encode(), board, ready.clone()));
        }
        drop(ready);
        for _ in 0..count {
            said.recv().await.context("a stream without shim broke")?;
        }
        Ok(Self { tasks, board })
    }

    /// Ends all of them.
    pub(crate) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn follow(
    address: SocketAddr,
    first: Bytes,
    board: Arc<Board>,
    ready: UnboundedSender<()>,
) -> Result<()> {
    let mut call = Call::open(address).await?;
    call.say(first).await?;
    let mut ready = Some(ready);
    while let Some(message) = call.from.next().await? {
        let response = DeltaResponse::decode(&message)?;
        for change in response.resources.iter().filter_map(change_in) {
            board.arrived(change);
        }
        let ack = DeltaRequest {
            type_url: response.type_url,
            nonce: response.nonce,
            ..DeltaRequest::default()
        };
        call.say(ack.encode()).await?;
        if let Some(ready) = ready.take() {
            // Whoever waits may have given up.
            let _ = ready.send(());
        }
    }
    Ok(())
}
