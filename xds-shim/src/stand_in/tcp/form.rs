//! What plain listeners have in common, and the chain made of it.

use super::{CONNECTION, Destination, PlainTcp, RESERVED, socket_address};
use crate::cluster;
use crate::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source, substitution_format_string,
};
use crate::envoy::config::listener::v3::{Filter, filter};
use crate::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue, filter_state_value,
};
use crate::envoy::extensions::filters::network::set_filter_state::v3::Config;
use crate::envoy::google::protobuf::Any;
use crate::listener::{OnDemandConfig, TCP_PROXY_TYPE};
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
        wire::put_bytes(&mut out, 3, &name_the_destination());
        let changed = edit_tcp_proxy(&self.chain, |proxy| {
            // TcpProxy: stat_prefix = 1, cluster = 2, on_demand = 14.
            let mut proxy = proxy.to_vec();
            wire::put_string(&mut proxy, 1, "lazymesh");
            wire::put_string(&mut proxy, 2, NOWHERE);
            wire::put_bytes(&mut proxy, 14, config.tcp());
            Ok(proxy)
        })?;
        out.extend_from_slice(&changed);
        wire::put_string(&mut out, 7, &self.chain_name());
        Ok(out)
    }
}

/// An encoded filter that writes the name of the destination where the TCP proxy looks for its cluster.
fn name_the_destination() -> Vec<u8> {
    let format =
        format!("{CONNECTION}%DOWNSTREAM_LOCAL_PORT%|%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%");
    let text = DataSource {
        specifier: Some(data_source::Specifier::InlineString(format)),
        ..Default::default()
    };
    let format = SubstitutionFormatString {
        format: Some(substitution_format_string::Format::TextFormatSource(text)),
        ..Default::default()
    };
    let value = FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(PICKED.to_owned())),
        value: Some(filter_state_value::Value::FormatString(format)),
        ..Default::default()
    };
    let config = Config {
        on_new_connection: vec![value],
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

/// Takes a listener apart, if it is plain. Listener: address = 2, filter_chains = 3,
/// traffic_direction = 16, bind_to_port = 26; name = 1, listener_filters_timeout = 15 and
/// continue_on_listener_filters_timeout = 17 mean nothing without listener filters.
pub(super) fn plain(name: &str, listener: &[u8]) -> Result<Option<PlainTcp>, Error> {
    const OUTBOUND: u64 = 2;
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
    let unbound = match wire::last(listener, 26)? {
        // BoolValue.value = 1.
        Some(bind) => wire::varint(bind, 1)? == 0,
        None => false,
    };
    let destination = match wire::last(listener, 2)? {
        Some(address) => socket_address(address)?,
        None => None,
    };
    let ([chain], Some((ip, port)), true, OUTBOUND) =
        (&*chains, destination, unbound, wire::varint(listener, 16)?)
    else {
        return Ok(None);
    };
    if ip.is_unspecified() || ip.is_loopback() || port == 0 || RESERVED.contains(&port) {
        return Ok(None);
    }
    Ok(common(chain)?.map(|(chain, cluster)| PlainTcp {
        listener: name.into(),
        destination: Destination::new(ip, port),
        cluster: cluster.into(),
        form: Form {
            chain: chain.into(),
            beside: beside.into(),
        },
    }))
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
    if !cluster::is_holdable(cluster) || wire::last(proxy, 14)?.is_some() {
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
