//! What can never be left out of a sidecar, and why: calls to it would not reach the fallback, or would go elsewhere.
//!
//! Without a service's own listener a connection takes the listener that all services on its port share, if there is
//! one, and `virtualOutbound` if not. The fallback stands in both places, but only as far as it is told here: in the
//! former for HTTP, in the latter for addresses from the ranges that Kubernetes gives services. Whatever would slip
//! through between the two, in plain text past the mesh, stays in every sidecar.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use dependency_graph::fallback::Policy;
use ipnet::IpNet;

use crate::closure::{concrete, matches, subset_of};
use crate::mesh::service::{Form, PortProtocol};
use crate::mesh::{Kind, Service, World};

/// Why something is in every sidecar. Of several the least is told.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Why {
    /// It is the global proxy, or what Istio's own namespace has beside istiod (telemetry, gateways), or named in the mesh
    /// config, or by the operator.
    Mesh,
    /// It is of a ServiceEntry: names that DNS answers with it in view only, and listeners on every address.
    ServiceEntry,
    /// It is a rule about a name that no service has.
    RuleWithoutService,
    /// It is another name of a service, with a name that only that service's virtual host answers to.
    Alias,
    /// Its pods are called by their own addresses, which no range tells from the world outside.
    Headless,
    /// Its address is in no range that the fallback stands for.
    AddressOutside,
    /// Others carry something else on its port, on a listener that its calls would take.
    PortConflict,
    /// It is TCP, and the namespace lets nothing be carried under another identity.
    RedirectOnly,
    /// The global proxy does not see it.
    HiddenFromGlobalProxy,
    /// A rule about it asks who calls.
    AsksWhoCalls,
}

impl Why {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Mesh,
        Self::ServiceEntry,
        Self::RuleWithoutService,
        Self::Alias,
        Self::Headless,
        Self::AddressOutside,
        Self::PortConflict,
        Self::RedirectOnly,
        Self::HiddenFromGlobalProxy,
        Self::AsksWhoCalls,
    ];

    /// For a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::ServiceEntry => "service-entry",
            Self::RuleWithoutService => "rule-without-service",
            Self::Alias => "alias",
            Self::Headless => "headless",
            Self::AddressOutside => "address-outside",
            Self::PortConflict => "port-conflict",
            Self::RedirectOnly => "redirect-only",
            Self::HiddenFromGlobalProxy => "hidden-from-global-proxy",
            Self::AsksWhoCalls => "asks-who-calls",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the fallback stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach<'a> {
    /// The namespace of the global proxy.
    pub namespace: &'a str,
    /// The global proxy's full name.
    pub host: &'a str,
    /// Ports on which every sidecar has an HTTP listener that all services share: the global proxy's own.
    pub http_ports: &'a BTreeSet<u16>,
    /// The ranges of addresses that `virtualOutbound` sends to it.
    pub cidrs: &'a [IpNet],
}

/// The hosts that every sidecar of a namespace must have, and why.
#[must_use]
pub fn always(
    world: &World,
    namespace: &str,
    policy: Policy,
    reach: &Reach<'_>,
) -> BTreeMap<String, Why> {
    let visible: Vec<&Service> = world
        .services()
        .filter(|service| world.sees_service(namespace, service))
        .collect();
    let shared = Shared::of(&visible, reach);
    let mut always: BTreeMap<String, Why> = BTreeMap::new();
    let mut keep = |host: &str, why| {
        let reason = always.entry(host.to_owned()).or_insert(why);
        *reason = why.min(*reason);
    };
    for service in &visible {
        if let Some(why) = why(world, namespace, service, policy, reach, &shared) {
            keep(&service.host, why);
        }
    }
    for route in world.routes().filter(|route| route.mesh) {
        if !world.sees_route(namespace, route) {
            continue;
        }
        let nameless = |host: &&String| {
            let mut visible = visible.iter();
            if host.starts_with('*') {
                return !visible.any(|service| matches(&service.host, host));
            }
            let below = world
                .wildcard_services()
                .filter(|s| subset_of(host, &s.host));
            let mut services = world.services_named(host).chain(below);
            !services.any(|service| world.sees_service(namespace, service))
        };
        let without = route.hosts.iter().filter(nameless);
        for host in without {
            keep(host, Why::RuleWithoutService);
        }
    }
    always
}

/// What each port's shared listeners carry.
struct Shared {
    http: BTreeSet<u16>,
    other: BTreeSet<u16>,
}

impl Shared {
    fn of(visible: &[&Service], reach: &Reach<'_>) -> Self {
        let mut shared = Self {
            http: reach.http_ports.clone(),
            other: BTreeSet::new(),
        };
        for service in visible {
            // Without an address of its own a service listens on all of them.
            let everywhere = service.addresses.is_empty() || !service.networks.is_empty();
            for port in &service.ports {
                match port.protocol {
                    PortProtocol::Http => {
                        shared.http.insert(port.number);
                    }
                    PortProtocol::Tcp if everywhere => {
                        shared.other.insert(port.number);
                    }
                    PortProtocol::Auto if everywhere => {
                        shared.http.insert(port.number);
                        shared.other.insert(port.number);
                    }
                    PortProtocol::Tcp | PortProtocol::Auto => {}
                }
            }
        }
        shared
    }
}

fn why(
    world: &World,
    namespace: &str,
    service: &Service,
    policy: Policy,
    reach: &Reach<'_>,
    shared: &Shared,
) -> Option<Why> {
    let of_istio = service.namespace == world.config().root_namespace && !is_istiod(service);
    if of_istio || service.host == reach.host {
        return Some(Why::Mesh);
    }
    match &service.form {
        Form::Entry(_) => return Some(Why::ServiceEntry),
        Form::Alias(target) => return why_alias(world, service, target),
        Form::Headless | Form::Cluster => {}
    }
    let inside =
        !service.addresses.is_empty() && service.addresses.iter().all(|ip| in_(reach, *ip));
    let ports = service.ports.iter();
    let of_port = ports.filter_map(|port| {
        let everywhere = reach.http_ports.contains(&port.number);
        match port.protocol {
            PortProtocol::Http if shared.other.contains(&port.number) => Some(Why::PortConflict),
            PortProtocol::Http if everywhere || inside => None,
            PortProtocol::Tcp | PortProtocol::Auto if service.form == Form::Headless => {
                Some(Why::Headless)
            }
            PortProtocol::Tcp | PortProtocol::Auto if policy == Policy::RedirectOnly => {
                Some(Why::RedirectOnly)
            }
            PortProtocol::Tcp | PortProtocol::Auto
                if shared.http.contains(&port.number) || shared.other.contains(&port.number) =>
            {
                Some(Why::PortConflict)
            }
            PortProtocol::Tcp | PortProtocol::Auto if inside => None,
            _ => Some(match service.form {
                Form::Headless => Why::Headless,
                _ => Why::AddressOutside,
            }),
        }
    });
    let hidden = || {
        let may_relay = policy != Policy::RedirectOnly;
        if may_relay && !world.sees_service(reach.namespace, service) {
            return Some(Why::HiddenFromGlobalProxy);
        }
        (may_relay && asks_who_calls(world, namespace, reach.namespace, &service.host))
            .then_some(Why::AsksWhoCalls)
    };
    // A short name of a pod, `pod.service`, cannot be told from a name of the world outside.
    let own_headless = service.form == Form::Headless && service.namespace == namespace;
    own_headless
        .then_some(Why::Headless)
        .or_else(|| of_port.min())
        .or_else(hidden)
}

/// Whether it is a control plane, of any revision, which no sidecar's config leads to: what its Envoy, its agent and istiod
/// say to each other does not come by listeners. An application that calls it is served like one that calls any other service.
fn is_istiod(service: &Service) -> bool {
    let name = service.host.split('.').next().unwrap_or_default();
    name == "istiod" || name.starts_with("istiod-")
}

/// A name outside the mesh is none of the fallback's business; a service keeps other names only if asked to.
fn why_alias(world: &World, service: &Service, target: &str) -> Option<Why> {
    // Its full name is one of a service of the mesh, and falls back as such; with ports of its own it may be anything.
    let in_mesh = !concrete(world, target).is_empty();
    let carries_http = |service: &Service| {
        let mut ports = service.ports.iter();
        ports.all(|port| port.protocol == PortProtocol::Http)
    };
    (in_mesh && !carries_http(service)).then_some(Why::Alias)
}

/// Whether a rule that holds for callers of this namespace would send the global proxy's calls elsewhere.
fn asks_who_calls(world: &World, namespace: &str, of_proxy: &str, host: &str) -> bool {
    let named = world.routes_named(host);
    let wildcards = world.wildcard_routes().filter(|route| {
        let mut hosts = route.hosts.iter();
        hosts.any(|of| subset_of(host, of))
    });
    named
        .chain(wildcards)
        .filter(|route| world.sees_route(namespace, route))
        .any(|route| {
            route.asks_who_calls
                || !world.sees_route(of_proxy, route)
                || route.delegates.iter().any(|delegate| {
                    let delegate = world.route(Kind::VirtualService, delegate);
                    delegate.is_some_and(|delegate| delegate.asks_who_calls)
                })
        })
}

fn in_(reach: &Reach<'_>, address: IpAddr) -> bool {
    reach.cidrs.iter().any(|cidr| cidr.contains(&address))
}
