//! What goes into a Sidecar: what all have, what is pinned, and what was learned, as far as there is room.

use std::collections::{BTreeMap, BTreeSet};

use dependency_graph::{Graph, Timestamp};

use super::{Fallback, Kept, Settings, SidecarSpec, user};
use crate::closure::{Closures, EgressHost};
use crate::mesh::{Name, World};
use crate::selector::Group;

/// A Sidecar with one more host that was just learned for its workloads, without planning all of the namespace: what
/// [`super::plan_namespace`] comes to if nothing else has changed. `None` where that takes a plan, or where the host
/// changes nothing.
#[must_use]
pub fn grow_by(
    world: &World,
    spec: &SidecarSpec,
    host: &str,
    max_hosts: usize,
) -> Option<SidecarSpec> {
    let namespace = spec.workloads.first()?.namespace();
    let group = Group {
        workloads: spec.workloads.clone(),
        selector: spec.selector.clone(),
    };
    if !matches!(user::of(world, namespace, &group), user::User::None) {
        return None;
    }
    let mut grown = Grown {
        hosts: spec.hosts.clone(),
        learned: spec.counts.0,
        pinned: spec.counts.1,
        capped: 0,
    };
    let mut closures = Closures::new(world, namespace);
    if !grown.add(closures.of(host), max_hosts) {
        return None;
    }
    Some(SidecarSpec {
        hosts: grown.hosts,
        counts: (grown.learned + 1, grown.pinned, spec.counts.2),
        ..spec.clone()
    })
}

/// The hosts of a group, and how many were learned, are pinned, and did not fit.
pub(super) struct Grown {
    hosts: BTreeSet<EgressHost>,
    learned: usize,
    pinned: usize,
    pub(super) capped: usize,
}

impl Grown {
    /// What is pinned comes first, then what was learned first. What a host brings along comes with it or not at all.
    pub(super) fn of(
        graph: &Graph,
        group: &Group,
        base: &BTreeSet<EgressHost>,
        closures: &mut Closures<'_>,
        max_hosts: usize,
    ) -> Self {
        let records = || {
            let workloads = group.workloads.iter();
            workloads.filter_map(|workload| graph.workload(workload))
        };
        let pinned: BTreeSet<&str> = records()
            .flat_map(|record| &record.pinned)
            .map(|pin| pin.host.as_str())
            .collect();
        let mut first_seen: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for (host, _, edge) in records().flat_map(|record| record.learned.edges()) {
            let seen = first_seen.entry(host.as_str()).or_insert(edge.first_seen);
            *seen = edge.first_seen.min(*seen);
        }
        let mut learned: Vec<(Timestamp, &str)> = first_seen
            .into_iter()
            .map(|(host, seen)| (seen, host))
            .collect();
        learned.sort_unstable();
        let mut grown = Self {
            hosts: base.clone(),
            learned: 0,
            pinned: 0,
            capped: 0,
        };
        for host in &pinned {
            grown.pinned += usize::from(grown.add(closures.of(host), max_hosts));
        }
        for (_, host) in &learned {
            grown.learned += usize::from(grown.add(closures.of(host), max_hosts));
        }
        grown
    }

    /// Says whether there is such a host and it has a place.
    fn add(&mut self, with_it: &BTreeSet<EgressHost>, max_hosts: usize) -> bool {
        let new = with_it.difference(&self.hosts).count();
        if new > 0 && self.hosts.len() + new > max_hosts {
            self.capped += 1;
            return false;
        }
        self.hosts.extend(with_it.iter().cloned());
        !with_it.is_empty()
    }

    pub(super) fn into_sidecar(
        self,
        kept: Kept<'_>,
        namespace: &str,
        always: usize,
        fallback: &Fallback,
        settings: &Settings,
        filter: Name,
    ) -> SidecarSpec {
        let mut hosts = self.hosts;
        if let Some(user) = &kept.user {
            hosts.retain(|host| user.allows(namespace, host));
        }
        // Whatever a user's Sidecar allows: without the global proxy there is no fallback.
        let proxy = EgressHost::new(&settings.global_proxy.namespace, &fallback.host);
        hosts.insert(proxy);
        SidecarSpec {
            workloads: kept.group.workloads,
            selector: kept.group.selector,
            hosts,
            counts: (self.learned, self.pinned, always),
            outbound_traffic_policy: kept
                .user
                .as_ref()
                .and_then(|user| user.sidecar.outbound_traffic_policy.clone()),
            inbound_connection_pool: kept
                .user
                .as_ref()
                .and_then(|user| user.sidecar.inbound_connection_pool.clone()),
            filter,
        }
    }
}
