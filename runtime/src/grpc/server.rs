//! The serving side: accepts, handshakes, serves, and drains with GOAWAY.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::{Service, ServiceExt};
use tracing::{Instrument, debug, debug_span, warn};

use super::{CONNECTION_WINDOW, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW};
use crate::BoxError;
use crate::drain::Drain;
use crate::tls::ServerTls;

/// How long a peer may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; who comes after waits in the listener's backlog.
const MAX_HANDSHAKES: usize = 512;
/// Streams one connection may have open.
const MAX_STREAMS: u32 = 10_000;
/// Pause after a failed accept: out of descriptors, it would fail again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves HTTP/2 on `listener` until `drain` ends: over TLS if given, else in plain text.
///
/// Requests carry a [`TcpConnectInfo`], so that `tonic::Request::remote_addr` works. Once the drain has started no
/// connection is accepted and each open one gets a GOAWAY; a connection ends with its last stream, at the latest with
/// the drain. A service with long streams should end them when the drain starts.
///
/// # Errors
/// When the listener itself is unusable. What a peer does wrong is logged and ends only its own connection.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Option<ServerTls>,
    service: S,
    drain: &Drain,
) -> io::Result<()>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let local = listener.local_addr()?;
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.started() => break,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        let (permit, socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, %local, "cannot accept a connection");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (tls, service, drain) = (tls.clone(), service.clone(), drain.clone());
        let info = TcpConnectInfo {
            local_addr: Some(local),
            remote_addr: Some(peer),
        };
        let connection = async move {
            let ended = match tls {
                None => {
                    drop(permit);
                    connection(socket, info, service, &drain).await
                }
                Some(tls) => match handshake(&tls, socket, &drain).await {
                    Ok(stream) => {
                        drop(permit);
                        connection(stream, info, service, &drain).await
                    }
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = ended {
                debug!(%error, "connection ended");
            }
        };
        connections.spawn(connection.instrument(debug_span!("connection", %peer)));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let permit = handshakes
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (socket, peer) = listener.accept().await?;
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, %peer, "no TCP_NODELAY");
    }
    Ok((permit, socket, peer))
}

async fn handshake(
    tls: &ServerTls,
    socket: TcpStream,
    drain: &Drain,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    tokio::select! {
        done = timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(socket)) => match done {
            Ok(done) => done.map_err(|e| io::Error::new(e.kind(), format!("TLS handshake: {e}"))),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake took too long")),
        },
        () = drain.ended() => Err(io::Error::other("draining")),
    }
}

async fn connection<I, S, B>(
    io: I,
    info: TcpConnectInfo,
    service: S,
    drain: &Drain,
) -> Result<(), BoxError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(info.clone());
        service.clone().oneshot(request)
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS);
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = drain.started() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => Ok(ended?),
        () = drain.ended() => Err("cut off: the drain's grace period is over".into()),
    }
}
