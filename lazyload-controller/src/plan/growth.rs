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
    let user = match user::of(world, namespace, &group) {
        user::User::None => None,
        user::User::Merged(merged) => Some(merged),
        user::User::Wins(_) | user::User::NotUnderstood(_) => return None,
    };
    let (learned, pinned, always) = spec.counts;
    let mut grown = Grown {
        namespace,
        user,
        hosts: spec.hosts.clone(),
        limit: always.saturating_add(max_hosts),
        counts: (learned, pinned, always),
        capped: 0,
    };
    let mut closures = Closures::new(world, namespace);
    if !grown.add(closures.of(host)) {
        return None;
    }
    Some(SidecarSpec {
        hosts: grown.hosts,
        counts: (learned + 1, pinned, always),
        ..spec.clone()
    })
}

/// The hosts of a group: only what the user's Sidecar allows, and no more beside what all have than the operator does.
pub(super) struct Grown<'a> {
    namespace: &'a str,
    user: Option<user::Merged<'a>>,
    hosts: BTreeSet<EgressHost>,
    limit: usize,
    /// How many were learned, are pinned, and are in every Sidecar.
    counts: (usize, usize, usize),
    /// How many did not fit.
    pub(super) capped: usize,
}

impl<'a> Grown<'a> {
    /// What is pinned comes first, then what was learned first. What a host brings along comes with it or not at all.
    pub(super) fn of(
        graph: &Graph,
        namespace: &'a str,
        kept: &Kept<'a>,
        base: &BTreeSet<EgressHost>,
        closures: &mut Closures<'_>,
        (settings, fallback): (&Settings, &Fallback),
    ) -> Self {
        let group = &kept.group;
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
            namespace,
            user: kept.user,
            hosts: BTreeSet::new(),
            limit: usize::MAX,
            counts: (0, 0, 0),
            capped: 0,
        };
        grown.add(base);
        // Whatever a user's Sidecar allows: without the global proxy there is no fallback.
        let proxy = EgressHost::new(&settings.global_proxy.namespace, &fallback.host);
        grown.hosts.insert(proxy);
        grown.counts.2 = grown.hosts.len();
        grown.limit = grown.counts.2.saturating_add(settings.max_hosts);
        for host in &pinned {
            grown.counts.1 += usize::from(grown.add(closures.of(host)));
        }
        for (_, host) in &learned {
            grown.counts.0 += usize::from(grown.add(closures.of(host)));
        }
        grown
    }

    /// Says whether there is such a host, it may be there, and it has a place.
    fn add(&mut self, with_it: &BTreeSet<EgressHost>) -> bool {
        let (namespace, user) = (self.namespace, self.user);
        let allowed = |host: &&EgressHost| user.is_none_or(|user| user.allows(namespace, host));
        let with_it: Vec<&EgressHost> = with_it.iter().filter(allowed).collect();
        let new = with_it.iter().filter(|host| !self.hosts.contains(**host));
        let new = new.count();
        if new > 0 && self.hosts.len() + new > self.limit {
            self.capped += 1;
            return false;
        }
        let any = !with_it.is_empty();
        self.hosts.extend(with_it.into_iter().cloned());
        any
    }

    pub(super) fn into_sidecar(self, kept: Kept<'_>, filter: Name) -> SidecarSpec {
        SidecarSpec {
            workloads: kept.group.workloads,
            selector: kept.group.selector,
            hosts: self.hosts,
            counts: self.counts,
            outbound_traffic_policy: kept
                .user
                .as_ref()
                .and_then(|user| user.sidecar.outbound_traffic_policy.clone()),
            inbound_connection_pool: kept
                .user
                .as_ref()
                .and_then(|user| user.sidecar.inbound_connection_pool.clone()),
            filter,
            begins_wide: kept.settled,
        }
    }
}
