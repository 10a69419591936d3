//! The outbound HTTP connection manager and its filters, those of Istio's own build left out.

use super::wire::{ads, any, bool_value, seconds};
use prost::{Message, Name};
use xds_shim::envoy::extensions::filters::http::cors::v3::Cors;
use xds_shim::envoy::extensions::filters::http::fault::v3::HttpFault;
use xds_shim::envoy::extensions::filters::http::grpc_stats::v3 as grpc_stats;
use xds_shim::envoy::extensions::filters::http::router::v3::Router;
use xds_shim::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_shim::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;

/// The connection manager of an outbound port, without stat prefix and filters; its routes come by RDS under the port's
/// number.
pub(super) fn manager(port: u16) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::{RouteSpecifier, UpgradeConfig};
    let websocket = UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        ..Default::default()
    };
    hcm::HttpConnectionManager {
        stream_idle_timeout: seconds(0),
        use_remote_address: bool_value(false),
        upgrade_configs: vec![websocket],
        normalize_path: bool_value(true),
        path_with_escaped_slashes_action:
            hcm::http_connection_manager::PathWithEscapedSlashesAction::KeepUnchanged as i32,
        request_id_extension: Some(hcm::RequestIdExtension {
            typed_config: Some(any(&UuidRequestIdConfig {
                use_request_id_for_trace_sampling: bool_value(true),
                ..Default::default()
            })),
        }),
        proxy_100_continue: true,
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: port.to_string(),
        })),
        ..Default::default()
    }
}

/// istiod's filters in istiod's order; the router is last.
pub(super) fn http_filters() -> Vec<hcm::HttpFilter> {
    let stats = grpc_stats::FilterConfig {
        emit_filter_state: true,
        per_method_stat_specifier: Some(
            grpc_stats::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
                xds_shim::envoy::google::protobuf::BoolValue { value: false },
            ),
        ),
        ..Default::default()
    };
    vec![
        filter("envoy.filters.http.grpc_stats", &stats),
        filter("envoy.filters.http.fault", &HttpFault::default()),
        filter("envoy.filters.http.cors", &Cors::default()),
        filter("envoy.filters.http.router", &Router::default()),
    ]
}

fn filter<M: Message + Name>(name: &str, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
