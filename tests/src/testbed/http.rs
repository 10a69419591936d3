//! Small HTTP requests to admin and health ports. Calls under test are made by `mesh-app` in a pod, not from here.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

/// An answer, read whole.
#[derive(Clone, Debug)]
pub(super) struct Response {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// GETs an `http://address:port/path`.
///
/// # Errors
/// When nobody answers within ten seconds.
pub(super) async fn get(url: &str) -> Result<Response> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().context("a URL without an authority")?;
    let address = format!(
        "{}:{}",
        authority.host(),
        authority.port_u16().unwrap_or(80)
    );
    let stream = timeout(LIMIT, TcpStream::connect(&address)).await??;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    over(stream, Method::GET, path).await
}

/// Sends one request over a connection made by the caller.
///
/// # Errors
/// When no answer comes within ten seconds.
pub(super) async fn over(
    stream: TcpStream,
    method: Method,
    path_and_query: &str,
) -> Result<Response> {
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(http::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok(Response {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    timeout(LIMIT, exchange)
        .await
        .with_context(|| format!("no answer to {path_and_query}"))?
}
