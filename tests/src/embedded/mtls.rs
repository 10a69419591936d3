//! The TLS settings of automatic mTLS: certificates by SDS from the agent, the server's identity pinned.

use super::shape::{Port, Service};
use super::wire::{any, bool_value, seconds};
use xds_shim::envoy::config::core::v3 as core;
use xds_shim::envoy::extensions::transport_sockets::tls::v3 as tls;
use xds_shim::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

/// The SDS name of the workload's own certificate.
pub const WORKLOAD_SECRET: &str = "default";
/// The SDS name of the mesh's root certificate.
pub const ROOT_SECRET: &str = "ROOTCA";
/// The bootstrap's static cluster that SDS is asked of.
pub const SDS_CLUSTER: &str = "sds-grpc";

/// The socket of a call to an endpoint with a sidecar.
pub(super) fn upstream_socket(service: &Service, port: Port) -> core::TransportSocket {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common_context(identity(service), &["istio"])),
        sni: format!("outbound_.{}_._.{}", port.number, service.host()),
        ..Default::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(
            &context,
        ))),
    }
}

/// The socket of a port that takes mutual TLS only (STRICT).
pub(super) fn downstream_socket() -> core::TransportSocket {
    let mesh = MatchPattern::Prefix("spiffe://cluster.local/".to_owned());
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common_context(mesh, &["h2", "http/1.1"])),
        require_client_certificate: bool_value(true),
        ..Default::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(
            &context,
        ))),
    }
}

/// The identity of the pods behind a service.
fn identity(service: &Service) -> MatchPattern {
    let account = service.account.as_deref().unwrap_or("default");
    MatchPattern::Exact(spiffe(&service.namespace, account))
}

/// Who a service account of a namespace is.
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

fn common_context(identity: MatchPattern, alpn: &[&str]) -> tls::CommonTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let identity = StringMatcher {
        match_pattern: Some(identity),
        ..Default::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: vec![tls::SubjectAltNameMatcher {
                san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
                matcher: Some(identity),
                ..Default::default()
            }],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(ROOT_SECRET)),
        ..Default::default()
    };
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13 as i32,
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret(WORKLOAD_SECRET)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn secret(name: &str) -> tls::SdsSecretConfig {
    use core::{api_config_source, config_source::ConfigSourceSpecifier, grpc_service};
    let agent = core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
            grpc_service::EnvoyGrpc {
                cluster_name: SDS_CLUSTER.to_owned(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let source = core::ApiConfigSource {
        api_type: api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![agent],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            initial_fetch_timeout: seconds(0),
            resource_api_version: core::ApiVersion::V3 as i32,
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
            ..Default::default()
        }),
    }
}
