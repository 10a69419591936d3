//! An index of the outbound clusters istiod gave: how many there are, and which subsets a service has.
//!
//! A held call waits while a service's subsets are looked for: in a large mesh that must not mean
//! looking at every cluster.

use crate::cluster::{OutboundName, ServicePort};
use std::collections::{BTreeSet, HashMap};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    count: usize,
    /// Names of clusters with a subset; most services have none.
    subsets: HashMap<ServicePort, BTreeSet<Box<str>>>,
}

impl Outbound {
    /// Takes in the name of a cluster that was not there before.
    pub(super) fn add(&mut self, name: &str) {
        let Some(outbound) = OutboundName::parse(name) else {
            return;
        };
        self.count += 1;
        if !outbound.subset.is_empty() {
            let names = self.subsets.entry(outbound.service_port()).or_default();
            names.insert(name.into());
        }
    }

    /// Forgets the name of a cluster that was there.
    pub(super) fn remove(&mut self, name: &str) {
        let Some(outbound) = OutboundName::parse(name) else {
            return;
        };
        self.count = self.count.saturating_sub(1);
        if outbound.subset.is_empty() {
            return;
        }
        let service = outbound.service_port();
        if let Some(names) = self.subsets.get_mut(&service) {
            names.remove(name);
            if names.is_empty() {
                self.subsets.remove(&service);
            }
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The names a service's clusters have: its own, whether it is there or not, and its subsets'.
    pub(super) fn names_of(&self, service: &ServicePort) -> impl Iterator<Item = Box<str>> {
        let subsets = self.subsets.get(service).into_iter().flatten().cloned();
        std::iter::once(service.cluster().into()).chain(subsets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_finds_subsets() {
        let mut outbound = Outbound::default();
        let names = [
            "outbound|80||a",
            "outbound|80|v1|a",
            "outbound|80|v2|a",
            "outbound|81|v1|a",
            "inbound|80||",
        ];
        for name in names {
            outbound.add(name);
        }
        let of = |outbound: &Outbound| -> Vec<_> {
            let service = ServicePort::new("a", 80);
            let names = outbound.names_of(&service);
            names.map(String::from).collect()
        };
        assert_eq!(outbound.count(), 4);
        assert_eq!(of(&outbound), names[..3]);
        outbound.remove("outbound|80|v1|a");
        assert_eq!(outbound.count(), 3);
        assert_eq!(of(&outbound), ["outbound|80||a", "outbound|80|v2|a"]);
        for name in names {
            outbound.remove(name);
        }
        assert_eq!(outbound.count(), 0);
        assert_eq!(of(&outbound), ["outbound|80||a"]);
        assert!(outbound.subsets.is_empty());
    }
}
