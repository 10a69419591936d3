//! The dialing side: where to, with which roots, and how long it may take.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use super::{CONNECTION_WINDOW, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW};
use crate::tls::ClientTls;

/// How long a dial may take, its TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum Error {
    /// Not an address that can be dialed.
    #[error(
        "address {address:?}: {reason} (hint: https://HOST:PORT, or http://HOST:PORT for plain text)"
    )]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a name a certificate can be checked against.
    #[error("server name {name:?} is neither a DNS name nor an IP address")]
    ServerName {
        /// What was given.
        name: String,
    },
    /// The dial failed.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// Why, every cause of it.
        reason: String,
    },
}

/// Dials one server. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Dialer {
    address: String,
    endpoint: Endpoint,
    connector: Connector,
}

impl Dialer {
    /// A dialer to `address`, `https://HOST:PORT` with `tls` or `http://HOST:PORT` without. The server's certificate
    /// must be good for `server_name`, or for the host if none is given.
    ///
    /// # Errors
    /// When the address is none, or its scheme and `tls` contradict each other.
    pub fn new(
        address: &str,
        tls: Option<ClientTls>,
        server_name: Option<&str>,
    ) -> Result<Self, Error> {
        let bad = |reason: &str| Error::Address {
            address: address.into(),
            reason: reason.into(),
        };
        let uri: Uri = address.parse().map_err(|e| bad(&format!("{e}")))?;
        let https = match uri.scheme() {
            Some(s) if *s == Scheme::HTTPS => true,
            Some(s) if *s == Scheme::HTTP => false,
            _ => return Err(bad("it does not begin with https:// or http://")),
        };
        let (Some(host), Some(port)) = (uri.host().filter(|h| !h.is_empty()), uri.port_u16())
        else {
            return Err(bad("it lacks a host or a port"));
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("there is something after the port"));
        }
        let tls = match (https, tls) {
            (true, None) => return Err(bad("https needs the root certificates of the server")),
            (false, Some(_)) => return Err(bad("root certificates are given, but not https")),
            (_, None) => None,
            (_, Some(tls)) => {
                let name = server_name
                    .unwrap_or(host)
                    .trim_matches(['[', ']'])
                    .to_owned();
                let name =
                    ServerName::try_from(name.clone()).map_err(|_| Error::ServerName { name })?;
                Some(Arc::new((tls, name)))
            }
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self {
            address: address.to_owned(),
            endpoint: endpoint(&uri).map_err(|e| bad(&chain(&e)))?,
            connector: Connector { host, port, tls },
        })
    }

    /// A connection that is made when first used and made again when it is lost. Meant to be shared.
    ///
    /// Must be called in a Tokio runtime.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.endpoint
            .connect_with_connector_lazy(self.connector.clone())
    }

    /// A fresh connection of its own, made before this returns.
    ///
    /// # Errors
    /// When the server cannot be reached, or its certificate is not accepted, within 5 seconds.
    pub async fn connect(&self) -> Result<Channel, Error> {
        self.endpoint
            .connect_with_connector(self.connector.clone())
            .await
            .map_err(|e| Error::Connect {
                address: self.address.clone(),
                reason: chain(&e),
            })
    }

    /// Where it dials, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Pings only while a stream is open: istiod counts pings on an idle connection as abuse.
fn endpoint(origin: &Uri) -> Result<Endpoint, tonic::transport::Error> {
    // The endpoint itself is plain, or tonic would want TLS settings of its own; our connector does TLS. The origin,
    // which requests carry, keeps the scheme.
    let authority = origin.authority().map_or("", |a| a.as_str());
    Ok(Endpoint::from_shared(format!("http://{authority}"))?
        .origin(origin.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

/// An error with its causes: tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[derive(Clone, Debug)]
struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<(ClientTls, ServerName<'static>)>>,
}

impl Connector {
    async fn dial(self) -> io::Result<TokioIo<Box<dyn Io>>> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
        socket.set_nodelay(true)?;
        let io: Box<dyn Io> = match self.tls {
            None => Box::new(socket),
            Some(tls) => {
                let (tls, name) = &*tls;
                Box::new(
                    TlsConnector::from(tls.config())
                        .connect(name.clone(), socket)
                        .await?,
                )
            }
        };
        Ok(TokioIo::new(io))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}
