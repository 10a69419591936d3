//! The endpoints of all services: they share the machine, each has an address of its own, and each says which one it is.
//! Those that have sidecars take mutual TLS, as these would, and say who called, too.

use crate::authority::Authority;
use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mesh_tests::embedded::mtls::spiffe;
use mesh_tests::embedded::{MeshShape, Protocol};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Those that take mutual TLS, by address.
type Secured = Arc<HashMap<IpAddr, Arc<ServerConfig>>>;

/// Listens on every port that a service of the mesh leads to.
///
/// # Errors
/// When a port is taken, or a certificate cannot be used.
pub(crate) async fn start(shape: &MeshShape, authority: &Authority) -> Result<()> {
    let secured = Arc::new(secured(shape, authority)?);
    let ports = shape.services.values().flat_map(|service| &service.ports);
    let distinct: HashMap<u16, Protocol> = ports.map(|port| (port.target, port.protocol)).collect();
    for (port, protocol) in distinct {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await;
        let listener = listener.with_context(|| format!("port {port} of the endpoints"))?;
        tokio::spawn(accept(listener, protocol, Arc::clone(&secured)));
    }
    Ok(())
}

fn secured(shape: &MeshShape, authority: &Authority) -> Result<HashMap<IpAddr, Arc<ServerConfig>>> {
    let mut all = HashMap::new();
    for service in shape.services.values() {
        let Some(account) = &service.account else {
            continue;
        };
        let config = server_config(authority, &spiffe(&service.namespace, account))?;
        let pods = service.endpoints.iter().copied().map(IpAddr::V4);
        all.extend(pods.map(|pod| (pod, Arc::clone(&config))));
    }
    Ok(all)
}

fn server_config(authority: &Authority, identity: &str) -> Result<Arc<ServerConfig>> {
    let issued = authority.workload(identity)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.root().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(
                issued.certificate.as_bytes(),
            )?],
            PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?,
        )?;
    Ok(Arc::new(config))
}

async fn accept(listener: TcpListener, protocol: Protocol, secured: Secured) {
    // A failed accept is the caller's loss; the call is counted as failed there.
    while let Ok((stream, _)) = listener.accept().await {
        let secured = Arc::clone(&secured);
        tokio::spawn(async move {
            // Small answers are not to wait for more; what fails here is the caller's loss, too.
            let (Ok(address), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else {
                return;
            };
            let name = address.to_string();
            match secured.get(&address.ip()) {
                Some(config) => take_tls(stream, Arc::clone(config), &name, protocol).await,
                None => serve(stream, name, protocol).await,
            }
        });
    }
}

async fn take_tls(stream: TcpStream, config: Arc<ServerConfig>, name: &str, protocol: Protocol) {
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let caller = certificate.and_then(identity).unwrap_or_default();
    serve(stream, format!("{name} {caller}"), protocol).await;
}

/// The SPIFFE id in a verified certificate.
fn identity(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_uri_names().next().map(str::to_owned)
}

async fn serve<S>(stream: S, name: String, protocol: Protocol)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match protocol {
        Protocol::Http => http(stream, name).await,
        Protocol::Tcp => tcp(stream, name).await,
    }
}

async fn http<S>(stream: S, name: String)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |_: Request<Incoming>| {
        let reply = Response::new(Full::new(Bytes::from(name.clone())));
        async { Ok::<_, Infallible>(reply) }
    });
    // A connection that breaks is the caller's loss.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Speaks first, then echoes lines.
async fn tcp<S: AsyncRead + AsyncWrite + Unpin>(stream: S, name: String) {
    let mut stream = BufReader::new(stream);
    let mut line = format!("{name}\n");
    // Until the caller closes, or breaks off.
    while stream.write_all(line.as_bytes()).await.is_ok() && stream.flush().await.is_ok() {
        line.clear();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            break;
        }
    }
}
