//! Small helpers that put Envoy messages together.

use prost::{Message, Name};
use std::net::Ipv4Addr;
use xds_shim::envoy::config::core::v3 as core;
use xds_shim::envoy::google::protobuf::value::Kind;
use xds_shim::envoy::google::protobuf::{
    Any, BoolValue, Duration, ListValue, Struct, UInt32Value, Value,
};

/// Packs a message.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A wrapped number.
pub(super) fn u32_value(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// A wrapped flag.
pub(super) fn bool_value(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// Whole seconds.
pub(super) fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

/// A TCP address.
pub(super) fn socket(address: Ipv4Addr, port: u16) -> core::Address {
    let socket = core::SocketAddress {
        address: address.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
            port,
        ))),
        ..Default::default()
    };
    core::Address {
        address: Some(core::address::Address::SocketAddress(socket)),
    }
}

/// "From the ADS stream, and wait for ever": istiod gives no fetch timeout.
pub(super) fn ads() -> core::ConfigSource {
    use core::config_source::ConfigSourceSpecifier;
    core::ConfigSource {
        initial_fetch_timeout: seconds(0),
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    }
}

/// A text value of a struct.
pub(super) fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

/// A number value of a struct.
pub(super) fn number(value: u16) -> Value {
    Value {
        kind: Some(Kind::NumberValue(f64::from(value))),
    }
}

/// A list value of a struct.
pub(super) fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

/// A struct as a value.
pub(super) fn object(fields: Struct) -> Value {
    Value {
        kind: Some(Kind::StructValue(fields)),
    }
}

/// A struct of these fields.
pub(super) fn fields<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct {
        fields: fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
    }
}

/// Metadata with one namespace.
pub(super) fn metadata(namespace: &str, value: Struct) -> Option<core::Metadata> {
    Some(core::Metadata {
        filter_metadata: [(namespace.to_owned(), value)].into(),
        ..Default::default()
    })
}
