//! An EnvoyFilter: what its patches do to the resources of a proxy.

use super::Selector;
use super::patch;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use xds_shim::envoy::config::listener::v3 as listener;
use xds_shim::envoy::config::route::v3 as route;
use xds_shim::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

/// An EnvoyFilter.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::embedded) struct Filter {
    /// The labels of the pods it is for; without, it is for its namespace.
    pub(in crate::embedded) selector: Option<BTreeMap<String, String>>,
    pub(in crate::embedded) priority: i32,
    pub(in crate::embedded) patches: Vec<Patch>,
}

/// One patch.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::embedded) enum Patch {
    /// Merged into every outbound route config.
    RouteConfiguration(Box<route::RouteConfiguration>),
    /// Put first into the virtual hosts of this name.
    FirstRoute(String, Box<route::Route>),
    /// Added to `virtualOutbound`.
    OutboundChain(Box<listener::FilterChain>),
    /// Merged into the TCP proxies of an inbound port.
    InboundTcp(u16, Box<TcpProxy>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default)]
    priority: i32,
    workload_selector: Option<Selector>,
    config_patches: Vec<ConfigPatch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ConfigPatch {
    apply_to: String,
    r#match: Value,
    patch: Operation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    operation: String,
    value: Value,
}

impl Filter {
    pub(super) fn read(spec: Spec) -> Result<Self, String> {
        let patches = spec.config_patches.into_iter().map(Patch::read);
        Ok(Self {
            selector: spec.workload_selector.map(|selector| selector.labels),
            priority: spec.priority,
            patches: patches.collect::<Result<_, _>>()?,
        })
    }
}

impl Patch {
    fn read(patch: ConfigPatch) -> Result<Self, String> {
        let found = patch.r#match;
        let Operation { operation, value } = patch.patch;
        let what = format!("{operation} of {} where {found}", patch.apply_to);
        let said = || format!("{what}: not understood");
        let text = |path: &str| found.pointer(path).and_then(Value::as_str);
        let outbound = text("/context") == Some("SIDECAR_OUTBOUND");
        let inbound = text("/context") == Some("SIDECAR_INBOUND");
        match (patch.apply_to.as_str(), operation.as_str()) {
            ("ROUTE_CONFIGURATION", "MERGE") if outbound && members(&found) == 1 => {
                let value: patch::RouteConfiguration = read(value)?;
                Ok(Self::RouteConfiguration(Box::new(value.into())))
            }
            ("HTTP_ROUTE", "INSERT_FIRST") if outbound && members(&found) == 2 => {
                let host = text("/routeConfiguration/vhost/name").ok_or_else(said)?;
                let value: patch::Route = read(value)?;
                Ok(Self::FirstRoute(
                    host.to_owned(),
                    Box::new(value.try_into()?),
                ))
            }
            ("FILTER_CHAIN", "ADD")
                if outbound && text("/listener/name") == Some("virtualOutbound") =>
            {
                let value: patch::FilterChain = read(value)?;
                Ok(Self::OutboundChain(Box::new(value.try_into()?)))
            }
            ("NETWORK_FILTER", "MERGE") if inbound => {
                let filter = text("/listener/filterChain/filter/name");
                let port = found
                    .pointer("/listener/portNumber")
                    .and_then(Value::as_u64);
                let port = port.and_then(|port| u16::try_from(port).ok());
                let (Some(patch::TCP_PROXY), Some(port)) = (filter, port) else {
                    return Err(said());
                };
                let value: patch::TypedTcpProxy = read(value)?;
                Ok(Self::InboundTcp(
                    port,
                    Box::new(value.typed_config.try_into()?),
                ))
            }
            _ => Err(said()),
        }
    }
}

fn members(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}
