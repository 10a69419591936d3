//! Endpoints as istiod gives them (pilot/pkg/xds/endpoints/endpoint_builder.go).

use super::shape::{Port, Service};
use super::wire::{fields, metadata, socket, text, u32_value};
use std::net::Ipv4Addr;
use xds_shim::envoy::config::core::v3::{HealthStatus, Locality};
use xds_shim::envoy::config::endpoint::v3 as api;

/// What a cluster picks an endpoint's transport socket by.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// The endpoints of a service, one load assignment per port.
pub fn of_service(service: &Service) -> Vec<api::ClusterLoadAssignment> {
    service
        .ports
        .iter()
        .map(|port| assignment(service, *port))
        .collect()
}

/// What istiod answers for a name it does not know, and for a service without endpoints.
pub fn empty(cluster: &str) -> api::ClusterLoadAssignment {
    api::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        ..Default::default()
    }
}

fn assignment(service: &Service, port: Port) -> api::ClusterLoadAssignment {
    let name = service.cluster(port.number);
    let Ok(count) = u32::try_from(service.endpoints.len()) else {
        return empty(&name);
    };
    if count == 0 {
        return empty(&name);
    }
    let endpoints = service
        .endpoints
        .iter()
        .map(|address| endpoint(service, *address, port));
    api::ClusterLoadAssignment {
        cluster_name: name,
        endpoints: vec![api::LocalityLbEndpoints {
            locality: Some(Locality::default()),
            lb_endpoints: endpoints.collect(),
            load_balancing_weight: u32_value(count),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn endpoint(service: &Service, address: Ipv4Addr, port: Port) -> api::LbEndpoint {
    let Service {
        name, namespace, ..
    } = service;
    // workload;namespace;canonical service;canonical revision;cluster
    let workload = format!("{name};{namespace};{name};latest;Kubernetes");
    let mut about = metadata("istio", fields([("workload", text(&workload))]));
    if let Some(about) = about.as_mut().filter(|_| service.account.is_some()) {
        let takes = fields([("tlsMode", text("istio"))]);
        about.filter_metadata.insert(SOCKET_MATCH.to_owned(), takes);
    }
    api::LbEndpoint {
        health_status: HealthStatus::Healthy as i32,
        metadata: about,
        load_balancing_weight: u32_value(1),
        host_identifier: Some(api::lb_endpoint::HostIdentifier::Endpoint(api::Endpoint {
            address: Some(socket(address, port.target)),
            ..Default::default()
        })),
    }
}
