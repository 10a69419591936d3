//! What is to be reported to the controller: kept until it is stored there for good.
//!
//! Pure: [`crate::controller`] moves the batches.

use dependency_graph::{Dependency, Workload};
use std::collections::{HashMap, VecDeque};
use std::time::SystemTime;

/// How many observations are kept while the controller is away; further ones are dropped and
/// counted. A workload's own graph loses nothing by it: its proxies say again what they asked for
/// when they reconnect.
pub const MOST_PENDING: usize = 100_000;
/// How many observations go in one batch (the graph API takes no more).
pub const BATCH: usize = 1000;

/// A dependency seen on a workload.
pub type Edge = (Workload, Dependency);

/// An edge and when it was seen; `None` for a time that nobody knows.
pub type Seen = (Edge, Option<SystemTime>);

/// See the module.
#[derive(Debug, Default)]
pub struct Pending {
    /// When each was seen.
    seen: HashMap<Edge, Option<SystemTime>>,
    /// Not yet sent on the current stream.
    unsent: VecDeque<Edge>,
    /// Sent, in order of their batch.
    sent: VecDeque<(u64, Edge)>,
    sequence: u64,
}

impl Pending {
    /// Adds an observation; false when there is no room for it.
    pub fn add(&mut self, edge: Edge, seen: Option<SystemTime>) -> bool {
        if let Some(before) = self.seen.get_mut(&edge) {
            *before = (*before).max(seen);
            return true;
        }
        if self.seen.len() >= MOST_PENDING {
            return false;
        }
        self.unsent.push_back(edge.clone());
        self.seen.insert(edge, seen);
        true
    }

    /// The next batch to send, with its sequence; `None` when all is sent.
    pub fn batch(&mut self) -> Option<(u64, Vec<Seen>)> {
        let count = self.unsent.len().min(BATCH);
        if count == 0 {
            return None;
        }
        self.sequence += 1;
        let edges: Vec<_> = self.unsent.drain(..count).collect();
        self.sent
            .extend(edges.iter().map(|edge| (self.sequence, edge.clone())));
        let with_times = edges.into_iter().map(|edge| {
            let seen = self.seen.get(&edge).copied().flatten();
            (edge, seen)
        });
        Some((self.sequence, with_times.collect()))
    }

    /// Whether there is a batch to send.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Every batch up to this one is stored.
    pub fn stored(&mut self, sequence: u64) {
        while let Some((_, edge)) = self.sent.pop_front_if(|(of, _)| *of <= sequence) {
            self.seen.remove(&edge);
        }
    }

    /// The stream is lost: what was sent and not acknowledged is sent again on the next.
    pub fn rewind(&mut self) {
        while let Some((_, edge)) = self.sent.pop_back() {
            self.unsent.push_front(edge);
        }
    }

    /// How many are not stored yet.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether all is stored.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dependency_graph::{Port, Protocol};
    use std::time::Duration;

    fn edge(i: usize) -> Edge {
        let dependency = Dependency {
            host: format!("h{i}.shop.svc.cluster.local").parse().unwrap(),
            port: Port::try_from(80).unwrap(),
            protocol: Protocol::Http,
        };
        (
            Workload::new("shop", "Deployment", "cart").unwrap(),
            dependency,
        )
    }

    #[test]
    fn kept_until_stored() {
        let mut pending = Pending::default();
        assert!(pending.add(edge(1), None));
        let (sequence, batch) = pending.batch().unwrap();
        assert_eq!((batch.len(), pending.batch(), pending.len()), (1, None, 1));
        pending.stored(sequence);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_lost_stream_sends_again_in_order() {
        let mut pending = Pending::default();
        for i in 0..3 {
            pending.add(edge(i), None);
        }
        let (_, first) = pending.batch().unwrap();
        pending.add(edge(3), None);
        pending.rewind();
        let (_, again) = pending.batch().unwrap();
        assert_eq!(again[..3], first[..]);
        assert_eq!(again.len(), 4);
    }

    #[test]
    fn seen_again_is_one_observation_with_the_later_time() {
        let mut pending = Pending::default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        pending.add(edge(1), None);
        pending.add(edge(1), Some(now));
        pending.add(edge(1), None);
        assert_eq!(pending.batch().unwrap().1, [(edge(1), Some(now))]);
    }

    #[test]
    fn batches_and_memory_are_bounded() {
        let mut pending = Pending::default();
        for i in 0..MOST_PENDING {
            assert!(pending.add(edge(i), None));
        }
        assert!(!pending.add(edge(MOST_PENDING), None));
        assert_eq!(pending.batch().unwrap().1.len(), BATCH);
    }
}
