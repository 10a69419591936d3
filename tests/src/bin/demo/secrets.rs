//! What pilot-agent does for mTLS: a certificate for the workload, and the root, by SDS on a Unix socket.

use crate::authority::Authority;
use anyhow::{Context, Result};
use futures::{StreamExt, stream::BoxStream};
use mesh_tests::embedded::mtls::{ROOT_SECRET, WORKLOAD_SECRET};
use prost::{Message, Name};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};
use xds_shim::envoy::config::core::v3::{DataSource, data_source::Specifier};
use xds_shim::envoy::extensions::transport_sockets::tls::v3 as tls;
use xds_shim::envoy::google::protobuf::Any;
use xds_shim::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use xds_shim::envoy::service::secret::v3::secret_discovery_service_server as sds;

/// Serves the secrets of one workload; gives the socket.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(dir: &Path, authority: &Authority, identity: &str) -> Result<PathBuf> {
    let path = dir.join("sds.sock");
    let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
    let service = sds::SecretDiscoveryServiceServer::new(Secrets::issue(authority, identity)?);
    let serving = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            eprintln!("demo: SDS ended: {error}");
        }
    });
    Ok(path)
}

#[derive(Debug, Clone)]
struct Secrets {
    workload: tls::Secret,
    root: tls::Secret,
}

impl Secrets {
    fn issue(authority: &Authority, identity: &str) -> Result<Self> {
        let issued = authority.workload(identity)?;
        let certificate = tls::TlsCertificate {
            certificate_chain: inline(&issued.certificate),
            private_key: inline(&issued.key),
            ..Default::default()
        };
        let validation = tls::CertificateValidationContext {
            trusted_ca: inline(&authority.root()),
            ..Default::default()
        };
        Ok(Self {
            workload: secret(
                WORKLOAD_SECRET,
                tls::secret::Type::TlsCertificate(certificate),
            ),
            root: secret(
                ROOT_SECRET,
                tls::secret::Type::ValidationContext(validation),
            ),
        })
    }

    /// Envoy asks with a stream per secret; an ACK gets no answer, since nothing changes.
    fn answer(&self, request: &DiscoveryRequest) -> Option<DiscoveryResponse> {
        if !request.response_nonce.is_empty() {
            return None;
        }
        let known = [&self.workload, &self.root];
        let asked = known
            .into_iter()
            .filter(|one| request.resource_names.contains(&one.name));
        let pack = |one: &tls::Secret| Any {
            type_url: tls::Secret::type_url(),
            value: one.encode_to_vec(),
        };
        Some(DiscoveryResponse {
            version_info: "1".to_owned(),
            nonce: "1".to_owned(),
            type_url: tls::Secret::type_url(),
            resources: asked.map(pack).collect(),
            ..Default::default()
        })
    }
}

fn inline(pem: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineString(pem.to_owned())),
        ..Default::default()
    })
}

fn secret(name: &str, kind: tls::secret::Type) -> tls::Secret {
    tls::Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    }
}

#[tonic::async_trait]
impl sds::SecretDiscoveryService for Secrets {
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let secrets = self.clone();
        let answers = request.into_inner().filter_map(move |request| {
            let answer = request.map(|request| secrets.answer(&request)).transpose();
            async { answer }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "istiod configures state-of-the-world SDS",
        ))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}
