use super::*;
use crate::envoy::config::core::v3::TrafficDirection;
use crate::envoy::config::listener::v3 as lds;
use crate::envoy::config::route::v3::RouteConfiguration;
use crate::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use crate::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use crate::envoy::service::discovery::v3::Resource;
use http::http_connection_manager::{RouteSpecifier, UpgradeConfig};

const A: &str = "outbound|3306||a.shop.svc.cluster.local";
const TRACER: &str = "outbound|4317||otel.istio-system.svc.cluster.local";

fn config() -> OnDemandConfig {
    OnDemandConfig::new(Duration::from_secs(5))
}

fn any(kind: &[u8], value: Vec<u8>) -> Any {
    Any {
        type_url: String::from_utf8(kind.to_vec()).unwrap(),
        value,
    }
}

fn hcm() -> http::HttpConnectionManager {
    http::HttpConnectionManager {
        stat_prefix: "outbound_0.0.0.0_80".into(),
        route_specifier: Some(RouteSpecifier::Rds(http::Rds {
            route_config_name: "80".into(),
            ..Default::default()
        })),
        http_filters: ["istio.alpn", "envoy.filters.http.router"]
            .map(|name| http::HttpFilter {
                name: name.into(),
                ..Default::default()
            })
            .into(),
        ..Default::default()
    }
}

fn tcp(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    }
}

fn resource(direction: TrafficDirection, filter: Any) -> Vec<u8> {
    let listener = lds::Listener {
        name: "l".into(),
        traffic_direction: direction as i32,
        filter_chains: vec![lds::FilterChain {
            filters: vec![lds::Filter {
                name: "f".into(),
                config_type: Some(lds::filter::ConfigType::TypedConfig(filter)),
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let any = any(crate::ads::LDS.as_bytes(), listener.encode_to_vec());
    Resource {
        name: "l".into(),
        resource: Some(any),
        ..Default::default()
    }
    .encode_to_vec()
}

/// The value of the one filter's typed config.
fn filter_of(resource: &[u8]) -> Vec<u8> {
    let listener = lds::Listener::decode(cluster::payload(resource).unwrap()).unwrap();
    match listener.filter_chains[0].filters[0].config_type.clone() {
        Some(lds::filter::ConfigType::TypedConfig(any)) => any.value,
        other => panic!("{other:?}"),
    }
}

fn lazy_http(hcm: &http::HttpConnectionManager) -> (Lazy, http::HttpConnectionManager) {
    let resource = resource(
        TrafficDirection::Outbound,
        any(HCM_TYPE, hcm.encode_to_vec()),
    );
    let lazy = make_lazy(&resource, &config()).unwrap();
    let out = filter_of(lazy.resource.as_ref().unwrap_or(&resource));
    (lazy, http::HttpConnectionManager::decode(&*out).unwrap())
}

#[test]
fn the_filter_goes_first_and_the_rest_stays() {
    let (lazy, mut out) = lazy_http(&hcm());
    assert_eq!(out.http_filters.remove(0).name, ON_DEMAND_FILTER);
    assert_eq!(
        written(&out),
        ["x-lazymesh-cluster: lazy|80|%REQ(:authority)%"]
    );
    out.early_header_mutation_extensions.clear();
    assert_eq!(out, hcm());
    assert!(lazy.whole_routes.is_empty());
    assert_eq!(lazy.lazy_routes.into_iter().collect::<Vec<_>>(), ["80"]);
    assert!(lazy.plain_routes.is_empty() && lazy.found == Found::default());
}

/// The headers that are written over what a request has, as it comes in.
fn written(hcm: &http::HttpConnectionManager) -> Vec<String> {
    let mut written = Vec::new();
    for extension in &hcm.early_header_mutation_extensions {
        let config = extension.typed_config.as_ref().unwrap();
        assert_eq!(config.type_url, HEADER_MUTATION_TYPE);
        for mutation in header_mutation::HeaderMutation::decode(&*config.value)
            .unwrap()
            .mutations
        {
            let Some(mutation_rules::header_mutation::Action::Append(option)) = mutation.action
            else {
                panic!("{mutation:?}");
            };
            assert_eq!(
                option.append_action(),
                HeaderAppendAction::OverwriteIfExistsOrAdd
            );
            let header = option.header.unwrap();
            written.push(format!("{}: {}", header.key, header.value));
        }
    }
    written
}

#[test]
fn an_authority_that_is_changed_before_routing_is_not_told() {
    let changes: [fn(&mut http::HttpConnectionManager); 4] = [
        |hcm| hcm.strip_matching_host_port = true,
        |hcm| hcm.strip_trailing_host_dot = true,
        |hcm| {
            let mode = http::http_connection_manager::StripPortMode::StripAnyHostPort(true);
            hcm.strip_port_mode = Some(mode);
        },
        |hcm| {
            let named = http::Rds {
                route_config_name: "a|b".into(),
                ..Default::default()
            };
            hcm.route_specifier = Some(RouteSpecifier::Rds(named));
        },
    ];
    for change in changes {
        let mut changed = hcm();
        change(&mut changed);
        let (lazy, out) = lazy_http(&changed);
        assert_eq!(written(&out), [""; 0]);
        assert_eq!(lazy.whole_routes, lazy.lazy_routes);
    }
}

#[test]
fn a_field_nobody_knows_survives() {
    let mut with_unknown = hcm().encode_to_vec();
    let mut planted = Vec::new();
    wire::put_bytes(&mut planted, 54_321, b"from a newer istiod");
    with_unknown.extend_from_slice(&planted);
    let resource = resource(TrafficDirection::Outbound, any(HCM_TYPE, with_unknown));
    let lazy = make_lazy(&resource, &config()).unwrap().resource.unwrap();
    let out = filter_of(&lazy);
    assert!(memchr::memmem::find(&out, &planted).is_some());
    assert_eq!(wire::each(&out, 5).count(), 3);
}

#[test]
fn inbound_stays_byte_for_byte_and_its_clusters_count() {
    let inline = http::HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: TRACER.into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let resource_in = resource(
        TrafficDirection::Inbound,
        any(HCM_TYPE, inline.encode_to_vec()),
    );
    let lazy = make_lazy(&resource_in, &config()).unwrap();
    assert_eq!(lazy.resource, None);
    assert!(lazy.found.names.contains(TRACER));
    let resource_in = resource(
        TrafficDirection::Inbound,
        any(HCM_TYPE, hcm().encode_to_vec()),
    );
    let lazy = make_lazy(&resource_in, &config()).unwrap();
    assert_eq!(
        (
            lazy.resource,
            lazy.lazy_routes.len(),
            lazy.plain_routes.len()
        ),
        (None, 0, 1)
    );
    let resource_in = resource(
        TrafficDirection::Inbound,
        any(TCP_PROXY_TYPE, tcp(A).encode_to_vec()),
    );
    let lazy = make_lazy(&resource_in, &config()).unwrap();
    assert!(lazy.resource.is_none() && lazy.found.names.contains(A));
}

#[test]
fn a_tracer_an_access_log_or_an_unknown_filter_is_a_reference() {
    let mut traced = hcm();
    traced.tracing = Some(http::http_connection_manager::Tracing {
        provider: Some(crate::envoy::config::trace::v3::tracing::Http {
            name: TRACER.into(),
            ..Default::default()
        }),
        ..Default::default()
    });
    assert!(lazy_http(&traced).0.found.names.contains(TRACER));
    let redis = resource(TrafficDirection::Outbound, any(b"type/redis", A.into()));
    let lazy = make_lazy(&redis, &config()).unwrap();
    assert!(lazy.resource.is_none() && lazy.found.names.contains(A));
}

#[test]
fn upgrades_with_filters_of_their_own_ask_too() {
    let mut upgrading = hcm();
    let router = http::HttpFilter {
        name: "router".into(),
        ..Default::default()
    };
    upgrading.upgrade_configs = vec![
        UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..Default::default()
        },
        UpgradeConfig {
            upgrade_type: "x".into(),
            filters: vec![router],
            ..Default::default()
        },
    ];
    let (_, out) = lazy_http(&upgrading);
    assert_eq!(out.upgrade_configs[0].filters.len(), 0);
    assert_eq!(out.upgrade_configs[1].filters[0].name, ON_DEMAND_FILTER);
    assert_eq!(out.upgrade_configs[1].filters.len(), 2);
}

#[test]
fn a_users_own_on_demand_is_left_alone() {
    let mut own = hcm();
    own.http_filters.push(http::HttpFilter {
        name: ON_DEMAND_FILTER.into(),
        ..Default::default()
    });
    let (lazy, out) = lazy_http(&own);
    assert_eq!((lazy.resource, lazy.plain_routes.len()), (None, 1));
    assert_eq!(out, own);
}

#[test]
fn tcp_proxies_towards_services_ask() {
    let lazy = |proxy: &TcpProxy| {
        let resource = resource(
            TrafficDirection::Outbound,
            any(TCP_PROXY_TYPE, proxy.encode_to_vec()),
        );
        let lazy = make_lazy(&resource, &config()).unwrap();
        let out = filter_of(lazy.resource.as_ref().unwrap_or(&resource));
        (lazy, TcpProxy::decode(&*out).unwrap())
    };
    let (found, mut out) = lazy(&tcp(A));
    let on_demand = out.on_demand.take().unwrap();
    assert_eq!(on_demand.timeout.unwrap().seconds, 5);
    assert_eq!(out, tcp(A));
    assert_eq!(found.found, Found::default());
    assert!(lazy(&tcp("PassthroughCluster")).0.resource.is_none());
    let weighted = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::WeightedClusters(
            tcp_proxy::WeightedCluster {
                clusters: vec![tcp_proxy::weighted_cluster::ClusterWeight {
                    name: A.into(),
                    weight: 1,
                    ..Default::default()
                }],
            },
        )),
        ..Default::default()
    };
    assert!(lazy(&weighted).1.on_demand.is_some());
}

#[test]
fn nonsense_is_an_error_not_a_panic() {
    let resource = resource(TrafficDirection::Outbound, any(HCM_TYPE, vec![0x0b, 0xff]));
    assert!(make_lazy(&resource, &config()).is_err());
    assert!(make_lazy(&[0xff; 20], &config()).is_err());
}
