//! What one workload was seen to call, and when.
//!
//! Two of these merge as sets do: in any order, any number of times, to the same result. That is what lets every
//! replica of the controller take reports without asking another. The limit on their number is therefore kept where
//! something is learned, not where two are merged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

use crate::dependency::{Dependency, Port, Protocol};
use crate::host::Host;
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// What was seen of a host over one protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edge {
    /// The ports called.
    pub ports: BTreeSet<Port>,
    /// The first call to any of them.
    pub first_seen: Timestamp,
    /// The last call to any of them that was written down.
    pub last_seen: Timestamp,
    /// Who saw it first, as far as is known.
    pub source: Source,
}

/// How a dependency was found. Where two differ the lesser is kept, so that merging stays orderless.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// A sidecar asked for it.
    OnDemand,
    /// It came to the global proxy.
    Fallback,
    /// Telemetry told of it.
    Telemetry,
}

/// A text that is no source.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("source {0:?} is none of OnDemand, Fallback, Telemetry")]
pub struct SourceError(pub String);

impl Source {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::OnDemand, Self::Fallback, Self::Telemetry];

    /// As records write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "OnDemand",
            Self::Fallback => "Fallback",
            Self::Telemetry => "Telemetry",
        }
    }
}

impl std::str::FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let found = Self::ALL.into_iter().find(|source| source.as_str() == text);
        found.ok_or_else(|| SourceError(text.chars().take(32).collect()))
    }
}

/// What an observation changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Observed {
    /// It was not known.
    New,
    /// It was known, and was last written down long enough ago to be worth writing again.
    Refreshed,
    /// Nothing worth writing.
    Known,
    /// It is new, and the workload has as many dependencies as it may have.
    Refused,
}

/// What a workload was seen to call.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Learned {
    edges: BTreeMap<(Host, Protocol), Edge>,
    /// The number of ports in all edges.
    count: usize,
}

impl Edge {
    /// One call.
    #[must_use]
    pub fn once(port: Port, seen: Timestamp, source: Source) -> Self {
        Self {
            ports: BTreeSet::from([port]),
            first_seen: seen,
            last_seen: seen,
            source,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.ports.extend(&other.ports);
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.source = self.source.min(other.source);
    }
}

impl Learned {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many dependencies: hosts times ports times protocols.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing was learned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Every edge, by host and protocol.
    pub fn edges(&self) -> impl Iterator<Item = (&Host, Protocol, &Edge)> {
        self.edges
            .iter()
            .map(|((host, protocol), edge)| (host, *protocol, edge))
    }

    /// Every dependency, in order.
    pub fn dependencies(&self) -> impl Iterator<Item = Dependency> + '_ {
        self.edges().flat_map(|(host, protocol, edge)| {
            edge.ports.iter().map(move |port| Dependency {
                host: host.clone(),
                port: *port,
                protocol,
            })
        })
    }

    /// Whether it is known.
    #[must_use]
    pub fn contains(&self, dependency: &Dependency) -> bool {
        self.edge(dependency)
            .is_some_and(|edge| edge.ports.contains(&dependency.port))
    }

    fn edge(&self, dependency: &Dependency) -> Option<&Edge> {
        self.edges
            .get(&(dependency.host.clone(), dependency.protocol))
    }

    /// When something new was last learned: the latest first call of any host. Absent when nothing was.
    #[must_use]
    pub fn last_learned(&self) -> Option<Timestamp> {
        self.edges.values().map(|edge| edge.first_seen).max()
    }

    /// What an observation would change, without changing it. `limit`: dependencies a workload may have.
    /// `refresh_after`: how old a last call must be before a later one is worth writing.
    #[must_use]
    pub fn would(
        &self,
        dependency: &Dependency,
        seen: Timestamp,
        limit: usize,
        refresh_after: Duration,
    ) -> Observed {
        match self.edge(dependency) {
            Some(edge) if edge.ports.contains(&dependency.port) => {
                let stale = seen > edge.last_seen && seen.since(edge.last_seen) >= refresh_after;
                if stale {
                    Observed::Refreshed
                } else {
                    Observed::Known
                }
            }
            _ if self.count >= limit => Observed::Refused,
            _ => Observed::New,
        }
    }

    /// Adds one edge to what is there.
    pub fn add(&mut self, host: Host, protocol: Protocol, edge: Edge) {
        if edge.ports.is_empty() {
            return;
        }
        match self.edges.entry((host, protocol)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                self.count += edge.ports.len();
                entry.insert(edge);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let before = entry.get().ports.len();
                entry.get_mut().merge(&edge);
                self.count += entry.get().ports.len() - before;
            }
        }
    }

    /// Adds one call.
    pub fn see(&mut self, dependency: &Dependency, seen: Timestamp, source: Source) {
        let edge = Edge::once(dependency.port, seen, source);
        self.add(dependency.host.clone(), dependency.protocol, edge);
    }

    /// The union of both: all ports, the earlier first call, the later last one.
    pub fn merge(&mut self, other: &Self) {
        for (host, protocol, edge) in other.edges() {
            self.add(host.clone(), protocol, edge.clone());
        }
    }

    /// Merges `other`, but takes nothing new beyond `limit`; says how many dependencies were refused.
    ///
    /// Edges already known are merged first, then new ones in order; what is there already is never dropped.
    pub fn merge_up_to(&mut self, other: &Self, limit: usize) -> usize {
        let mut refused = 0;
        for (host, protocol, edge) in other.edges() {
            let known = self
                .edges
                .get(&(host.clone(), protocol))
                .map(|known| &known.ports);
            let is_new = |port: &&Port| !known.is_some_and(|known| known.contains(port));
            let mut room = limit.saturating_sub(self.count);
            let mut taken = edge.clone();
            taken.ports.retain(|port| {
                let take = !is_new(&port) || room > 0;
                room -= usize::from(take && is_new(&port));
                take
            });
            refused += edge.ports.len() - taken.ports.len();
            self.add(host.clone(), protocol, taken);
        }
        refused
    }

    /// Drops a host over one protocol, with all its ports.
    pub fn remove(&mut self, host: &Host, protocol: Protocol) -> Option<Edge> {
        let removed = self.edges.remove(&(host.clone(), protocol))?;
        self.count -= removed.ports.len();
        Some(removed)
    }

    /// Keeps the edges for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&Host, Protocol, &Edge) -> bool) {
        self.edges
            .retain(|(host, protocol), edge| keep(host, *protocol, edge));
        self.count = self.edges.values().map(|edge| edge.ports.len()).sum();
    }

    /// What is known of a host over one protocol.
    #[must_use]
    pub fn get(&self, host: &Host, protocol: Protocol) -> Option<&Edge> {
        self.edges.get(&(host.clone(), protocol))
    }
}
