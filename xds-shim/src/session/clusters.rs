//! Clusters: held, asked for on demand, given.

use super::ledger::{Entry, Ledger};
use super::{Ask, Error, MOST_UNKNOWN_NAMES, Output, Session};
use crate::ads::{DeltaRequest, DeltaResponse};
use crate::cluster::{self, OutboundName, ServicePort};
use crate::references::{self, Found};
use crate::store::{Stored, Version};
use dependency_graph::Protocol;
use std::collections::HashSet;
use std::sync::Arc;

impl Session {
    /// A cluster request of the proxy's: its first, an acknowledgement, or names asked for on demand.
    pub(super) fn clusters_asked(&mut self, request: &DeltaRequest) -> Result<(), Error> {
        self.settle(request, |s| &mut s.clusters);
        for name in &request.unsubscribe {
            self.unknown.remove(name.as_str());
        }
        let first = !self.clusters.asked;
        if first {
            self.clusters.open(request);
            self.remember_what_proxy_holds();
            let wildcard = self.clusters.request();
            self.ask_istiod(wildcard);
        }
        let names: Vec<&str> = Ledger::named(request).collect();
        if !names.is_empty() {
            self.names_asked(&names, !first)?;
        }
        Ok(())
    }

    /// What the proxy brought along from an earlier stream it goes on having: connections run on it.
    fn remember_what_proxy_holds(&mut self) {
        for name in self.clusters.proxy.keys() {
            if let Some(name) = OutboundName::parse(name) {
                self.admitted.insert(name.service_port());
            }
        }
    }

    /// Names asked for on demand. On the first request of a stream Envoy lists every name it ever
    /// asked for (FACTS, trap 2): those were not asked for just now.
    fn names_asked(&mut self, names: &[&str], now: bool) -> Result<(), Error> {
        let mut give = Vec::new();
        let mut missing = Vec::new();
        for name in names {
            let Some(outbound) = OutboundName::parse(name) else {
                // A special cluster, or nothing of istiod's: in the snapshot or nowhere.
                match self.clusters.get(name) {
                    Some(stored) => give.push(Arc::clone(stored)),
                    None => missing.push(*name),
                }
                continue;
            };
            let new = self.admitted.insert(outbound.service_port());
            match self.clusters.get(name) {
                Some(stored) => {
                    give.push(Arc::clone(stored));
                    if new || !now {
                        self.report(name, outbound.service_port(), now);
                    }
                }
                None => missing.push(*name),
            }
        }
        for name in &missing {
            self.unknown.insert((*name).into(), now);
        }
        if self.unknown.len() > MOST_UNKNOWN_NAMES {
            return Err(Error::TooManyUnknownNames);
        }
        if self.clusters.answered {
            // The other subsets of what was asked for come along.
            give.extend(self.lacking().filter(|s| !names.contains(&&*s.name)));
            let missing: Vec<_> = missing.into_iter().map(Box::from).collect();
            self.give_clusters(give, &missing, None);
        }
        Ok(())
    }

    /// A push of clusters.
    pub(super) fn clusters_came(&mut self, response: &DeltaResponse) {
        let first = self.clusters.heard(&response.nonce, &response.origin);
        let mut give = Vec::new();
        for resource in &response.resources {
            let stored = self.store.keep(&resource.name, &resource.raw);
            self.clusters.put(Arc::clone(&stored));
            self.found_at_last(&stored.name);
            if self.clusters.holds(&stored.name, stored.version) {
                self.note_cluster_of_endpoints(&stored);
            } else if self.gives(&stored.name) {
                give.push(stored);
            }
        }
        let mut removed: Vec<Box<str>> = Vec::new();
        for name in &response.removed {
            self.clusters.snapshot.remove(name.as_str());
            if self.clusters.proxy.contains_key(name.as_str()) {
                removed.push(name.as_str().into());
            }
        }
        if first {
            // The first answer is everything: what it lacks is gone, or never was.
            let gone = |n: &str| self.clusters.get(n).is_none();
            removed.extend(self.clusters.proxy.keys().filter(|n| gone(n)).cloned());
            removed.extend(self.unknown.keys().filter(|n| gone(n)).cloned());
            removed.sort_unstable();
            removed.dedup();
        }
        if first || !give.is_empty() || !removed.is_empty() {
            self.give_clusters(give, &removed, Some(response.nonce.clone()));
        } else {
            self.acknowledge(&response.type_url, &response.nonce);
        }
    }

    /// A cluster that was asked for before istiod had it.
    fn found_at_last(&mut self, name: &str) {
        let asked = self.unknown.remove(name);
        if let Some((now, outbound)) = asked.zip(OutboundName::parse(name)) {
            self.report(name, outbound.service_port(), now);
        }
    }

    fn report(&mut self, name: &str, service: ServicePort, now: bool) {
        let protocol = self.protocol_of(name);
        self.out.push(Output::Asked(Ask {
            service,
            protocol,
            now,
        }));
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
    }

    /// Clusters the proxy is to have and has not.
    fn lacking(&self) -> impl Iterator<Item = Arc<Stored>> {
        let lacks =
            |s: &&Arc<Stored>| self.gives(&s.name) && !self.clusters.holds(&s.name, s.version);
        self.clusters
            .snapshot
            .iter()
            .map(|Entry(s)| s)
            .filter(lacks)
            .cloned()
    }

    fn gives(&self, name: &str) -> bool {
        self.whole.is_some()
            || OutboundName::parse(name).is_none_or(|name| self.admitted.contains(&name))
    }

    /// Sends clusters, what they refer to with them, and their endpoints right behind: a cluster
    /// that waits for endpoints which never come warms for ever (FACTS, trap 7).
    fn give_clusters(
        &mut self,
        mut give: Vec<Arc<Stored>>,
        removed: &[Box<str>],
        upstream: Option<String>,
    ) {
        self.add_referenced(&mut give);
        let nonce = self.nonce();
        let resources = give.iter().map(|s| (&**s, s.version));
        let response = self.clusters.respond(nonce, upstream, resources, removed);
        self.out.push(Output::ToProxy(response));
        for name in removed {
            self.cluster_of_endpoints.remove(name);
        }
        let names = give
            .iter()
            .filter_map(|s| self.note_cluster_of_endpoints(s))
            .collect::<Vec<_>>();
        self.give_endpoints_of(names);
    }

    /// Books which cluster stands behind an EDS name; `None` when its endpoints come otherwise.
    fn note_cluster_of_endpoints(&mut self, stored: &Stored) -> Option<Box<str>> {
        let name: Box<str> = cluster::eds_name(&stored.raw).ok()??.into();
        self.cluster_of_endpoints
            .insert(name.clone(), stored.version);
        Some(name)
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

    /// How a proxy speaks to a cluster: TCP if only listeners name it, HTTP if a route does.
    fn protocol_of(&self, name: &str) -> Protocol {
        let finder = memchr::memmem::Finder::new(name);
        let named = |ledger: &Ledger| {
            ledger
                .snapshot
                .iter()
                .any(|Entry(s)| finder.find(&s.raw).is_some())
        };
        match (named(&self.listeners), named(&self.routes)) {
            (true, false) => Protocol::Tcp,
            _ => Protocol::Http,
        }
    }

    /// The version of endpoints towards the proxy. It depends on the cluster, because a changed
    /// cluster needs its endpoints again even when they are the same (FACTS, trap 8): so a proxy
    /// that was cut off between the two shows by its version that it lacks them.
    pub(super) fn version_of_endpoints(&self, stored: &Stored) -> Version {
        match self.cluster_of_endpoints.get(&stored.name) {
            Some(cluster) => stored.version.upon(*cluster),
            None => stored.version,
        }
    }
}
