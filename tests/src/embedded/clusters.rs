//! Clusters as istiod gives them to a sidecar (pilot/pkg/networking/core/cluster_builder.go).

use super::istio::PortSettings;
use super::shape::{MeshShape, Port, Service};
use super::wire::{ads, any, bool_value, fields, list, metadata, number, object, seconds, socket};
use super::wire::{text, u32_value};
use std::net::Ipv4Addr;
use xds_shim::envoy::config::cluster::v3::{self as api, cluster};
use xds_shim::envoy::config::core::v3 as core;
use xds_shim::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_shim::envoy::extensions::upstreams::http::v3 as http;

/// Drops what is sent to it.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Sends on to where the caller wanted to go.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// The same for what comes in.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The source address of what the sidecar hands to its own workload.
const INBOUND_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The clusters of a service, one per port.
pub fn of_service(service: &Service, auto_mtls: bool) -> Vec<api::Cluster> {
    service
        .ports
        .iter()
        .map(|port| outbound(service, *port, auto_mtls))
        .collect()
}

/// The clusters that belong to no service.
pub fn special(shape: &MeshShape) -> Vec<api::Cluster> {
    vec![
        black_hole(),
        passthrough(PASSTHROUGH, None),
        passthrough(INBOUND_PASSTHROUGH, Some(INBOUND_SOURCE)),
        inbound(shape.inbound_port),
    ]
}

/// The clusters that lead a pod's proxy to the ports that it serves. What a DestinationRule says of the protocol holds on
/// this side as well.
pub(super) fn inbound_of(port: Port, settings: Option<PortSettings>) -> api::Cluster {
    let mut cluster = inbound(port.target);
    if settings == Some(PortSettings::AsCaller) {
        apply(&mut cluster, PortSettings::AsCaller);
    }
    cluster
}

/// Makes a cluster connect in the protocol that a DestinationRule says.
pub(super) fn apply(cluster: &mut api::Cluster, settings: PortSettings) {
    let options = match settings {
        PortSettings::AsCaller => downstream_protocol(),
        PortSettings::Http2 => only_http2(),
    };
    cluster
        .typed_extension_protocol_options
        .insert(HTTP_OPTIONS.to_owned(), any(&options));
}

/// The name of the cluster that leads to the proxy's own workload.
pub fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

fn outbound(service: &Service, port: Port, auto_mtls: bool) -> api::Cluster {
    let name = service.cluster(port.number);
    let services = fields([
        ("host", text(&service.host())),
        ("name", text(&service.name)),
        ("namespace", text(&service.namespace)),
    ]);
    let istio = fields([
        ("default_original_port", number(port.number)),
        ("services", list(vec![object(services)])),
    ]);
    api::Cluster {
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: name.clone(),
        }),
        lb_policy: cluster::LbPolicy::LeastRequest as i32,
        common_lb_config: Some(cluster::CommonLbConfig {
            locality_config_specifier: Some(
                cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    cluster::common_lb_config::LocalityWeightedLbConfig::default(),
                ),
            ),
            ..Default::default()
        }),
        transport_socket_matches: if auto_mtls {
            mtls_matches(service, port)
        } else {
            vec![]
        },
        metadata: metadata("istio", istio),
        ..common(&name, cluster::DiscoveryType::Eds)
    }
}

/// What all of istiod's clusters have in common.
fn common(name: &str, kind: cluster::DiscoveryType) -> api::Cluster {
    api::Cluster {
        name: name.to_owned(),
        alt_stat_name: format!("{name};"),
        connect_timeout: seconds(10),
        circuit_breakers: Some(unlimited()),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind as i32)),
        ..Default::default()
    }
}

fn unlimited() -> api::CircuitBreakers {
    let thresholds = api::circuit_breakers::Thresholds {
        max_connections: u32_value(u32::MAX),
        max_pending_requests: u32_value(u32::MAX),
        max_requests: u32_value(u32::MAX),
        max_retries: u32_value(u32::MAX),
        track_remaining: true,
        ..Default::default()
    };
    api::CircuitBreakers {
        thresholds: vec![thresholds],
        ..Default::default()
    }
}

/// The upstream speaks the HTTP version that the caller spoke.
fn downstream_protocol() -> http::HttpProtocolOptions {
    use http::http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig};
    let config = UseDownstreamHttpConfig {
        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        ..Default::default()
    };
    http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            config,
        )),
        ..Default::default()
    }
}

fn only_http2() -> http::HttpProtocolOptions {
    use http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    let config = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
            core::Http2ProtocolOptions::default(),
        )),
    };
    http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)),
        ..Default::default()
    }
}

/// mTLS towards endpoints that have a sidecar, plain text towards the others.
fn mtls_matches(service: &Service, port: Port) -> Vec<cluster::TransportSocketMatch> {
    let plain = core::TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(
            &RawBuffer::default(),
        ))),
    };
    vec![
        cluster::TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(fields([("tlsMode", text("istio"))])),
            transport_socket: Some(super::mtls::upstream_socket(service, port)),
        },
        cluster::TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(fields([])),
            transport_socket: Some(plain),
        },
    ]
}

fn black_hole() -> api::Cluster {
    api::Cluster {
        circuit_breakers: None,
        ..common(BLACK_HOLE, cluster::DiscoveryType::Static)
    }
}

fn passthrough(name: &str, source: Option<Ipv4Addr>) -> api::Cluster {
    api::Cluster {
        lb_policy: cluster::LbPolicy::ClusterProvided as i32,
        upstream_bind_config: source.map(bind_to),
        typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&downstream_protocol()))]
            .into(),
        ..common(name, cluster::DiscoveryType::OriginalDst)
    }
}

fn inbound(port: u16) -> api::Cluster {
    api::Cluster {
        lb_policy: cluster::LbPolicy::ClusterProvided as i32,
        upstream_bind_config: Some(bind_to(INBOUND_SOURCE)),
        // Never forgets a destination: istiod gives the longest duration that Go has.
        cleanup_interval: seconds(9_223_372_035),
        ..common(&inbound_name(port), cluster::DiscoveryType::OriginalDst)
    }
}

fn bind_to(address: Ipv4Addr) -> core::BindConfig {
    let Some(core::address::Address::SocketAddress(source)) = socket(address, 0).address else {
        return core::BindConfig::default();
    };
    core::BindConfig {
        source_address: Some(source),
        freebind: bool_value(false),
        ..Default::default()
    }
}
