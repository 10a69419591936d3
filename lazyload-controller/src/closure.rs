//! What a set of hosts brings along: every host that a workload's sidecar must have for calls to them to go as they
//! would with the whole mesh in it.
//!
//! An egress host `ns/host` selects two things by the namespace it names: services of that namespace, and VirtualServices
//! of that namespace. So a host is named with every namespace that has a service of that name or a rule about it, and
//! istiod then chooses among them as it does for a sidecar without a Sidecar resource. A rule brings along all the hosts
//! it is about and all it leads to, mirrors and delegates as well, and those bring along theirs.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::mesh::service::Form;
use crate::mesh::{Kind, Name, Route, Service, World};

/// `namespace/host` in a Sidecar.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EgressHost {
    /// The namespace of a service or of a rule.
    pub namespace: String,
    /// The full name; a wildcard only where a ServiceEntry or a rule has that very wildcard.
    pub host: String,
}

impl EgressHost {
    /// `namespace/host`.
    #[must_use]
    pub fn new(namespace: &str, host: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            host: host.to_owned(),
        }
    }
}

impl fmt::Display for EgressHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.host)
    }
}

/// Closures for callers of one namespace. It remembers what each host brings along, for the many workloads of it.
#[derive(Debug)]
pub struct Closures<'a> {
    world: &'a World,
    namespace: &'a str,
    known: BTreeMap<String, BTreeSet<EgressHost>>,
}

impl<'a> Closures<'a> {
    /// For callers of this namespace.
    #[must_use]
    pub fn new(world: &'a World, namespace: &'a str) -> Self {
        Self {
            world,
            namespace,
            known: BTreeMap::new(),
        }
    }

    /// What one host brings along, itself included; nothing if the mesh has neither a service nor a rule of that name.
    /// A wildcard such as `*.shop.svc.cluster.local` stands for all below it.
    pub fn of(&mut self, host: &str) -> &BTreeSet<EgressHost> {
        let (world, namespace) = (self.world, self.namespace);
        self.known
            .entry(host.to_owned())
            .or_insert_with(|| close(world, namespace, host))
    }
}

fn close(world: &World, namespace: &str, host: &str) -> BTreeSet<EgressHost> {
    let mut walk = Walk {
        world,
        namespace,
        found: BTreeSet::new(),
        seen: BTreeSet::new(),
        waiting: VecDeque::new(),
    };
    walk.wait_for(host);
    while let Some(host) = walk.waiting.pop_front() {
        walk.visit(&host);
    }
    walk.found
}

struct Walk<'a> {
    world: &'a World,
    namespace: &'a str,
    found: BTreeSet<EgressHost>,
    /// Hosts that are waiting or were visited: a host is visited once, so that cycles end.
    seen: BTreeSet<String>,
    waiting: VecDeque<String>,
}

impl Walk<'_> {
    fn wait_for(&mut self, host: &str) {
        if self.seen.insert(host.to_owned()) {
            self.waiting.push_back(host.to_owned());
        }
    }

    fn visit(&mut self, host: &str) {
        if host.starts_with('*') {
            self.below(host);
        }
        let world = self.world;
        for service in world.services_named(host) {
            if world.sees_service(self.namespace, service) {
                self.service(host, service);
            }
        }
        // A name below the wildcard of a ServiceEntry is that entry's.
        for service in world.wildcard_services() {
            if subset_of(host, &service.host) && world.sees_service(self.namespace, service) {
                self.wait_for(&service.host);
            }
        }
        for route in world.routes_named(host) {
            self.route(host, route);
        }
        for route in world.wildcard_routes() {
            let about = route.hosts.iter().any(|of| {
                // A route of Gateway API is selected only by an egress host that covers its own.
                if route.of_gateway_api {
                    subset_of(of, host)
                } else {
                    matches(of, host)
                }
            });
            if about {
                self.route(host, route);
            }
        }
    }

    /// All services below a wildcard.
    fn below(&mut self, wildcard: &str) {
        for service in self.world.services() {
            if subset_of(&service.host, wildcard)
                && self.world.sees_service(self.namespace, service)
            {
                self.wait_for(&service.host);
            }
        }
    }

    fn service(&mut self, host: &str, service: &Service) {
        self.found.insert(EgressHost::new(&service.namespace, host));
        match &service.form {
            Form::Alias(target) => {
                // istiod keeps another name of a service only if it is named in that service's namespace.
                for target in concrete(self.world, target) {
                    if self.world.sees_service(self.namespace, target) {
                        self.found.insert(EgressHost::new(&target.namespace, host));
                        self.wait_for(&target.host);
                    }
                }
            }
            Form::Entry(entry) => {
                for route in self.world.routes_of_entry(entry) {
                    self.route(host, route);
                }
            }
            Form::Cluster | Form::Headless => {}
        }
    }

    /// A rule that an egress host of this name selects.
    fn route(&mut self, host: &str, route: &Route) {
        if !self.world.sees_route(self.namespace, route) {
            return;
        }
        self.found.insert(EgressHost::new(&route.namespace, host));
        for host in &route.hosts {
            self.wait_for(host);
        }
        for destination in &route.destinations {
            self.wait_for(destination);
        }
        // A delegate delegates no further; what it leads to is resolved in its own namespace, and was when it was read.
        for delegate in &route.delegates {
            for destination in destinations_of(self.world, delegate) {
                self.wait_for(destination);
            }
        }
    }
}

/// Where a VirtualService leads that others delegate to; whether it may be delegated to is not looked at, as more than
/// is needed does no harm.
fn destinations_of<'a>(world: &'a World, delegate: &Name) -> impl Iterator<Item = &'a String> {
    let route = world.route(Kind::VirtualService, delegate);
    let route = route.filter(|route| route.hosts.is_empty());
    route.into_iter().flat_map(|route| &route.destinations)
}

/// The services that another name stands for in the end. Names that lead in a circle stand for nothing.
pub fn concrete<'a>(world: &'a World, alias: &str) -> Vec<&'a Service> {
    let mut name = alias.to_owned();
    let mut seen = BTreeSet::new();
    while seen.insert(name.clone()) {
        let mut services = world.services_named(&name);
        let next = services.find_map(|service| match &service.form {
            Form::Alias(next) => Some(next.clone()),
            _ => None,
        });
        match next {
            Some(next) => name = next,
            None => return world.services_named(&name).collect(),
        }
    }
    Vec::new()
}

/// Whether all that `host` stands for is covered by `wildcard` (Istio's `host.Name.SubsetOf`).
#[must_use]
pub fn subset_of(host: &str, wildcard: &str) -> bool {
    match (host.strip_prefix('*'), wildcard.strip_prefix('*')) {
        (Some(host), Some(wildcard)) => host.ends_with(wildcard),
        (None, Some(wildcard)) => host.ends_with(wildcard),
        (Some(_), None) => false,
        (None, None) => host == wildcard,
    }
}

/// Whether one of them covers the other (Istio's `host.Name.Matches`).
#[must_use]
pub fn matches(one: &str, other: &str) -> bool {
    subset_of(one, other) || subset_of(other, one)
}
