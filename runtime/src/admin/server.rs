//! The socket of the admin port: small requests only, few connections, each request in bounded time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::{Admin, Reply};

const MAX_CONNECTIONS: usize = 64;
const MAX_BODY: usize = 4096;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// An admin port that is bound and not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    admin: Arc<Admin>,
}

impl Admin {
    /// Binds the port; 0 takes a free one, which [`Bound::address`] tells.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub async fn bind(self, address: SocketAddr) -> io::Result<Bound> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("admin port {address}: {e}")))?;
        let address = listener.local_addr()?;
        info!(%address, "admin port");
        Ok(Bound {
            listener,
            address,
            admin: Arc::new(self),
        })
    }
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until dropped; through a drain too, so that its state can be seen.
    ///
    /// # Errors
    /// Never at present: what a peer does wrong ends its own connection.
    pub async fn serve(self) -> io::Result<()> {
        let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let permit = limit
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    warn!(%error, "cannot accept on the admin port");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let admin = self.admin.clone();
            connections.spawn(async move {
                let _permit = permit;
                let service = service_fn(move |request| answer(admin.clone(), request));
                // Without keep-alive an idle peer cannot hold one of the few connections.
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(socket), service);
                match tokio::time::timeout(3 * HEADER_TIMEOUT, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "admin connection"),
                    Err(_) => debug!("admin connection took too long"),
                }
            });
        }
    }
}

async fn answer(
    admin: Arc<Admin>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let head = request.method() == Method::HEAD;
    let path = request.uri().path().to_owned();
    let reply = match (request.method().clone(), path.as_str()) {
        (Method::GET | Method::HEAD, path) => admin.get(path),
        (Method::PUT, "/logging") => match body(request).await {
            Ok(filter) => admin.put_logging(&filter),
            Err(why) => Reply::text(why + "\n").status(StatusCode::BAD_REQUEST),
        },
        _ => Reply::text("only GET, and PUT /logging\n").status(StatusCode::METHOD_NOT_ALLOWED),
    };
    let body = if head { String::new() } else { reply.body };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = reply.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    if reply.status == StatusCode::METHOD_NOT_ALLOWED {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD, PUT"));
    }
    Ok(response)
}

async fn body(request: Request<Incoming>) -> Result<String, String> {
    let bytes = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|e| format!("body: {e} (at most {MAX_BODY} bytes)"))?
        .to_bytes();
    String::from_utf8(bytes.to_vec()).map_err(|_| "body: not UTF-8".to_owned())
}
