//! HTTP/1.1, and HTTP/2 with prior knowledge.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tests::app::Outcome;
use tokio::time::Instant;

use super::{Protocol, Target, file_body};

/// A connection that can take a request.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(target: &Target) -> Result<Self> {
        let io = TokioIo::new(target.connect().await?);
        Ok(if target.protocol == Protocol::Http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Self::Http1(sender)
        })
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await.context("request")
            }
            Self::Http2(sender) => sender.send_request(request).await.context("request"),
        }
    }
}

/// Whether the server had said that it takes no more on this connection: what it did not take is sent again on another one
/// (RFC 9113 6.8).
fn was_not_processed(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    let h2 = causes.find_map(|cause| cause.downcast_ref::<h2::Error>());
    h2.is_some_and(|h2| {
        h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR)
    })
}

pub(crate) async fn call(target: &Target, begin: Instant) -> Result<Outcome> {
    let idle = target.idle_http.lock().pop().filter(Connection::is_open);
    let mut connection = match idle {
        Some(connection) => connection,
        None => Connection::open(target).await?,
    };
    let mut request = Request::builder().method(target.method.clone());
    request = if target.protocol == Protocol::Http2 {
        request.uri(format!("http://{}{}", target.authority, target.path))
    } else {
        request
            .uri(&target.path)
            .header(header::HOST, &target.authority)
    };
    let mut request = request.body(Full::new(target.body.clone()))?;
    request.headers_mut().extend(target.headers.clone());
    let response = match connection.send(request.clone()).await {
        Err(error) if target.reuse && was_not_processed(&error) => {
            connection = Connection::open(target).await?;
            connection.send(request).await?
        }
        sent => sent?,
    };
    let (parts, mut body) = response.into_parts();
    let (mut bytes, mut first_byte_ms) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the answer's body")?.into_data() {
            first_byte_ms.get_or_insert(begin.elapsed().as_secs_f64() * 1000.0);
            bytes.extend_from_slice(&data);
        }
    }
    let headers = parts.headers.iter();
    let mut outcome = Outcome {
        first_byte_ms,
        status: Some(parts.status.as_u16()),
        headers: headers
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
        ..Outcome::default()
    };
    file_body(&mut outcome, &bytes);
    if target.reuse {
        target.idle_http.lock().push(connection);
    }
    Ok(outcome)
}
