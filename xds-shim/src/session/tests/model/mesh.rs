//! A mesh that changes, and istiod's end of a stream about it.

use super::*;
use crate::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use crate::envoy::google::protobuf::{BoolValue, UInt32Value};
use lds::{Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter};
use std::collections::BTreeMap;

pub(super) const SLOTS: u8 = 4;

/// What stands at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Absent,
    /// On port 80.
    Http,
    /// On port 80, mirrored to the first slot.
    Mirrored,
    /// On port 80, with a subset.
    Subset,
    /// On port 3306.
    Tcp,
    /// On port 3306, to be sniffed.
    Auto,
    /// On port 80, to be sniffed.
    AutoOn80,
}

impl Service {
    fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Mirrored | Self::Subset)
    }

    fn port(self) -> u16 {
        match self {
            Self::Tcp | Self::Auto => 3306,
            _ => 80,
        }
    }
}

/// How far a workload has come that settles: what istiod makes of the controller's writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Settled {
    /// Not at all.
    #[default]
    No,
    /// Its fallback is there beside the whole mesh.
    Fallback,
    /// A Sidecar gives what was learned, and the clusters of the whole mesh beside it.
    Wide,
    /// A Sidecar gives what was learned.
    Yes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mesh {
    pub(super) services: [Service; SLOTS as usize],
    pub(super) settled: Settled,
    /// What the Sidecar gives.
    pub(super) given: [bool; SLOTS as usize],
    /// Changes of clusters and of endpoints.
    pub(super) clusters: [u32; SLOTS as usize],
    pub(super) endpoints: [u32; SLOTS as usize],
}

pub(super) type Resources = BTreeMap<String, pb::Resource>;

/// The clusters that calls fall back to: for requests and for connections.
pub(in crate::session::tests) const FALLBACKS: [&str; 2] =
    ["outbound|80||proxy.sys", "outbound|15009||proxy.sys"];

pub(super) fn host(slot: u8) -> String {
    format!("s{slot}.shop.svc.cluster.local")
}

pub(super) fn address(slot: u8) -> String {
    format!("10.0.0.{}", slot + 1)
}

impl Mesh {
    fn all(&self) -> impl Iterator<Item = (u8, Service)> {
        (0..SLOTS)
            .zip(self.services)
            .filter(|(_, s)| *s != Service::Absent)
    }

    /// Those that calls lead to, and not to the fallback.
    fn visible(&self) -> impl Iterator<Item = (u8, Service)> {
        self.all().filter(|(slot, _)| self.gives(*slot))
    }

    fn gives(&self, slot: u8) -> bool {
        let given = |slot: u8| self.given[usize::from(slot)];
        let mirrors = |(slot, service)| service == Service::Mirrored && given(slot);
        matches!(self.settled, Settled::No | Settled::Fallback)
            || given(slot)
            || slot == 0 && self.all().any(mirrors)
    }

    fn falls_back(&self) -> bool {
        self.settled != Settled::No
    }

    fn cluster_name(&self, slot: u8) -> String {
        let port = self.services[usize::from(slot)].port();
        format!("outbound|{port}||{}", host(slot))
    }

    pub(super) fn exists(&self, slot: u8) -> bool {
        self.all().any(|(at, _)| at == slot)
    }

    pub(super) fn sniffs(&self, slot: u8) -> bool {
        let sniffed = [Service::Auto, Service::AutoOn80];
        self.all()
            .any(|(at, service)| at == slot && sniffed.contains(&service))
    }

    pub(super) fn service_port(&self, slot: u8) -> ServicePort {
        ServicePort::new(&host(slot), self.services[usize::from(slot)].port())
    }

    pub(super) fn of_type(&self, type_url: &str) -> Resources {
        match type_url {
            ads::CDS => self.clusters(),
            ads::EDS => self.endpoints(),
            ads::LDS => self.listeners(),
            _ => self.routes(),
        }
    }

    fn cluster_names(&self) -> Vec<(u8, String)> {
        let mut names = Vec::new();
        for (slot, service) in self.all() {
            if self.settled == Settled::Yes && !self.gives(slot) {
                continue;
            }
            names.push((slot, self.cluster_name(slot)));
            if service == Service::Subset {
                names.push((slot, format!("outbound|80|v1|{}", host(slot))));
            }
        }
        names
    }

    fn clusters(&self) -> Resources {
        let of = |(slot, name): (u8, String)| {
            let made = cluster_with(&name, |cluster| {
                cluster.connect_timeout = Some(crate::envoy::google::protobuf::Duration {
                    seconds: 1 + i64::from(self.clusters[usize::from(slot)]),
                    nanos: 0,
                });
                cluster.eds_cluster_config = Some(cds::cluster::EdsClusterConfig {
                    service_name: name.clone(),
                    ..Default::default()
                });
            });
            (name, made)
        };
        let mut all: Resources = self.cluster_names().into_iter().map(of).collect();
        let fallback = |name: &str| {
            let made = cluster_with(name, |cluster| {
                cluster.eds_cluster_config = Some(cds::cluster::EdsClusterConfig {
                    service_name: name.to_owned(),
                    ..Default::default()
                });
            });
            (name.to_owned(), made)
        };
        all.extend(FALLBACKS.map(fallback));
        all.insert(SPECIAL.into(), cluster(SPECIAL));
        all
    }

    fn endpoints(&self) -> Resources {
        let of = |(slot, name): (u8, String)| {
            let generation = 100 + self.endpoints[usize::from(slot)];
            let made = endpoints(&name, generation);
            (name, made)
        };
        let mut all: Resources = self.cluster_names().into_iter().map(of).collect();
        all.extend(FALLBACKS.map(|name| (name.to_owned(), endpoints(name, 1))));
        all
    }

    fn listeners(&self) -> Resources {
        let mut all = vec![virtual_outbound(self.falls_back())];
        // The global proxy has a port for HTTP.
        if self.falls_back() || self.visible().any(|(_, s)| s.is_http()) {
            all.push(sniffed("0.0.0.0", 80, "80", SPECIAL));
        }
        for (slot, service) in self.visible() {
            let (at, port) = (address(slot), service.port());
            let cluster = self.cluster_name(slot);
            match service {
                Service::Tcp => {
                    let mut listener = listener(&at, port);
                    listener.filter_chains = vec![chain("", &proxy(&cluster))];
                    all.push(listener);
                }
                Service::Auto | Service::AutoOn80 => {
                    all.push(sniffed(
                        &at,
                        port,
                        &format!("{}:{port}", host(slot)),
                        &cluster,
                    ));
                }
                _ => {}
            }
        }
        let named = all
            .into_iter()
            .map(|l| (l.name.clone(), resource(&l.name, &l)));
        named.collect()
    }

    fn routes(&self) -> Resources {
        let mut all = Resources::new();
        let mut hosts = Vec::new();
        for (slot, service) in self.visible() {
            let (cluster, full) = (self.cluster_name(slot), host(slot));
            if service.is_http() {
                let short = format!("s{slot}.shop");
                let domains = [&full, &short, &format!("s{slot}"), &address(slot)];
                let mut host = super::super::stand_ins::host(
                    &format!("{full}:80"),
                    &domains.map(String::as_str),
                    &cluster,
                );
                if service == Service::Mirrored
                    && let Some(rds::route::Action::Route(action)) = &mut host.routes[0].action
                {
                    action.request_mirror_policies = vec![rds::route_action::RequestMirrorPolicy {
                        cluster: self.cluster_name(0),
                        ..Default::default()
                    }];
                }
                hosts.push(host);
            } else {
                let host = super::super::stand_ins::host(&full, &["*"], &cluster);
                let name = format!("{full}:{}", service.port());
                all.insert(name.clone(), configuration(&name, vec![host]));
            }
        }
        let mut rest = super::super::stand_ins::host("rest", &["*"], SPECIAL);
        if self.falls_back() {
            let mut first = super::super::stand_ins::host("", &[], FALLBACKS[0])
                .routes
                .remove(0);
            first.name = dependency_graph::fallback::FALLBACK_ROUTE.into();
            rest.routes.insert(0, first);
        }
        hosts.push(rest);
        all.insert("80".into(), configuration("80", hosts));
        all
    }
}

pub(in crate::session::tests) fn configuration(
    name: &str,
    virtual_hosts: Vec<rds::VirtualHost>,
) -> pb::Resource {
    let config = rds::RouteConfiguration {
        name: name.into(),
        virtual_hosts,
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    resource(name, &config)
}

pub(in crate::session::tests) fn listener(at: &str, port: u16) -> Listener {
    let socket = core::SocketAddress {
        address: at.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    Listener {
        name: format!("{at}_{port}"),
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(socket)),
        }),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        bind_to_port: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

/// One with HTTP by a route configuration, and bytes to a cluster.
fn sniffed(at: &str, port: u16, routes: &str, cluster: &str) -> Listener {
    let http = http_listener("", routes).resource.unwrap_or_default();
    let http = Listener::decode(&*http.value).unwrap_or_default();
    let mut http = http.filter_chains[0].clone();
    http.filter_chain_match = Some(FilterChainMatch {
        transport_protocol: "raw_buffer".into(),
        application_protocols: vec!["http/1.1".into(), "h2c".into()],
        ..Default::default()
    });
    Listener {
        listener_filters: vec![ListenerFilter {
            name: "http_inspector".into(),
            ..Default::default()
        }],
        filter_chains: vec![http],
        default_filter_chain: Some(chain("rest", &proxy(cluster))),
        ..listener(at, port)
    }
}

pub(in crate::session::tests) fn virtual_outbound(falls_back: bool) -> Listener {
    let mut blackhole = chain("blackhole", &proxy("BlackHoleCluster"));
    blackhole.filter_chain_match = Some(FilterChainMatch {
        destination_port: Some(UInt32Value { value: 15_001 }),
        ..Default::default()
    });
    let mut fallback = chain(
        dependency_graph::fallback::FALLBACK_CHAIN,
        &proxy(FALLBACKS[1]),
    );
    fallback.filter_chain_match = Some(FilterChainMatch {
        prefix_ranges: vec![core::CidrRange {
            address_prefix: "10.0.0.0".into(),
            prefix_len: Some(UInt32Value { value: 24 }),
        }],
        ..Default::default()
    });
    let rest = chain("catch-all", &proxy(SPECIAL));
    let ranges = falls_back.then_some(fallback);
    Listener {
        name: "virtualOutbound".into(),
        filter_chains: [blackhole]
            .into_iter()
            .chain(ranges)
            .chain([rest])
            .collect(),
        bind_to_port: None,
        use_original_dst: Some(BoolValue { value: true }),
        ..listener("0.0.0.0", 15_001)
    }
}

pub(in crate::session::tests) fn proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    }
}

pub(in crate::session::tests) fn chain(name: &str, proxy: &TcpProxy) -> FilterChain {
    let any = resource("", proxy).resource;
    FilterChain {
        name: name.into(),
        filters: vec![Filter {
            name: "tcp_proxy".into(),
            config_type: any.map(lds::filter::ConfigType::TypedConfig),
        }],
        ..Default::default()
    }
}

/// istiod's end of one stream.
#[derive(Debug)]
pub(super) struct Istiod {
    /// The mesh as of the last push: what is asked for between two is answered from it as well.
    context: Mesh,
    wildcards: BTreeSet<&'static str>,
    names: BTreeMap<&'static str, BTreeSet<String>>,
    sent: BTreeMap<&'static str, Resources>,
    /// Everything it ever gave on this stream, by content.
    pub(super) gave: HashSet<Vec<u8>>,
    nonces: u32,
    /// Nonces that are not acknowledged.
    pub(super) open: BTreeSet<String>,
    /// Those that were refused; they may be acknowledged once more.
    refused: BTreeSet<String>,
    pub(super) out: std::collections::VecDeque<Bytes>,
}

const TYPES: [&str; 4] = [ads::CDS, ads::EDS, ads::LDS, ads::RDS];

impl Istiod {
    pub(super) fn new(mesh: &Mesh) -> Self {
        Self {
            context: mesh.clone(),
            wildcards: BTreeSet::new(),
            names: BTreeMap::new(),
            sent: BTreeMap::new(),
            gave: HashSet::new(),
            nonces: 0,
            open: BTreeSet::new(),
            refused: BTreeSet::new(),
            out: Default::default(),
        }
    }

    pub(super) fn hears(&mut self, raw: &Bytes) {
        let request = pb::DeltaDiscoveryRequest::decode(raw.clone()).unwrap();
        let type_url = TYPES.into_iter().find(|t| *t == request.type_url).unwrap();
        let all = &request.resource_names_subscribe;
        for name in all.iter().chain(&request.resource_names_unsubscribe) {
            assert!(!name.contains("lazy"), "{name} went upstream");
        }
        let nonce = request.response_nonce;
        if !nonce.is_empty() {
            // What the shim sends of its own accord is refused under the latest nonce of istiod's.
            let is_refusal = request.error_detail.is_some();
            let known = self.open.remove(&nonce) || self.refused.contains(&nonce);
            assert!(
                known || is_refusal,
                "{nonce} acknowledged twice, or never sent"
            );
            match is_refusal {
                true => self.refused.insert(nonce),
                false => self.refused.remove(&nonce),
            };
        } else if matches!(type_url, ads::CDS | ads::LDS) {
            self.wildcards.insert(type_url);
            self.sends(type_url, self.context.of_type(type_url), Vec::new());
        }
        let names = self.names.entry(type_url).or_default();
        for name in &request.resource_names_unsubscribe {
            names.remove(name);
            self.sent.entry(type_url).or_default().remove(name);
        }
        if matches!(type_url, ads::EDS | ads::RDS) && !all.is_empty() {
            let known = self.context.of_type(type_url);
            let (have, lack): (Vec<_>, Vec<_>) = all.iter().partition(|n| known.contains_key(*n));
            names.extend(have.iter().map(|n| (*n).clone()));
            let have = have.into_iter().map(|n| (n.clone(), known[n].clone()));
            let (have, lack) = (have.collect(), lack.into_iter().cloned().collect());
            self.sends(type_url, have, lack);
        }
    }

    fn sends(&mut self, type_url: &'static str, resources: Resources, removed: Vec<String>) {
        self.nonces += 1;
        let nonce = format!("n{}", self.nonces);
        let sent = self.sent.entry(type_url).or_default();
        for name in &removed {
            sent.remove(name);
            self.names.entry(type_url).or_default().remove(name);
        }
        sent.extend(resources.clone());
        let contents = resources.values().filter_map(|r| r.resource.as_ref());
        self.gave.extend(contents.map(|any| any.value.clone()));
        let response = pb::DeltaDiscoveryResponse {
            type_url: type_url.into(),
            nonce: nonce.clone(),
            resources: resources.into_values().collect(),
            removed_resources: removed,
            ..Default::default()
        };
        self.open.insert(nonce);
        self.out.push_back(response.encode_to_vec().into());
    }

    /// Pushes what is other than it was sent; or all of it.
    pub(super) fn push(&mut self, mesh: &Mesh, all: bool) {
        self.context = mesh.clone();
        for type_url in TYPES {
            let now = mesh.of_type(type_url);
            let wildcard = self.wildcards.contains(type_url);
            let names = self.names.entry(type_url).or_default().clone();
            let wanted = |name: &String| wildcard || names.contains(name);
            let sent = self.sent.entry(type_url).or_default().clone();
            let changed = |(name, r): &(String, pb::Resource)| {
                wanted(name) && (all || sent.get(name) != Some(r))
            };
            let give: Resources = now.clone().into_iter().filter(changed).collect();
            let gone: Vec<_> = sent.into_keys().filter(|n| !now.contains_key(n)).collect();
            if !give.is_empty() || !gone.is_empty() {
                self.sends(type_url, give, gone);
            }
        }
    }
}
