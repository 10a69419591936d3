//! Listeners: given as they come, but made to ask on demand.

use super::Session;
use crate::ads::{DeltaRequest, DeltaResponse, Resource};
use crate::listener::{self, Lazy};
use crate::references::{self, Found};
use std::sync::Arc;

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
        let mut give = Vec::new();
        for resource in &response.resources {
            let lazy = self.make_lazy(resource);
            self.keep_referenced(&lazy.found);
            self.tcp_clusters.extend(lazy.tcp_clusters);
            self.lazy_routes.extend(lazy.lazy_routes);
            for name in lazy.plain_routes {
                self.used_where_nothing_asks(name);
            }
            for name in lazy.whole_routes {
                self.authority_untold(&name);
            }
            let raw = lazy.resource.as_deref().unwrap_or(&resource.raw);
            let stored = self.store.keep(&resource.name, raw);
            self.listeners.put(Arc::clone(&stored));
            if !self.listeners.holds(&stored.name, stored.version) {
                give.push(stored);
            }
        }
        let mut removed: Vec<Box<str>> = Vec::new();
        for name in &response.removed {
            self.listeners.remove(name.as_str());
            if self.listeners.proxy.contains_key(name.as_str()) {
                removed.push(name.as_str().into());
            }
        }
        if first {
            let gone = |n: &str| self.listeners.get(n).is_none();
            let vanished: Vec<_> = self
                .listeners
                .proxy
                .keys()
                .filter(|n| gone(n))
                .cloned()
                .collect();
            removed.extend(
                vanished
                    .into_iter()
                    .filter(|n| !response.removed.iter().any(|r| **r == **n)),
            );
        }
        if first || !give.is_empty() || !removed.is_empty() {
            let nonce = self.nonce();
            let upstream = Some(response.nonce.clone());
            let resources = give.iter().map(|s| (&**s, s.version));
            let response = self.listeners.respond(nonce, upstream, resources, &removed);
            self.give_behind_referenced(response);
        } else {
            self.acknowledge(&response.type_url, &response.nonce);
        }
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
