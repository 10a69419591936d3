//! TCP: see the server's side. With a server that speaks first, a new connection begins with its greeting.
//! TLS: the same inside it, whatever certificate the server shows.

use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_tests::app::{Answer, Outcome};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Protocol, Target};

/// An open connection.
pub(crate) type Connection = BufStream<TcpStream>;

pub(crate) async fn call(target: &Target) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let idle = target.idle_tcp.lock().pop();
    let mut connection = match idle {
        Some(connection) => connection,
        None => {
            let mut connection = BufStream::new(target.connect().await?);
            if target.protocol == Protocol::TcpServerFirst {
                outcome
                    .answers
                    .push(answer(&mut connection).await.context("the greeting")?);
            }
            connection
        }
    };
    outcome.answers.push(ask(target, &mut connection).await?);
    if target.reuse {
        target.idle_tcp.lock().push(connection);
    }
    Ok(outcome)
}

/// Over TLS, with the URL's host as the server's name (none for an address).
pub(crate) async fn call_tls(target: &Target) -> Result<Outcome> {
    let host = target.authority.rsplit_once(':');
    let host = host.map_or(target.authority.as_str(), |(host, _)| host);
    let name = ServerName::try_from(host.to_owned()).context("the server's name")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let stream = target.connect().await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let mut stream = BufStream::new(stream.await.context("the handshake")?);
    Ok(Outcome {
        answers: vec![ask(target, &mut stream).await?],
        ..Outcome::default()
    })
}

async fn ask<S>(target: &Target, connection: &mut BufStream<S>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection
        .write_all(format!("{}\n", target.body.len()).as_bytes())
        .await?;
    connection.write_all(&target.body).await?;
    connection.flush().await?;
    answer(connection).await
}

async fn answer<S>(connection: &mut BufStream<S>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut line = String::new();
    let read = connection
        .read_line(&mut line)
        .await
        .context("waiting for an answer")?;
    anyhow::ensure!(read > 0, "the connection was closed without an answer");
    serde_json::from_str(&line).with_context(|| format!("not an answer: {line}"))
}

/// Believes every certificate: what is tried is where a connection goes, not who is at its end.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
