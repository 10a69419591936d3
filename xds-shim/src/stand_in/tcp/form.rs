//! What a listener is made of, what plain ones have in common, and the chain made of that.

use super::{Destination, Plain, Single, Way, inside, is_reserved, socket_address, wild};
use crate::cluster::{OutboundName, ServicePort};
use crate::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source, substitution_format_string,
};
use crate::envoy::config::listener::v3::{Filter, filter};
use crate::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue, filter_state_value, filter_state_value::SharedWithUpstream,
};
use crate::envoy::extensions::filters::network::set_filter_state::v3::Config;
use crate::envoy::google::protobuf::Any;
use crate::listener::{HCM_TYPE, OnDemandConfig, TCP_PROXY_TYPE};
use crate::wire::{self, Edit, Error};
use prost::{Message, Name};
use std::sync::Arc;

/// The filter state that a TCP proxy takes its cluster from.
const PICKED: &str = "envoy.tcp_proxy.cluster";

/// The cluster named in a chain of ours. Never used, since the filter state says another; were it ever,
/// the connection would be closed.
const NOWHERE: &str = "BlackHoleCluster";

/// What plain listeners have in common: a filter chain whose TCP proxy lacks its cluster, and whatever
/// else a listener may have that a connection could notice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    /// An encoded `FilterChain`.
    chain: Arc<[u8]>,
    /// Records of the listener; `virtualOutbound` must have the same.
    pub(super) beside: Arc<[u8]>,
}

impl Form {
    /// The name of its chain, which tells forms and istiod's own chains apart.
    pub fn chain_name(&self) -> String {
        let hash = blake3::hash(&self.chain).to_hex();
        format!("lazymesh-tcp-{}", &hash[..16])
    }

    /// The chain: the listeners' own, but what its TCP proxy picks is the name of the connection's
    /// destination, asked for on demand. FilterChain: filters = 3, name = 7.
    pub(super) fn chain(&self, config: &OnDemandConfig) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(self.chain.len() + 512);
        wire::put_bytes(&mut out, 3, &name_the_destination(Way::Cluster));
        let changed = edit_tcp_proxy(&self.chain, |proxy| Ok(asking(proxy, config)))?;
        out.extend_from_slice(&changed);
        wire::put_string(&mut out, 7, &self.chain_name());
        Ok(out)
    }
}

/// A TCP proxy that asks for what the filter state says. TcpProxy: stat_prefix = 1, cluster = 2,
/// on_demand = 14.
fn asking(proxy: &[u8], config: &OnDemandConfig) -> Vec<u8> {
    let mut proxy = proxy.to_vec();
    wire::put_string(&mut proxy, 1, "lazymesh");
    wire::put_string(&mut proxy, 2, NOWHERE);
    wire::put_bytes(&mut proxy, 14, config.tcp());
    proxy
}

/// The name of [`inside_chain`].
pub(super) const INSIDE: &str = "lazymesh-inside";

/// An encoded `FilterChain` that leads connections into copies of their listeners. It must not do
/// anything that those do: TcpProxy.idle_timeout = 8 is a Duration of 0, never.
pub(super) fn inside_chain(config: &OnDemandConfig) -> Vec<u8> {
    let mut proxy = Vec::new();
    wire::put_bytes(&mut proxy, 8, &[]);
    let any = Any {
        type_url: String::from_utf8_lossy(TCP_PROXY_TYPE).into_owned(),
        value: asking(&proxy, config),
    };
    let filter = Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any)),
    };
    let mut out = Vec::new();
    wire::put_bytes(&mut out, 3, &name_the_destination(Way::Inside));
    wire::put_bytes(&mut out, 3, &filter.encode_to_vec());
    wire::put_string(&mut out, 7, INSIDE);
    out
}

/// An encoded filter that writes the name of the destination where the TCP proxy looks for its cluster,
/// and for a way inside, the addresses where the copy's listener filter looks for them.
fn name_the_destination(way: Way) -> Vec<u8> {
    let name = format!(
        "{}%DOWNSTREAM_LOCAL_PORT%|%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
        way.prefix()
    );
    let mut values = vec![value(PICKED, name, SharedWithUpstream::None)];
    if way == Way::Inside {
        for (key, address) in inside::ADDRESSES {
            values.push(value(key, address.to_owned(), SharedWithUpstream::Once));
        }
    }
    let config = Config {
        on_new_connection: values,
        ..Default::default()
    };
    let config = Any {
        type_url: Config::type_url(),
        value: config.encode_to_vec(),
    };
    let filter = Filter {
        name: "envoy.filters.network.set_filter_state".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    };
    filter.encode_to_vec()
}

fn value(key: &str, format: String, shared: SharedWithUpstream) -> FilterStateValue {
    let text = DataSource {
        specifier: Some(data_source::Specifier::InlineString(format)),
        ..Default::default()
    };
    let format = SubstitutionFormatString {
        format: Some(substitution_format_string::Format::TextFormatSource(text)),
        ..Default::default()
    };
    FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(key.to_owned())),
        value: Some(filter_state_value::Value::FormatString(format)),
        shared_with_upstream: shared as i32,
        ..Default::default()
    }
}

/// Takes a listener apart, if it is one for a service's address and port. Listener: address = 2,
/// filter_chains = 3, traffic_direction = 16, default_filter_chain = 25, bind_to_port = 26.
pub(super) fn single(name: &str, listener: &[u8]) -> Result<Option<Single>, Error> {
    const OUTBOUND: u64 = 2;
    let unbound = match wire::last(listener, 26)? {
        // BoolValue.value = 1.
        Some(bind) => wire::varint(bind, 1)? == 0,
        None => false,
    };
    let destination = match wire::last(listener, 2)? {
        Some(address) => socket_address(address)?,
        None => None,
    };
    let (Some((ip, port)), true, OUTBOUND) = (destination, unbound, wire::varint(listener, 16)?)
    else {
        return Ok(None);
    };
    if ip.is_unspecified() || ip.is_loopback() || port == 0 || is_reserved(port) {
        return Ok(None);
    }
    let plain = plain(listener)?;
    let inside = inside::can_be(listener)?;
    let Some(service) = service(listener)?.filter(|_| inside || plain.is_some()) else {
        return Ok(None);
    };
    Ok(Some(Single {
        listener: name.into(),
        destination: Destination::new(ip, port),
        service,
        plain,
        inside,
        sniffs: wild::sniffs(listener)?,
    }))
}

/// What makes a listener plain. Listener: name = 1, address = 2, filter_chains = 3,
/// traffic_direction = 16, bind_to_port = 26; listener_filters_timeout = 15 and
/// continue_on_listener_filters_timeout = 17 mean nothing without listener filters.
fn plain(listener: &[u8]) -> Result<Option<Plain>, Error> {
    let mut beside = Vec::new();
    let mut chains = Vec::new();
    for field in wire::fields(listener) {
        let field = field?;
        match (field.number, field.bytes()) {
            (1 | 2 | 15 | 16 | 17 | 26, _) => {}
            (3, Some(chain)) => chains.push(chain),
            _ => beside.extend_from_slice(field.record),
        }
    }
    let &[chain] = &*chains else {
        return Ok(None);
    };
    Ok(common(chain)?.map(|(chain, cluster)| Plain {
        cluster: cluster.into(),
        form: Form {
            chain: chain.into(),
            beside: beside.into(),
        },
    }))
}

/// The service a listener is for: its routes' name is `HOST:PORT`, or its TCP proxy leads to one. HTTP
/// connection manager: rds = 3 with route_config_name = 2; TcpProxy: cluster = 2.
fn service(listener: &[u8]) -> Result<Option<ServicePort>, Error> {
    let mut of_proxy = None;
    for chain in wire::each(listener, 3).chain(wire::each(listener, 25)) {
        for filter in wire::each(chain?, 3) {
            let any = wire::last(filter?, 4)?.unwrap_or_default();
            let config = wire::last(any, 2)?.unwrap_or_default();
            let kind = wire::last(any, 1)?.unwrap_or_default();
            if kind == HCM_TYPE {
                let rds = wire::last(config, 3)?.unwrap_or_default();
                let of_routes = wire::string(rds, 2)?
                    .rsplit_once(':')
                    .and_then(|(host, port)| Some(ServicePort::new(host, port.parse().ok()?)));
                if of_routes.is_some() {
                    return Ok(of_routes);
                }
            } else if kind == TCP_PROXY_TYPE {
                let name = OutboundName::parse(wire::string(config, 2)?);
                of_proxy = of_proxy.or(name.map(|name| name.service_port()));
            }
        }
    }
    Ok(of_proxy)
}

/// A chain without its name and without the cluster its TCP proxy picks, and that cluster. `None`: the
/// chain is not one that could take connections to many services. FilterChain: filter_chain_match = 1,
/// filters = 3, name = 7; Filter: typed_config = 4; Any: type_url = 1, value = 2.
fn common(chain: &[u8]) -> Result<Option<(Vec<u8>, &str)>, Error> {
    if wire::each(chain, 1).any(|matches| matches.is_ok_and(|m| !m.is_empty())) {
        return Ok(None);
    }
    let mut proxies = Vec::new();
    let mut last_is_proxy = false;
    for filter in wire::each(chain, 3) {
        let proxy = tcp_proxy(filter?)?;
        last_is_proxy = proxy.is_some();
        proxies.extend(proxy);
    }
    let (&[proxy], true) = (&*proxies, last_is_proxy) else {
        return Ok(None);
    };
    // TcpProxy: cluster = 2, on_demand = 14.
    let cluster = wire::string(proxy, 2)?;
    if !crate::cluster::is_holdable(cluster) || wire::last(proxy, 14)?.is_some() {
        return Ok(None);
    }
    let chain = wire::edit::<Error>(chain, |field| {
        Ok(match field.number {
            1 | 7 => Edit::Drop,
            _ => Edit::Keep,
        })
    })?
    .unwrap_or_else(|| chain.to_vec());
    let chain = edit_tcp_proxy(&chain, |proxy| {
        let kept = wire::edit::<Error>(proxy, |field| {
            Ok(match field.number {
                1 | 2 => Edit::Drop,
                _ => Edit::Keep,
            })
        })?;
        Ok(kept.unwrap_or_else(|| proxy.to_vec()))
    })?;
    // Named elsewhere as well, in another filter say, it is that service's chain and no other's.
    let own = memchr::memmem::find(&chain, cluster.as_bytes()).is_some();
    Ok((!own).then_some((chain, cluster)))
}

/// The TCP proxy that a filter is, if it is one.
fn tcp_proxy(filter: &[u8]) -> Result<Option<&[u8]>, Error> {
    let any = wire::last(filter, 4)?.unwrap_or_default();
    if wire::last(any, 1)?.unwrap_or_default() != TCP_PROXY_TYPE {
        return Ok(None);
    }
    Ok(Some(wire::last(any, 2)?.unwrap_or_default()))
}

/// A chain with its TCP proxies changed.
fn edit_tcp_proxy(
    chain: &[u8],
    change: impl Fn(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let changed = wire::edit_each::<Error>(chain, 3, |filter| {
        if tcp_proxy(filter)?.is_none() {
            return Ok(None);
        }
        wire::edit_each(filter, 4, |any| {
            wire::edit_each(any, 2, |proxy| change(proxy).map(Some))
        })
    })?;
    Ok(changed.unwrap_or_else(|| chain.to_vec()))
}
