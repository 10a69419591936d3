//! Resources asked for by name: endpoints and route configurations.

use super::ledger::Ledger;
use super::{Output, Session};
use crate::ads::{self, DeltaRequest, DeltaResponse};
use crate::references::{self, Found};
use crate::store::Stored;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

impl Session {
    /// A request of the proxy's for endpoints or routes.
    pub(super) fn named_asked(
        &mut self,
        request: &DeltaRequest,
        ledger: fn(&mut Self) -> &mut Ledger,
    ) {
        self.settle(request, ledger);
        if ledger(self).type_url == ads::RDS {
            let gone = self.routes_of(request.unsubscribe.iter());
            self.stand_ins.were(gone);
        }
        // A name the proxy holds from an earlier stream need not be answered; one it asks for anew
        // must be, even if it was sent on this stream already: it may have come too early. It has
        // not where Envoy is past its start: then it takes endpoints behind their cluster as if it
        // had asked for them. And where it asks for endpoints before clusters, a cluster warms.
        let is_eds = ledger(self).type_url == ads::EDS;
        let takes_early = is_eds && self.running;
        let warms = is_eds && !self.clusters.asked;
        let books = ledger(self);
        let first = !books.asked;
        // What it was sent on this stream before it asked for any.
        let mut given = HashMap::default();
        if first {
            given = std::mem::take(&mut books.proxy);
            books.open(request);
        }
        let mut have = Vec::new();
        let mut new = books.request();
        for name in Ledger::named(request) {
            let brought = first && books.proxy.contains_key(name);
            let sent = if first { &given } else { &books.proxy }.get(name);
            let sent_already = matches!(sent, Some(Some(_)));
            if warms || !(brought || takes_early && sent_already) {
                books.owed.insert(name.into());
            }
            if let Some(stored) = books.get(name) {
                have.push(Arc::clone(stored));
            } else if books.watched.insert(name.into()) {
                new.subscribe.push(name.to_owned());
            }
        }
        books.proxy.extend(given);
        for name in &request.unsubscribe {
            books.remove(name.as_str());
            books.proxy.remove(name.as_str());
            books.owed.remove(name.as_str());
            if books.watched.remove(name.as_str()) {
                new.unsubscribe.push(name.clone());
            }
        }
        self.give_named(&have, &[], ledger, None);
        self.release(request.unsubscribe.iter());
        if !new.subscribe.is_empty() || !new.unsubscribe.is_empty() {
            self.ask_istiod(new);
        }
    }

    /// Endpoints from istiod.
    pub(super) fn endpoints_came(&mut self, response: &DeltaResponse) {
        let came = self.take_in(response, |s| &mut s.endpoints);
        self.give_or_acknowledge(&came, response, |s| &mut s.endpoints);
        let names = response.resources.iter().map(|r| &r.name);
        self.release(names.chain(&response.removed));
    }

    /// Routes from istiod. What they mirror to is given before them.
    pub(super) fn routes_came(&mut self, response: &DeltaResponse) {
        let names = response.resources.iter().map(|r| &r.name);
        let before = self.routes_of(names.chain(&response.removed));
        let came = self.take_in(response, |s| &mut s.routes);
        let other = |old: &Arc<Stored>| {
            let now = self.routes.get(&old.name);
            now.is_none_or(|now| !Arc::ptr_eq(now, old))
        };
        let before = before.into_iter().filter(other).collect();
        self.stand_ins.were(before);
        let fallbacks = came
            .iter()
            .filter_map(|s| s.routes()?.fallback().map(str::to_owned));
        let fallbacks: Vec<_> = fallbacks.collect();
        self.give_fallbacks(&fallbacks);
        for stored in &came {
            let found = self.referenced_by_routes(stored);
            self.keep_referenced(&found);
        }
        // What was asked for has its place in the first configuration that the proxy is given.
        let placed = self.place_requests(|_, routes| came.iter().any(|s| *s.name == *routes));
        self.give_clusters_of(&placed.services);
        self.give_or_acknowledge(&came, response, |s| &mut s.routes);
        self.give_virtual_hosts(&placed.services);
        self.answer_requests();
    }

    /// Those of these route configurations that there are.
    fn routes_of<'a>(&self, names: impl Iterator<Item = &'a String>) -> Vec<Arc<Stored>> {
        names
            .filter_map(|name| self.routes.get(name))
            .cloned()
            .collect()
    }

    fn referenced_by_routes(&self, stored: &Stored) -> Found {
        let name = &*stored.name;
        // What was only guessed to be used, and the proxy has not asked for, is given to nobody before listeners say how.
        let guessed = self.guessed_routes.contains(name) && !self.routes.is_watched(name);
        let lazy = guessed || self.lazy_routes.contains(name);
        let asks = lazy && !self.plain_routes.contains(name);
        let beside = stored.beside_routes().filter(|_| asks);
        beside.cloned().unwrap_or_else(|| {
            let mut found = Found::default();
            references::anywhere(&stored.raw, &mut found);
            found
        })
    }

    /// Asks for the endpoints of clusters just given, or gives them again.
    pub(super) fn give_endpoints_of(&mut self, names: BTreeSet<Box<str>>) {
        let mut have = Vec::new();
        let mut new = self.endpoints.request();
        for name in names {
            have.extend(self.endpoints.get(&name).cloned());
            if self.endpoints.watched.insert(name.clone()) {
                new.subscribe.push(name.into());
            }
        }
        self.give_named(&have, &[], |s| &mut s.endpoints, None);
        if !new.subscribe.is_empty() {
            self.ask_istiod(new);
        }
    }

    /// Books a response of istiod's; returns what it holds that was asked for.
    fn take_in(
        &mut self,
        response: &DeltaResponse,
        ledger: fn(&mut Self) -> &mut Ledger,
    ) -> Vec<Arc<Stored>> {
        let store = self.store.clone();
        let books = ledger(self);
        books.heard(&response.nonce, &response.origin);
        let watched = response
            .resources
            .iter()
            .filter(|r| books.watched.contains(r.name.as_str()));
        let came: Vec<_> = watched.map(|r| store.keep(&r.name, &r.raw)).collect();
        for stored in &came {
            books.put(Arc::clone(stored));
        }
        // What istiod took away it does not send again by itself: it is asked for anew when needed.
        let mut gone = books.request();
        for name in &response.removed {
            books.remove(name.as_str());
            if books.watched.remove(name.as_str()) {
                gone.unsubscribe.push(name.clone());
            }
        }
        books.share(&store);
        if !gone.unsubscribe.is_empty() {
            self.ask_istiod(gone);
        }
        came
    }

    fn give_or_acknowledge(
        &mut self,
        came: &[Arc<Stored>],
        response: &DeltaResponse,
        ledger: fn(&mut Self) -> &mut Ledger,
    ) {
        let books = ledger(self);
        let removed: Vec<Box<str>> = response
            .removed
            .iter()
            .filter(|n| books.owed.remove(n.as_str()) || books.proxy.contains_key(n.as_str()))
            .map(|n| n.as_str().into())
            .collect();
        if !self.give_named(came, &removed, ledger, Some(response.nonce.clone())) {
            self.acknowledge(&response.type_url, &response.nonce);
        }
    }

    /// Sends those the proxy is owed or does not hold as they are; whether anything was sent.
    pub(super) fn give_named(
        &mut self,
        candidates: &[Arc<Stored>],
        removed: &[Box<str>],
        ledger: fn(&mut Self) -> &mut Ledger,
        upstream: Option<String>,
    ) -> bool {
        let books = ledger(self);
        let type_url = books.type_url;
        // Endpoints a proxy takes behind their cluster; of routes only what it has asked for.
        let takes = |s: &&Arc<Stored>| type_url == ads::EDS || books.is_watched(&s.name);
        let wanted: Vec<_> = candidates.iter().filter(takes).collect();
        let views = wanted.into_iter().map(|s| self.view_of(type_url, s));
        let views: Vec<_> = views.collect();
        let books = ledger(self);
        let lacks =
            |name: &str, version| books.owed.contains(name) || !books.holds_as(name, version);
        let give: Vec<_> = views
            .iter()
            .filter(|(s, version)| lacks(&s.name, *version))
            .map(|(s, version)| (&**s, *version))
            .collect();
        if give.is_empty() && removed.is_empty() {
            return false;
        }
        let nonce = self.nonce();
        let response = ledger(self).respond(nonce, upstream, give.into_iter(), removed);
        match type_url {
            ads::EDS => self.out.push(Output::ToProxy(response)),
            _ => self.give_behind_referenced(response),
        }
        true
    }
}
