//! Tells a watcher the whole graph, then what changes.
//!
//! Nothing is queued for it: what it has not been told yet is a set of names, and what it is told of a name is what is
//! true when the message is made. A slow watcher misses states in between, never the last.

#[cfg(test)]
mod tests;

use std::future::pending;

use dependency_graph::api::WatchResponse;
use dependency_graph::{Change, api, convert};
use futures::{Stream, stream};
use ipnet::IpNet;
use mesh_runtime::drain::Drain;
use prost::Message as _;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::calls::Mesh;
use crate::state::{Scope, State, Watcher};

/// Entries of one message at most.
const ENTRIES: usize = 500;
/// Bytes of one message, exceeded by one entry at most. Clients take 4 MiB unless told otherwise.
const BYTES: usize = 1 << 20;

struct Session {
    state: State,
    watcher: Watcher,
    cidrs: Receiver<Vec<IpNet>>,
    paused: Receiver<bool>,
    snapshot_complete: bool,
    drain: Drain,
    until: Instant,
}

/// The messages of one watch. It ends when the drain starts, so that the watcher finds another replica, and at `until`,
/// so that it shows its token again.
pub fn watch(
    state: State,
    scope: Scope,
    drain: Drain,
    until: Instant,
) -> impl Stream<Item = Result<WatchResponse, Status>> + Send + 'static {
    stream::unfold(None::<Session>, move |session| {
        let (state, drain) = (state.clone(), drain.clone());
        async move {
            let mut session = match session {
                Some(session) => session,
                None => {
                    tokio::select! {
                        () = state.synced() => {}
                        () = drain.started() => return None,
                        () = sleep_until(until) => return None,
                    }
                    let watcher = state.watch_scope(scope);
                    Session {
                        cidrs: state.service_cidrs(),
                        paused: state.paused(),
                        state,
                        watcher,
                        snapshot_complete: false,
                        drain,
                        until,
                    }
                }
            };
            let response = session.next().await?;
            Some((Ok(response), Some(session)))
        }
    })
}

impl Session {
    async fn next(&mut self) -> Option<WatchResponse> {
        if !self.snapshot_complete {
            let mut response = WatchResponse::default();
            let mut size = 0;
            while let Some(change) = self.watcher.snapshot.pop_front() {
                size += add(&mut response, &self.state, &change);
                if size >= BYTES || entries(&response) >= ENTRIES {
                    break;
                }
            }
            self.snapshot_complete = self.watcher.snapshot.is_empty();
            response.snapshot_complete = self.snapshot_complete;
            if self.snapshot_complete {
                response.service_cidrs = self.service_cidrs();
                response.paused = Some(*self.paused.borrow_and_update());
            }
            return Some(response);
        }
        while Instant::now() < self.until {
            let mut changes = self.watcher.told().take(ENTRIES).into_iter();
            let mut response = WatchResponse::default();
            // First, for it may be that there is always something new.
            if self.paused.has_changed().unwrap_or_default() {
                response.paused = Some(*self.paused.borrow_and_update());
            }
            let mut size = 0;
            for change in changes.by_ref() {
                size += add(&mut response, &self.state, &change);
                if size >= BYTES {
                    break;
                }
            }
            if entries(&response) > 0 || response.paused.is_some() {
                self.watcher.told().put_back(changes);
                return Some(response);
            }
            tokio::select! {
                () = self.watcher.told().changed() => {}
                // Its sender lives in the state.
                Ok(()) = self.cidrs.changed() => {
                    let service_cidrs = self.service_cidrs();
                    return Some(WatchResponse { service_cidrs, ..WatchResponse::default() });
                }
                Ok(()) = self.paused.changed() => self.paused.mark_changed(),
                () = self.drain.started() => return None,
                () = sleep_until(self.until) => return None,
            }
        }
        None
    }
}

impl Session {
    /// The ranges of services' addresses as they are now; later changes are told.
    fn service_cidrs(&mut self) -> Vec<String> {
        let cidrs = self.cidrs.borrow_and_update();
        cidrs.iter().map(IpNet::to_string).collect()
    }
}

/// Keeps what watchers are told of services' addresses as the mesh has it, for ever. `given`: where Kubernetes does not
/// say, as the planner has it.
pub async fn follow_service_cidrs(mut mesh: Mesh, given: Vec<IpNet>, state: State) {
    if mesh.synced.wait_for(|synced| *synced).await.is_err() {
        // Who watches is gone: nothing will be known.
        return pending().await;
    }
    loop {
        let mut cidrs = mesh.world.read().service_cidrs();
        if cidrs.is_empty() {
            cidrs.clone_from(&given);
        }
        state.set_service_cidrs(cidrs);
        if mesh.changes.changed().await.is_err() {
            return pending().await;
        }
    }
}

/// Adds what is true of a name now; says how many bytes that is.
fn add(response: &mut WatchResponse, state: &State, change: &Change) -> usize {
    match change {
        Change::Namespace(name) => {
            let namespace = convert::namespace_mode(name, state.namespace(name));
            let size = namespace.encoded_len();
            response.namespaces.push(namespace);
            size
        }
        Change::Workload(workload) => match state.view(workload) {
            Some(record) => {
                let told = convert::workload_state(workload, &record);
                let size = told.encoded_len();
                response.workloads.push(told);
                size
            }
            None => {
                let removed = api::Workload::from(workload);
                let size = removed.encoded_len();
                response.removed.push(removed);
                size
            }
        },
    }
}

fn entries(response: &WatchResponse) -> usize {
    response.namespaces.len() + response.workloads.len() + response.removed.len()
}
