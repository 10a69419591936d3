//! Clusters: held, asked for on demand, given.

use super::ledger::Ledger;
use super::{Ask, MOST_NAME_BYTES, MOST_UNKNOWN_NAMES, Output, Session};
use crate::ads::{DeltaRequest, DeltaResponse};
use crate::cluster::{self, OutboundName, ServicePort};
use crate::references::{self, Found};
use crate::stand_in::Name;
use crate::store::{Stored, Version};
use dependency_graph::Protocol;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

impl Session {
    /// A cluster request of the proxy's: its first, an acknowledgement, or names asked for on demand.
    pub(super) fn clusters_asked(&mut self, request: &DeltaRequest) {
        self.settle(request, |s| &mut s.clusters);
        self.forget_asked(&request.unsubscribe);
        self.forget_requests(request);
        let first = !self.clusters.asked;
        if first {
            self.clusters.open(request);
            self.remember_what_proxy_holds();
            let wildcard = self.clusters.request();
            self.ask_istiod(wildcard);
            self.ask_for_listeners();
            self.ask_for_likely_routes();
        }
        let ours = |name: &&str| Name::parse(name).is_some();
        let (requests, names): (Vec<&str>, Vec<&str>) = Ledger::named(request).partition(ours);
        if !names.is_empty() {
            self.names_asked(&names, !first);
        }
        if !requests.is_empty() {
            self.running |= !first && self.clusters.answered;
            self.requests_asked(&requests, !first);
            self.answer_requests();
        }
    }

    /// What the proxy brought along from an earlier stream it goes on having: connections run on it. It may have told of its
    /// listeners and routes before, and been given them without.
    fn remember_what_proxy_holds(&mut self) {
        for name in self.clusters.proxy.keys() {
            if let Some(name) = OutboundName::parse(name) {
                self.routes_due |= self.admitted.insert(name.service_port());
            }
        }
    }

    /// Names asked for on demand. On the first request of a stream Envoy lists every name it ever
    /// asked for (FACTS, trap 2): those were not asked for just now.
    fn names_asked(&mut self, names: &[&str], now: bool) {
        let mut give = Vec::new();
        for name in names.iter().filter(|n| n.len() <= MOST_NAME_BYTES) {
            if let Some(stored) = self.clusters.get(name).cloned() {
                self.asked.insert((*name).into());
                self.admit_asked(name, now);
                give.push(stored);
            } else {
                // Beyond the bound it is answered, but not remembered.
                if self.unknown.len() < self.most_unknown() {
                    self.asked.insert((*name).into());
                    self.unknown.insert((*name).into(), now);
                }
                give.push(self.stand_in(name));
            }
        }
        if self.clusters.answered {
            // The other subsets of what was asked for come along.
            give.extend(self.other_subsets(names));
            self.running |= now;
            self.give_clusters(give, &[], None);
            self.give_listeners();
            let services = names.iter().filter_map(|n| OutboundName::parse(n));
            self.give_virtual_hosts(&services.map(|n| n.service_port()).collect());
        }
    }

    /// Before istiod's first answer every name is unknown.
    fn most_unknown(&self) -> usize {
        if self.clusters.answered {
            MOST_UNKNOWN_NAMES
        } else {
            10 * MOST_UNKNOWN_NAMES
        }
    }

    /// Admits what was asked for and is there; says so if it is new.
    fn admit_asked(&mut self, name: &str, now: bool) {
        let Some(outbound) = OutboundName::parse(name) else {
            return;
        };
        let service = outbound.service_port();
        if self.admitted.insert(service.clone()) || !now {
            let ask = (Box::from(name), service, now);
            if now {
                let by_tcp = self.is_by_tcp(name);
                self.report(&ask, by_tcp)
            } else {
                self.unreported.push(ask)
            }
        }
    }

    /// Names the proxy does not ask for any longer; Envoy never says so.
    fn forget_asked(&mut self, names: &[String]) {
        let mut removed = Vec::new();
        for name in names {
            self.asked.remove(name.as_str());
            let unknown = self.unknown.remove(name.as_str()).is_some();
            if unknown && self.clusters.proxy.contains_key(name.as_str()) {
                removed.push(Box::from(name.as_str()));
            }
        }
        if !removed.is_empty() {
            self.give_clusters(Vec::new(), &removed, None);
        }
    }

    /// The clusters that are admitted along with these names and not yet with the proxy.
    fn other_subsets(&self, names: &[&str]) -> Vec<Arc<Stored>> {
        let known = names.iter().filter(|n| self.clusters.get(n).is_some());
        let asked = known.filter_map(|n| OutboundName::parse(n));
        let services = asked.map(|n| n.service_port()).collect();
        let of_asked = self.lacking_of(&services);
        of_asked.filter(|s| !names.contains(&&*s.name)).collect()
    }

    /// The clusters of these services that the proxy has not, or not as they are.
    pub(super) fn lacking_of(
        &self,
        services: &BTreeSet<ServicePort>,
    ) -> impl Iterator<Item = Arc<Stored>> {
        let names = services.iter().flat_map(|s| self.outbound.names_of(s));
        let clusters = names.filter_map(|n| self.clusters.get(&n).cloned());
        clusters.filter(|s| !self.clusters.holds(s))
    }

    /// What stands under a name that istiod does not have: a cluster without endpoints, so that
    /// calls fail at once as they do without us.
    ///
    /// Telling Envoy that the name does not exist would do for the first call only: it does not ask
    /// again, and holds every later one until the timeout (tried on 1.40; envoy#44742).
    pub(super) fn stand_in(&self, name: &str) -> Arc<Stored> {
        self.store.keep(name, &cluster::stand_in(name))
    }

    /// A push of clusters.
    pub(super) fn clusters_came(&mut self, response: &DeltaResponse) {
        let first = self.clusters.heard(&response.nonce, &response.origin);
        let mut came = Vec::with_capacity(response.resources.len());
        if first {
            self.clusters.reserve(response.resources.len());
        }
        for resource in &response.resources {
            let stored = self.store.keep(&resource.name, &resource.raw);
            if self.clusters.put(Arc::clone(&stored)) {
                self.outbound.add(&stored.name);
            }
            // Mostly there are none, and then no name is worth a hash.
            if !self.unknown.is_empty()
                && let Some(now) = self.unknown.remove(&stored.name)
            {
                self.admit_asked(&stored.name, now);
            }
            came.push(stored);
        }
        let mut give = Vec::new();
        for stored in came {
            if self.clusters.holds(&stored) {
                self.keep_endpoints_of(&stored);
            } else if self.gives(&stored.name) {
                give.push(stored);
            }
        }
        for name in &response.removed {
            if self.clusters.remove(name) {
                self.outbound.remove(name);
            }
        }
        self.forget_surplus();
        let mut removed = Vec::new();
        for name in self.gone(response, first) {
            if !self.asked.contains(&name) {
                removed.push(name);
                continue;
            }
            let stand_in = self.stand_in(&name);
            if !self.clusters.holds(&stand_in) {
                give.push(stand_in);
            }
        }
        if first || !give.is_empty() || !removed.is_empty() {
            self.give_clusters(give, &removed, Some(response.nonce.clone()));
        } else {
            self.acknowledge(&response.type_url, &response.nonce);
        }
        self.answer_requests();
        self.clusters.share(&self.store);
    }

    /// After the first answer, what is still unknown is kept within its bound.
    fn forget_surplus(&mut self) {
        let surplus = self.unknown.len().saturating_sub(MOST_UNKNOWN_NAMES);
        let names: Vec<_> = self.unknown.keys().take(surplus).cloned().collect();
        for name in names {
            self.unknown.remove(&name);
            self.asked.remove(&name);
        }
    }

    /// Names the proxy has or waits for, which istiod does not have any longer, or never had. The
    /// first answer is everything: whatever it lacks is gone.
    fn gone(&self, response: &DeltaResponse, first: bool) -> BTreeSet<Box<str>> {
        if first {
            let names = self.clusters.proxy.keys().chain(&self.asked);
            return names
                .filter(|n| self.clusters.get(n).is_none() && Name::parse(n).is_none())
                .cloned()
                .collect();
        }
        let names = response.removed.iter().map(|n| Box::from(n.as_str()));
        names
            .filter(|n| self.clusters.proxy.contains_key::<str>(n))
            .collect()
    }

    /// Says what was asked for, and how the proxy is going to speak to it.
    fn report(&mut self, (_, service, now): &(Box<str>, ServicePort, bool), by_tcp: bool) {
        if self.fallbacks.contains(service) {
            return;
        }
        let protocol = self.protocol_of(by_tcp, service);
        let service = service.clone();
        self.out.push(Output::Asked(Ask {
            service,
            protocol,
            now: *now,
        }));
    }

    /// Says what was asked for on an earlier stream, once listeners and routes tell its protocol.
    pub(super) fn report_late(&mut self) {
        let routes_known = self.routes.answered || self.lazy_routes.is_empty();
        if self.listeners.answered && routes_known {
            let asks = std::mem::take(&mut self.unreported);
            let tcp: HashSet<&str> = self.tcp_clusters().collect();
            let by_tcp: Vec<_> = asks
                .iter()
                .map(|(name, ..)| tcp.contains(&**name))
                .collect();
            for (ask, by_tcp) in asks.iter().zip(by_tcp) {
                self.report(ask, by_tcp);
            }
        }
    }

    /// Sends what is admitted and not yet with the proxy.
    pub(super) fn give_admitted(&mut self) {
        if !self.clusters.answered {
            return;
        }
        let give: Vec<_> = self.lacking().collect();
        if !give.is_empty() {
            self.give_clusters(give, &[], None);
        }
        self.routes_due = true;
    }

    /// Clusters the proxy is to have and has not.
    fn lacking(&self) -> impl Iterator<Item = Arc<Stored>> {
        let lacks = |s: &&Arc<Stored>| self.gives(&s.name) && !self.clusters.holds(s);
        self.clusters.all().filter(lacks).cloned()
    }

    pub(super) fn gives(&self, name: &str) -> bool {
        self.whole.is_some()
            || OutboundName::parse(name).is_none_or(|name| self.admitted.contains(&name))
    }

    /// Sends clusters, what they refer to with them, and their endpoints right behind, also such as
    /// the proxy was sent before: it warms what it is given, and endpoints that came before that
    /// count for nothing. A cluster that waits for endpoints which never come warms for ever (FACTS,
    /// trap 7), and so long Envoy asks for no other (envoy#9934).
    pub(super) fn give_clusters(
        &mut self,
        mut give: Vec<Arc<Stored>>,
        removed: &[Box<str>],
        upstream: Option<String>,
    ) {
        self.add_referenced(&mut give);
        let nonce = self.nonce();
        let resources = give.iter().map(|s| (&**s, s.version()));
        let response = self.clusters.respond(nonce, upstream, resources, removed);
        self.out.push(Output::ToProxy(response));
        for name in removed {
            self.cluster_of_endpoints.remove(name);
        }
        let names: BTreeSet<_> = give
            .iter()
            .filter_map(|s| self.note_cluster_of_endpoints(s))
            .collect();
        for name in &names {
            if let Some(version) = self.endpoints.proxy.get_mut(name) {
                *version = None;
            }
        }
        self.give_endpoints_of(names);
    }

    /// Books which cluster stands behind an EDS name; `None` when its endpoints come otherwise.
    fn note_cluster_of_endpoints(&mut self, stored: &Stored) -> Option<Box<str>> {
        let Ok(Some(name)) = cluster::eds_name(&stored.raw) else {
            self.cluster_of_endpoints.remove(&stored.name);
            return None;
        };
        let name: Box<str> = name.into();
        self.cluster_of_endpoints
            .insert(name.clone(), stored.version());
        Some(name)
    }

    /// A cluster that the proxy has stays as it is, and so do its endpoints: those it has are not sent again because they came for
    /// a copy of the cluster, or before it was known, as those of one that warms when a proxy comes back.
    fn keep_endpoints_of(&mut self, cluster: &Stored) {
        let Ok(Some(name)) = cluster::eds_name(&cluster.raw) else {
            return;
        };
        let held = self.endpoints.get(name).cloned();
        let held = held.filter(|s| self.endpoints.holds_as(name, self.version_of_endpoints(s)));
        self.note_cluster_of_endpoints(cluster);
        if let Some(held) = held {
            let version = self.version_of_endpoints(&held);
            self.endpoints.proxy.insert(name.into(), Some(version));
        }
    }

    /// An aggregate of clusters, or a filter in a cluster, may name others.
    fn add_referenced(&mut self, give: &mut Vec<Arc<Stored>>) {
        let mut at = 0;
        let mut names: HashSet<Box<str>> = give.iter().map(|s| s.name.clone()).collect();
        while let Some(stored) = give.get(at).cloned() {
            at += 1;
            let mut found = Found::default();
            references::anywhere(&stored.raw, &mut found);
            for name in found.names.iter().filter_map(|n| OutboundName::parse(n)) {
                let of_its_own = OutboundName::parse(&stored.name)
                    .is_some_and(|own| (own.host, own.port) == (name.host, name.port));
                if !of_its_own && self.admitted.insert(name.service_port()) {
                    let lacking: Vec<_> = self.lacking().collect();
                    give.extend(lacking.into_iter().filter(|s| names.insert(s.name.clone())));
                }
            }
        }
    }

    /// How a proxy speaks to a service: TCP if a TCP proxy picks its cluster (`by_tcp`), unless its port is sniffed:
    /// then istiod makes a route configuration of its own for it, named after host and port
    /// (pilot/pkg/networking/core/listener.go).
    pub(super) fn protocol_of(&self, by_tcp: bool, service: &ServicePort) -> Protocol {
        let sniffed = || self.routes.watched.contains(service.to_string().as_str());
        if by_tcp && !sniffed() {
            Protocol::Tcp
        } else {
            Protocol::Http
        }
    }

    /// Whether a TCP proxy picks a cluster.
    pub(super) fn is_by_tcp(&self, cluster: &str) -> bool {
        self.tcp_clusters().any(|picked| picked == cluster)
    }

    /// Clusters that TCP proxies pick, or did when something was asked for. Thousands of listeners have one each: a stream keeps
    /// no list of its own.
    fn tcp_clusters(&self) -> impl Iterator<Item = &str> {
        let now = self.listeners.all().map(|stored| &**stored);
        let known = now
            .chain(self.singles.gone())
            .filter_map(|stored| stored.known_listener());
        known.flat_map(|known| known.tcp_clusters.iter().map(|name| &**name))
    }

    /// The version of endpoints towards the proxy. It depends on the cluster, because a changed
    /// cluster needs its endpoints again even when they are the same (FACTS, trap 8): so a proxy
    /// that was cut off between the two shows by its version that it lacks them.
    pub(super) fn version_of_endpoints(&self, stored: &Stored) -> Version {
        match self.cluster_of_endpoints.get(&stored.name) {
            Some(cluster) => stored.version().upon(*cluster),
            None => stored.version(),
        }
    }
}
