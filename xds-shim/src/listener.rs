//! Makes a listener ask on demand: the HTTP filter `on_demand` goes first into each outbound HTTP
//! connection manager, and `on_demand` into each outbound TCP proxy.
//!
//! First, because `istio.alpn` and others look at the cluster, which is not there yet on a held
//! request (FACTS, trap 14). Edited on the wire, so that fields our protos do not know survive.
//! Field numbers: envoy/config/listener/v3/listener.proto and listener_components.proto,
//! envoy/extensions/filters/network/{http_connection_manager,tcp_proxy}/v3.

use crate::cluster;
use crate::envoy::config::common::mutation_rules::v3 as mutation_rules;
use crate::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption,
    TypedExtensionConfig, config_source::ConfigSourceSpecifier,
};
use crate::envoy::extensions::filters::http::on_demand::v3::{OnDemand, OnDemandCds};
use crate::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use crate::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy;
use crate::envoy::extensions::http::early_header_mutation::header_mutation::v3 as header_mutation;
use crate::envoy::google::protobuf::Any;
use crate::references::{self, Found};
use crate::stand_in;
use crate::wire::{self, Edit, Error};
use prost::Message;
use std::collections::BTreeSet;
use std::time::Duration;

/// The name of the HTTP filter that holds a request until its cluster is there.
pub const ON_DEMAND_FILTER: &str = "envoy.filters.http.on_demand";
const ON_DEMAND_TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand";
const HEADER_MUTATION_TYPE: &str = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
pub(crate) const HCM_TYPE: &[u8] = b"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
pub(crate) const TCP_PROXY_TYPE: &[u8] =
    b"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// What goes into listeners, encoded once.
#[derive(Debug, Clone)]
pub struct OnDemandConfig {
    /// An encoded `HttpFilter`.
    http_filter: Vec<u8>,
    /// An encoded `TcpProxy.OnDemand`.
    tcp: Vec<u8>,
    /// How much is held.
    hold: Hold,
}

/// How much of a lazy proxy's config is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Hold {
    /// Clusters and endpoints.
    Clusters,
    /// Virtual hosts and listeners too, which have stand-ins.
    #[default]
    All,
}

impl OnDemandConfig {
    /// `timeout`: how long a request or connection is held at the most.
    pub fn new(timeout: Duration) -> Self {
        let source = ConfigSource {
            resource_api_version: ApiVersion::V3 as i32,
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(
                AggregatedConfigSource::default(),
            )),
            ..Default::default()
        };
        let timeout = crate::envoy::google::protobuf::Duration {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanos: timeout.subsec_nanos() as i32,
        };
        let filter = OnDemand {
            odcds: Some(OnDemandCds {
                source: Some(source.clone()),
                timeout: Some(timeout),
                ..Default::default()
            }),
        };
        let any = Any {
            type_url: ON_DEMAND_TYPE.into(),
            value: filter.encode_to_vec(),
        };
        let http_filter = HttpFilter {
            name: ON_DEMAND_FILTER.into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any)),
            ..Default::default()
        };
        let tcp = tcp_proxy::OnDemand {
            odcds_config: Some(source),
            timeout: Some(timeout),
            ..Default::default()
        };
        Self {
            http_filter: http_filter.encode_to_vec(),
            tcp: tcp.encode_to_vec(),
            hold: Hold::default(),
        }
    }

    /// The same, but for how much is held.
    #[must_use]
    pub fn holding(self, hold: Hold) -> Self {
        Self { hold, ..self }
    }

    /// Whether virtual hosts and listeners may be held.
    pub fn has_stand_ins(&self) -> bool {
        self.hold == Hold::All
    }

    /// An encoded `TcpProxy.OnDemand`.
    pub(crate) fn tcp(&self) -> &[u8] {
        &self.tcp
    }
}

/// A listener made to ask on demand.
#[derive(Debug, Default)]
pub struct Lazy {
    /// The encoded `Resource`, if it changed.
    pub resource: Option<Vec<u8>>,
    /// What it refers to beside what on-demand covers.
    pub found: Found,
    /// Clusters that TCP proxies pick.
    pub tcp_clusters: BTreeSet<String>,
    /// Route configurations whose routes ask on demand.
    pub lazy_routes: BTreeSet<String>,
    /// Route configurations used where nothing asks.
    pub plain_routes: BTreeSet<String>,
    /// Route configurations whose virtual hosts cannot be held: no header tells what was asked for.
    pub whole_routes: BTreeSet<String>,
}

/// Makes the listener in an encoded `Resource` ask on demand. What is not outbound stays as it is.
///
/// # Errors
/// When the bytes are not such a message; the caller then gives it as it came, and whatever it
/// names with it.
pub fn make_lazy(resource: &[u8], config: &OnDemandConfig) -> Result<Lazy, Error> {
    let mut lazy = Lazy::default();
    let outbound = is_outbound(cluster::payload(resource)?)?;
    let changed = wire::edit_each(resource, 2, |any| {
        wire::edit_each(any, 2, |listener| {
            Pass {
                config,
                outbound,
                lazy: &mut lazy,
            }
            .listener(listener)
        })
    })?;
    lazy.resource = changed;
    Ok(lazy)
}

/// Listener.traffic_direction = 16, OUTBOUND = 2.
fn is_outbound(listener: &[u8]) -> Result<bool, Error> {
    Ok(wire::varint(listener, 16)? == 2)
}

/// One walk through a listener.
struct Pass<'a> {
    config: &'a OnDemandConfig,
    outbound: bool,
    lazy: &'a mut Lazy,
}

type Changed = Result<Option<Vec<u8>>, Error>;

impl Pass<'_> {
    /// Listener: filter_chains = 3, default_filter_chain = 25.
    fn listener(&mut self, listener: &[u8]) -> Changed {
        self.down(listener, &[3, 25], |pass, chain| {
            // FilterChain: filters = 3.
            pass.down(chain, &[3], |pass, filter| {
                // Filter: typed_config = 4.
                pass.down(filter, &[4], Self::typed_config)
            })
        })
    }

    fn typed_config(&mut self, any: &[u8]) -> Changed {
        let kind = wire::last(any, 1)?.unwrap_or_default();
        if kind == HCM_TYPE {
            wire::edit_each(any, 2, |hcm| self.http(hcm))
        } else if kind == TCP_PROXY_TYPE && self.outbound {
            wire::edit_each(any, 2, |proxy| self.tcp(proxy))
        } else {
            references::anywhere(any, &mut self.lazy.found);
            Ok(None)
        }
    }

    /// HttpConnectionManager: rds = 3, route_config = 4, http_filters = 5, upgrade_configs = 23
    /// with filters = 2.
    fn http(&mut self, hcm: &[u8]) -> Changed {
        // A user's own on_demand filter has its own idea of where to ask: leave that alone.
        let asks = self.outbound && !has_filter(hcm, 5)?;
        let mut upgrades = false;
        for field in wire::fields(hcm) {
            let field = field?;
            match (field.number, field.bytes()) {
                (3, Some(rds)) => {
                    let name = wire::string(rds, 2)?.to_owned();
                    let routes = if asks {
                        &mut self.lazy.lazy_routes
                    } else {
                        &mut self.lazy.plain_routes
                    };
                    routes.insert(name);
                    references::anywhere(rds, &mut self.lazy.found);
                }
                (4, Some(routes)) if asks => {
                    self.lazy.found.add(references::beside_routes(routes)?)
                }
                (23, Some(upgrade)) => {
                    upgrades |= wire::each(upgrade, 2).next().is_some();
                    references::anywhere(upgrade, &mut self.lazy.found);
                }
                _ => references::anywhere(field.record, &mut self.lazy.found),
            }
        }
        if !asks {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(hcm.len() + self.config.http_filter.len() + 256);
        // Ahead of the first http_filters: the order of a repeated field is that of its records.
        wire::put_bytes(&mut out, 5, &self.config.http_filter);
        if upgrades {
            // An upgrade with filters of its own does not run the others.
            let changed = wire::edit_each::<Error>(hcm, 23, |upgrade| {
                if wire::each(upgrade, 2).next().is_none() || has_filter(upgrade, 2)? {
                    return Ok(None);
                }
                let mut out = Vec::new();
                wire::put_bytes(&mut out, 2, &self.config.http_filter);
                out.extend_from_slice(upgrade);
                Ok(Some(out))
            })?;
            out.extend_from_slice(changed.as_deref().unwrap_or(hcm));
        } else {
            out.extend_from_slice(hcm);
        }
        self.tell_authority(hcm, &mut out)?;
        Ok(Some(out))
    }

    /// Has the header written by which a stand-in for virtual hosts picks its cluster.
    ///
    /// HttpConnectionManager: rds = 3 with route_config_name = 2, early_header_mutation_extensions = 52.
    fn tell_authority(&mut self, hcm: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(rds) = wire::last(hcm, 3)? else {
            return Ok(());
        };
        let name = wire::string(rds, 2)?;
        let told = self.config.has_stand_ins() && !changes_authority(hcm);
        match stand_in::header_value(name).filter(|_| told) {
            Some(value) => wire::put_bytes(out, 52, &write_header(&value)),
            None => {
                self.lazy.whole_routes.insert(name.to_owned());
            }
        }
        Ok(())
    }

    /// TcpProxy: on_demand = 14.
    fn tcp(&mut self, proxy: &[u8]) -> Changed {
        if wire::last(proxy, 14)?.is_some() {
            references::anywhere(proxy, &mut self.lazy.found);
            return Ok(None);
        }
        self.lazy.found.add(references::beside_tcp_proxy(proxy)?);
        let picked = picked(proxy)?;
        if picked.is_empty() {
            return Ok(None);
        }
        self.lazy.tcp_clusters.extend(picked);
        let mut out = proxy.to_vec();
        wire::put_bytes(&mut out, 14, &self.config.tcp);
        Ok(Some(out))
    }

    /// Goes down into the fields with these numbers and looks anywhere in the others.
    fn down(
        &mut self,
        message: &[u8],
        numbers: &[u32],
        mut into: impl FnMut(&mut Self, &[u8]) -> Changed,
    ) -> Changed {
        wire::edit(message, |field| match field.bytes() {
            Some(payload) if numbers.contains(&field.number) => {
                Ok(into(self, payload)?.map_or(Edit::Keep, Edit::Replace))
            }
            _ => {
                references::anywhere(field.record, &mut self.lazy.found);
                Ok(Edit::Keep)
            }
        })
    }
}

/// Whether the authority is changed before a route is chosen by it (strip_matching_host_port = 39,
/// strip_any_host_port = 42, strip_trailing_host_dot = 47; istiod sets none). What cannot be read counts.
fn changes_authority(hcm: &[u8]) -> bool {
    [39, 42, 47].iter().any(|f| wire::varint(hcm, *f) != Ok(0))
}

/// An encoded extension that writes the header of [`stand_in::HEADER`] over what a request has.
fn write_header(value: &str) -> Vec<u8> {
    let option = HeaderValueOption {
        header: Some(HeaderValue {
            key: stand_in::HEADER.into(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    let mutation = header_mutation::HeaderMutation {
        mutations: vec![mutation_rules::HeaderMutation {
            action: Some(mutation_rules::header_mutation::Action::Append(option)),
        }],
    };
    let extension = TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".into(),
        typed_config: Some(Any {
            type_url: HEADER_MUTATION_TYPE.into(),
            value: mutation.encode_to_vec(),
        }),
    };
    extension.encode_to_vec()
}

/// Whether a list of HTTP filters in field `number` has ours already (HttpFilter.name = 1).
fn has_filter(message: &[u8], number: u32) -> Result<bool, Error> {
    wire::each(message, number).try_fold(false, |seen, f| {
        Ok(seen || wire::string(f?, 1)? == ON_DEMAND_FILTER)
    })
}

/// The clusters a TCP proxy picks that may be held (cluster = 2; weighted_clusters = 10 with
/// clusters = 1 with name = 1).
fn picked(proxy: &[u8]) -> Result<Vec<String>, Error> {
    let mut names = vec![wire::string(proxy, 2)?];
    for list in wire::each(proxy, 10) {
        for entry in wire::each(list?, 1) {
            names.push(wire::string(entry?, 1)?);
        }
    }
    Ok(names
        .into_iter()
        .filter(|n| cluster::is_holdable(n))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests;
