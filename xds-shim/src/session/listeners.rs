//! Listeners: given as they come, but made to ask on demand.

use super::Session;
use crate::ads::{DeltaRequest, DeltaResponse, Resource};
use crate::listener::{self, Lazy};
use crate::references::{self, Found};

impl Session {
    /// A listener request of the proxy's: its first, or an acknowledgement.
    pub(super) fn listeners_asked(&mut self, request: &DeltaRequest) {
        self.settle(request, |s| &mut s.listeners);
        if !self.listeners.asked {
            self.listeners.open(request);
            let wildcard = self.listeners.request();
            self.ask_istiod(wildcard);
        }
    }

    /// A push of listeners. What they refer to is given before them.
    pub(super) fn listeners_came(&mut self, response: &DeltaResponse) {
        let first = self.listeners.heard(&response.nonce, &response.origin);
        for resource in &response.resources {
            self.take_listener(resource);
        }
        for name in &response.removed {
            self.listeners.remove(name.as_str());
            self.singles.remove(name);
        }
        self.singles.settle(&self.config, &self.store);
        // Names that were asked for have a place of their own in the first listeners that are given.
        let placed = self.place_connections();
        self.give_clusters_of(&placed);
        let give = self.lacking_listeners();
        let removed = self.gone_listeners(&response.removed, first);
        if first || !give.is_empty() || !removed.is_empty() {
            self.send_listeners(&give, &removed, Some(response.nonce.clone()));
        } else {
            self.acknowledge(&response.type_url, &response.nonce);
        }
        self.give_virtual_hosts(&placed);
        self.answer_requests();
    }

    fn take_listener(&mut self, resource: &Resource) {
        let lazy = self.make_lazy(resource);
        self.keep_referenced(&lazy.found);
        self.tcp_clusters.extend(lazy.tcp_clusters);
        let routes = lazy
            .lazy_routes
            .union(&lazy.plain_routes)
            .cloned()
            .collect();
        self.singles.put(&resource.name, &resource.raw, routes);
        self.lazy_routes.extend(lazy.lazy_routes);
        for name in lazy.plain_routes {
            self.used_where_nothing_asks(name);
        }
        for name in lazy.whole_routes {
            self.authority_untold(&name);
        }
        let raw = lazy.resource.as_deref().unwrap_or(&resource.raw);
        let stored = self.store.keep(&resource.name, raw);
        self.listeners.put(stored);
    }

    /// Listeners the proxy has which istiod does not have any longer. The first answer is everything.
    fn gone_listeners(&self, removed: &[String], first: bool) -> Vec<Box<str>> {
        let names = self.listeners.proxy.keys();
        let gone = names.filter(|name| {
            let vanished = first && self.listeners.get(name).is_none() && !Self::is_copy(name);
            vanished || removed.iter().any(|r| **r == ***name)
        });
        gone.cloned().collect()
    }

    /// Routes that came while only listeners that ask used them keep all their clusters from now on.
    fn used_where_nothing_asks(&mut self, routes: String) {
        let stored = self.routes.get(&routes).cloned();
        if self.plain_routes.insert(routes)
            && let Some(stored) = stored
        {
            let mut found = Found::default();
            references::anywhere(&stored.raw, &mut found);
            self.keep_referenced(&found);
            self.give_routes(|name, _| name == &*stored.name);
        }
    }

    /// What cannot be understood is given as it came, and whatever it names with it.
    fn make_lazy(&self, resource: &Resource) -> Lazy {
        listener::make_lazy(&resource.raw, &self.config).unwrap_or_else(|error| {
            tracing::warn!(listener = resource.name, %error, "listener not understood, left as it is");
            let mut lazy = Lazy::default();
            references::anywhere(&resource.raw, &mut lazy.found);
            lazy
        })
    }
}
