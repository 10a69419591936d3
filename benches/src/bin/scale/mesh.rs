//! The mesh that is simulated, as values: services as in docs/facts.md, the workloads, and what each of them uses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use fastrand::Rng;
use mesh_tests::embedded::shape::numbered_service;
use mesh_tests::embedded::{MeshShape, Protocol, Service};

/// Over how many namespaces services and workloads are spread.
pub(crate) const NAMESPACES: u32 = 20;
/// Every how many services one has a TCP port.
const TCP_EVERY: u32 = 10;
/// How many workloads there are.
pub(crate) const WORKLOADS: u32 = 200;
/// The service that every workload uses.
pub(crate) const COMMON: u32 = 0;
/// The HTTP port that is used of a service.
const HTTP_PORT: u16 = 80;

/// A mesh of so many services: 20 namespaces, five endpoints each, two HTTP ports, every tenth a TCP port, automatic mTLS.
pub(crate) fn shape(services: u32) -> MeshShape {
    let all = (0..services).map(service);
    MeshShape {
        services: all.map(|service| (service.host(), service)).collect(),
        auto_mtls: true,
        ..MeshShape::default()
    }
}

/// Service number `index`.
pub(crate) fn service(index: u32) -> Service {
    Service {
        // By the tens digit, so that the services with a TCP port are in every namespace.
        namespace: namespace(index / TCP_EVERY),
        ..numbered_service(index)
    }
}

fn namespace(number: u32) -> String {
    format!("ns-{}", number % NAMESPACES)
}

/// A service port that a workload uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// The service's number.
    pub(crate) service: u32,
    /// istiod's name for its cluster.
    pub(crate) cluster: String,
    /// What Envoy asks for when it is called and its virtual host or listener is held.
    pub(crate) ask: String,
}

impl Use {
    /// Of a service with a TCP port that port, of another one its HTTP port; of the common one HTTP.
    pub(crate) fn of(index: u32) -> Self {
        let service = service(index);
        let tcp = service
            .port(Protocol::Tcp)
            .filter(|_| index != COMMON)
            .map(|port| port.number);
        let ask = match tcp {
            Some(port) => format!("lazytcp|{port}|{}", service.cluster_ip),
            None => format!("lazy|{HTTP_PORT}|{}", service.host()),
        };
        Self {
            service: index,
            cluster: service.cluster(tcp.unwrap_or(HTTP_PORT)),
            ask,
        }
    }
}

/// A Deployment.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uses: Vec<Use>,
}

/// All workloads: each uses the common service and two to nine others, the same in each run.
pub(crate) fn workloads(services: u32) -> Vec<Workload> {
    (0..WORKLOADS)
        .map(|number| Workload {
            namespace: namespace(number),
            name: format!("app-{number}"),
            uses: used_by(number, services).into_iter().map(Use::of).collect(),
        })
        .collect()
}

fn used_by(workload: u32, services: u32) -> BTreeSet<u32> {
    let mut random = Rng::with_seed(u64::from(workload));
    let count = random.usize(3..=10).min(services as usize);
    let mut used = BTreeSet::from([COMMON]);
    while used.len() < count {
        used.insert(random.u32(0..services));
    }
    used
}

/// A service that no workload uses.
pub(crate) fn unused(workloads: &[Workload], services: u32) -> Option<u32> {
    let uses = workloads.iter().flat_map(|workload| &workload.uses);
    let used: BTreeSet<u32> = uses.map(|one| one.service).collect();
    (0..services).find(|index| !used.contains(index))
}

/// The endpoints of a service after a change, which the first of them tells by its number.
pub(crate) fn changed_endpoints(service: &Service, change: u32) -> Vec<Ipv4Addr> {
    let mark = Ipv4Addr::from(u32::from(MARKS) + change);
    let others = service.endpoints.iter().skip(1).copied();
    std::iter::once(mark).chain(others).collect()
}

/// Which change an endpoint's address tells, if one.
pub(crate) fn change_of(address: Ipv4Addr) -> Option<u32> {
    u32::from(address)
        .checked_sub(u32::from(MARKS))
        .filter(|change| *change < 1 << 16)
}

/// Addresses that no endpoint of the mesh has.
const MARKS: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_has_twenty_namespaces_and_tcp_ports_in_each() {
        let shape = shape(1000);
        let all = shape.services.values();
        let namespaces: BTreeSet<_> = all.clone().map(|one| one.namespace.clone()).collect();
        let tcp = all.filter(|one| one.port(Protocol::Tcp).is_some());
        let with_tcp: BTreeSet<_> = tcp.map(|one| one.namespace.clone()).collect();
        assert_eq!(namespaces.len(), NAMESPACES as usize);
        assert_eq!(with_tcp, namespaces);
    }

    #[test]
    fn workloads_use_three_to_ten_services_and_one_all_of_them() {
        let workloads = workloads(1000);
        assert_eq!(workloads.len(), WORKLOADS as usize);
        for workload in &workloads {
            assert!((3..=10).contains(&workload.uses.len()));
            assert_eq!(workload.uses[0], Use::of(COMMON));
        }
        let unused = unused(&workloads, 1000).unwrap();
        let mut uses = workloads.iter().flat_map(|workload| &workload.uses);
        assert!(uses.all(|one| one.service != unused));
    }

    #[test]
    fn asks_are_those_of_envoy() {
        let http = Use::of(7);
        assert_eq!(http.ask, "lazy|80|svc-7.ns-0.svc.cluster.local");
        assert_eq!(http.cluster, "outbound|80||svc-7.ns-0.svc.cluster.local");
        let tcp = Use::of(30);
        assert_eq!(tcp.ask, "lazytcp|9000|10.96.0.40");
        assert_eq!(tcp.cluster, "outbound|9000||svc-30.ns-3.svc.cluster.local");
    }

    #[test]
    fn a_change_is_told_by_an_endpoint() {
        let endpoints = changed_endpoints(&service(3), 700);
        assert_eq!(endpoints.len(), 5);
        assert_eq!(change_of(endpoints[0]), Some(700));
        assert_eq!(change_of(endpoints[1]), None);
        assert!(
            service(19_999)
                .endpoints
                .iter()
                .all(|one| change_of(*one).is_none())
        );
    }
}
