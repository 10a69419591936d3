//! What stands for virtual hosts that are held, and what is done about requests that came by it.
//!
//! Envoy asks for a name of ours once ([`crate::stand_in`]). It is answered with a copy of the right
//! cluster, for the requests that wait, and from then on the name has a place of its own in the route
//! configuration: the service's virtual host, or, if it is nobody's, a domain of the virtual host for the
//! rest. So no route leads to the copy any longer, and it goes after a while; what runs on it then goes
//! on to its end (tried: docs/facts.md).

use super::earlier::Earlier;
use super::{Ask, Output, Session};
use crate::ads::{DeltaRequest, RDS};
use crate::cluster::{self, OutboundName, ServicePort};
use crate::stand_in::routes::{self, Meaning, View};
use crate::stand_in::{self, Name, domains};
use crate::store::{Stored, Version};
use dependency_graph::Protocol;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many names that are nobody's a proxy may ask for in one route configuration, before that is given
/// without wildcards. A name cannot be forgotten while a wildcard takes it: Envoy does not ask again.
pub const MOST_NOBODYS: usize = 64;

/// How many names of ours one stream remembers. What comes on top is answered all the same.
const MOST_NAMES: usize = 10_000;

/// How long a copy of a cluster stays once no route leads to it: longer than a request may be between
/// its route and its cluster.
pub const LINGER: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    /// Names of ours the proxy asked for, on this stream or an earlier one of the same Envoy.
    asked: BTreeMap<Box<str>, Request>,
    /// What is particular about a route configuration.
    particular: HashMap<Box<str>, Particular>,
    /// Route configurations whose listeners do not tell the authority.
    whole: BTreeSet<String>,
    /// Copies to which no route leads any longer, and since when.
    idle: HashMap<Box<str>, Instant>,
    /// What route configurations were until a moment ago.
    earlier: Earlier<Box<str>, Arc<Stored>>,
}

#[derive(Debug)]
struct Request {
    /// Whether it was asked for while the proxy ran; otherwise on an earlier stream.
    now: bool,
    /// Whether the proxy has been given a cluster of this name.
    answered: bool,
}

#[derive(Debug, Default)]
struct Particular {
    nobody: BTreeSet<Box<str>>,
    exact: bool,
}

/// What became of names: which services were admitted for them, and which route configurations have a new
/// place for one.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) services: BTreeSet<ServicePort>,
    routes: BTreeSet<Box<str>>,
}

/// Whether the proxy has the latest of what may lead to copies: worked out once for all of them, since each
/// means to put together what it is to have.
#[derive(Debug, Default)]
struct Current {
    routes: HashMap<Box<str>, bool>,
    /// What takes connections without a listener of their own; `None` in it: there is no such listener.
    outer: Option<Option<bool>>,
}

impl StandIns {
    /// These route configurations were so until now.
    pub(super) fn were(&mut self, routes: Vec<Arc<Stored>>) {
        for stored in routes {
            self.earlier.was(stored.name.clone(), stored);
        }
    }

    /// Notes a host that is nobody's; whether that is new. One that cannot be written as a domain, or one too
    /// many, ends the wildcards.
    fn nobodys(&mut self, routes: &str, host: Box<str>) -> bool {
        let particular = self.particular.entry(routes.into()).or_default();
        if particular.exact {
            return false;
        }
        if particular.nobody.len() >= MOST_NOBODYS || !domains::is_plain(&host) {
            *particular = Particular {
                exact: true,
                ..Particular::default()
            };
            return true;
        }
        particular.nobody.insert(host)
    }
}

impl Session {
    /// Takes names of ours the proxy asks for; they are answered by [`Self::answer_requests`].
    pub(super) fn requests_asked(&mut self, names: &[&str], now: bool) {
        for name in names {
            // One that it has from an earlier stream it does not wait for; but a proxy in which a cluster
            // warms says so late, and what came before that has no place for the name.
            let has = self.clusters.proxy.contains_key(*name);
            let answered = !now && has && !self.came_already(name);
            let request = Request { now, answered };
            self.stand_ins.asked.insert((*name).into(), request);
        }
    }

    /// Whether what a name is to have its place in is known by now.
    fn came_already(&self, name: &str) -> bool {
        match Name::parse(name) {
            Some(Name::Request { routes, .. }) => self.routes.get(routes).is_some(),
            Some(Name::Connection(_)) => self.listeners.is_open(),
            None => false,
        }
    }

    /// Answers what was asked for and is not answered yet, as far as the routes are known by now: copies
    /// first, for requests wait for them, then what the services are given from now on.
    pub(super) fn answer_requests(&mut self) {
        if !self.clusters.answered {
            return;
        }
        let open = self
            .stand_ins
            .asked
            .iter()
            .filter(|(_, request)| !request.answered);
        let open: Vec<_> = open.map(|(name, _)| name.clone()).collect();
        let mut copies = Vec::new();
        for name in &open {
            copies.extend(match Name::parse(name) {
                Some(Name::Request { routes, authority }) => {
                    self.answer_request(name, routes, authority)
                }
                Some(Name::Connection(asked)) => self.answer_connection(name, &asked),
                None => None,
            });
        }
        if copies.is_empty() {
            return;
        }
        let mut placed = self.place_requests(|name, _| open.iter().any(|n| **n == *name));
        placed.services.extend(self.place_connections());
        for copy in &copies {
            if let Some(request) = self.stand_ins.asked.get_mut(&copy.name) {
                request.answered = true;
            }
        }
        self.bound_requests();
        // What is nobody's has its place before its request goes on: the next one must not be held.
        self.give_routes(|name, _| placed.routes.contains(name));
        self.give_clusters(copies, &[], None);
        self.services_due.extend(placed.services);
    }

    /// Gives services what is for requests to come, once the proxy has the copies that others wait for: it
    /// says so by an acknowledgement. Before that it would keep the proxy from them. What nobody asked istiod
    /// for, for want of a copy, is not waited for.
    pub(super) fn give_services_due(&mut self) {
        let awaits = |name: &str| {
            let eds = self.clusters.get(name).map(|s| cluster::eds_name(&s.raw));
            matches!(eds, Some(Ok(Some(eds))) if self.endpoints.get(eds).is_none() && self.endpoints.watched.contains(eds))
        };
        if !self.services_due.iter().any(|s| awaits(&s.cluster())) {
            let services = std::mem::take(&mut self.services_due);
            self.give_clusters_of(&services);
            self.give_listeners();
            self.give_virtual_hosts(&services);
        }
    }

    /// Admits what connections that asked are for.
    pub(super) fn place_connections(&mut self) -> BTreeSet<ServicePort> {
        let mut services = BTreeSet::new();
        let mut asked = std::mem::take(&mut self.stand_ins.asked);
        for (name, request) in &mut asked {
            let Some(Name::Connection(connection)) = Name::parse(name) else {
                continue;
            };
            let Some(service) = self.service_of_connection(&connection) else {
                continue;
            };
            let protocol = |session: &Self| {
                session.protocol_of(session.is_by_tcp(&service.cluster()), &service)
            };
            if self.learn(&service, protocol, request) {
                services.insert(service);
            }
        }
        self.stand_ins.asked = asked;
        services
    }

    /// Admits a service that a name of ours turned out to mean, and says so; whether it was new.
    fn learn(
        &mut self,
        service: &ServicePort,
        protocol: impl FnOnce(&Self) -> Protocol,
        request: &mut Request,
    ) -> bool {
        let new = self.admitted.insert(service.clone());
        let now = std::mem::replace(&mut request.now, true);
        if new {
            let protocol = protocol(self);
            self.out.push(Output::Asked(Ask {
                service: service.clone(),
                protocol,
                now,
            }));
        }
        new
    }

    /// Gives names that were asked for a place of their own, as the routes are now: admits the services
    /// they mean, and notes those that are nobody's. `which`: by name, and by its route configuration.
    pub(super) fn place_requests(&mut self, which: impl Fn(&str, &str) -> bool) -> Placed {
        let mut placed = Placed::default();
        let mut asked = std::mem::take(&mut self.stand_ins.asked);
        for (name, request) in &mut asked {
            let Some(Name::Request { routes, authority }) = Name::parse(name) else {
                continue;
            };
            if !which(name, routes) {
                continue;
            }
            let stored = match request.answered {
                true => self.routes.get(routes).cloned(),
                false => self.routes_for(routes, authority),
            };
            let Some(stored) = stored else {
                continue;
            };
            match stored.routes().map(|r| (r.meaning(authority), r)) {
                Some((Meaning::Service { cluster, .. }, _)) => {
                    let service = OutboundName::parse(cluster).map(|name| name.service_port());
                    if let Some(service) = service
                        && self.learn(&service, |_| Protocol::Http, request)
                    {
                        placed.services.insert(service);
                    }
                }
                Some((Meaning::Nobody(_), r)) => {
                    let new = self.stand_ins.nobodys(routes, r.host(authority).into());
                    placed.routes.extend(new.then(|| routes.into()));
                }
                _ => {}
            }
        }
        self.stand_ins.asked = asked;
        placed
    }

    /// Whether no listener of the proxy uses a route configuration any longer: it has taken all that it was
    /// sent, and does not ask for it. A request that still waits came by a listener that is gone.
    fn is_abandoned(&self, routes: &str) -> bool {
        self.listeners.is_open()
            && self.listeners.open_responses() == 0
            && !self.routes.watched.contains(routes)
    }

    /// What a request is answered with; `None` while its routes are not known.
    fn answer_request(&self, name: &str, routes: &str, authority: &str) -> Option<Arc<Stored>> {
        let Some(stored) = self.routes_for(routes, authority) else {
            return self.is_abandoned(routes).then(|| self.stand_in(name));
        };
        let copy = match stored.routes().map(|r| r.meaning(authority)) {
            Some(Meaning::Service { cluster, operation }) => self
                .clusters
                .get(cluster)
                .map(|s| stand_in::copy_for_request(&s.raw, name, operation)),
            Some(Meaning::Nobody(cluster)) => self
                .clusters
                .get(cluster)
                .map(|s| stand_in::copy_for_nobody(&s.raw, name)),
            // A virtual host that the proxy has: the request was faster than the routes.
            _ => None,
        };
        Some(match copy {
            Some(Ok(raw)) => self.store.keep(name, &raw),
            // As without us: a route to a cluster that is not there.
            _ => self.stand_in(name),
        })
    }

    /// The route configuration that says what a request is answered with: the one there is, unless no copy of a cluster does
    /// what that says, but one would do what it said when the request was held. `None` while it is not known.
    fn routes_for(&self, routes: &str, authority: &str) -> Option<Arc<Stored>> {
        let answers = |stored: &&Arc<Stored>| match stored.routes().map(|r| r.meaning(authority)) {
            Some(Meaning::Service { cluster, .. } | Meaning::Nobody(cluster)) => {
                self.clusters.get(cluster).is_some()
            }
            _ => false,
        };
        let all = || {
            let now = self.routes.get(routes);
            now.into_iter().chain(self.stand_ins.earlier.of(routes))
        };
        all().find(answers).or_else(|| all().next()).cloned()
    }

    fn bound_requests(&mut self) {
        let surplus = self.stand_ins.asked.len().saturating_sub(MOST_NAMES);
        let names: Vec<_> = self.stand_ins.asked.keys().take(surplus).cloned().collect();
        for name in names {
            self.stand_ins.asked.remove(&name);
        }
    }

    /// Sends the clusters of services that were admitted.
    pub(super) fn give_clusters_of(&mut self, services: &BTreeSet<ServicePort>) {
        let lacking: Vec<_> = self.lacking_of(services).collect();
        if !lacking.is_empty() {
            self.give_clusters(lacking, &[], None);
        }
    }

    /// Sends the virtual hosts of services the proxy has the clusters of.
    pub(super) fn give_virtual_hosts(&mut self, services: &BTreeSet<ServicePort>) {
        let names: Vec<String> = services.iter().map(ServicePort::cluster).collect();
        self.give_routes(|_, stored| {
            stored
                .routes()
                .is_some_and(|r| names.iter().any(|n| r.holds(n)))
        });
    }

    /// Sends the virtual hosts of whatever was admitted, behind its clusters.
    pub(super) fn give_routes_due(&mut self) {
        if std::mem::take(&mut self.routes_due) {
            self.give_listeners();
            self.give_routes(|_, _| true);
        }
    }

    /// Sends those of the route configurations that are not with the proxy as they should be.
    pub(super) fn give_routes(&mut self, which: impl Fn(&str, &Stored) -> bool) {
        let all = self.routes.all().filter(|s| which(&s.name, s));
        let some: Vec<_> = all.cloned().collect();
        if !some.is_empty() {
            self.give_named(&some, &[], |s| &mut s.routes, None);
        }
    }

    /// What the proxy gets of a route configuration of istiod's.
    pub(super) fn view_of_routes(&self, stored: &Arc<Stored>) -> Arc<Stored> {
        let name = &*stored.name;
        if !self.lazy_routes.contains(name) {
            return Arc::clone(stored);
        }
        let raw = match stored.routes().filter(|_| self.holds_virtual_hosts(name)) {
            Some(routes) => {
                let none = Particular::default();
                let particular = self.stand_ins.particular.get(name).unwrap_or(&none);
                let gives = |cluster: &str| self.gives(cluster);
                let view = View {
                    gives: &gives,
                    nobody: &particular.nobody,
                    exact: particular.exact,
                };
                routes.compose(&stored.raw, view)
            }
            None => routes::without_header(&stored.raw),
        };
        raw.map_or_else(|_| Arc::clone(stored), |raw| self.store.keep(name, &raw))
    }

    /// Whether some of the proxy's routes are not all there.
    pub(super) fn holds_any_virtual_host(&self) -> bool {
        let held = |s: &Stored| s.routes().is_some_and(|r| r.count().1 > 0);
        let mut lazy = self
            .routes
            .all()
            .filter(|s| self.lazy_routes.contains(&*s.name));
        lazy.any(|s| self.holds_virtual_hosts(&s.name) && held(s))
    }

    fn holds_virtual_hosts(&self, routes: &str) -> bool {
        self.whole.is_none()
            && !self.plain_routes.contains(routes)
            && !self.stand_ins.whole.contains(routes)
    }

    /// Route configurations that a listener uses without telling the authority: given whole from now on.
    pub(super) fn authority_untold(&mut self, routes: &str) {
        if self.stand_ins.whole.insert(routes.to_owned()) {
            self.give_routes(|name, _| name == routes);
        }
    }

    /// What of a name of ours the proxy asks for is to be forgotten, because it does not any longer.
    pub(super) fn forget_requests(&mut self, request: &DeltaRequest) {
        for name in &request.unsubscribe {
            self.stand_ins.asked.remove(name.as_str());
        }
    }

    /// How many copies of clusters the proxy has.
    pub(super) fn copies(&self) -> usize {
        let names = self.clusters.proxy.keys();
        names.filter(|n| Name::parse(n).is_some()).count()
    }

    /// Removes copies that nothing leads to for a while. To be called now and then.
    pub fn tidy(&mut self, now: Instant) -> Vec<Output> {
        self.give_services_due();
        self.stand_ins.earlier.tidy(now);
        self.singles.tidy(now);
        let copies = self
            .clusters
            .proxy
            .keys()
            .filter(|n| Name::parse(n).is_some());
        let mut current = Current::default();
        let idle: BTreeSet<_> = copies
            .filter(|n| !self.is_led_to(n, &mut current))
            .cloned()
            .collect();
        self.stand_ins.idle.retain(|name, _| idle.contains(name));
        let mut gone = Vec::new();
        for name in idle {
            let since = *self.stand_ins.idle.entry(name.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= LINGER {
                self.stand_ins.idle.remove(&name);
                gone.push(name);
            }
        }
        if !gone.is_empty() {
            self.give_clusters(Vec::new(), &gone, None);
        }
        std::mem::take(&mut self.out)
    }

    /// Whether the proxy may have a route that leads to this name. Unless it is known to have the routes
    /// in which the name has a place of its own, it may.
    fn is_led_to(&self, name: &str, current: &mut Current) -> bool {
        let (routes, authority) = match Name::parse(name) {
            Some(Name::Request { routes, authority }) => (routes, authority),
            Some(Name::Connection(asked)) => {
                let outer = *current.outer.get_or_insert_with(|| self.outer_is_current());
                return self.is_connected_to(&asked, outer);
            }
            None => return true,
        };
        let Some(stored) = self.routes.get(routes) else {
            // Routes that are gone lead nowhere.
            return !self.is_abandoned(routes);
        };
        let is_current = current.routes.entry(routes.into()).or_insert_with(|| {
            let view = self.view_of_routes(stored);
            self.routes.proxy.get(routes).copied().flatten() == Some(view.version())
        });
        if !*is_current {
            return true;
        }
        let Some(parsed) = stored.routes().filter(|_| self.holds_virtual_hosts(routes)) else {
            return false;
        };
        match parsed.meaning(authority) {
            Meaning::Service { cluster, .. } => !self.gives(cluster),
            Meaning::Nobody(_) => {
                let particular = self.stand_ins.particular.get(routes);
                let host = parsed.host(authority);
                !particular.is_some_and(|p| p.exact || p.nobody.contains(host.as_str()))
            }
            Meaning::Other => false,
        }
    }

    /// The version a named resource has towards the proxy, and what that gets of it.
    pub(super) fn view_of(&self, type_url: &str, stored: &Arc<Stored>) -> (Arc<Stored>, Version) {
        if type_url == RDS {
            let view = self.view_of_routes(stored);
            let version = view.version();
            return (view, version);
        }
        (Arc::clone(stored), self.version_of_endpoints(stored))
    }
}
