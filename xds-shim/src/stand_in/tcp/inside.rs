//! A copy of a listener inside Envoy, and the cluster that leads there.
//!
//! The copy takes no address: it is an internal listener, called by name. All else is the listener's
//! own, and a listener filter gives each connection the addresses back that it had where it came in. So
//! what it is sniffed for, which chain takes it, where it is routed and what is logged is the same; only
//! `%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%` tells. FIN and RST pass as they come, both ways.
//!
//! Order: the copy, the route configurations it names, then the cluster, or the call comes to a
//! listener that is not ready. The cluster may go at any time, since that ends no connection; the copy
//! may not: its connections would be closed when it has drained.
//!
//! Field numbers: envoy/config/listener/v3/listener.proto.

use crate::ads::CDS;
use crate::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use crate::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use crate::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use crate::envoy::config::core::v3::{
    Address, EnvoyInternalAddress, TransportSocket, address::Address as AddressKind,
    envoy_internal_address::AddressNameSpecifier, transport_socket,
};
use crate::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use crate::envoy::config::listener::v3::{ListenerFilter, listener_filter};
use crate::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use crate::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use crate::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use crate::envoy::google::protobuf::{Any, Duration, UInt32Value};
use crate::envoy::service::discovery::v3::Resource;
use crate::wire::{self, Edit, Error};
use prost::{Message, Name};

/// Filter state of a connection, which the copy's listener filter reads, and what it is set to where
/// the connection comes in.
pub(super) const ADDRESSES: [(&str, &str); 2] = [
    (
        "envoy.filters.listener.original_dst.local_ip",
        "%DOWNSTREAM_LOCAL_ADDRESS%",
    ),
    (
        "envoy.filters.listener.original_dst.remote_ip",
        "%DOWNSTREAM_REMOTE_ADDRESS%",
    ),
];

/// Whether a listener has nothing that an internal one may not have. What it may have: name = 1,
/// filter_chains = 3, per_connection_buffer_limit_bytes = 5, metadata = 6, listener_filters = 9,
/// listener_filters_timeout = 15, traffic_direction = 16, continue_on_listener_filters_timeout = 17,
/// access_log = 22, default_filter_chain = 25. What [`copy`] leaves out: address = 2, bind_to_port =
/// 26.
pub(super) fn can_be(listener: &[u8]) -> Result<bool, Error> {
    wire::fields(listener).try_fold(true, |can, field| {
        let known = matches!(
            field?.number,
            1..=3 | 5 | 6 | 9 | 15 | 16 | 17 | 22 | 25 | 26
        );
        Ok(can && known)
    })
}

/// A copy of a listener, in its encoded `Resource`, that takes connections inside Envoy under a name.
/// Resource: resource = 2 with value = 2, name = 3. Listener: name = 1, internal_listener = 27.
///
/// # Errors
/// When the bytes are not such a message.
pub fn copy(resource: &[u8], name: &str) -> Result<Vec<u8>, Error> {
    let changed = wire::edit_each::<Error>(resource, 2, |any| {
        wire::edit_each(any, 2, |listener| {
            let mut out = Vec::with_capacity(listener.len() + 256);
            wire::put_bytes(&mut out, 9, &give_addresses_back());
            let kept = wire::edit::<Error>(listener, |field| {
                Ok(match field.number {
                    1 | 2 | 26 => Edit::Drop,
                    _ => Edit::Keep,
                })
            })?;
            out.extend_from_slice(kept.as_deref().unwrap_or(listener));
            wire::put_string(&mut out, 1, name);
            wire::put_bytes(&mut out, 27, &[]);
            Ok(Some(out))
        })
    })?;
    let mut out = changed.unwrap_or_else(|| resource.to_vec());
    wire::put_string(&mut out, 3, name);
    Ok(out)
}

/// An encoded listener filter that reads [`ADDRESSES`].
fn give_addresses_back() -> Vec<u8> {
    ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(
            &OriginalDst::default(),
        ))),
        ..Default::default()
    }
    .encode_to_vec()
}

/// A cluster of this name, an encoded `Resource`, that leads to the copy of the same name.
pub fn cluster(name: &str) -> Vec<u8> {
    let address = EnvoyInternalAddress {
        address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(name.to_owned())),
        ..Default::default()
    };
    let endpoint = Endpoint {
        address: Some(Address {
            address: Some(AddressKind::EnvoyInternalAddress(address)),
        }),
        ..Default::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    let plain = socket("envoy.transport_sockets.raw_buffer", &RawBuffer::default());
    let handing_on = InternalUpstreamTransport {
        transport_socket: Some(plain),
        ..Default::default()
    };
    // Connections are bounded in the copy, if they are.
    let most = Some(UInt32Value { value: u32::MAX });
    let unbounded = Thresholds {
        max_connections: most,
        max_pending_requests: most,
        max_requests: most,
        max_retries: most,
        ..Default::default()
    };
    let cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: Some(Duration {
            seconds: 1,
            nanos: 0,
        }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![unbounded],
            ..Default::default()
        }),
        transport_socket: Some(socket(
            "envoy.transport_sockets.internal_upstream",
            &handing_on,
        )),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let any = Any {
        type_url: CDS.to_owned(),
        value: cluster.encode_to_vec(),
    };
    Resource {
        name: name.to_owned(),
        resource: Some(any),
        ..Default::default()
    }
    .encode_to_vec()
}

fn socket(name: &str, config: &impl Name) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

fn any<M: Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}
