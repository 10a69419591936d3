//! A stand-in for the global proxy that does what a test tells it to: its listeners are in the network namespace of a
//! pod with a real sidecar, its code is the test's.

use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tests::app::verified_caller;
use mesh_tests::testbed::{Namespace, Pod, PodNetwork};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::wiring::{self, Tunnel};

const HTTP_PORT: u16 = 15080;
const TUNNEL_PORT: u16 = 15081;

/// A request as it arrived at the global proxy.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) version: Version,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Arrived {
    async fn read(request: Request<Incoming>) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let host = parts.headers.get(http::header::HOST);
        let authority = match (parts.uri.authority(), host) {
            (Some(authority), _) => authority.as_str().to_owned(),
            (None, Some(host)) => host.to_str()?.to_owned(),
            (None, None) => String::new(),
        };
        let path = parts.uri.path_and_query();
        Ok(Self {
            version: parts.version,
            authority,
            path: path.map_or("/", |path| path.as_str()).to_owned(),
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// A header's value; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// The first label of its authority.
    pub(crate) fn service(&self) -> String {
        let label = self.authority.split(['.', ':']).next().unwrap_or_default();
        label.to_ascii_lowercase()
    }

    /// How often it was redirected before.
    pub(crate) fn tries(&self) -> u32 {
        self.header("x-lazymesh-tries").parse().unwrap_or(0)
    }

    /// Whom the global proxy's own sidecar says it is from.
    pub(crate) fn caller(&self) -> Option<String> {
        verified_caller(self.header("x-forwarded-client-cert"))
    }

    /// The redirect to itself that the caller's Envoy follows; `more` are headers besides.
    pub(crate) fn redirect(&self, more: &[(&str, &str)]) -> Result<Answer> {
        let location = format!("http://{}{}", self.authority, self.path);
        let mut response = Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header("location", location)
            .header("x-lazymesh-try", self.tries() + 1);
        for (name, value) in more {
            response = response.header(*name, *value);
        }
        Ok(response.body(Full::default())?)
    }
}

pub(crate) type Answer = Response<Full<Bytes>>;
type Answering = Arc<dyn Fn(Arrived) -> BoxFuture<'static, Result<Answer>> + Send + Sync>;

/// A tunnel as it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Said by the global proxy's own sidecar.
    pub(crate) caller: String,
    /// Said by the caller's Envoy.
    pub(crate) pod: String,
    pub(crate) destination: String,
    pub(crate) version: Version,
}

#[derive(Debug, Default)]
struct Seen {
    arrived: Mutex<Vec<Arrived>>,
    opened: Mutex<Vec<Opened>>,
}

/// The stand-in, in a pod of the test's namespace. It ends when it is dropped.
pub(crate) struct GlobalProxy {
    pub(crate) pod: Pod,
    seen: Arc<Seen>,
    _loops: JoinSet<Result<()>>,
}

impl GlobalProxy {
    /// Starts it; `answering` makes the answer to each request that arrives.
    pub(crate) async fn start<F>(
        ns: &Namespace,
        tunnel: Tunnel,
        answering: impl Fn(Arrived) -> F + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<Answer>> + Send + 'static,
    {
        ns.service("global-proxy")
            .port("http", 80, HTTP_PORT)
            .port("tcp-tunnel", 15009, TUNNEL_PORT)
            .create()
            .await?;
        ns.apply(&wiring::global_proxy(ns.name(), tunnel)).await?;
        let pod = ns.workload("global-proxy").no_app().start().await?;
        let seen = Arc::<Seen>::default();
        let answering: Answering = Arc::new(move |arrived| Box::pin(answering(arrived)));
        let mut loops = JoinSet::new();
        let http = pod.network().listen(HTTP_PORT).await?;
        let context = (Arc::clone(&seen), answering);
        loops.spawn(accept(http, move |stream| {
            serve_http(context.clone(), stream)
        }));
        let tunnels = pod.network().listen(TUNNEL_PORT).await?;
        let context = (Arc::clone(&seen), pod.network().clone(), tunnel);
        loops.spawn(accept(tunnels, move |stream| {
            serve_tunnels(context.clone(), stream)
        }));
        Ok(Self {
            pod,
            seen,
            _loops: loops,
        })
    }

    /// The requests that arrived so far.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.seen.arrived.lock().clone()
    }

    /// The tunnels that were opened so far.
    pub(crate) fn opened(&self) -> Vec<Opened> {
        self.seen.opened.lock().clone()
    }
}

async fn accept<F>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = serve(stream);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the global proxy's stand-in: {error:#}");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_http((seen, answering): (Arc<Seen>, Answering), stream: TcpStream) -> Result<()> {
    let service = service_fn(move |request| {
        let (seen, answering) = (Arc::clone(&seen), Arc::clone(&answering));
        async move {
            let answer = async {
                let arrived = Arrived::read(request).await?;
                seen.arrived.lock().push(arrived.clone());
                answering(arrived).await
            };
            Ok::<_, Infallible>(answer.await.unwrap_or_else(|error| {
                let mut response = Response::new(Full::from(format!("{error:#}")));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }))
        }
    });
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    served.map_err(|error| anyhow::anyhow!(error))
}

/// The outer tunnel comes from the global proxy's own sidecar, the inner ones from the caller's Envoy.
async fn serve_tunnels(
    (seen, network, tunnel): (Arc<Seen>, PodNetwork, Tunnel),
    mut stream: TcpStream,
) -> Result<()> {
    let outer = connect_head(&mut stream).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let caller = value(&outer, "x-lazymesh-caller")?.to_owned();
    if tunnel == Tunnel::Http1 {
        let head = connect_head(&mut stream).await?;
        let opened = Opened {
            caller,
            pod: value(&head, "x-lazymesh-pod")?.to_owned(),
            destination: value(&head, "host")?.to_owned(),
            version: Version::HTTP_11,
        };
        seen.opened.lock().push(opened.clone());
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        return pump(&network, &opened.destination, stream).await;
    }
    let service = service_fn(move |request| {
        let (seen, network, caller) = (Arc::clone(&seen), network.clone(), caller.clone());
        async move { Ok::<_, Infallible>(open(&seen, network, caller, request)) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

fn open(
    seen: &Seen,
    network: PodNetwork,
    caller: String,
    mut request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let pod = request.headers().get("x-lazymesh-pod");
    let opened = Opened {
        caller,
        pod: pod.map_or_else(String::new, |pod| {
            String::from_utf8_lossy(pod.as_bytes()).into_owned()
        }),
        destination: request
            .uri()
            .authority()
            .map_or_else(String::new, |a| a.to_string()),
        version: request.version(),
    };
    seen.opened.lock().push(opened.clone());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let ended = async {
            let stream = TokioIo::new(upgrade.await?);
            pump(&network, &opened.destination, stream).await
        };
        if let Err(error) = ended.await {
            tracing::debug!("a tunnel to {}: {error:#}", opened.destination);
        }
    });
    Response::new(Full::default())
}

/// Goes on to the original destination through the global proxy's own sidecar.
async fn pump(
    network: &PodNetwork,
    destination: &str,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<()> {
    let address: SocketAddrV4 = destination.parse().context("the destination")?;
    let mut onward = network.connect(*address.ip(), address.port()).await?;
    copy_bidirectional(&mut stream, &mut onward).await?;
    Ok(())
}

/// Reads the head of a CONNECT and not a byte more.
async fn connect_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 8192, "a head without an end");
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    ensure!(head.starts_with("CONNECT "), "not a CONNECT: {head}");
    Ok(head)
}

fn value<'a>(head: &'a str, name: &str) -> Result<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .with_context(|| format!("no {name} in {head}"))
}
