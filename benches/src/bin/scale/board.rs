//! Who has an endpoint change, and after how long.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use xds_shim::ads::Resource;
use xds_shim::cluster;
use xds_shim::envoy::config::core::v3::address::Address;
use xds_shim::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};

use crate::mesh;

/// One change at a time is awaited.
#[derive(Debug, Default)]
pub(crate) struct Board {
    awaited: Mutex<Option<Awaited>>,
    complete: Notify,
}

#[derive(Debug)]
struct Awaited {
    change: u32,
    begun: Instant,
    expected: usize,
    arrived: Vec<Duration>,
}

impl Board {
    /// From now on this change is awaited, by so many.
    pub(crate) fn begin(&self, change: u32, expected: usize) {
        *self.awaited.lock() = Some(Awaited {
            change,
            begun: Instant::now(),
            expected,
            arrived: Vec::with_capacity(expected),
        });
    }

    /// Whether it is this change that is awaited.
    pub(crate) fn awaits(&self, change: u32) -> bool {
        let awaited = self.awaited.lock();
        awaited.as_ref().is_some_and(|one| one.change == change)
    }

    /// Somebody has a change; nothing is done about one that is not awaited.
    pub(crate) fn arrived(&self, change: u32) {
        let mut awaited = self.awaited.lock();
        let Some(awaited) = awaited.as_mut().filter(|one| one.change == change) else {
            return;
        };
        awaited.arrived.push(awaited.begun.elapsed());
        if awaited.arrived.len() >= awaited.expected {
            self.complete.notify_one();
        }
    }

    /// How long each took, once all have it; sorted.
    ///
    /// # Errors
    /// When not all had it in time.
    pub(crate) async fn all(&self, limit: Duration) -> Result<Vec<Duration>> {
        let wait = async {
            while self.missing() > 0 {
                self.complete.notified().await;
            }
        };
        let in_time = tokio::time::timeout(limit, wait).await.is_ok();
        let missing = self.missing();
        ensure!(
            in_time,
            "an endpoint change has not come to {missing} sidecars after {limit:?}"
        );
        let awaited = self.awaited.lock().take();
        let mut arrived = awaited.map(|one| one.arrived).unwrap_or_default();
        arrived.sort_unstable();
        Ok(arrived)
    }

    fn missing(&self) -> usize {
        let awaited = self.awaited.lock();
        let missing = |one: &Awaited| one.expected.saturating_sub(one.arrived.len());
        awaited.as_ref().map_or(0, missing)
    }
}

/// Which change the endpoints in an encoded resource tell.
pub(crate) fn change_in(resource: &Resource) -> Option<u32> {
    let body = cluster::payload(&resource.raw).ok()?;
    let assignment = ClusterLoadAssignment::decode(body).ok()?;
    let first = assignment.endpoints.first()?.lb_endpoints.first()?;
    let Some(HostIdentifier::Endpoint(endpoint)) = &first.host_identifier else {
        return None;
    };
    let Some(Address::SocketAddress(socket)) = &endpoint.address.as_ref()?.address else {
        return None;
    };
    mesh::change_of(socket.address.parse::<Ipv4Addr>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_there_once_all_have_it() {
        let board = Board::default();
        board.begin(7, 2);
        assert!(board.awaits(7) && !board.awaits(6));
        board.arrived(6);
        board.arrived(7);
        let early = board.all(Duration::from_millis(1)).await;
        assert!(early.unwrap_err().to_string().contains("to 1 sidecars"));
        board.arrived(7);
        assert_eq!(board.all(Duration::from_secs(10)).await.unwrap().len(), 2);
        assert!(!board.awaits(7));
    }
}
