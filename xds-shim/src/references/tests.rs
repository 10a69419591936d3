use super::*;
use crate::envoy::config::core::v3::Metadata;
use crate::envoy::config::route::v3 as route;
use crate::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use prost::Message;
use route::route_action::{ClusterSpecifier, RequestMirrorPolicy};

const A: &str = "outbound|80||a.shop.svc.cluster.local";
const B: &str = "outbound|80|v2|b.shop.svc.cluster.local";
const MIRROR: &str = "outbound|8080||mirror.shop.svc.cluster.local";

fn names(found: &Found) -> Vec<&str> {
    found.names.iter().map(String::as_str).collect()
}

fn look(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    anywhere(bytes, &mut found);
    found
}

fn configuration(action: route::RouteAction) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: "80".into(),
        virtual_hosts: vec![route::VirtualHost {
            name: "a".into(),
            domains: vec!["a".into()],
            routes: vec![route::Route {
                action: Some(route::route::Action::Route(action)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn mirroring(policy: RequestMirrorPolicy) -> Found {
    let action = route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(A.into())),
        request_mirror_policies: vec![policy],
        ..Default::default()
    };
    beside_routes(&configuration(action).encode_to_vec()).unwrap()
}

#[test]
fn the_cluster_a_route_picks_is_covered_and_its_mirror_is_not() {
    let found = mirroring(RequestMirrorPolicy {
        cluster: MIRROR.into(),
        ..Default::default()
    });
    assert_eq!(names(&found), [MIRROR]);
    assert!(!found.unknowable);
}

#[test]
fn a_mirror_named_by_a_header_cannot_be_known() {
    let policy = RequestMirrorPolicy {
        cluster_header: "x-to".into(),
        ..Default::default()
    };
    assert!(mirroring(policy).unknowable);
}

#[test]
fn weighted_clusters_are_covered_and_what_hangs_on_them_is_not() {
    use route::weighted_cluster::ClusterWeight;
    let mut config = std::collections::HashMap::new();
    config.insert(
        "some.filter".to_owned(),
        crate::envoy::google::protobuf::Any {
            type_url: "x".into(),
            value: MIRROR.into(),
        },
    );
    let action = route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: vec![
                ClusterWeight {
                    name: A.into(),
                    ..Default::default()
                },
                ClusterWeight {
                    name: B.into(),
                    typed_per_filter_config: config,
                    ..Default::default()
                },
            ],
            ..Default::default()
        })),
        ..Default::default()
    };
    let found = beside_routes(&configuration(action).encode_to_vec()).unwrap();
    assert_eq!(names(&found), [MIRROR]);
}

#[test]
fn what_stands_beside_the_virtual_hosts_counts() {
    let mut configuration = configuration(route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(A.into())),
        ..Default::default()
    });
    configuration.request_mirror_policies = vec![RequestMirrorPolicy {
        cluster: B.into(),
        ..Default::default()
    }];
    let found = beside_routes(&configuration.encode_to_vec()).unwrap();
    assert_eq!(names(&found), [B]);
}

#[test]
fn a_tcp_proxy_may_carry_its_clusters_name_as_statistics_prefix() {
    let proxy = tcp::TcpProxy {
        stat_prefix: A.into(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(A.into())),
        ..Default::default()
    };
    assert_eq!(
        names(&beside_tcp_proxy(&proxy.encode_to_vec()).unwrap()),
        [""; 0]
    );
    let weighted =
        tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(tcp::tcp_proxy::WeightedCluster {
            clusters: vec![tcp::tcp_proxy::weighted_cluster::ClusterWeight {
                name: B.into(),
                weight: 1,
                metadata_match: Some(Metadata::default()),
            }],
        });
    let proxy = tcp::TcpProxy {
        cluster_specifier: Some(weighted),
        ..Default::default()
    };
    assert_eq!(
        names(&beside_tcp_proxy(&proxy.encode_to_vec()).unwrap()),
        [""; 0]
    );
}

#[test]
fn names_are_found_in_strings_scripts_and_texts() {
    // A character in front can read as a length: a name too many is no harm.
    assert!(names(&look(format!("httpCall(\"{A}\", 1)").as_bytes())).contains(&A));
    assert!(names(&look(format!("see {B}.").as_bytes())).contains(&B));
    // A string followed by a record whose tag is a letter: the length in front tells them apart.
    let mut message = Vec::new();
    wire::put_bytes(&mut message, 3, A.as_bytes());
    wire::put_bytes(&mut message, 12, b"x"); // tag 0x62 is 'b'
    assert!(names(&look(&message)).contains(&A));
    // A name of more than 127 bytes has two bytes of length.
    let long = format!("outbound|80||{}.shop.svc.cluster.local", "x".repeat(150));
    let mut message = Vec::new();
    wire::put_bytes(&mut message, 3, long.as_bytes());
    wire::put_bytes(&mut message, 12, b"x");
    assert!(names(&look(&message)).contains(&long.as_str()));
}

#[test]
fn what_is_no_name_is_not_found() {
    for text in [
        "outbound|",
        "outbound|x||a",
        "outbound|80|",
        "inbound|80||",
        "outbound_80",
    ] {
        assert_eq!(names(&look(text.as_bytes())), [""; 0], "{text}");
    }
}
