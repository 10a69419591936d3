use super::*;
use crate::envoy::config::core::v3::{Address, SocketAddress, TrafficDirection, address};
use crate::envoy::config::core::v3::{Metadata, socket_address::PortSpecifier};
use crate::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter,
};
use crate::envoy::extensions::filters::network::set_filter_state::v3::Config;
use crate::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use crate::envoy::google::protobuf::{Any, BoolValue, Duration as ProtoDuration, UInt32Value};
use crate::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use proptest::prelude::*;
use prost::Message;

#[path = "tests/matching.rs"]
mod matching;
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

fn is_plain(listener: &Listener) -> bool {
    matches!(kind(listener), Kind::Plain(_))
}

/// The clusters of what is held, in order.
fn held(connections: &Connections) -> Vec<&str> {
    connections.held().map(|p| &*p.cluster).collect()
}

#[test]
fn names_are_what_envoy_writes() {
    for (address, port, name) in [
        ("10.96.0.1", 3306, "lazytcp|3306|10.96.0.1"),
        ("fd00:1::a", 80, "lazytcp|80|fd00:1::a"),
        ("::ffff:10.0.0.1", 1, "lazytcp|1|10.0.0.1"),
    ] {
        assert_eq!(to(address, port).name(), name);
        assert_eq!(Destination::parse(name), Some(to(address, port)));
    }
    for other in [
        "lazytcp|",
        "lazytcp|80",
        "lazytcp|80|",
        "lazytcp||10.0.0.1",
        "lazytcp|0|10.0.0.1",
        "lazytcp|080|10.0.0.1",
        "lazytcp|+80|10.0.0.1",
        "lazytcp|65536|10.0.0.1",
        "lazytcp|80|10.0.0.1|",
        "lazytcp|80|[::1]",
        "lazytcp|80|fe80::1%eth0",
        "lazytcp|80|a.b",
    ] {
        assert_eq!(Destination::parse(other), None, "{other}");
        assert!(Destination::is_name(other));
    }
    assert!(!Destination::is_name("lazy|80|a") && !Destination::is_name("outbound|80||a"));
}

#[test]
fn what_differs_in_address_and_cluster_only_is_of_one_form() {
    let (Kind::Plain(a), Kind::Plain(b)) = (
        kind(&service("a", "10.0.0.1", 3306)),
        kind(&service("b", "fd00::2", 5432)),
    ) else {
        panic!("not plain");
    };
    assert_eq!(a.destination, to("10.0.0.1", 3306));
    assert_eq!(
        (&*a.cluster, &*a.listener),
        ("outbound|3306||a", "10.0.0.1_3306")
    );
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
    let Kind::Plain(idle) = kind(&idle) else {
        panic!("not plain");
    };
    assert_ne!(idle.form, a.form);
    assert_ne!(idle.form.chain_name(), a.form.chain_name());
}

#[test]
fn anything_else_is_kept() {
    let change = |change: &dyn Fn(&mut Listener)| {
        let mut listener = service("a", "10.0.0.1", 3306);
        change(&mut listener);
        listener
    };
    let cases: [(&str, &dyn Fn(&mut Listener)); 12] = [
        ("bound", &|l| l.bind_to_port = None),
        ("bound by word", &|l| {
            l.bind_to_port = Some(BoolValue { value: true });
        }),
        ("inbound", &|l| l.traffic_direction = 1),
        ("any address", &|l| l.address = at("0.0.0.0", 3306)),
        ("loopback", &|l| l.address = at("127.0.0.1", 3306)),
        ("a sidecar's port", &|l| l.address = at("10.0.0.1", 15_021)),
        ("a pipe", &|l| l.address = Some(Address::default())),
        ("two chains", &|l| {
            let one = l.filter_chains[0].clone();
            l.filter_chains.push(one);
        }),
        ("a match", &|l| {
            l.filter_chains[0].filter_chain_match = Some(FilterChainMatch {
                server_names: vec!["a".into()],
                ..Default::default()
            });
        }),
        ("no service's cluster", &|l| {
            l.filter_chains = vec![chain("", &proxy("PassthroughCluster"))];
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
    assert!(is_plain(&service("a", "10.0.0.1", 3306)));
    for (what, by) in cases {
        assert!(!is_plain(&change(by)), "{what}");
    }
}

#[test]
fn what_virtual_outbound_lacks_is_kept_and_what_it_has_too_is_held() {
    let logged = |mut listener: Listener| {
        listener.access_log = vec![Default::default()];
        listener
    };
    let ab = [
        service("a", "10.0.0.1", 3306),
        service("b", "10.0.0.2", 3306),
    ];
    let [a, b] = ab.clone();
    let both = with(&[logged(a), logged(b), logged(virtual_outbound())]);
    assert_eq!(held(&both).len(), 2);
    let [a, b] = ab.clone();
    assert!(held(&with(&[logged(a), logged(b), virtual_outbound()])).is_empty());
    let [a, b] = ab;
    assert!(held(&with(&[a, b, logged(virtual_outbound())])).is_empty());
}

#[test]
fn another_virtual_outbound_gets_nothing() {
    let cases: [(&str, &dyn Fn(&mut Listener)); 7] = [
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
        assert!(held(&connections).is_empty(), "{what}");
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
    assert_eq!(held(&connections), ["outbound|3306||a", "outbound|5432||b"]);
    connections.put(&http.name, kind(&http));
    assert_eq!(held(&connections), ["outbound|5432||b"]);
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

#[test]
fn the_chain_is_the_listeners_own_and_picks_by_destination() {
    let mut logged = [
        service("a", "10.0.0.1", 3306),
        service("b", "10.0.0.2", 3306),
    ];
    for listener in &mut logged {
        let chain = &mut listener.filter_chains[0];
        chain.metadata = Some(Metadata::default());
        let stats = Filter {
            name: "istio.stats".into(),
            ..Default::default()
        };
        chain.filters.insert(0, stats);
    }
    let own = logged[0].filter_chains[0].clone();
    let [a, b] = logged;
    let connections = with(&[a, b, virtual_outbound()]);
    let plain = outer(&connections);
    let (istiods, ours) = plain.filter_chains.split_at(2);
    assert_eq!(istiods, virtual_outbound().filter_chains);
    let [ours] = ours else {
        panic!("{} chains", ours.len());
    };
    assert_eq!(ours.metadata, own.metadata);
    let names: Vec<_> = ours.filters.iter().map(|f| f.name.as_str()).collect();
    let expected = [
        "envoy.filters.network.set_filter_state",
        "istio.stats",
        "envoy.filters.network.tcp_proxy",
    ];
    assert_eq!(names, expected);
    let value = |at: usize| match &ours.filters[at].config_type {
        Some(filter::ConfigType::TypedConfig(any)) => any.value.clone(),
        other => panic!("{other:?}"),
    };
    let state = format!("{:?}", Config::decode(&*value(0)).unwrap());
    assert!(state.contains("\"envoy.tcp_proxy.cluster\""), "{state}");
    let format = "\"lazytcp|%DOWNSTREAM_LOCAL_PORT%|%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%\"";
    assert!(state.contains(format), "{state}");
    let proxy = TcpProxy::decode(&*value(2)).unwrap();
    assert!(proxy.on_demand.is_some() && !proxy.stat_prefix.is_empty());
}

/// A connection ends when its chain changes: whatever comes and goes, the bytes stay.
#[test]
fn a_chain_stays_as_it_is_while_there_is_one_of_its_form() {
    let [a, b, c] = ["a", "b", "c"].map(|n| service(n, &format!("10.0.0.{}", n.len()), 3306));
    let [mut b, mut c] = [b, c];
    (b.address, b.name) = (at("10.0.0.2", 3306), "b".into());
    (c.address, c.name) = (at("10.0.0.3", 3307), "c".into());
    let mut connections = with(&[a.clone(), virtual_outbound()]);
    assert_eq!(connections.outer(&config()).unwrap(), None, "one alone");
    connections.put("b", kind(&b));
    assert!(held(&connections).is_empty(), "not yet settled");
    connections.settle();
    let chain = outer(&connections).filter_chains.pop().unwrap();
    for step in 0..4 {
        match step {
            0 => connections.put("c", kind(&c)),
            1 => connections.remove("b"),
            2 => connections.remove("c"),
            _ => connections.put(&a.name, kind(&a)),
        }
        connections.settle();
        let now = outer(&connections);
        assert_eq!(now.filter_chains.last(), Some(&chain), "step {step}");
        assert_eq!(now.filter_chains.len(), 3);
    }
    connections.remove(&a.name);
    connections.settle();
    assert_eq!(connections.outer(&config()).unwrap(), None);
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
    assert_eq!(outer(&connections).filter_chains.len(), 2 + MOST_CHAINS);
    assert_eq!(held(&connections).len(), 2 * MOST_CHAINS);
}

/// A mesh with services of every kind, as istiod sends it.
#[test]
fn of_what_istiod_sends() {
    let response = DeltaDiscoveryResponse::decode(OF_ISTIOD).unwrap();
    let mut connections = Connections::default();
    for resource in &response.resources {
        let kind = Kind::of(&resource.name, &resource.encode_to_vec()).unwrap();
        connections.put(&resource.name, kind);
    }
    connections.settle();
    assert_eq!(connections.rest(), Some("PassthroughCluster"));
    // Held are TCP services on ports of their own. Not: those on 3306 and 80, where HTTP services make
    // a wildcard listener; `auto` ports; mongo, whose filter names the service; istiod's own ports.
    let held: BTreeSet<_> = connections.held().map(|p| &*p.cluster).collect();
    let expected = [
        "outbound|443||kubernetes.default.svc.cluster.local",
        "outbound|5001||many.all-1.svc.cluster.local",
        "outbound|5002||many.all-1.svc.cluster.local",
        "outbound|6379||redis.all-1.svc.cluster.local",
        "outbound|8443||tls.all-1.svc.cluster.local",
        "outbound|9000||server.all-1.svc.cluster.local",
        "outbound|9001||server.all-1.svc.cluster.local",
        "outbound|9005||hl.all-1.svc.cluster.local",
    ];
    // 443 has a wildcard listener too, of ServiceEntries with TLS.
    assert_eq!(held, expected.into_iter().skip(1).collect());
    connections.remove("0.0.0.0_3306");
    connections.remove("0.0.0.0_443");
    let many = held_names(&connections);
    assert!(many.contains("outbound|3306||db-1.all-1.svc.cluster.local"));
    assert!(many.contains("outbound|3306||v6.example.com"));
    assert!(many.contains("outbound|3306||static.example.com"));
    assert!(many.contains(expected[0]));
    assert!(
        !many.iter().any(|c| c.contains("ruled")),
        "one alone with its idle timeout"
    );
    let outer = outer(&connections);
    let chain = chain_for(&outer, &to("2001:db8::1", 3306));
    assert!(chain.starts_with("lazymesh-tcp-"), "{chain}");
    assert_eq!(outer.filter_chains.len(), 3);
}

fn held_names(connections: &Connections) -> BTreeSet<&str> {
    connections.held().map(|p| &*p.cluster).collect()
}

/// Few ports and addresses, so that they meet.
fn destinations() -> impl Strategy<Value = BTreeSet<(u16, u8, bool)>> {
    prop::collection::btree_set((3300_u16..3304, any::<u8>(), any::<bool>()), 2..60)
}

fn address(last: u8, six: bool) -> String {
    if six {
        format!("fd00::{last:x}")
    } else {
        format!("10.0.0.{last}")
    }
}

proptest! {
    /// Each connection that is held comes to our chain, and no other does.
    #[test]
    fn exactly_what_is_held_is_taken(all in destinations(), shadowed in 3300_u16..3310) {
        let mut listeners = vec![virtual_outbound(), Listener {
            name: "wild".into(),
            address: at("0.0.0.0", shadowed),
            ..Default::default()
        }];
        for (port, last, six) in &all {
            listeners.push(service(&format!("s{last}-{six}"), &address(*last, *six), *port));
        }
        let connections = with(&listeners);
        let outer = outer(&connections);
        for port in 3299..3306 {
            for last in 0..=255 {
                for six in [false, true] {
                    let destination = to(&address(last, six), port);
                    let chain = chain_for(&outer, &destination);
                    let ours = all.contains(&(port, last, six)) && port != shadowed;
                    prop_assert_eq!(chain.starts_with("lazymesh-tcp-"), ours);
                    prop_assert!(ours || chain == "virtualOutbound-catchall-tcp");
                    prop_assert_eq!(connections.find(&destination).is_some(), all.contains(&(port, last, six)));
                }
            }
        }
        prop_assert_eq!(chain_for(&outer, &to("10.0.0.1", 15_001)), "virtualOutbound-blackhole");
    }

    #[test]
    fn a_name_comes_back(v4: [u8; 4], v6: [u8; 16], port in 1_u16..) {
        for address in [IpAddr::from(v4), IpAddr::from(v6)] {
            let destination = Destination::new(address, port);
            prop_assert_eq!(Destination::parse(&destination.name()), Some(destination));
        }
    }

    #[test]
    fn any_name_is_taken_apart_or_not(name in ".*", tail in "[0-9a-f:.|]*") {
        let _ = Destination::parse(&name);
        if let Some(destination) = Destination::parse(&format!("lazytcp|{tail}")) {
            prop_assert_eq!(Destination::parse(&destination.name()), Some(destination));
        }
    }

    /// istiod's listeners with some bytes changed: an error, or a kind.
    #[test]
    fn broken_messages_do_no_harm(which in any::<prop::sample::Index>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let response = DeltaDiscoveryResponse::decode(OF_ISTIOD).unwrap();
        let resource = &response.resources[which.index(response.resources.len())];
        let mut raw = resource.encode_to_vec();
        for (at, to) in changes {
            let at = at.index(raw.len());
            raw[at] = to;
        }
        let mut connections = with(&[service("a", "10.0.0.1", 3306), service("b", "10.0.0.2", 3306), virtual_outbound()]);
        if let Ok(kind) = Kind::of(&resource.name, &raw) {
            connections.put(&resource.name, kind);
            connections.settle();
            let _ = connections.outer(&config());
        }
    }
}
