//! What one proxy gets where it is not what its whole namespace gets: a Sidecar holds for it, an EnvoyFilter patches it,
//! or it serves ports of a service.

use super::istio::{Documents, Filter, Patch, Sidecar};
use super::listeners::{TCP_PROXY, VIRTUAL_INBOUND, VIRTUAL_OUTBOUND};
use super::proxy::Proxy;
use super::resources::{Table, named};
use super::shape::{MeshShape, Port, Service};
use super::{clusters, inbound, listeners, routes};
use bytes::Bytes;
use prost::Message;
use std::borrow::Cow;
use std::sync::Arc;
use xds_shim::envoy::config::listener::v3::{Listener, filter::ConfigType};
use xds_shim::envoy::config::route::v3::RouteConfiguration;

/// Tables of its own; endpoints are everybody's.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) clusters: Arc<Table>,
    pub(super) listeners: Arc<Table>,
    pub(super) routes: Arc<Table>,
}

/// The tables of a proxy, if they are its own. `all`: the clusters of a proxy that gets everything.
pub(super) fn own(
    shape: &MeshShape,
    documents: &Documents,
    all: &Table,
    proxy: &Proxy,
) -> Option<Own> {
    let sidecar = documents.sidecar(proxy);
    let filters = documents.filters(proxy);
    let served: Vec<(&Service, Port)> = proxy
        .address
        .map(|address| shape.served_at(address).collect())
        .unwrap_or_default();
    if sidecar.is_none() && filters.is_empty() && served.is_empty() {
        return None;
    }
    let mut clusters = match sidecar {
        Some(sidecar) => with_clusters(shape, all, sidecar),
        None => all.clone(),
    };
    for (service, port) in &served {
        let settings = documents.settings(&service.host(), port.number);
        clusters.extend([named(&clusters::inbound_of(*port, settings))]);
    }
    let given = match sidecar {
        Some(sidecar) => Cow::Owned(only(shape, sidecar)),
        None => Cow::Borrowed(shape),
    };
    let mut listeners = listeners::all(&given);
    if !served.is_empty() {
        let ports: Vec<Port> = served.iter().map(|(_, port)| *port).collect();
        listeners.retain(|listener| listener.name != VIRTUAL_INBOUND);
        listeners.push(inbound::listener(&ports));
    }
    for patch in patches(&filters) {
        listeners.iter_mut().for_each(|one| on_listener(patch, one));
    }
    let routes = routes::all(&given, &proxy.namespace);
    let routes = routes.into_iter().map(|one| patched(one, &filters));
    Some(Own {
        clusters: Arc::new(clusters),
        listeners: Arc::new(listeners.iter().map(named).collect()),
        routes: Arc::new(routes.collect()),
    })
}

/// The clusters of what a Sidecar gives and announces, and those that belong to no service.
fn with_clusters(shape: &MeshShape, all: &Table, sidecar: &Sidecar) -> Table {
    let services = shape
        .services
        .values()
        .filter(|service| sidecar.given.has(service) || sidecar.announced.has(service));
    let names = services.flat_map(|service| {
        let ports = service.ports.iter();
        ports.map(move |port| service.cluster(port.number))
    });
    let found = names.filter_map(|name| Some((name.clone(), all.get(&name)?.clone())));
    let special = clusters::special(shape);
    special.iter().map(named).chain(found).collect()
}

/// The mesh as a Sidecar lets it be called.
fn only(shape: &MeshShape, sidecar: &Sidecar) -> MeshShape {
    let given = shape.services.iter();
    let given = given.filter(|(_, service)| sidecar.given.has(service));
    MeshShape {
        services: given
            .map(|(host, service)| (host.clone(), service.clone()))
            .collect(),
        ..*shape
    }
}

fn patches<'a>(filters: &'a [&Filter]) -> impl Iterator<Item = &'a Patch> {
    filters.iter().flat_map(|filter| &filter.patches)
}

fn on_listener(patch: &Patch, listener: &mut Listener) {
    match patch {
        Patch::OutboundChain(chain) if listener.name == VIRTUAL_OUTBOUND => {
            listener.filter_chains.push((**chain).clone());
        }
        Patch::InboundTcp(port, value) if listener.name == VIRTUAL_INBOUND => {
            let name = inbound::chain_name(*port);
            let chains = listener.filter_chains.iter_mut();
            let filters = chains
                .filter(|chain| chain.name == name)
                .flat_map(|chain| &mut chain.filters);
            for filter in filters.filter(|filter| filter.name == TCP_PROXY) {
                if let Some(ConfigType::TypedConfig(config)) = &mut filter.config_type {
                    // Encodings behind one another are the encoding of both, merged.
                    config.value.extend(value.encode_to_vec());
                }
            }
        }
        _ => {}
    }
}

fn patched(mut config: RouteConfiguration, filters: &[&Filter]) -> (String, Bytes) {
    let mut merged = Vec::new();
    for patch in patches(filters) {
        match patch {
            Patch::RouteConfiguration(value) => merged.extend(value.encode_to_vec()),
            Patch::FirstRoute(name, route) => {
                let hosts = config.virtual_hosts.iter_mut();
                hosts
                    .filter(|host| host.name == *name)
                    .for_each(|host| host.routes.insert(0, (**route).clone()));
            }
            Patch::OutboundChain(_) | Patch::InboundTcp(..) => {}
        }
    }
    let (name, body) = named(&config);
    (name, [body.to_vec(), merged].concat().into())
}

#[cfg(test)]
mod tests;
