//! What a mesh holds, as a value: services, their ports, addresses and endpoints.
//!
//! Owns names and addresses. Knows nothing of xDS: `clusters`, `endpoints`, `listeners` and `routes` turn this into
//! resources.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The DNS suffix of service hosts.
pub const DOMAIN_SUFFIX: &str = "svc.cluster.local";
/// How many namespaces [`MeshShape::with_services`] spreads its services over.
pub const NAMESPACES: u32 = 10;
/// Endpoints of each service of [`MeshShape::with_services`].
pub const ENDPOINTS_PER_SERVICE: u32 = 5;
/// Every how many services one has a TCP port too.
pub const TCP_EVERY: u32 = 10;

/// What a service port speaks; istiod takes it from the port's name or `appProtocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2: one listener and one route config per port number, shared by all services.
    Http,
    /// Opaque bytes: a listener for each ClusterIP and port.
    Tcp,
}

/// A port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// The number callers use, 1 to 65535.
    pub number: u16,
    /// The number the endpoints listen on.
    pub target: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
}

/// A service with a ClusterIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Short name, unique in its namespace.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// The virtual address callers connect to.
    pub cluster_ip: Ipv4Addr,
    /// At least one, each number once.
    pub ports: Vec<Port>,
    /// Addresses of the pods behind it; all serve every port.
    pub endpoints: Vec<Ipv4Addr>,
    /// The service account of these pods, if they have sidecars: they take mutual TLS then, and nothing else.
    pub account: Option<String>,
}

impl Service {
    /// The full name: `name.namespace.svc.cluster.local`.
    pub fn host(&self) -> String {
        format!("{}.{}.{DOMAIN_SUFFIX}", self.name, self.namespace)
    }

    /// The name istiod gives the cluster of one port (no subset).
    pub fn cluster(&self, port: u16) -> String {
        outbound_cluster(&self.host(), port)
    }

    /// The first port that speaks `protocol`.
    pub fn port(&self, protocol: Protocol) -> Option<Port> {
        self.ports
            .iter()
            .copied()
            .find(|port| port.protocol == protocol)
    }
}

/// `outbound|PORT||HOST`.
pub fn outbound_cluster(host: &str, port: u16) -> String {
    format!("outbound|{port}||{host}")
}

/// A whole mesh, by host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshShape {
    /// Services by [`Service::host`].
    pub services: BTreeMap<String, Service>,
    /// Whether clusters carry istiod's automatic mTLS (`tlsMode-istio` socket matches). Their certificates come by SDS
    /// from the static cluster `sds-grpc`; a proxy without one must have this off, or its clusters never warm.
    pub auto_mtls: bool,
    /// The port that the proxy's own workload serves, for `virtualInbound` and the inbound cluster.
    pub inbound_port: u16,
}

impl Default for MeshShape {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            auto_mtls: false,
            inbound_port: 8080,
        }
    }
}

impl MeshShape {
    /// The usual mesh of `count` services: `svc-I.ns-J`, five endpoints each, HTTP on 80 and 8080, and TCP on 9000 for
    /// every tenth. ClusterIPs count up from 10.96.0.10, endpoints from 10.128.0.1. Endpoints listen on the
    /// service's port number plus 10000.
    ///
    /// At most 500,000 services fit the address ranges; more are left out.
    pub fn with_services(count: u32) -> Self {
        let services = (0..count.min(500_000)).map(numbered_service);
        Self {
            services: services.map(|service| (service.host(), service)).collect(),
            ..Self::default()
        }
    }

    /// The same mesh with automatic mTLS on or off.
    #[must_use]
    pub fn auto_mtls(mut self, on: bool) -> Self {
        self.auto_mtls = on;
        self
    }

    /// All services that have the HTTP port `number`.
    pub fn on_http_port(&self, number: u16) -> impl Iterator<Item = &Service> {
        self.services.values().filter(move |service| {
            service
                .ports
                .iter()
                .any(|p| p.number == number && p.protocol == Protocol::Http)
        })
    }

    /// The ports that the pod of this address serves behind a sidecar: for which service, and which.
    pub fn served_at(&self, pod: Ipv4Addr) -> impl Iterator<Item = (&Service, Port)> {
        let behind =
            move |service: &&Service| service.account.is_some() && service.endpoints.contains(&pod);
        let services = self.services.values().filter(behind);
        services.flat_map(|service| service.ports.iter().map(move |port| (service, *port)))
    }

    /// The HTTP port numbers in use, ascending.
    pub fn http_ports(&self) -> Vec<u16> {
        let all = self.services.values().flat_map(|service| &service.ports);
        let mut numbers: Vec<u16> = all
            .filter(|p| p.protocol == Protocol::Http)
            .map(|p| p.number)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// Service number `index` of the usual mesh.
pub fn numbered_service(index: u32) -> Service {
    let port = |number, protocol| Port {
        number,
        target: number + 10_000,
        protocol,
    };
    let mut ports = vec![port(80, Protocol::Http), port(8080, Protocol::Http)];
    if index.is_multiple_of(TCP_EVERY) {
        ports.push(port(9000, Protocol::Tcp));
    }
    let endpoint = |n| {
        address(
            Ipv4Addr::new(10, 128, 0, 1),
            index * ENDPOINTS_PER_SERVICE + n,
        )
    };
    Service {
        name: format!("svc-{index}"),
        // The tens digit, so that the services with a TCP port are in every namespace.
        namespace: format!("ns-{}", index / TCP_EVERY % NAMESPACES),
        cluster_ip: address(Ipv4Addr::new(10, 96, 0, 10), index),
        ports,
        endpoints: (0..ENDPOINTS_PER_SERVICE).map(endpoint).collect(),
        account: None,
    }
}

fn address(base: Ipv4Addr, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_usual_mesh_has_two_http_ports_and_every_tenth_a_tcp_port() {
        let mesh = MeshShape::with_services(1000);
        assert_eq!(mesh.services.len(), 1000);
        assert_eq!(mesh.http_ports(), [80, 8080]);
        let tcp = mesh
            .services
            .values()
            .filter(|s| s.port(Protocol::Tcp).is_some());
        assert_eq!(tcp.count(), 100);
        assert_eq!(mesh.on_http_port(80).count(), 1000);
        assert_eq!(mesh.on_http_port(9000).count(), 0);
    }

    #[test]
    fn addresses_and_hosts_are_distinct_and_in_their_ranges() {
        let mesh = MeshShape::with_services(20_000);
        let vips: BTreeSet<_> = mesh.services.values().map(|s| s.cluster_ip).collect();
        let pods: BTreeSet<_> = mesh
            .services
            .values()
            .flat_map(|s| s.endpoints.clone())
            .collect();
        assert_eq!((vips.len(), pods.len()), (20_000, 100_000));
        assert!(
            vips.iter()
                .all(|ip| ip.octets()[0] == 10 && ip.octets()[1] & 0xf0 == 96)
        );
        assert!(
            pods.iter()
                .all(|ip| ip.octets()[0] == 10 && ip.octets()[1] & 0xc0 == 128)
        );
    }

    #[test]
    fn names_are_those_of_istiod() {
        let service = numbered_service(123);
        assert_eq!(service.host(), "svc-123.ns-2.svc.cluster.local");
        assert_eq!(
            service.cluster(80),
            "outbound|80||svc-123.ns-2.svc.cluster.local"
        );
    }
}
