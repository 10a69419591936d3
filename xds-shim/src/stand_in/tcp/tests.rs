use super::*;
use crate::envoy::config::core::v3::{Address, SocketAddress, TrafficDirection, address};
use crate::envoy::config::core::v3::{Metadata, socket_address::PortSpecifier};
use crate::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter,
};
use crate::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use crate::envoy::google::protobuf::{Any, BoolValue, Duration as ProtoDuration, UInt32Value};
use crate::envoy::service::discovery::v3::Resource;
use prost::Message;

mod fallback;
mod istiods;
mod made;
pub(crate) mod matching;
mod random;
mod wild;

use matching::chain_for;

/// What istiod sent a sidecar, ALLOW_ANY: services of every kind.
const OF_ISTIOD: &[u8] = include_bytes!("../../../testdata/istiod-listeners.bin");

fn config() -> OnDemandConfig {
    OnDemandConfig::new(std::time::Duration::from_secs(5))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to(address: &str, port: u16) -> Destination {
    Destination::new(ip(address), port)
}

fn at(ip: &str, port: u16) -> Option<Address> {
    let socket = SocketAddress {
        address: ip.into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    Some(Address {
        address: Some(address::Address::SocketAddress(socket)),
    })
}

fn chain(name: &str, proxy: &TcpProxy) -> FilterChain {
    let config = Any {
        type_url: String::from_utf8(crate::listener::TCP_PROXY_TYPE.to_vec()).unwrap(),
        value: proxy.encode_to_vec(),
    };
    FilterChain {
        name: name.into(),
        filters: vec![Filter {
            name: "envoy.filters.network.tcp_proxy".into(),
            config_type: Some(filter::ConfigType::TypedConfig(config)),
        }],
        ..Default::default()
    }
}

fn proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    }
}

fn service(name: &str, address: &str, port: u16) -> Listener {
    Listener {
        name: format!("{address}_{port}"),
        address: at(address, port),
        filter_chains: vec![chain("", &proxy(&format!("outbound|{port}||{name}")))],
        traffic_direction: TrafficDirection::Outbound as i32,
        bind_to_port: Some(BoolValue { value: false }),
        continue_on_listener_filters_timeout: true,
        ..Default::default()
    }
}

fn virtual_outbound() -> Listener {
    let blackhole = FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(UInt32Value { value: 15_001 }),
            ..Default::default()
        }),
        ..chain("virtualOutbound-blackhole", &proxy("BlackHoleCluster"))
    };
    Listener {
        name: "virtualOutbound".into(),
        address: at("0.0.0.0", 15_001),
        filter_chains: vec![
            blackhole,
            chain("virtualOutbound-catchall-tcp", &proxy("PassthroughCluster")),
        ],
        traffic_direction: TrafficDirection::Outbound as i32,
        use_original_dst: Some(BoolValue { value: true }),
        ..Default::default()
    }
}

fn resource(listener: &Listener) -> Vec<u8> {
    let any = Any {
        type_url: crate::ads::LDS.into(),
        value: listener.encode_to_vec(),
    };
    Resource {
        name: listener.name.clone(),
        resource: Some(any),
        ..Default::default()
    }
    .encode_to_vec()
}

fn kind(listener: &Listener) -> Kind {
    Kind::of(&listener.name, &resource(listener)).unwrap()
}

fn with(listeners: &[Listener]) -> Connections {
    let mut connections = Connections::default();
    for listener in listeners {
        connections.put(&listener.name, kind(listener));
    }
    connections.settle();
    connections
}

fn outer(connections: &Connections) -> Listener {
    let (name, resource) = connections.outer(&config()).unwrap().unwrap();
    assert_eq!(name, "virtualOutbound");
    Listener::decode(payload(&resource).unwrap()).unwrap()
}

fn single(listener: &Listener) -> Option<Arc<Single>> {
    match kind(listener) {
        Kind::Single(single) => Some(single),
        _ => None,
    }
}

fn plain(listener: &Listener) -> Option<Plain> {
    single(listener)?.plain.clone()
}

/// The listeners that are held, in order of destinations, by a way.
fn held(connections: &Connections, way: Way) -> Vec<&str> {
    let held = connections.held().filter(|(_, w)| *w == way);
    held.map(|(single, _)| &*single.listener).collect()
}

#[test]
fn names_are_what_envoy_writes() {
    for (way, address, port, name) in [
        (Way::Cluster, "10.96.0.1", 3306, "lazytcp|3306|10.96.0.1"),
        (Way::Inside, "fd00:1::a", 80, "lazyin|80|fd00:1::a"),
        (Way::Cluster, "::ffff:10.0.0.1", 1, "lazytcp|1|10.0.0.1"),
    ] {
        let destination = to(address, port);
        let asked = Asked { way, destination };
        assert_eq!(asked.name(), name);
        assert_eq!(Asked::parse(name), Some(asked));
    }
    for other in [
        "lazytcp|",
        "lazytcp|80",
        "lazyin|80|",
        "lazytcp||10.0.0.1",
        "lazytcp|0|10.0.0.1",
        "lazyin|080|10.0.0.1",
        "lazytcp|+80|10.0.0.1",
        "lazytcp|65536|10.0.0.1",
        "lazytcp|80|10.0.0.1|",
        "lazytcp|80|[::1]",
        "lazytcp|80|fe80::1%eth0",
        "lazyin|80|a.b",
    ] {
        assert_eq!(Asked::parse(other), None, "{other}");
        assert!(Asked::way(other).is_some());
    }
    assert!(Asked::way("lazy|80|a").is_none() && Asked::way("outbound|80||a").is_none());
}

#[test]
fn what_differs_in_address_and_cluster_only_is_of_one_form() {
    let a = single(&service("a", "10.0.0.1", 3306)).unwrap();
    let b = single(&service("b", "fd00::2", 5432)).unwrap();
    assert_eq!(a.destination, to("10.0.0.1", 3306));
    assert_eq!(&*a.listener, "10.0.0.1_3306");
    assert_eq!(a.service, ServicePort::new("a", 3306));
    let (a, b) = (a.plain.clone().unwrap(), b.plain.clone().unwrap());
    assert_eq!(&*a.cluster, "outbound|3306||a");
    assert_eq!(a.form, b.form);
    let mut idle = service("c", "10.0.0.3", 3306);
    let proxy = TcpProxy {
        idle_timeout: Some(ProtoDuration {
            seconds: 17,
            nanos: 0,
        }),
        ..proxy("outbound|3306||c")
    };
    idle.filter_chains = vec![chain("", &proxy)];
    let idle = plain(&idle).unwrap();
    assert_ne!(idle.form, a.form);
    assert_ne!(idle.form.chain_name(), a.form.chain_name());
}

/// What is changed in a listener, and how.
type Case<'a> = (&'static str, &'a dyn Fn(&mut Listener));

fn changed(change: &dyn Fn(&mut Listener)) -> Listener {
    let mut listener = service("a", "10.0.0.1", 3306);
    change(&mut listener);
    listener
}

#[test]
fn what_is_not_for_one_services_address_is_kept() {
    let cases: [Case<'_>; 9] = [
        ("bound", &|l| l.bind_to_port = None),
        ("bound by word", &|l| {
            l.bind_to_port = Some(BoolValue { value: true });
        }),
        ("inbound", &|l| l.traffic_direction = 1),
        ("loopback", &|l| l.address = at("127.0.0.1", 3306)),
        ("a sidecar's port", &|l| l.address = at("10.0.0.1", 15_021)),
        ("a pipe", &|l| l.address = Some(Address::default())),
        ("no service's cluster", &|l| {
            l.filter_chains = vec![chain("", &proxy("PassthroughCluster"))];
        }),
        ("nothing but a filter of its own", &|l| {
            l.filter_chains[0].filters = vec![Filter::default()];
        }),
        ("no chain", &|l| l.filter_chains.clear()),
    ];
    for (what, by) in cases {
        assert_eq!(single(&changed(by)), None, "{what}");
    }
    for istiods in [15_010, 15_012, 15_014, 15_017] {
        assert!(single(&service("istiod", "10.0.0.1", istiods)).is_some());
    }
    let wild = changed(&|l| l.address = at("0.0.0.0", 3306));
    assert!(matches!(kind(&wild), Kind::Wildcard(wild) if wild.ports == [3306].into()));
}

#[test]
fn what_is_not_plain_goes_inside() {
    let cases: [Case<'_>; 5] = [
        ("two chains", &|l| {
            let one = l.filter_chains[0].clone();
            l.filter_chains.push(one);
        }),
        ("a default chain", &|l| {
            l.default_filter_chain = l.filter_chains.pop();
        }),
        ("a match", &|l| {
            l.filter_chains[0].filter_chain_match = Some(FilterChainMatch {
                server_names: vec!["a".into()],
                ..Default::default()
            });
        }),
        ("a filter behind the proxy", &|l| {
            l.filter_chains[0].filters.push(Filter::default());
        }),
        ("named elsewhere too", &|l| {
            let mongo = Any {
                type_url: "mongo".into(),
                value: b"outbound|3306||a".to_vec(),
            };
            let filter = Filter {
                name: "mongo".into(),
                config_type: Some(filter::ConfigType::TypedConfig(mongo)),
            };
            l.filter_chains[0].filters.insert(0, filter);
        }),
    ];
    for (what, by) in cases {
        let listener = changed(by);
        let single = single(&listener).unwrap();
        assert!(single.inside && single.plain.is_none(), "{what}");
        assert_eq!(single.service, ServicePort::new("a", 3306), "{what}");
        let connections = with(&[listener, virtual_outbound()]);
        assert_eq!(held(&connections, Way::Inside), ["10.0.0.1_3306"], "{what}");
        let chain = chain_for(&outer(&connections), &to("10.0.0.1", 3306));
        assert_eq!(chain, form::INSIDE);
    }
}

#[test]
fn what_can_be_held_in_no_way_is_kept() {
    let odd = changed(&|l| l.freebind = Some(BoolValue { value: true }));
    let connections = with(&[odd, service("b", "10.0.0.2", 3306), virtual_outbound()]);
    assert!(!connections.holds("10.0.0.1_3306"));
    assert_eq!(held(&connections, Way::Inside), ["10.0.0.2_3306"]);
}

#[test]
fn what_virtual_outbound_lacks_goes_inside_and_what_it_has_too_by_cluster() {
    let logged = |mut listener: Listener| {
        listener.access_log = vec![Default::default()];
        listener
    };
    let twins = || {
        let ab = ["a", "b"].into_iter().zip(["10.0.0.1", "10.0.0.2"]);
        ab.map(|(name, address)| service(name, address, 3306))
    };
    for (listener_logs, outer_logs, way) in [
        (true, true, Way::Cluster),
        (true, false, Way::Inside),
        (false, true, Way::Inside),
        (false, false, Way::Cluster),
    ] {
        let log = |yes: bool, listener| if yes { logged(listener) } else { listener };
        let mut all: Vec<_> = twins().map(|l| log(listener_logs, l)).collect();
        all.push(log(outer_logs, virtual_outbound()));
        let connections = with(&all);
        assert_eq!(
            held(&connections, way).len(),
            2,
            "{listener_logs} {outer_logs}"
        );
        assert_eq!(connections.held().count(), 2);
    }
}

#[test]
fn another_virtual_outbound_gets_nothing() {
    let cases: [Case<'_>; 7] = [
        ("a listener filter", &|l| {
            l.listener_filters = vec![ListenerFilter::default()];
        }),
        ("a default chain", &|l| {
            l.default_filter_chain = Some(FilterChain::default());
        }),
        ("a matcher", &|l| {
            l.filter_chain_matcher = Some(Default::default());
        }),
        ("a chain by address", &|l| {
            let mut chain = chain("user's", &proxy("x"));
            chain.filter_chain_match = Some(FilterChainMatch {
                address_suffix: "x".into(),
                ..Default::default()
            });
            l.filter_chains.push(chain);
        }),
        ("a chain without a name", &|l| {
            l.filter_chains[1].name = String::new()
        }),
        ("no catch-all", &|l| {
            l.filter_chains.pop();
        }),
        ("it does not restore destinations", &|l| {
            l.use_original_dst = None
        }),
    ];
    for (what, change) in cases {
        let mut outer = virtual_outbound();
        change(&mut outer);
        let connections = with(&[
            service("a", "10.0.0.1", 3306),
            service("b", "10.0.0.2", 3306),
            outer,
        ]);
        assert_eq!(connections.held().count(), 0, "{what}");
        assert_eq!(connections.outer(&config()).unwrap(), None, "{what}");
    }
}

#[test]
fn a_wildcard_listener_of_its_port_shadows_it() {
    let [a, b] = [
        service("a", "10.0.0.1", 3306),
        service("b", "10.0.0.2", 5432),
    ];
    let http = Listener {
        name: "0.0.0.0_3306".into(),
        address: at("0.0.0.0", 3306),
        ..Default::default()
    };
    let mut connections = with(&[a, b, virtual_outbound()]);
    let both = ["10.0.0.1_3306", "10.0.0.2_5432"];
    assert_eq!(held(&connections, Way::Cluster), both);
    connections.put(&http.name, kind(&http));
    assert_eq!(held(&connections, Way::Cluster), [both[1]]);
    assert!(!connections.holds("10.0.0.1_3306") && connections.holds("10.0.0.2_5432"));
    assert_eq!(
        chain_for(&outer(&connections), &to("10.0.0.1", 3306)),
        "virtualOutbound-catchall-tcp"
    );
    connections.remove(&http.name);
    assert!(connections.holds("10.0.0.1_3306"));
    let dual = Listener {
        name: "dual".into(),
        address: at("127.0.0.1", 1),
        additional_addresses: vec![AdditionalAddress {
            address: at("::", 5432),
            ..Default::default()
        }],
        ..Default::default()
    };
    connections.put(&dual.name, kind(&dual));
    assert!(!connections.holds("10.0.0.2_5432"));
}

/// A connection ends when its chain changes: whatever comes and goes, the bytes stay.
#[test]
fn a_chain_stays_as_it_is_while_there_is_one_of_its_form() {
    let [a, b, c] = ["a", "b", "c"].map(|n| service(n, &format!("10.0.0.{}", n.len()), 3306));
    let [mut b, mut c] = [b, c];
    (b.address, b.name) = (at("10.0.0.2", 3306), "b".into());
    (c.address, c.name) = (at("10.0.0.3", 3307), "c".into());
    let mut connections = with(&[a.clone(), virtual_outbound()]);
    assert_eq!(held(&connections, Way::Inside), [&*a.name], "one alone");
    connections.put("b", kind(&b));
    assert_eq!(held(&connections, Way::Cluster).len(), 0, "not yet settled");
    connections.settle();
    assert_eq!(held(&connections, Way::Cluster).len(), 2);
    let chains = outer(&connections).filter_chains.split_off(2);
    for step in 0..4 {
        match step {
            0 => connections.put("c", kind(&c)),
            1 => _ = connections.remove("b"),
            2 => _ = connections.remove("c"),
            _ => connections.put(&a.name, kind(&a)),
        }
        connections.settle();
        let now = outer(&connections);
        assert_eq!(now.filter_chains[2..], chains, "step {step}");
    }
    connections.remove(&a.name);
    connections.settle();
    assert_eq!(outer(&connections).filter_chains[2..], chains[1..]);
}

#[test]
fn equal_listeners_make_equal_bytes_in_any_order() {
    let mut listeners: Vec<_> = (0..50_u16)
        .map(|i| {
            service(
                &format!("s{i}"),
                &format!("10.0.{}.{}", i % 3, i),
                3000 + i % 7,
            )
        })
        .collect();
    listeners.push(virtual_outbound());
    let first = with(&listeners);
    listeners.reverse();
    let second = with(&listeners);
    assert_eq!(
        first.outer(&config()).unwrap(),
        second.outer(&config()).unwrap()
    );
}

#[test]
fn there_are_only_so_many_chains() {
    let mut listeners = vec![virtual_outbound()];
    for form in 0..MOST_CHAINS as i64 + 3 {
        for twin in 0..2 {
            let name = format!("s{form}");
            let mut listener = service(&name, &format!("10.0.{form}.{twin}"), 3306);
            let idle = Some(ProtoDuration {
                seconds: form,
                nanos: 0,
            });
            let proxy = TcpProxy {
                idle_timeout: idle,
                ..proxy(&format!("outbound|3306||{name}"))
            };
            listener.filter_chains = vec![chain("", &proxy)];
            listeners.push(listener);
        }
    }
    let connections = with(&listeners);
    assert_eq!(outer(&connections).filter_chains.len(), 3 + MOST_CHAINS);
    assert_eq!(held(&connections, Way::Cluster).len(), 2 * MOST_CHAINS);
    assert_eq!(held(&connections, Way::Inside).len(), 6);
}
