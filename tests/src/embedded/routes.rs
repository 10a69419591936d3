//! Route configs as istiod gives them to a sidecar (pilot/pkg/networking/core/httproute.go): one per HTTP port number.

use super::clusters::PASSTHROUGH;
use super::shape::{MeshShape, Service};
use super::wire::{any, bool_value, seconds, u32_value};
use xds_shim::envoy::config::route::v3 as api;
use xds_shim::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

/// The virtual host that catches what no service does.
pub const ALLOW_ANY: &str = "allow_any";

/// The route configs of a proxy in `namespace`.
pub fn all(shape: &MeshShape, namespace: &str) -> Vec<api::RouteConfiguration> {
    shape
        .http_ports()
        .into_iter()
        .map(|port| route_config(shape, namespace, port))
        .collect()
}

/// What istiod answers for a name it does not know.
pub fn empty(name: &str) -> api::RouteConfiguration {
    api::RouteConfiguration {
        name: name.to_owned(),
        ..Default::default()
    }
}

/// The route config of an inbound port: everything to the proxy's own workload.
pub(super) fn to_workload(cluster: &str) -> api::RouteConfiguration {
    api::RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![api::VirtualHost {
            name: "inbound|http|0".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![api::Route {
                name: "default".to_owned(),
                r#match: everything(),
                action: Some(api::route::Action::Route(action(cluster))),
                ..Default::default()
            }],
            ..Default::default()
        }],
        validate_clusters: bool_value(false),
        ..Default::default()
    }
}

fn route_config(shape: &MeshShape, namespace: &str, port: u16) -> api::RouteConfiguration {
    let services = shape.on_http_port(port);
    let hosts = services.map(|service| virtual_host(service, namespace, port));
    api::RouteConfiguration {
        name: port.to_string(),
        virtual_hosts: hosts.chain([allow_any()]).collect(),
        validate_clusters: bool_value(false),
        max_direct_response_body_size_bytes: u32_value(1024 * 1024),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

fn virtual_host(service: &Service, namespace: &str, port: u16) -> api::VirtualHost {
    let host = service.host();
    api::VirtualHost {
        name: format!("{host}:{port}"),
        domains: domains(service, namespace),
        routes: vec![api::Route {
            name: "default".to_owned(),
            r#match: everything(),
            decorator: Some(api::Decorator {
                operation: format!("{host}:{port}/*"),
                ..Default::default()
            }),
            action: Some(api::route::Action::Route(api::RouteAction {
                retry_policy: Some(retry_policy()),
                ..action(&service.cluster(port))
            })),
            ..Default::default()
        }],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// Every way to name the service; its short name only inside its own namespace.
fn domains(service: &Service, namespace: &str) -> Vec<String> {
    let Service {
        name,
        namespace: own,
        cluster_ip,
        ..
    } = service;
    let host = service.host();
    let mut domains = vec![format!("{host}."), host];
    domains.extend((own == namespace).then(|| name.clone()));
    domains.extend([
        format!("{name}.{own}.svc"),
        format!("{name}.{own}"),
        cluster_ip.to_string(),
    ]);
    domains
}

fn allow_any() -> api::VirtualHost {
    api::VirtualHost {
        name: ALLOW_ANY.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![api::Route {
            name: ALLOW_ANY.to_owned(),
            r#match: everything(),
            action: Some(api::route::Action::Route(action(PASSTHROUGH))),
            ..Default::default()
        }],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

fn everything() -> Option<api::RouteMatch> {
    let path = api::route_match::PathSpecifier::Prefix("/".to_owned());
    Some(api::RouteMatch {
        path_specifier: Some(path),
        ..Default::default()
    })
}

/// No timeout: that is Istio's default.
#[allow(deprecated)] // istiod sends max_grpc_timeout, not its replacement
fn action(cluster: &str) -> api::RouteAction {
    api::RouteAction {
        timeout: seconds(0),
        max_grpc_timeout: seconds(0),
        cluster_specifier: Some(api::route_action::ClusterSpecifier::Cluster(
            cluster.to_owned(),
        )),
        ..Default::default()
    }
}

/// Istio's default retries (pilot/pkg/networking/core/route/retry/retry.go).
fn retry_policy() -> api::RetryPolicy {
    api::RetryPolicy {
        retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
            .to_owned(),
        num_retries: u32_value(2),
        retry_host_predicate: vec![api::retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(
                api::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                    &PreviousHostsPredicate::default(),
                )),
            ),
        }],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    }
}
