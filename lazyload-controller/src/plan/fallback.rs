//! Where calls to what a Sidecar does not have go.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Settings;
use crate::mesh::World;
use crate::mesh::object::selects;
use crate::mesh::service::PortProtocol;

/// Where the fallback stands in this mesh.
pub(super) struct Fallback {
    pub(super) host: String,
    pub(super) http_port: u16,
    pub(super) tunnel_port: u16,
    pub(super) http_ports: BTreeSet<u16>,
    pub(super) cidrs: Vec<IpNet>,
    /// Whether a global proxy serves, as far as can be seen.
    pub(super) is_up: bool,
}

impl Fallback {
    /// `None` while there is no global proxy to fall back to.
    pub(super) fn of(world: &World, settings: &Settings) -> Option<Self> {
        let proxy = &settings.global_proxy;
        let mut services = world.services_in(&proxy.namespace);
        let domain = world.cluster_domain();
        let host = format!("{}.{}.svc.{domain}", proxy.name, proxy.namespace);
        let service = services.find(|service| service.host == host)?;
        let http_ports: BTreeSet<u16> = service
            .ports
            .iter()
            .filter(|port| port.protocol == PortProtocol::Http)
            .map(|port| port.number)
            .collect();
        let mut pods = world.pods(&proxy.namespace).map(|(_, pod)| pod);
        // Without a selector somebody else says which endpoints it has.
        let is_up = service.selector.is_empty()
            || pods.any(|pod| pod.ready && selects(&service.selector, &pod.labels));
        let tunnels = service.port(settings.tunnel_port).is_some();
        let mut cidrs = world.service_cidrs();
        if cidrs.is_empty() {
            cidrs.clone_from(&settings.service_cidrs);
        }
        Some(Self {
            host,
            http_port: *http_ports.first()?,
            tunnel_port: settings.tunnel_port,
            http_ports,
            cidrs: if tunnels { cidrs } else { Vec::new() },
            is_up,
        })
    }
}
