//! Listeners: given as they come, but made to ask on demand.

use super::Session;
use crate::ads::{DeltaRequest, DeltaResponse, LDS, Resource};
use crate::listener::{self, Lazy};
use crate::references::{self, Found};
use crate::stand_in::tcp::Kind;
use crate::store::Listener;
use std::collections::BTreeSet;

impl Session {
    /// A listener request of the proxy's: its first, or an acknowledgement.
    pub(super) fn listeners_asked(&mut self, request: &DeltaRequest) {
        self.settle(request, |s| &mut s.listeners);
        if !self.listeners.asked {
            self.listeners.open(request);
            self.ask_for_listeners();
            if self.listeners.answered {
                self.give_push(&[], true, None);
            }
        }
    }

    /// istiod makes listeners while the proxy takes its clusters, after which it asks for them.
    pub(super) fn ask_for_listeners(&mut self) {
        if let Some(wildcard) = self.listeners.request_all() {
            self.ask_istiod(wildcard);
        }
    }

    /// A push of listeners. What they refer to is given before them.
    pub(super) fn listeners_came(&mut self, response: &DeltaResponse) {
        let first = self.listeners.heard(&response.nonce, &response.origin);
        let mut routes = Vec::new();
        for resource in &response.resources {
            routes.push((&resource.name, self.take_listener(resource)));
        }
        for name in &response.removed {
            let was = self.listeners.get(name).cloned();
            self.listeners.remove(name.as_str());
            self.singles.remove(name, was);
        }
        self.singles.settle(&self.config, &self.store);
        let fallbacks: Vec<_> = self.singles.fallbacks().map(str::to_owned).collect();
        self.give_fallbacks(&fallbacks);
        let given = routes.into_iter().filter(|(name, _)| {
            let stored = self.listeners.get(name);
            stored.is_some_and(|s| self.gives_listener(s))
        });
        let routes = given.flat_map(|(_, routes)| routes).collect();
        if self.listeners.asked {
            self.give_push(&response.removed, first, Some(&response.nonce));
        } else {
            self.acknowledge(&response.type_url, &response.nonce);
        }
        // The proxy is about to ask for them.
        self.have_routes(&routes);
        if first {
            self.likely_routes.set(&routes);
            self.forget_guesses(&routes);
        }
        self.listeners.share(&self.store);
    }

    /// istiod makes the route configurations that listeners are likely to use while it sends clusters. One by one it answers
    /// in the order in which it is asked.
    pub(super) fn ask_for_likely_routes(&mut self) {
        if self.listeners.answered {
            return;
        }
        let likely = self.likely_routes.get();
        let is_new = |name: &String| !self.routes.watched.contains(name.as_str());
        self.guessed_routes = likely.into_iter().filter(is_new).collect();
        let guessed = self.guessed_routes.clone();
        self.have_routes(&guessed);
    }

    /// Lets go of what the listeners do not use.
    fn forget_guesses(&mut self, used: &BTreeSet<String>) {
        let mut wrong = self.routes.request();
        for name in std::mem::take(&mut self.guessed_routes) {
            if used.contains(&name) {
                continue;
            }
            if self.routes.is_watched(&name) {
                // By a listener that is on its way out.
                self.used_where_nothing_asks(name);
                continue;
            }
            self.routes.watched.remove(name.as_str());
            self.routes.remove(&name);
            wrong.unsubscribe.push(name);
        }
        if !wrong.unsubscribe.is_empty() {
            self.ask_istiod(wrong);
        }
    }

    /// Gives the proxy what it lacks of listeners, as they are by now. `first`: it has had none on this stream.
    fn give_push(&mut self, removed: &[String], first: bool, nonce: Option<&str>) {
        // Names that were asked for have a place of their own in the first listeners that are given.
        let placed = self.place_connections();
        self.give_clusters_of(&placed);
        let give = self.lacking_listeners();
        let removed = self.gone_listeners(removed, first);
        if first || !give.is_empty() || !removed.is_empty() {
            self.send_listeners(&give, &removed, nonce.map(str::to_owned));
        } else if let Some(nonce) = nonce {
            self.acknowledge(LDS, nonce);
        }
        self.give_virtual_hosts(&placed);
        self.answer_requests();
    }

    /// Takes in a listener; the route configurations it names.
    fn take_listener(&mut self, resource: &Resource) -> BTreeSet<String> {
        let lazy = self.make_lazy(resource);
        self.keep_referenced(&lazy.found);
        let all = lazy.lazy_routes.union(&lazy.plain_routes);
        let routes: BTreeSet<String> = all.cloned().collect();
        self.lazy_routes.extend(lazy.lazy_routes);
        for name in lazy.plain_routes {
            self.used_where_nothing_asks(name);
        }
        for name in lazy.whole_routes {
            self.authority_untold(&name);
        }
        let raw = lazy.resource.as_deref().unwrap_or(&resource.raw);
        let stored = self.store.keep(&resource.name, raw);
        let look = || Listener {
            kind: kind(resource),
            tcp_clusters: lazy.tcp_clusters.into_iter().map(Box::from).collect(),
        };
        let kind = &stored.listener(look).kind;
        self.singles.put(&resource.name, kind, &routes);
        self.listeners.put(stored);
        routes
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

/// What a listener is for held connections, as istiod sent it.
fn kind(resource: &Resource) -> Kind {
    Kind::of(&resource.name, &resource.raw).unwrap_or_else(|error| {
        tracing::warn!(listener = resource.name, %error, "listener not understood, not held");
        Kind::Other
    })
}
