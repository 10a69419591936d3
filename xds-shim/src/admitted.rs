//! The set of services a proxy is given, asked without making a key.

use crate::cluster::{OutboundName, ServicePort};
use std::collections::{HashMap, HashSet};

/// Port 0 stands for every port of a host, as in the graph API.
const EVERY_PORT: u16 = 0;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Admitted(HashMap<u16, HashSet<Box<str>>>);

impl Admitted {
    /// Adds a service; whether it was new.
    pub fn insert(&mut self, service: ServicePort) -> bool {
        self.0.entry(service.port).or_default().insert(service.host)
    }

    /// Whether the service of this cluster is in.
    pub fn contains(&self, name: &OutboundName<'_>) -> bool {
        [name.port, EVERY_PORT]
            .iter()
            .any(|p| self.0.get(p).is_some_and(|h| h.contains(name.host)))
    }

    /// How many services are in.
    pub fn len(&self) -> usize {
        self.0.values().map(HashSet::len).sum()
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
