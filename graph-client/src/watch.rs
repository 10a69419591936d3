//! Following the graph.

use dependency_graph::api::{WatchRequest, WatchResponse};
use mesh_runtime::retry::Retry;
use tracing::{info, warn};

use crate::{Controller, Error};

/// Takes in what the controller says of the graph.
pub trait Sink {
    /// A new watch begins: what comes until the state is complete replaces what is known.
    fn begin(&self);

    /// Takes in an update. Returns the entries that are not valid, for the log.
    fn apply(&self, update: WatchResponse) -> Vec<String>;

    /// Whether the watch is open and its state is complete.
    fn connected(&self, connected: bool);
}

impl Controller {
    /// Follows the graph, for ever.
    pub async fn watch(&self, request: WatchRequest, sink: &impl Sink) {
        let mut retry = Self::retry();
        loop {
            let outcome = self.follow(request, sink, &mut retry).await;
            sink.connected(false);
            self.pause("watch", outcome, &mut retry).await;
        }
    }

    async fn follow(
        &self,
        request: WatchRequest,
        sink: &impl Sink,
        retry: &mut Retry,
    ) -> Result<(), Error> {
        let request = self.request(request)?;
        let mut updates = self.client().await?.watch(request).await?.into_inner();
        sink.begin();
        while let Some(update) = updates.message().await? {
            let complete = update.snapshot_complete;
            for skipped in sink.apply(update) {
                warn!(
                    entry = skipped,
                    "the controller sent something that is not valid, skipped"
                );
            }
            if complete {
                info!(controller = self.dialer.address(), "the graph is known");
                sink.connected(true);
                retry.succeeded();
            }
        }
        Ok(())
    }
}
