//! `virtualInbound` of a pod that serves ports of a service behind its sidecar, mutual TLS being STRICT
//! (pilot/pkg/networking/core/listener_inbound.go).

use super::clusters::{BLACK_HOLE, inbound_name};
use super::http_filters::{http_filters, manager};
use super::listeners::{
    INBOUND_PORT, MANAGER, VIRTUAL_INBOUND, destination_port, filter, tcp_proxy,
};
use super::mtls::downstream_socket;
use super::shape::{Port, Protocol};
use super::wire::{any, bool_value, seconds, socket, u32_value};
use super::{clusters, routes};
use std::net::Ipv4Addr;
use xds_shim::envoy::config::core::v3::TrafficDirection;
use xds_shim::envoy::config::listener::v3 as api;
use xds_shim::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use xds_shim::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use xds_shim::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_shim::envoy::google::protobuf::Any;

/// The listener, with a chain for each port. What comes for another port, or without TLS, is closed.
pub(super) fn listener(ports: &[Port]) -> api::Listener {
    let blackhole = api::FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
        filter_chain_match: destination_port(INBOUND_PORT),
        filters: vec![tcp_proxy(BLACK_HOLE)],
        ..Default::default()
    };
    api::Listener {
        name: VIRTUAL_INBOUND.to_owned(),
        address: Some(socket(Ipv4Addr::UNSPECIFIED, INBOUND_PORT)),
        filter_chains: [blackhole]
            .into_iter()
            .chain(ports.iter().map(|port| chain(*port)))
            .collect(),
        listener_filters: vec![
            listener_filter(
                "envoy.filters.listener.original_dst",
                any(&OriginalDst::default()),
            ),
            listener_filter(
                "envoy.filters.listener.tls_inspector",
                any(&TlsInspector::default()),
            ),
        ],
        listener_filters_timeout: seconds(0),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Inbound as i32,
        max_connections_to_accept_per_socket_event: u32_value(1),
        ..Default::default()
    }
}

/// The name of the chain of a port.
pub(super) fn chain_name(port: u16) -> String {
    format!("0.0.0.0_{port}")
}

fn chain(port: Port) -> api::FilterChain {
    let cluster = inbound_name(port.target);
    let filters = match port.protocol {
        Protocol::Http => vec![filter(MANAGER, any(&connection_manager(port.target)))],
        Protocol::Tcp => vec![tcp_proxy(&cluster)],
    };
    api::FilterChain {
        name: chain_name(port.target),
        filter_chain_match: Some(api::FilterChainMatch {
            destination_port: u32_value(u32::from(port.target)),
            transport_protocol: "tls".to_owned(),
            ..Default::default()
        }),
        filters,
        transport_socket: Some(downstream_socket()),
        ..Default::default()
    }
}

/// It says who called, by the certificate, in `x-forwarded-client-cert`.
fn connection_manager(port: u16) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager as parts;
    let said = parts::SetCurrentClientCertDetails {
        subject: bool_value(true),
        dns: true,
        uri: true,
        ..Default::default()
    };
    hcm::HttpConnectionManager {
        stat_prefix: format!("inbound_{};", chain_name(port)),
        route_specifier: Some(parts::RouteSpecifier::RouteConfig(routes::to_workload(
            &clusters::inbound_name(port),
        ))),
        server_name: "istio-envoy".to_owned(),
        forward_client_cert_details: parts::ForwardClientCertDetails::AppendForward as i32,
        set_current_client_cert_details: Some(said),
        http_filters: http_filters(),
        ..manager(port)
    }
}

fn listener_filter(name: &str, config: Any) -> api::ListenerFilter {
    api::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(api::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
