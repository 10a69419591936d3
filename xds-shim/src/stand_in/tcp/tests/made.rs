//! What is made of listeners: chains, copies inside Envoy, clusters that lead there.

use super::*;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::listener::v3::listener::ListenerSpecifier;
use crate::envoy::extensions::filters::network::set_filter_state::v3::Config;

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
    let [ours, inside] = ours else {
        panic!("{} chains", ours.len());
    };
    assert_eq!(inside.name, form::INSIDE);
    assert_eq!(ours.metadata, own.metadata);
    let names: Vec<_> = ours.filters.iter().map(|f| f.name.as_str()).collect();
    let expected = [
        "envoy.filters.network.set_filter_state",
        "istio.stats",
        "envoy.filters.network.tcp_proxy",
    ];
    assert_eq!(names, expected);
    let state = filter_state(ours);
    let format = "lazytcp|%DOWNSTREAM_LOCAL_PORT%|%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%";
    assert_eq!(
        state,
        [("envoy.tcp_proxy.cluster".into(), format.into(), 0)]
    );
    let proxy = TcpProxy::decode(&*value(ours, 2)).unwrap();
    assert!(proxy.on_demand.is_some() && !proxy.stat_prefix.is_empty());
    assert_eq!(proxy.idle_timeout, None);
}

/// The value of a filter's typed config.
fn value(chain: &FilterChain, at: usize) -> Vec<u8> {
    match &chain.filters[at].config_type {
        Some(filter::ConfigType::TypedConfig(any)) => any.value.clone(),
        other => panic!("{other:?}"),
    }
}

/// Keys, formats, and how they are handed on, of a chain's first filter.
fn filter_state(chain: &FilterChain) -> Vec<(String, String, i32)> {
    let config = Config::decode(&*value(chain, 0)).unwrap();
    let values = config.on_new_connection.iter().map(|value| {
        let raw = value.encode_to_vec();
        let format = wire::last(wire::last(&raw, 2).unwrap().unwrap(), 5)
            .unwrap()
            .unwrap();
        (
            wire::string(&raw, 1).unwrap().to_owned(),
            wire::string(format, 3).unwrap().to_owned(),
            value.shared_with_upstream,
        )
    });
    values.collect()
}

#[test]
fn the_chain_inside_hands_the_addresses_on_and_ends_nothing() {
    let outer = outer(&with(&[virtual_outbound()]));
    let inside = outer.filter_chains.last().unwrap();
    assert_eq!(inside.name, form::INSIDE);
    let here = "lazyin|%DOWNSTREAM_LOCAL_PORT%|%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%";
    let original_dst = |what| format!("envoy.filters.listener.original_dst.{what}_ip");
    let expected = [
        ("envoy.tcp_proxy.cluster".to_owned(), here.to_owned(), 0),
        (
            original_dst("local"),
            "%DOWNSTREAM_LOCAL_ADDRESS%".to_owned(),
            1,
        ),
        (
            original_dst("remote"),
            "%DOWNSTREAM_REMOTE_ADDRESS%".to_owned(),
            1,
        ),
    ];
    assert_eq!(filter_state(inside), expected);
    let proxy = TcpProxy::decode(&*value(inside, 1)).unwrap();
    assert_eq!(proxy.idle_timeout, Some(ProtoDuration::default()));
    assert!(proxy.on_demand.is_some());
}

#[test]
fn a_copy_inside_is_the_listener_without_its_address() {
    let mut own = changed(&|l| l.default_filter_chain = l.filter_chains.pop());
    own.listener_filters = vec![ListenerFilter {
        name: "http_inspector".into(),
        ..Default::default()
    }];
    let mut raw = own.encode_to_vec();
    wire::put_bytes(&mut raw, 54_321, b"from a newer istiod");
    let any = Any {
        type_url: crate::ads::LDS.into(),
        value: raw,
    };
    let given = Resource {
        name: own.name.clone(),
        resource: Some(any),
        ..Default::default()
    };
    let raw = inside::copy(&given.encode_to_vec(), "lazyin|1|10.0.0.1").unwrap();
    assert_eq!(Resource::decode(&*raw).unwrap().name, "lazyin|1|10.0.0.1");
    let raw = payload(&raw).unwrap();
    assert!(wire::last(raw, 54_321).unwrap().is_some());
    let mut copy = Listener::decode(raw).unwrap();
    let first = copy.listener_filters.remove(0);
    assert_eq!(first.name, "envoy.filters.listener.original_dst");
    assert!(matches!(
        copy.listener_specifier.take(),
        Some(ListenerSpecifier::InternalListener(_))
    ));
    own.name = "lazyin|1|10.0.0.1".into();
    (own.address, own.bind_to_port) = (None, None);
    assert_eq!(copy, own);
    assert!(inside::copy(&[0xff], "x").is_err());
}

#[test]
fn the_cluster_leads_to_the_copy_of_its_name() {
    let raw = inside::cluster("lazyin|1|10.0.0.1");
    assert_eq!(Resource::decode(&*raw).unwrap().name, "lazyin|1|10.0.0.1");
    assert_eq!(crate::cluster::eds_name(&raw).unwrap(), None);
    let cluster = Cluster::decode(payload(&raw).unwrap()).unwrap();
    assert_eq!(cluster.name, "lazyin|1|10.0.0.1");
    let endpoints = cluster.load_assignment.unwrap().endpoints;
    let text = format!("{endpoints:?}");
    assert!(
        text.contains("ServerListenerName(\"lazyin|1|10.0.0.1\")"),
        "{text}"
    );
}
