//! What happens while the clients run: some of what was made comes only then, some goes, some becomes another.

use fastrand::Rng;

use super::{Port, Service, Speaks, World, percent, routes, rules, services};
use crate::differential::scenario::{Change, Resource};

/// Splits what was made into what is there from the beginning and what changes.
pub(super) fn make(world: &mut World, rng: &mut Rng) -> (Vec<Resource>, Vec<Change>) {
    let (mut first, mut changes) = (Vec::new(), Vec::new());
    for resource in std::mem::take(&mut world.resources) {
        let kind = resource.object["kind"].as_str().unwrap_or("?").to_owned();
        match rng.u32(..100) {
            0..12 => {
                world.tries(format!("change/{kind}-comes"));
                changes.push(Change::Apply(resource));
            }
            12..22 => {
                world.tries(format!("change/{kind}-goes"));
                first.push(resource.clone());
                changes.push(Change::Delete(resource));
            }
            22..34 => {
                if let Some(other) = another(world, rng, &resource) {
                    world.tries(format!("change/{kind}-becomes-another"));
                    changes.push(Change::Apply(other));
                }
                first.push(resource);
            }
            _ => first.push(resource),
        }
    }
    // What goes, goes last: a service and its route come before.
    changes.sort_by_key(|change| matches!(change, Change::Delete(_)));
    (first, changes)
}

/// A resource of the same name that says something else.
fn another(world: &mut World, rng: &mut Rng, resource: &Resource) -> Option<Resource> {
    let text = |pointer| {
        resource
            .object
            .pointer(pointer)
            .and_then(|value| value.as_str())
    };
    let (kind, namespace, name) = (
        text("/kind")?,
        text("/metadata/namespace")?,
        text("/metadata/name")?,
    );
    let of = |kind: &str| -> Option<Service> {
        let mut services = world.services.iter();
        services.find(|service| service.rule(kind) == name).cloned()
    };
    let mut object = match kind {
        "VirtualService" => {
            let service = of("route")?;
            routes::route(world, rng, &service)?
        }
        "DestinationRule" => {
            let service = of("rule")?;
            rules::rule(world, rng, &service)
        }
        "Service" => {
            let mut service = world
                .services
                .iter()
                .find(|service| {
                    service.namespace == namespace
                        && service.name == name
                        && service.name != "alias"
                })?
                .clone();
            let all = [super::Server::V1, super::Server::V2];
            if service.servers == all {
                service.servers.truncate(1);
            } else if service.servers == all[..1] && !service.headless && percent(rng, 60) {
                // The first one stays: connections that pass Envoy by go on to it.
                service.servers = all.to_vec();
            } else {
                // No port goes: connections that pass Envoy by would go on for the one client and not for the other.
                service.ports.iter_mut().for_each(says_otherwise);
            }
            return Some(services::resource(world, rng, &service));
        }
        _ => return None,
    };
    object["metadata"]["namespace"] = namespace.into();
    Some(Resource { object, lead: None })
}

/// The same behind it, but it says something else of it, or nothing.
fn says_otherwise(port: &mut Port) {
    port.speaks = match port.speaks {
        Speaks::Http => Speaks::AutoHttp,
        Speaks::AutoHttp => Speaks::Http,
        Speaks::Tcp => Speaks::AutoTcp,
        Speaks::AutoTcp => Speaks::Tcp,
        other => other,
    };
}
