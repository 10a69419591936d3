//! Where Envoy leads a call by the config it has.

use super::core::address::Address;
use super::core::socket_address::PortSpecifier;
use super::envoy::Envoy;
use super::*;
use crate::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use crate::listener::{ON_DEMAND_FILTER, TCP_PROXY_TYPE};
use crate::stand_in::domains::{Domains, host_of};
use crate::stand_in::tcp::tests::matching::{Spoken, chain_of};
use crate::stand_in::tcp::{Asked, Destination, Way};
use crate::stand_in::{HEADER, Name};
use rds::route_action::ClusterSpecifier;

/// A request or a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) slot: u8,
    pub(super) to: Destination,
    /// Of a request.
    pub(super) authority: Option<String>,
}

impl Call {
    /// Whether it is to an address in the range of the fallback: all that there are here.
    fn in_fallback(&self) -> bool {
        self.to.address.to_string().starts_with("10.0.0.")
    }
}

/// For the eyes of who reads a failure; all are alike.
#[derive(Debug, Clone)]
pub(super) struct Why(#[expect(dead_code, reason = "printed")] String);

impl PartialEq for Why {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Why {}

fn failed(why: &str) -> End {
    End::Failed(Why(why.to_owned()))
}

/// Where a call ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// At a cluster: where its endpoints are from, and what else is in it but its names.
    At(String, Vec<u8>),
    /// It failed at once, for this.
    Failed(Why),
    /// It waits for this cluster.
    Held(String),
    /// Nothing takes it yet: the proxy starts.
    Early,
}

pub(super) fn socket(listener: &lds::Listener) -> Option<(&str, u16)> {
    match listener.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(socket) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => Some((&socket.address, port as u16)),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn connection_manager(chain: &lds::FilterChain) -> Option<hcm::HttpConnectionManager> {
    let filter = chain.filters.last()?;
    match &filter.config_type {
        Some(lds::filter::ConfigType::TypedConfig(any))
            if any.type_url.ends_with("HttpConnectionManager") =>
        {
            hcm::HttpConnectionManager::decode(&*any.value).ok()
        }
        _ => None,
    }
}

pub(super) fn rds_name(manager: &hcm::HttpConnectionManager) -> &str {
    match &manager.route_specifier {
        Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) => &rds.route_config_name,
        other => panic!("{other:?}"),
    }
}

impl Envoy {
    /// Where a call from outside goes.
    pub(super) fn leads(&self, call: &Call) -> End {
        let at = call.to.address.to_string();
        let find = |address: &str, port| {
            let mut all = self.listeners.values().filter_map(|l| l.active.as_ref());
            all.find(|l| socket(l) == Some((address, port)))
        };
        let port = call.to.port;
        let found = find(&at, port).or_else(|| find("0.0.0.0", port));
        match found.or_else(|| find("0.0.0.0", 15_001)) {
            Some(listener) => self.in_listener(listener, call),
            None => End::Early,
        }
    }

    fn in_listener(&self, listener: &lds::Listener, call: &Call) -> End {
        let spoken = match call.authority {
            Some(_) => Spoken::Http1,
            None => Spoken::Bytes,
        };
        let by_name = |name: String| listener.filter_chains.iter().find(|c| c.name == name);
        let matches = |chain: &&lds::FilterChain| {
            let matches = chain.filter_chain_match.clone().unwrap_or_default();
            let port = matches
                .destination_port
                .is_none_or(|p| p.value == u32::from(call.to.port));
            let protocols = matches.application_protocols;
            let range = matches.prefix_ranges.is_empty() || call.in_fallback();
            port && range
                && (protocols.is_empty()
                    || call.authority.is_some() && protocols.contains(&"http/1.1".to_owned()))
        };
        let chain = match listener.filter_chain_matcher {
            Some(_) => chain_of(listener, &call.to, spoken).map(|n| by_name(n).unwrap()),
            None => listener.filter_chains.iter().find(matches),
        };
        let chain = chain.or(listener.default_filter_chain.as_ref());
        self.in_chain(chain.unwrap(), call)
    }

    fn in_chain(&self, chain: &lds::FilterChain, call: &Call) -> End {
        if let Some(manager) = connection_manager(chain) {
            return match &call.authority {
                Some(authority) => self.in_routes(&manager, authority, call),
                None => failed("bytes for HTTP"),
            };
        }
        let config = chain
            .filters
            .iter()
            .rev()
            .find_map(|f| match &f.config_type {
                Some(lds::filter::ConfigType::TypedConfig(any))
                    if any.type_url.as_bytes() == TCP_PROXY_TYPE =>
                {
                    TcpProxy::decode(&*any.value).ok()
                }
                _ => None,
            });
        let proxy = config.unwrap();
        let way = match &*chain.name {
            "lazymesh-inside" => Some(Way::Inside),
            name => name.starts_with("lazymesh-tcp-").then_some(Way::Cluster),
        };
        let cluster = match (way, proxy.cluster_specifier) {
            (Some(way), _) => Asked {
                way,
                destination: call.to,
            }
            .name(),
            (None, Some(tcp_proxy::ClusterSpecifier::Cluster(cluster))) => cluster,
            other => panic!("{other:?}"),
        };
        self.at_cluster(&cluster, call, proxy.on_demand.is_some())
    }

    fn in_routes(&self, manager: &hcm::HttpConnectionManager, authority: &str, call: &Call) -> End {
        let name = rds_name(manager);
        let (config, _) = &self.routes[name];
        let mut domains = Domains::default();
        for (at, host) in config.virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                domains.insert(domain, at as u32);
            }
        }
        let host = host_of(authority, config.ignore_port_in_host_matching);
        let Some(at) = domains.find(&host) else {
            return failed("no virtual host");
        };
        let route = &config.virtual_hosts[at as usize].routes[0];
        let Some(rds::route::Action::Route(action)) = &route.action else {
            return failed("no way");
        };
        let cluster = match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => cluster.clone(),
            Some(ClusterSpecifier::ClusterHeader(header)) => {
                assert_eq!(header, HEADER);
                assert_eq!(manager.early_header_mutation_extensions.len(), 1);
                format!("lazy|{name}|{authority}")
            }
            other => panic!("{other:?}"),
        };
        let first = manager.http_filters.first().map(|f| &*f.name);
        self.at_cluster(&cluster, call, first == Some(ON_DEMAND_FILTER))
    }

    /// Where a call goes on that a route or a TCP proxy led to a cluster.
    pub(super) fn at_cluster(&self, name: &str, call: &Call, on_demand: bool) -> End {
        let active = self.clusters.get(name).and_then(|c| c.active.as_ref());
        let Some(any) = active else {
            return match on_demand {
                true => End::Held(name.to_owned()),
                false => failed(&format!("{name} is not there, and not asked for")),
            };
        };
        let mut cluster = cds::Cluster::decode(&*any.value).unwrap();
        if matches!(Name::parse(name), Some(Name::Connection(asked)) if asked.way == Way::Inside)
            && cluster.load_assignment.is_some()
        {
            let inside = self.listeners.get(name).and_then(|l| l.active.as_ref());
            return inside.map_or(failed("its copy is not ready"), |listener| {
                self.in_listener(listener, call)
            });
        }
        let eds = cluster.eds_cluster_config.take().map(|e| e.service_name);
        let is_original =
            cluster.cluster_discovery_type == Some(cds::cluster::ClusterDiscoveryType::Type(4));
        let Some(to) = eds.or(is_original.then(|| SPECIAL.to_owned())) else {
            return failed(&format!("{name} has no endpoints"));
        };
        cluster.name.clear();
        cluster.alt_stat_name.clear();
        cluster.circuit_breakers = None;
        End::At(to, cluster.encode_to_vec())
    }
}
