//! TCP: a line with a length, that many bytes, and an answer on a line; again and again. A server that speaks first
//! sends an answer to nothing before that. Over TLS the same, and the answer says which name the client asked for.

use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_tests::app::Saw;
use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::State;
use crate::digest::Digest;

pub(crate) async fn serve(
    state: Arc<State>,
    stream: TcpStream,
    port: u16,
    speaks_first: bool,
) -> Result<()> {
    let peer = stream.peer_addr()?.ip().to_string();
    let protocol = if speaks_first {
        "tcp-server-first"
    } else {
        "tcp"
    };
    let head = Saw {
        protocol: protocol.to_owned(),
        port,
        host: peer,
        ..Saw::default()
    };
    let mut stream = BufStream::new(stream);
    if speaks_first {
        send(&mut stream, &state, head.clone()).await?;
    }
    talk(&state, stream, head).await
}

pub(crate) async fn serve_tls(
    state: Arc<State>,
    stream: TcpStream,
    port: u16,
    config: Arc<ServerConfig>,
) -> Result<()> {
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let name = stream.get_ref().1.server_name().unwrap_or_default();
    let head = Saw {
        protocol: "tls".to_owned(),
        port,
        host: name.to_owned(),
        ..Saw::default()
    };
    talk(&state, BufStream::new(stream), head).await
}

/// A certificate that nobody has to believe: the application's own TLS, inside the mesh's.
pub(crate) fn tls_config() -> Result<Arc<ServerConfig>> {
    let own = rcgen::generate_simple_self_signed(["mesh-app".to_owned()])?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())?;
    Ok(Arc::new(config))
}

async fn talk<S>(state: &State, mut stream: BufStream<S>, head: Saw) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let mut left: u64 = line
            .trim()
            .parse()
            .with_context(|| format!("not a length: {line:?}"))?;
        let (mut digest, mut buffer) = (Digest::default(), vec![0; 64 << 10]);
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let got = stream.read(&mut buffer[..wanted]).await?;
            anyhow::ensure!(got > 0, "the caller hung up with {left} bytes to go");
            digest.add(&buffer[..got]);
            left -= got as u64;
        }
        let mut saw = head.clone();
        (saw.body_bytes, saw.body_sha256) = digest.finish();
        send(&mut stream, state, saw).await?;
        line.clear();
    }
    Ok(())
}

async fn send<S>(stream: &mut BufStream<S>, state: &State, saw: Saw) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut line = serde_json::to_vec(&state.answer(saw))?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await?;
    Ok(())
}
