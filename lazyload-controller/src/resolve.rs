//! Which service a caller means: from the authority of its request, or from the address it called.
//!
//! The answer is the one that the caller's own Envoy would find with the whole mesh in its config: istiod's domains for a
//! service (`networking/core/httproute.go`, generateVirtualHostDomains), Envoy's precedence among them, and the port that
//! was called for the choice of the route config. What no service of the mesh answers to is said to be none.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use dependency_graph::{Dependency, Host, Port, Protocol};

use crate::closure::concrete;
use crate::mesh::service::{Form, PortProtocol};
use crate::mesh::{Service, World};

/// A service of the mesh, as a caller of one namespace sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolved {
    /// What the caller depends on.
    pub dependency: Dependency,
    /// The namespace of the service.
    pub namespace: String,
    /// An address of the service's own, if it has one.
    pub address: Option<IpAddr>,
}

/// The service that a request of a caller in `namespace` is for; `None` if the mesh has none by that name on that port.
/// `authority`: as in the request, a port in it does not matter. `port`: the one that was called.
#[must_use]
pub fn by_authority(
    world: &World,
    namespace: &str,
    authority: &str,
    port: u16,
) -> Option<Resolved> {
    let host = host_of(authority)?;
    if let Ok(address) = host.parse() {
        return at_address(world, namespace, address, port, Protocol::Http);
    }
    let (service, known_as) = named(world, namespace, &host)?;
    resolved(world, namespace, service, known_as, port, Protocol::Http)
}

/// The service that a connection of a caller in `namespace` to an address is for; `None` if none of the mesh has it.
#[must_use]
pub fn by_address(world: &World, namespace: &str, address: SocketAddr) -> Option<Resolved> {
    let ip = address.ip().to_canonical();
    at_address(world, namespace, ip, address.port(), Protocol::Tcp)
}

/// The service that a call of a caller in `namespace` is for, from all that is known of it. A port that is not plainly
/// HTTP has a listener for its own address in a sidecar that knows the service: there the address decides, whatever the
/// call names.
#[must_use]
pub fn by_call(
    world: &World,
    namespace: &str,
    authority: &str,
    destination: SocketAddr,
    protocol: Protocol,
) -> Option<Resolved> {
    let called = by_address(world, namespace, destination);
    if protocol == Protocol::Tcp {
        return called;
    }
    match called {
        Some(called) if called.dependency.protocol == Protocol::Tcp => {
            let (ip, port) = (destination.ip().to_canonical(), destination.port());
            let carried_as_http = at_address(world, namespace, ip, port, Protocol::Http);
            Some(carried_as_http.unwrap_or(called))
        }
        called if authority.is_empty() => called,
        _ => by_authority(world, namespace, authority, destination.port()),
    }
}

/// What a caller in `namespace` depends on that called a service over a protocol, where the port is not known: all its
/// ports of that protocol. `host`: its full name as istiod has it, as metrics tell it. Empty if the mesh has none.
#[must_use]
pub fn by_host(world: &World, namespace: &str, host: &Host, protocol: Protocol) -> Vec<Dependency> {
    let services = visible(world, namespace, world.services_named(host.as_str()));
    let Some(service) = services.first() else {
        return Vec::new();
    };
    let behind = match &service.form {
        Form::Alias(target) => {
            let targets = visible(world, namespace, concrete(world, target).into_iter());
            targets.first().copied()
        }
        _ => Some(*service),
    };
    let ports = behind.into_iter().flat_map(|behind| &behind.ports);
    let found = ports.filter_map(|port| {
        resolved(
            world,
            namespace,
            service,
            &service.host,
            port.number,
            protocol,
        )
    });
    found
        .map(|resolved| resolved.dependency)
        .filter(|dependency| dependency.protocol == protocol)
        .collect()
}

fn at_address(
    world: &World,
    namespace: &str,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Option<Resolved> {
    let visible = visible(world, namespace, world.services_at(address));
    visible
        .into_iter()
        .find_map(|service| resolved(world, namespace, service, &service.host, port, protocol))
}

/// The host of an authority in lower case, without port or brackets; `None` if it is none.
fn host_of(authority: &str) -> Option<String> {
    const LONGEST: usize = 300;
    if authority.len() > LONGEST || !authority.is_ascii() {
        return None;
    }
    let host = if let Some(bracketed) = authority.strip_prefix('[') {
        bracketed.split_once(']')?.0
    } else {
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|c| c.is_ascii_digit()) => host,
            _ => authority,
        }
    };
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// The service of a name and the full name it is known by, which differ for another name of a service.
fn named<'a>(world: &'a World, namespace: &str, host: &str) -> Option<(&'a Service, &'a str)> {
    // A trailing dot is in the domains of full names only.
    let (host, dotted) = match host.strip_suffix('.') {
        Some(host) => (host, true),
        None => (host, false),
    };
    if let Some(found) = exactly(world, namespace, host) {
        return Some(found);
    }
    if !dotted && let Some(found) = exactly(world, namespace, &full_name(world, namespace, host)?) {
        return Some(found);
    }
    below(world, namespace, host, dotted)
}

fn exactly<'a>(world: &'a World, namespace: &str, host: &str) -> Option<(&'a Service, &'a str)> {
    if host.starts_with('*') {
        return None;
    }
    let service = visible(world, namespace, world.services_named(host))
        .into_iter()
        .next()?;
    Some((service, &service.host))
}

/// The full name that a short one would be: `name`, `name.ns` or `name.ns.svc`. A name that is already full, or longer,
/// stays as it is, and names no service then.
fn full_name(world: &World, namespace: &str, host: &str) -> Option<String> {
    let domain = world.cluster_domain();
    let labels: Vec<&str> = host.split('.').collect();
    match labels[..] {
        [name] => Some(format!("{name}.{namespace}.svc.{domain}")),
        [name, of] | [name, of, "svc"] => Some(format!("{name}.{of}.svc.{domain}")),
        [] => None,
        _ => Some(host.to_owned()),
    }
}

/// Names below another: pods of headless services, and names below the wildcard of a ServiceEntry. As Envoy has it the
/// longest matching one counts.
fn below<'a>(
    world: &'a World,
    namespace: &str,
    host: &str,
    dotted: bool,
) -> Option<(&'a Service, &'a str)> {
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        rest = parent;
        if let Some(service) = wildcard(world, namespace, rest) {
            return Some((service, &service.host));
        }
        let headless = |host: &str| {
            let services = visible(world, namespace, world.services_named(host));
            let mut services = services.into_iter();
            services.find(|service| service.form == Form::Headless)
        };
        let found = headless(rest).or_else(|| {
            let full = full_name(world, namespace, rest)?;
            (!dotted).then(|| headless(&full)).flatten()
        });
        if let Some(service) = found {
            return Some((service, &service.host));
        }
    }
    wildcard(world, namespace, "").map(|service| (service, service.host.as_str()))
}

/// The service whose host is `*.parent`, or `*` if there is no parent.
fn wildcard<'a>(world: &'a World, namespace: &str, parent: &str) -> Option<&'a Service> {
    let host = if parent.is_empty() {
        "*".to_owned()
    } else {
        format!("*.{parent}")
    };
    visible(world, namespace, world.services_named(&host))
        .into_iter()
        .next()
}

/// Those that a caller of the namespace sees, in the order in which istiod prefers them when hosts or addresses are the
/// same: of its own namespace, of Kubernetes, others.
fn visible<'a>(
    world: &World,
    namespace: &str,
    services: impl Iterator<Item = &'a Service>,
) -> Vec<&'a Service> {
    let mut seen: Vec<&Service> = services
        .filter(|service| world.sees_service(namespace, service))
        .collect();
    seen.sort_by_key(|service| {
        let is_entry = matches!(service.form, Form::Entry(_));
        (service.namespace != namespace, is_entry)
    });
    seen
}

fn resolved(
    world: &World,
    namespace: &str,
    service: &Service,
    known_as: &str,
    port: u16,
    protocol: Protocol,
) -> Option<Resolved> {
    // Another name of a service has neither ports nor addresses of its own.
    let behind = match &service.form {
        Form::Alias(target) => visible(world, namespace, concrete(world, target).into_iter())
            .into_iter()
            .next()?,
        _ => service,
    };
    let found = behind.port(port)?;
    let carried = match (found.protocol, protocol) {
        // A port that says HTTP is carried as such even where the call was taken for bytes.
        (PortProtocol::Http, _) => Protocol::Http,
        (PortProtocol::Auto, protocol) => protocol,
        (PortProtocol::Tcp, Protocol::Tcp) => Protocol::Tcp,
        // Its name is in no route config.
        (PortProtocol::Tcp, Protocol::Http) => return None,
    };
    Some(Resolved {
        dependency: Dependency {
            host: known_as.parse().ok()?,
            port: Port::try_from(u32::from(port)).ok()?,
            protocol: carried,
        },
        namespace: behind.namespace.clone(),
        address: behind.addresses.first().copied(),
    })
}
