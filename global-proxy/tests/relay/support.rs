//! The global proxy, servers and callers of these tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use global_proxy::app::App;
use global_proxy::config::Cli;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_runtime::BoxError;
use mesh_runtime::drain::Drain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::controller::Controller;

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Ends a test that hangs.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("in time")
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(SOON, poll).await.is_ok(), "never: {what}");
}

/// A running global proxy.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    tunnel: Option<SocketAddr>,
    admin: SocketAddr,
    pub(crate) drain: Drain,
    pub(crate) running: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let base = [
            "global-proxy",
            "--no-sidecar",
            "--policy=relay-only",
            "--workers=1",
            "--listen=127.0.0.1:0",
            "--tunnel-listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
        ];
        Self::with(&[&base, flags].concat()).await
    }

    /// One that asks a controller, and has heard from it.
    pub(crate) async fn asking(controller: &Controller, flags: &[&str]) -> Self {
        let proxy = Self::asking_at(&controller.url(), flags).await;
        for stream in ["watch", "calls"] {
            let name = format!("lazymesh_proxy_controller_{stream}_connected");
            let connected = async || proxy.metric(&name).await == 1.0;
            until("the controller was heard", connected).await;
        }
        proxy
    }

    /// One that asks a controller that need not be there.
    pub(crate) async fn asking_at(url: &str, flags: &[&str]) -> Self {
        let controller = format!("--controller={url}");
        let base = [
            "global-proxy",
            "--no-sidecar",
            &controller,
            "--workers=2",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
        ];
        Self::with(&[&base, flags].concat()).await
    }

    pub(crate) async fn with(flags: &[&str]) -> Self {
        let cli = Cli::try_parse_from(flags).unwrap();
        let drain = Drain::new(cli.drain);
        let app = App::bind(&cli, None, drain.clone()).await.unwrap();
        let (address, admin) = (app.address(), app.admin_address());
        let tunnel = app.tunnel_address();
        let running = tokio::spawn(async move { app.run().await.unwrap() });
        Self {
            address,
            tunnel,
            admin,
            drain,
            running,
        }
    }

    /// Where its tunnels arrive.
    pub(crate) fn tunnel(&self) -> SocketAddr {
        self.tunnel.expect("it takes tunnels")
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.address).await.unwrap())
    }

    pub(crate) async fn h2(&self) -> http2::SendRequest<Body> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        send
    }

    /// The value of a metric, given with its labels as in the text format.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let mut raw = Raw(TcpStream::connect(self.admin).await.unwrap());
        raw.send("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
        let text = raw.rest().await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// How many requests were relayed for this reason.
    pub(crate) async fn relays(&self, why: &str) -> f64 {
        let name = format!("lazymesh_proxy_relays_total{{why=\"{why}\"}}");
        self.metric(&name).await
    }

    pub(crate) async fn exchanges(&self, protocol: &str, outcome: &str) -> f64 {
        let name = format!(
            "lazymesh_proxy_exchanges_total{{outcome=\"{outcome}\",protocol=\"{protocol}\"}}"
        );
        self.metric(&name).await
    }

    pub(crate) async fn tunnels(&self, outcome: &str) -> f64 {
        let name = format!("lazymesh_proxy_tunnels_total{{outcome=\"{outcome}\"}}");
        self.metric(&name).await
    }
}

/// A caller that speaks HTTP/1 byte by byte.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads up to and with the empty line.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let byte = soon(self.0.read_u8()).await;
            let byte = byte.unwrap_or_else(|e| {
                panic!("{e} after {:?}", String::from_utf8_lossy(&read));
            });
            read.push(byte);
        }
        String::from_utf8(read).unwrap()
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> String {
        let mut read = vec![0; length];
        soon(self.0.read_exact(&mut read)).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    pub(crate) async fn rest(&mut self) -> String {
        let mut read = Vec::new();
        let _ = soon(self.0.read_to_end(&mut read)).await;
        String::from_utf8(read).unwrap()
    }
}

/// A request's head, with where it is going, and `lines` before the empty line.
pub(crate) fn head(line: &str, to: SocketAddr, lines: &str) -> String {
    format!("{line}\r\nhost: server.shop:80\r\nx-lazymesh-original-dst: {to}\r\n{lines}\r\n")
}

/// A server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Connections accepted.
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl Server {
    /// One that is given each connection, and its number.
    pub(crate) async fn raw<F>(serve: impl Fn(Raw, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(Raw(stream), number));
            }
        });
        Self { address, accepted }
    }

    /// One that speaks HTTP/1 and HTTP/2, extended CONNECT too.
    pub(crate) async fn http<F>(
        handle: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
    {
        Self::raw(move |raw, _| {
            let service = service_fn(handle.clone());
            async move {
                let mut http = auto::Builder::new(TokioExecutor::new());
                http.http1().half_close(true);
                http.http2().enable_connect_protocol();
                let io = TokioIo::new(raw.0);
                let _ = http.serve_connection_with_upgrades(io, service).await;
            }
        })
        .await
    }

    /// One that answers with the head it has seen, and the body after an empty line.
    pub(crate) async fn mirror() -> Self {
        Self::http(|request| async move {
            let (parts, body) = request.into_parts();
            let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
            for (name, value) in &parts.headers {
                text += &format!("{name}: {}\n", value.to_str().unwrap());
            }
            let body = body.collect().await?;
            let trailers = body.trailers().cloned();
            text += &format!("\n{}", String::from_utf8_lossy(&body.to_bytes()));
            if let Some(trailers) = trailers {
                text += &format!("\n{trailers:?}");
            }
            Ok(Response::new(full(text)))
        })
        .await
    }

    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Feeds a body.
#[derive(Clone)]
pub(crate) struct Feed(mpsc::Sender<Result<Frame<Bytes>, BoxError>>);

impl Feed {
    pub(crate) async fn data(&self, data: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(data.into()))).await.is_ok()
    }

    pub(crate) async fn trailers(&self, trailers: HeaderMap) {
        self.0.send(Ok(Frame::trailers(trailers))).await.unwrap();
    }

    pub(crate) async fn fail(&self, error: BoxError) {
        let _ = self.0.send(Err(error)).await;
    }

    /// Returns once nobody wants the body any more.
    pub(crate) async fn unwanted(&self) {
        self.0.closed().await;
    }
}

pub(crate) fn fed() -> (Feed, Body) {
    let (feed, fed) = mpsc::channel(1);
    let stream = futures::stream::unfold(fed, |mut fed| async move {
        let frame = fed.recv().await?;
        Some((frame, fed))
    });
    (Feed(feed), BodyExt::boxed_unsync(StreamBody::new(stream)))
}

/// A request over HTTP/2.
pub(crate) fn h2_request(path: &str, to: SocketAddr, body: Body) -> Request<Body> {
    Request::builder()
        .uri(format!("http://server.shop:80{path}"))
        .header("x-lazymesh-original-dst", to.to_string())
        .body(body)
        .unwrap()
}

/// The next piece of a body.
pub(crate) async fn piece(body: &mut Incoming) -> Bytes {
    soon(body.frame())
        .await
        .expect("a frame")
        .expect("no error")
        .into_data()
        .expect("data")
}

pub(crate) async fn text(body: Incoming) -> String {
    let bytes = soon(body.collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
