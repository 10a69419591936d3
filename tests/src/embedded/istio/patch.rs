//! The JSON of patches as Envoy's messages: exactly the fields that Lazymesh writes.

use crate::embedded::wire::{any, u32_value};
use serde::{Deserialize, Deserializer};
use xds_shim::envoy::config::core::v3 as core;
use xds_shim::envoy::config::listener::v3 as listener;
use xds_shim::envoy::config::route::v3 as route;
use xds_shim::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use xds_shim::envoy::google::protobuf::{Duration, UInt64Value};
use xds_shim::envoy::r#type::matcher::v3 as matcher;

pub(super) const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// Of a patch that merges only some fields are there.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RouteConfiguration {
    vhost_header: String,
    request_headers_to_remove: Vec<String>,
    response_headers_to_remove: Vec<String>,
}

impl From<RouteConfiguration> for route::RouteConfiguration {
    fn from(from: RouteConfiguration) -> Self {
        Self {
            vhost_header: from.vhost_header,
            request_headers_to_remove: from.request_headers_to_remove,
            response_headers_to_remove: from.response_headers_to_remove,
            ..Default::default()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    name: String,
    r#match: RouteMatch,
    request_body_buffer_limit: u64,
    request_headers_to_add: Vec<HeaderOption>,
    response_headers_to_add: Vec<HeaderOption>,
    route: RouteAction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteMatch {
    prefix: String,
    headers: Vec<HeaderMatcher>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderMatcher {
    name: String,
    #[serde(default)]
    invert_match: bool,
    present_match: Option<bool>,
    string_match: Option<StringMatch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StringMatch {
    safe_regex: SafeRegex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SafeRegex {
    regex: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderOption {
    header: Header,
    append_action: AppendAction,
    #[serde(default)]
    keep_empty_value: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    key: String,
    value: String,
}

#[derive(Clone, Copy, Deserialize)]
enum AppendAction {
    #[serde(rename = "OVERWRITE_IF_EXISTS_OR_ADD")]
    Overwrite,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteAction {
    cluster: String,
    #[serde(deserialize_with = "duration")]
    timeout: Duration,
    internal_redirect_policy: RedirectPolicy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectPolicy {
    max_internal_redirects: u32,
    redirect_response_codes: Vec<u32>,
    allow_cross_scheme_redirect: bool,
    response_headers_to_copy: Vec<String>,
}

impl TryFrom<Route> for route::Route {
    type Error = String;

    fn try_from(from: Route) -> Result<Self, String> {
        let headers = from.r#match.headers.into_iter().map(TryInto::try_into);
        Ok(Self {
            name: from.name,
            r#match: Some(route::RouteMatch {
                path_specifier: Some(route::route_match::PathSpecifier::Prefix(
                    from.r#match.prefix,
                )),
                headers: headers.collect::<Result<_, _>>()?,
                ..Default::default()
            }),
            request_body_buffer_limit: Some(UInt64Value {
                value: from.request_body_buffer_limit,
            }),
            request_headers_to_add: options(from.request_headers_to_add),
            response_headers_to_add: options(from.response_headers_to_add),
            action: Some(route::route::Action::Route(from.route.into())),
            ..Default::default()
        })
    }
}

impl TryFrom<HeaderMatcher> for route::HeaderMatcher {
    type Error = String;

    fn try_from(from: HeaderMatcher) -> Result<Self, String> {
        use matcher::string_matcher::MatchPattern;
        use route::header_matcher::HeaderMatchSpecifier;
        let specifier = match (from.present_match, from.string_match) {
            (Some(present), None) => HeaderMatchSpecifier::PresentMatch(present),
            (None, Some(text)) => HeaderMatchSpecifier::StringMatch(matcher::StringMatcher {
                match_pattern: Some(MatchPattern::SafeRegex(matcher::RegexMatcher {
                    regex: text.safe_regex.regex,
                    ..Default::default()
                })),
                ..Default::default()
            }),
            _ => return Err(format!("header {}: one way to match it", from.name)),
        };
        Ok(Self {
            name: from.name,
            invert_match: from.invert_match,
            header_match_specifier: Some(specifier),
            ..Default::default()
        })
    }
}

impl From<RouteAction> for route::RouteAction {
    fn from(from: RouteAction) -> Self {
        let redirects = from.internal_redirect_policy;
        Self {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(from.cluster)),
            timeout: Some(from.timeout),
            internal_redirect_policy: Some(route::InternalRedirectPolicy {
                max_internal_redirects: u32_value(redirects.max_internal_redirects),
                redirect_response_codes: redirects.redirect_response_codes,
                allow_cross_scheme_redirect: redirects.allow_cross_scheme_redirect,
                response_headers_to_copy: redirects.response_headers_to_copy,
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn options(from: Vec<HeaderOption>) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let option = |one: HeaderOption| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: one.header.key,
            value: one.header.value,
            ..Default::default()
        }),
        append_action: match one.append_action {
            AppendAction::Overwrite => HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        },
        keep_empty_value: one.keep_empty_value,
        ..Default::default()
    };
    from.into_iter().map(option).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterChain {
    name: String,
    filter_chain_match: ChainMatch,
    filters: Vec<NetworkFilter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainMatch {
    prefix_ranges: Vec<Cidr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cidr {
    address_prefix: String,
    prefix_len: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFilter {
    name: String,
    typed_config: TcpProxy,
}

impl TryFrom<FilterChain> for listener::FilterChain {
    type Error = String;

    fn try_from(from: FilterChain) -> Result<Self, String> {
        let range = |cidr: Cidr| core::CidrRange {
            address_prefix: cidr.address_prefix,
            prefix_len: u32_value(cidr.prefix_len),
        };
        let filter = |filter: NetworkFilter| {
            let config: tcp::TcpProxy = filter.typed_config.try_into()?;
            Ok::<_, String>(listener::Filter {
                name: filter.name,
                config_type: Some(listener::filter::ConfigType::TypedConfig(any(&config))),
            })
        };
        let ranges = from.filter_chain_match.prefix_ranges.into_iter();
        Ok(Self {
            name: from.name,
            filter_chain_match: Some(listener::FilterChainMatch {
                prefix_ranges: ranges.map(range).collect(),
                ..Default::default()
            }),
            filters: from
                .filters
                .into_iter()
                .map(filter)
                .collect::<Result<_, _>>()?,
            ..Default::default()
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedTcpProxy {
    pub(super) typed_config: TcpProxy,
}

/// As above.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TcpProxy {
    #[serde(rename = "@type")]
    kind: String,
    stat_prefix: String,
    cluster: Option<String>,
    upstream_connect_mode: Option<ConnectMode>,
    max_early_data_bytes: Option<u32>,
    tunneling_config: Option<Tunneling>,
}

#[derive(Clone, Copy, Deserialize)]
enum ConnectMode {
    #[serde(rename = "ON_DOWNSTREAM_TLS_HANDSHAKE")]
    OnDownstreamTlsHandshake,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tunneling {
    hostname: String,
    headers_to_add: Vec<HeaderOption>,
}

impl TryFrom<TcpProxy> for tcp::TcpProxy {
    type Error = String;

    fn try_from(from: TcpProxy) -> Result<Self, String> {
        let expected = <Self as prost::Name>::type_url();
        if from.kind != expected {
            return Err(format!("@type {:?}, not {expected}", from.kind));
        }
        Ok(Self {
            stat_prefix: from.stat_prefix,
            cluster_specifier: from.cluster.map(tcp::tcp_proxy::ClusterSpecifier::Cluster),
            upstream_connect_mode: match from.upstream_connect_mode {
                Some(ConnectMode::OnDownstreamTlsHandshake) => {
                    tcp::UpstreamConnectMode::OnDownstreamTlsHandshake as i32
                }
                None => tcp::UpstreamConnectMode::default() as i32,
            },
            max_early_data_bytes: from.max_early_data_bytes.and_then(u32_value),
            tunneling_config: from
                .tunneling_config
                .map(|config| tcp::tcp_proxy::TunnelingConfig {
                    hostname: config.hostname,
                    headers_to_add: options(config.headers_to_add),
                    ..Default::default()
                }),
            ..Default::default()
        })
    }
}

/// Whole seconds, such as `0s`.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let seconds = text.strip_suffix('s').and_then(|text| text.parse().ok());
    let seconds =
        seconds.ok_or_else(|| serde::de::Error::custom(format!("{text:?}: no whole seconds")))?;
    Ok(Duration { seconds, nanos: 0 })
}
