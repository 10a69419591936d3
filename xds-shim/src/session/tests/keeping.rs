//! What is kept because something refers to it, and listeners made to ask.

use super::*;

const MIRROR: &str = "outbound|80||mirror.shop.svc.cluster.local";

#[test]
fn a_mirrors_target_is_active_before_the_route_that_mirrors() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(MIRROR)]);
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    let seen = stream.pushes(ads::RDS, "r1", &[routes("80", A, &[MIRROR])]);
    assert_eq!(
        (seen.given(), seen.subscribed()),
        (vec![MIRROR], vec![MIRROR])
    );
    assert!(seen.asks.is_empty(), "kept is not learned");
    let seen = stream.pushes(ads::EDS, "e1", &[endpoints(MIRROR, 1)]);
    assert_eq!(
        seen.order(),
        ["ClusterLoadAssignment", "RouteConfiguration"]
    );
    assert_eq!(
        stream.acks(&seen.to_proxy[1]).acknowledged(),
        [("r1", false)]
    );
}

#[test]
fn nothing_overtakes_what_is_held_back() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(MIRROR), cluster(B)]);
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    stream.pushes(ads::RDS, "r1", &[routes("80", A, &[MIRROR])]);
    assert!(
        stream
            .pushes(ads::RDS, "r2", &[routes("80", B, &[MIRROR])])
            .to_proxy
            .is_empty()
    );
    // A call is not held up by it.
    assert_eq!(stream.asks(ads::CDS, &[A]).given(), [A]);
    assert_eq!(
        stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]).given(),
        [A]
    );
    let seen = stream.pushes(ads::EDS, "e2", &[endpoints(MIRROR, 1)]);
    assert_eq!(seen.given(), [MIRROR, "80", "80"]);
    let last = seen.to_proxy.last().unwrap();
    assert_eq!(stream.acks(last).acknowledged(), [("r2", false)]);
}

#[test]
fn what_waits_for_endpoints_that_are_given_up_goes_out() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(MIRROR)]);
    stream.asks(ads::RDS, &["80"]);
    assert_eq!(
        stream
            .pushes(ads::RDS, "r1", &[routes("80", A, &[MIRROR])])
            .order(),
        ["Cluster"]
    );
    let seen = stream.request(&pb::DeltaDiscoveryRequest {
        type_url: ads::EDS.into(),
        resource_names_unsubscribe: vec![A.into(), MIRROR.into()],
        ..Default::default()
    });
    assert_eq!(seen.given(), ["80"]);
}

#[test]
fn a_mirrors_target_that_comes_later_is_given_then() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    stream.pushes(ads::RDS, "r1", &[routes("80", A, &[MIRROR])]);
    assert_eq!(
        stream.pushes(ads::CDS, "c2", &[cluster(MIRROR)]).given(),
        [MIRROR]
    );
}

#[test]
fn routes_used_where_nothing_asks_keep_their_clusters() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(B)]);
    stream.asks(ads::RDS, &["80"]);
    assert_eq!(
        stream
            .pushes(ads::RDS, "r1", &[routes("80", A, &[])])
            .given(),
        [A]
    );
    assert_eq!(
        stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]).given(),
        [A, "80"]
    );
}

#[test]
fn routes_that_come_to_be_used_where_nothing_asks_keep_theirs_from_then_on() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(B)]);
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    assert_eq!(
        stream
            .pushes(ads::RDS, "r1", &[routes("80", A, &[])])
            .given(),
        ["80"]
    );
    let mut inbound = http_listener("virtualInbound", "80");
    let any = inbound.resource.as_mut().unwrap();
    let mut message = lds::Listener::decode(&*any.value).unwrap();
    message.traffic_direction = core::TrafficDirection::Inbound as i32;
    any.value = message.encode_to_vec();
    assert_eq!(stream.pushes(ads::LDS, "l2", &[inbound]).given(), [A]);
}

#[test]
fn a_mirror_named_by_a_header_ends_all_holding() {
    let mut configuration = routes("80", A, &[]);
    let any = configuration.resource.as_mut().unwrap();
    let mut message = rds::RouteConfiguration::decode(&*any.value).unwrap();
    let Some(rds::route::Action::Route(action)) = &mut message.virtual_hosts[0].routes[0].action
    else {
        panic!("a route")
    };
    action.request_mirror_policies = vec![rds::route_action::RequestMirrorPolicy {
        cluster_header: "x-mirror".into(),
        ..Default::default()
    }];
    any.value = message.encode_to_vec();
    let mut stream = Stream::started(&[], &[cluster(A), cluster(B)]);
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    let mut given = stream.pushes(ads::RDS, "r1", &[configuration]);
    let came = stream.pushes(ads::EDS, "e1", &[endpoints(A, 1), endpoints(B, 1)]);
    given
        .to_proxy
        .extend(came.to_proxy.into_iter().filter(|r| r.type_url != ads::EDS));
    let mut given = given.given();
    given.sort_unstable();
    assert_eq!(given, ["80", A, B]);
    assert!(stream.session.summary().whole.is_some());
}

#[test]
fn a_reference_in_any_other_type_keeps_its_cluster() {
    let mut stream = Stream::started(&[], &[cluster(A), cluster(B)]);
    let wasm = pb::Resource {
        name: "filter".into(),
        resource: Some(Any {
            type_url: "x".into(),
            value: format!("cluster: {B}").into(),
        }),
        ..Default::default()
    };
    let seen = stream.pushes(
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "x1",
        &[wasm],
    );
    assert_eq!(seen.given(), [B]);
    assert_eq!(
        stream.pushes(ads::EDS, "e1", &[endpoints(B, 1)]).given(),
        [B, "filter"]
    );
}

#[test]
fn an_aggregate_brings_its_members() {
    let aggregate = cluster_with("my-aggregate", |c| c.alt_stat_name = B.into());
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &[]);
    let seen = stream.pushes(ads::CDS, "c1", &[aggregate, cluster(A), cluster(B)]);
    assert_eq!(seen.given(), ["my-aggregate", B]);
}

#[test]
fn listeners_ask_on_demand_and_unchanged_ones_are_not_sent_again() {
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::LDS, &[]);
    let seen = stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    let raw = seen.to_proxy[0].encode_to_vec();
    assert!(memchr::memmem::find(&raw, crate::listener::ON_DEMAND_FILTER.as_bytes()).is_some());
    let seen = stream.pushes(ads::LDS, "l2", &[http_listener("0.0.0.0_80", "80")]);
    assert_eq!(
        (seen.to_proxy.len(), seen.acknowledged()),
        (0, vec![("l2", false)])
    );
    let seen = stream.push(ads::LDS, "l3", &[], &["0.0.0.0_80"]);
    assert_eq!(seen.removed(), ["0.0.0.0_80"]);
}

#[test]
fn a_listener_that_is_not_understood_passes_and_keeps_what_it_names() {
    let mut broken = http_listener("l", "80");
    broken.resource.as_mut().unwrap().value = [&[0x0b][..], A.as_bytes()].concat();
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::LDS, &[]);
    let seen = stream.pushes(ads::LDS, "l1", &[broken.clone()]);
    assert_eq!(seen.given(), [A]);
    let seen = stream.pushes(ads::EDS, "e1", &[endpoints(A, 1)]);
    assert_eq!(seen.given(), [A, "l"]);
    assert_eq!(
        seen.to_proxy.last().unwrap().resources[0].resource,
        broken.resource
    );
}

#[test]
fn a_tcp_service_is_learned_as_tcp() {
    use crate::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
    let proxy = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(A.into())),
        ..Default::default()
    };
    let any = Any {
        type_url: format!("type.googleapis.com/{}", TcpProxy::full_name()),
        value: proxy.encode_to_vec(),
    };
    let filter = lds::Filter {
        config_type: Some(lds::filter::ConfigType::TypedConfig(any)),
        ..Default::default()
    };
    let listener = lds::Listener {
        name: "10.0.0.1_80".into(),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        filter_chains: vec![lds::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut stream = Stream::started(&[], &[cluster(A)]);
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[resource("10.0.0.1_80", &listener)]);
    assert_eq!(stream.asks(ads::CDS, &[A]).asks[0].protocol, Protocol::Tcp);
}

#[test]
fn a_proxy_that_cannot_ask_is_given_up() {
    let words = "Error adding/updating listener(s) 0.0.0.0_80: Didn't find a registered implementation for \
                 'envoy.filters.http.on_demand'";
    for (type_url, words, given_up) in [
        (ads::LDS, words, true),
        (ads::LDS, "no such filter: envoy.filters.http.mine", false),
        (ads::CDS, words, false),
    ] {
        let mut stream = Stream::started(&[], &[cluster(A)]);
        stream.asks(ads::LDS, &[]);
        let mut given = stream
            .pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")])
            .to_proxy
            .remove(0);
        if type_url == ads::CDS {
            given = stream.asks(ads::CDS, &[A]).to_proxy.remove(0);
        }
        let request = refusal(&given, words).encode_to_vec().into();
        let outcome = stream.session.on_request(&request);
        assert_eq!(outcome.is_err(), given_up, "{type_url}: {words}");
    }
}
