//! Listeners as istiod gives them to a sidecar (pilot/pkg/networking/core/listener.go, listener_builder.go).

use super::clusters::{BLACK_HOLE, INBOUND_PASSTHROUGH, PASSTHROUGH, inbound_name};
use super::http_filters::{http_filters, manager};
use super::shape::{MeshShape, Port, Protocol, Service};
use super::wire::{any, bool_value, seconds, socket, u32_value};
use std::net::Ipv4Addr;
use xds_shim::envoy::config::core::v3::TrafficDirection;
use xds_shim::envoy::config::listener::v3 as api;
use xds_shim::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use xds_shim::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_shim::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;

/// Where interception sends what the workload sends.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where interception sends what comes for the workload.
pub const INBOUND_PORT: u16 = 15006;
/// The listener of what is sent and has no other.
pub(super) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener of what comes.
pub(super) const VIRTUAL_INBOUND: &str = "virtualInbound";
/// The filter chain of an HTTP port for what is not HTTP.
const PASSTHROUGH_CHAIN: &str = "PassthroughFilterChain";
pub(super) const MANAGER: &str = "envoy.filters.network.http_connection_manager";
pub(super) const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// All listeners, in istiod's order: per port, per address, then the two that capture.
pub fn all(shape: &MeshShape) -> Vec<api::Listener> {
    let mut listeners: Vec<_> = shape.http_ports().into_iter().map(http_port).collect();
    for service in shape.services.values() {
        let ports = service
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Tcp);
        listeners.extend(ports.map(|port| tcp_address(service, *port)));
    }
    listeners.extend([virtual_outbound(), virtual_inbound(shape)]);
    listeners
}

/// The listener that all services with this HTTP port share.
fn http_port(port: u16) -> api::Listener {
    let name = format!("0.0.0.0_{port}");
    let connection_manager = hcm::HttpConnectionManager {
        stat_prefix: format!("outbound_{name};"),
        http_filters: http_filters(),
        ..manager(port)
    };
    api::Listener {
        filter_chains: vec![api::FilterChain {
            filter_chain_match: Some(api::FilterChainMatch {
                transport_protocol: "raw_buffer".to_owned(),
                application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
                ..Default::default()
            }),
            filters: vec![filter(MANAGER, any(&connection_manager))],
            ..Default::default()
        }],
        default_filter_chain: Some(api::FilterChain {
            filter_chain_match: Some(api::FilterChainMatch::default()),
            filters: vec![tcp_proxy(PASSTHROUGH)],
            name: PASSTHROUGH_CHAIN.to_owned(),
            ..Default::default()
        }),
        listener_filters: vec![http_inspector()],
        ..outbound(name, Ipv4Addr::UNSPECIFIED, port)
    }
}

/// The listener of one ClusterIP and TCP port.
fn tcp_address(service: &Service, port: Port) -> api::Listener {
    let name = format!("{}_{}", service.cluster_ip, port.number);
    api::Listener {
        filter_chains: vec![api::FilterChain {
            filters: vec![tcp_proxy(&service.cluster(port.number))],
            ..Default::default()
        }],
        ..outbound(name, service.cluster_ip, port.number)
    }
}

/// What outbound listeners have in common; none but `virtualOutbound` is a socket of its own.
fn outbound(name: String, address: Ipv4Addr, port: u16) -> api::Listener {
    api::Listener {
        name,
        address: Some(socket(address, port)),
        listener_filters_timeout: seconds(0),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Outbound as i32,
        bind_to_port: bool_value(false),
        ..Default::default()
    }
}

fn virtual_outbound() -> api::Listener {
    api::Listener {
        name: VIRTUAL_OUTBOUND.to_owned(),
        address: Some(socket(Ipv4Addr::UNSPECIFIED, OUTBOUND_PORT)),
        use_original_dst: bool_value(true),
        filter_chains: vec![
            // Straight to the capture port: an address that leads nowhere but round in circles.
            api::FilterChain {
                name: "virtualOutbound-blackhole".to_owned(),
                filter_chain_match: destination_port(OUTBOUND_PORT),
                filters: vec![tcp_proxy(BLACK_HOLE)],
                ..Default::default()
            },
            api::FilterChain {
                name: "virtualOutbound-catchall-tcp".to_owned(),
                filters: vec![tcp_proxy(PASSTHROUGH)],
                ..Default::default()
            },
        ],
        traffic_direction: TrafficDirection::Outbound as i32,
        max_connections_to_accept_per_socket_event: u32_value(1),
        ..Default::default()
    }
}

/// Plain text only: what a sidecar serves is no concern of those that trim what it calls.
fn virtual_inbound(shape: &MeshShape) -> api::Listener {
    let chain = |name: &str, port, cluster: &str| api::FilterChain {
        name: name.to_owned(),
        filter_chain_match: port,
        filters: vec![tcp_proxy(cluster)],
        ..Default::default()
    };
    let own = shape.inbound_port;
    api::Listener {
        name: VIRTUAL_INBOUND.to_owned(),
        address: Some(socket(Ipv4Addr::UNSPECIFIED, INBOUND_PORT)),
        use_original_dst: bool_value(true),
        filter_chains: vec![
            chain(
                "virtualInbound-blackhole",
                destination_port(INBOUND_PORT),
                BLACK_HOLE,
            ),
            chain(
                &format!("0.0.0.0_{own}"),
                destination_port(own),
                &inbound_name(own),
            ),
            chain("virtualInbound", None, INBOUND_PASSTHROUGH),
        ],
        traffic_direction: TrafficDirection::Inbound as i32,
        max_connections_to_accept_per_socket_event: u32_value(1),
        ..Default::default()
    }
}

pub(super) fn destination_port(port: u16) -> Option<api::FilterChainMatch> {
    let destination_port = u32_value(u32::from(port));
    Some(api::FilterChainMatch {
        destination_port,
        ..Default::default()
    })
}

pub(super) fn tcp_proxy(cluster: &str) -> api::Filter {
    let special = [BLACK_HOLE, PASSTHROUGH, INBOUND_PASSTHROUGH].contains(&cluster);
    let proxy = tcp::TcpProxy {
        stat_prefix: if special {
            cluster.to_owned()
        } else {
            format!("{cluster};")
        },
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(
            cluster.to_owned(),
        )),
        ..Default::default()
    };
    filter(TCP_PROXY, any(&proxy))
}

pub(super) fn filter(name: &str, config: xds_shim::envoy::google::protobuf::Any) -> api::Filter {
    let config_type = Some(api::filter::ConfigType::TypedConfig(config));
    api::Filter {
        name: name.to_owned(),
        config_type,
    }
}

fn http_inspector() -> api::ListenerFilter {
    api::ListenerFilter {
        name: "envoy.filters.listener.http_inspector".to_owned(),
        config_type: Some(api::listener_filter::ConfigType::TypedConfig(any(
            &HttpInspector::default(),
        ))),
        ..Default::default()
    }
}
