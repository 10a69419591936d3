//! What stands for listeners that are held, and what is done about connections that came by it.
//!
//! As with requests ([`super::stand_ins`]), a name of ours is answered for the connections that wait, and
//! then the service's own listener is given, so that no other comes that way. What is answered:
//! [`crate::stand_in::tcp`].

use super::Session;
use super::earlier::Earlier;
use crate::cluster::ServicePort;
use crate::listener::{self, OnDemandConfig};
use crate::pool::Shared;
use crate::stand_in::tcp::{Asked, Connections, Destination, Kind, Single, Way, inside};
use crate::stand_in::{self, Name};
use crate::store::{Store, Stored};
use crate::wire;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// How many copies of listeners a proxy is given: each stays as long as it runs. With so many, all such
/// listeners are given.
const MOST_COPIES: usize = 256;

/// Which listeners are given before which, in one response: one for an address before a wildcard of its
/// port, and what takes the rest last. Otherwise a connection would for a moment go elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Single,
    Other,
    Wildcard,
    Outer,
}

impl Rank {
    fn of(listener: &Stored) -> Self {
        match listener.known_listener().map(|known| &known.kind) {
            Some(Kind::Single(_)) => Self::Single,
            Some(Kind::Outer(_)) => Self::Outer,
            Some(Kind::Wildcard(_)) => Self::Wildcard,
            Some(Kind::Other) | None => Self::Other,
        }
    }
}

/// What is known of listeners beside what they are sent as.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    connections: Arc<Shared<Connections>>,
    /// Route configurations of listeners that may be copied.
    routes: HashMap<Box<str>, BTreeSet<String>>,
    /// Those that lead connections of others, as the proxy gets them.
    composed: HashMap<Box<str>, Arc<Stored>>,
    /// How many copies of listeners the proxy was given.
    copies: usize,
    /// Where connections went that asked for a name of ours: Envoy does not ask again.
    asked: BTreeSet<Destination>,
    /// Listeners that were held, or could be, until a moment ago.
    gone: Earlier<Destination, Held>,
}

/// A listener that a connection asks for.
#[derive(Debug, Clone)]
struct Held {
    single: Arc<Single>,
    /// As istiod sent it, made to ask on demand.
    listener: Arc<Stored>,
    routes: BTreeSet<String>,
}

impl Listeners {
    /// A listener of this kind came, and with it the route configurations it names.
    pub(super) fn put(&mut self, name: &str, kind: &Kind, routes: &BTreeSet<String>) {
        // Most have none.
        if matches!(kind, Kind::Single(_)) && !routes.is_empty() {
            self.routes.insert(name.into(), routes.clone());
        } else {
            self.routes.remove(name);
        }
        // A push brings most of them as they are: then a shared index stays.
        if !self.connections.is_in(name, kind) {
            Shared::edit(&mut self.connections).put(name, kind.clone());
        }
    }

    /// A listener went, which was this.
    pub(super) fn remove(&mut self, name: &str, was: Option<Arc<Stored>>) {
        let routes = self.routes.remove(name).unwrap_or_default();
        if self.connections.is_in(name, &Kind::Other) {
            return;
        }
        let single = Shared::edit(&mut self.connections).remove(name);
        if let (Some(single), Some(listener)) = (single, was) {
            let held = Held {
                listener,
                routes,
                single,
            };
            self.gone.was(held.single.destination, held);
        }
    }

    /// The clusters that connections fall back to which no listener takes.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = &str> {
        self.connections.fallbacks()
    }

    /// Those that could be held and went a moment ago.
    pub(super) fn gone(&self) -> impl Iterator<Item = &Stored> {
        self.gone.all().map(|held| &*held.listener)
    }

    /// Forgets listeners that went long ago.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.gone.tidy(now);
    }

    /// All listeners of a push came: puts together those that lead connections of others.
    pub(super) fn settle(&mut self, config: &OnDemandConfig, store: &Store) {
        if self.connections.is_as_shared() {
            return;
        }
        let connections = Shared::edit(&mut self.connections);
        if !config.has_stand_ins() {
            *connections = Connections::default();
        }
        connections.settle();
        self.connections = store.share_connections(std::mem::take(connections));
        self.composed = self.compose(config, store).unwrap_or_else(|error| {
            tracing::warn!(%error, "listeners cannot be put together, none is held");
            self.connections = Arc::default();
            HashMap::new()
        });
    }

    fn compose(
        &self,
        config: &OnDemandConfig,
        store: &Store,
    ) -> Result<HashMap<Box<str>, Arc<Stored>>, wire::Error> {
        let mut all = self.connections.wildcards(config)?;
        all.extend(self.connections.outer(config)?);
        let lazy = |(name, raw): (&str, Vec<u8>)| {
            // Chains of istiod's own ask as well.
            let lazy = listener::make_lazy(&raw, config)?;
            let raw = lazy.resource.as_deref().unwrap_or(&raw);
            Ok((name.into(), store.keep(name, raw)))
        };
        all.into_iter().map(lazy).collect()
    }

    /// Whether a listener is to be given although it is held, for want of a way to its service.
    fn is_wanted(&self, single: &Single) -> bool {
        let full = self.copies >= MOST_COPIES && single.plain.is_none();
        full || self.asked.contains(&single.destination)
    }
}

impl Session {
    /// The listeners the proxy is to have and has not, in order.
    pub(super) fn lacking_listeners(&self) -> Vec<Arc<Stored>> {
        let wanted = self.listeners.all().filter(|s| self.gives_listener(s));
        let views = wanted.map(|stored| (Rank::of(stored), self.view_of_listener(stored)));
        let mut lacking: Vec<_> = views
            .filter(|(_, view)| !self.listeners.holds(view))
            .collect();
        lacking.sort_by(|(rank, a), (other, b)| rank.cmp(other).then_with(|| a.name.cmp(&b.name)));
        lacking.into_iter().map(|(_, view)| view).collect()
    }

    /// How many listeners the proxy does not have.
    pub(super) fn held_listeners(&self) -> usize {
        let held = |s: &&Arc<Stored>| !self.listeners.proxy.contains_key(&s.name);
        self.listeners.all().filter(held).count()
    }

    pub(super) fn gives_listener(&self, stored: &Stored) -> bool {
        let name = &*stored.name;
        // One that it has is never taken away for being held: connections would end.
        self.whole.is_some()
            || !self.singles.connections.holds(name)
            || self.listeners.proxy.contains_key(name)
            || self
                .singles
                .connections
                .single(name)
                .is_none_or(|single| self.admits(&single.service) || self.singles.is_wanted(single))
    }

    fn admits(&self, service: &ServicePort) -> bool {
        self.gives(&service.cluster())
    }

    /// What the proxy gets of a listener.
    fn view_of_listener(&self, stored: &Arc<Stored>) -> Arc<Stored> {
        let composed = self.singles.composed.get(&stored.name);
        let view = composed.filter(|_| self.whole.is_none()).unwrap_or(stored);
        Arc::clone(view)
    }

    /// Sends the listeners that were held until now.
    pub(super) fn give_listeners(&mut self) {
        if self.listeners.is_open() {
            let give = self.lacking_listeners();
            if !give.is_empty() {
                self.send_listeners(&give, &[], None);
            }
        }
    }

    /// Sends listeners; `upstream` as in [`super::ledger::Ledger::respond`].
    pub(super) fn send_listeners(
        &mut self,
        give: &[Arc<Stored>],
        removed: &[Box<str>],
        upstream: Option<String>,
    ) {
        let nonce = self.nonce();
        let resources = give.iter().map(|s| (&**s, s.version()));
        let response = self.listeners.respond(nonce, upstream, resources, removed);
        self.give_behind_referenced(response);
    }

    /// The service a connection that asks is for.
    pub(super) fn service_of_connection(&mut self, asked: &Asked) -> Option<ServicePort> {
        if self.listeners.is_open() {
            self.singles.asked.insert(asked.destination);
        }
        Some(self.held_for(asked)?.single.service.clone())
    }

    /// The listener for what was asked for: one that there is. Where what no listener takes falls back, also one that was there
    /// until a moment ago and whose service is still there: no copy of a cluster falls back.
    fn held_for(&self, asked: &Asked) -> Option<Held> {
        if let Some(single) = self.singles.connections.find(asked) {
            let routes = self.singles.routes.get(&single.listener);
            return Some(Held {
                single: Arc::clone(single),
                listener: Arc::clone(self.listeners.get(&single.listener)?),
                routes: routes.cloned().unwrap_or_default(),
            });
        }
        let connections = &self.singles.connections;
        let falls_back = connections.rest(&asked.destination).is_none();
        let answers = |held: &&Held| {
            let mut routes = held.routes.iter().map(String::as_str);
            falls_back
                && held.single.can(asked.way)
                && self.clusters.get(&held.single.service.cluster()).is_some()
                // istiod may not know them any more: they are not asked for anew.
                && (asked.way == Way::Cluster || routes.all(|r| self.routes.watched.contains(r)))
        };
        let mut gone = self.singles.gone.of(&asked.destination);
        gone.find(answers).cloned()
    }

    /// What a connection is answered with; `None` while that is not known.
    pub(super) fn answer_connection(&mut self, name: &str, asked: &Asked) -> Option<Arc<Stored>> {
        if !self.listeners.is_open() {
            return None;
        }
        let held = self.held_for(asked);
        let cluster = match &held {
            Some(held) if asked.way == Way::Inside => return self.lead_inside(name, held),
            Some(held) => held.single.plain.as_ref().map(|plain| &*plain.cluster),
            // It has gone meanwhile: as any connection that no listener takes. One that falls back now is closed.
            None => self.singles.connections.rest(&asked.destination),
        };
        let source = cluster.and_then(|c| self.clusters.get(c));
        let copy = source.map(|s| stand_in::copy_cluster(&s.raw, name));
        Some(match copy {
            Some(Ok(raw)) => self.store.keep(name, &raw),
            _ => self.stand_in(name),
        })
    }

    /// Gives a copy of a listener with its routes behind it, once they are there, and returns the cluster that
    /// leads to it.
    fn lead_inside(&mut self, name: &str, held: &Held) -> Option<Arc<Stored>> {
        let routes = &held.routes;
        // Without its routes it would warm, for ever if its service goes meanwhile.
        if !self.have_routes(routes) {
            return None;
        }
        // The copy would wait behind the endpoints of what its routes mirror to, and a cluster that leads to a listener
        // that is not there ends connections.
        if !self.awaited.is_empty() {
            return None;
        }
        // One that is there has connections, which a change would end.
        if !self.listeners.proxy.contains_key(name) {
            let Ok(copy) = inside::copy(&held.listener.raw, name) else {
                return Some(self.stand_in(name));
            };
            let copy = self.store.keep(name, &copy);
            self.send_listeners(&[copy], &[], None);
            self.singles.copies += 1;
            // Sent before the copy they count for nothing: nobody in the proxy watched them.
            let owed = routes.iter().map(|name| name.as_str().into());
            self.routes.owed.extend(owed);
        }
        self.give_routes(|name, _| routes.contains(name));
        self.give_clusters_of(&BTreeSet::from([held.single.service.clone()]));
        Some(self.store.keep(name, &inside::cluster(name)))
    }

    /// Whether istiod has sent all of these route configurations; asks for them if not.
    pub(super) fn have_routes(&mut self, names: &BTreeSet<String>) -> bool {
        let mut new = self.routes.request();
        for name in names {
            if self.routes.watched.insert(name.as_str().into()) {
                new.subscribe.push(name.clone());
            }
        }
        if !new.subscribe.is_empty() {
            self.ask_istiod(new);
        }
        names.iter().all(|name| self.routes.get(name).is_some())
    }

    /// Whether the proxy has the latest of the listener whose chains ask for names of ours; `None` without one.
    pub(super) fn outer_is_current(&self) -> Option<bool> {
        let mut all = self.listeners.all();
        let outer = all.find(|s| Rank::of(s) == Rank::Outer)?;
        let view = self.view_of_listener(outer);
        Some(self.listeners.holds(&view))
    }

    /// Whether a connection may come by a chain that asks for this name. `outer`: [`Self::outer_is_current`].
    pub(super) fn is_connected_to(&self, asked: &Asked, outer: Option<bool>) -> bool {
        match outer {
            None => return false,
            Some(false) => return true,
            Some(true) => {}
        }
        let single = self.singles.connections.find(asked);
        single.is_some_and(|single| {
            let own = self.listeners.get(&single.listener);
            own.is_none_or(|own| !self.listeners.holds(own))
        })
    }

    /// Whether a listener the proxy has is a copy of ours: connections run through it as long as they like.
    pub(super) fn is_copy(name: &str) -> bool {
        matches!(Name::parse(name), Some(Name::Connection(asked)) if asked.way == Way::Inside)
    }
}
