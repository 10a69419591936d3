//! The endpoints of all services: they share the machine, each has an address of its own, and each says which one it is.

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mesh_tests::embedded::{MeshShape, Protocol};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Listens on every port that a service of the mesh leads to.
///
/// # Errors
/// When a port is taken.
pub(crate) async fn start(shape: &MeshShape) -> Result<()> {
    let ports = shape.services.values().flat_map(|service| &service.ports);
    let distinct: std::collections::HashMap<u16, Protocol> =
        ports.map(|port| (port.target, port.protocol)).collect();
    for (port, protocol) in distinct {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await;
        let listener = listener.with_context(|| format!("port {port} of the endpoints"))?;
        tokio::spawn(accept(listener, protocol));
    }
    Ok(())
}

async fn accept(listener: TcpListener, protocol: Protocol) {
    // A failed accept is the caller's loss; the call is counted as failed there.
    while let Ok((stream, _)) = listener.accept().await {
        match protocol {
            Protocol::Http => tokio::spawn(http(stream)),
            Protocol::Tcp => tokio::spawn(tcp(stream)),
        };
    }
}

/// What an endpoint calls itself: its address.
fn name(stream: &TcpStream) -> String {
    stream
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| address.to_string())
}

async fn http(stream: TcpStream) {
    let name = name(&stream);
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
async fn tcp(stream: TcpStream) {
    let name = name(&stream);
    let mut stream = BufReader::new(stream);
    let mut line = format!("{name}\n");
    // Until the caller closes, or breaks off.
    while stream.write_all(line.as_bytes()).await.is_ok() {
        line.clear();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            break;
        }
    }
}
