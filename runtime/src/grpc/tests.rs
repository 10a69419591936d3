//! A raw service over loopback, with TLS and without, through drain.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt, service_fn};

use super::*;
use crate::drain::Drain;
use crate::test_certs::Authority;
use crate::tls::{ClientTls, ServerTls};

const NAME: &str = "shim.test";
const DEADLINE: Duration = Duration::from_secs(10);

/// Answers with the body it gets, and tells in headers what it saw.
async fn echo(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let info = request
        .extensions()
        .get::<tonic::transport::server::TcpConnectInfo>()
        .cloned();
    let peer = info
        .and_then(|i| i.remote_addr())
        .map(|a| a.to_string())
        .unwrap_or_default();
    let uri = request.uri().to_string();
    let mut response = Response::new(request.into_body());
    response.headers_mut().insert("peer", peer.parse().unwrap());
    response.headers_mut().insert("uri", uri.parse().unwrap());
    Ok(response)
}

async fn start(
    tls: Option<ServerTls>,
    drain: &Drain,
) -> (SocketAddr, JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let drain = drain.clone();
    let server = tokio::spawn(async move { serve(listener, tls, service_fn(echo), &drain).await });
    (address, server)
}

async fn call(mut channel: Channel, body: Body) -> Response<Body> {
    let request = Request::post("/some.Service/Method").body(body).unwrap();
    channel.ready().await.unwrap().call(request).await.unwrap()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("not done in time")
}

#[tokio::test]
async fn echoes_a_large_body_in_plain_text() {
    let drain = Drain::new(Duration::from_secs(5));
    let (address, _server) = start(None, &drain).await;
    let channel = Dialer::new(&format!("http://{address}"), None, None)
        .unwrap()
        .channel();
    let sent = Bytes::from(vec![7; 8 << 20]);
    let response = call(channel, Body::new(http_body_util::Full::new(sent.clone()))).await;
    let peer: SocketAddr = response.headers()["peer"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(peer.ip().is_loopback());
    let got = in_time(response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(got, sent);
}

#[tokio::test]
async fn serves_over_tls_and_checks_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (cert, key) = authority.write_pair(NAME);
    let roots = ClientTls::load(authority.write_root()).unwrap();
    let drain = Drain::new(Duration::from_secs(5));
    let (address, _server) = start(Some(ServerTls::load(cert, key).unwrap()), &drain).await;
    let uri = format!("https://{address}");

    let dialer = Dialer::new(&uri, Some(roots.clone()), Some(NAME)).unwrap();
    let response = call(dialer.connect().await.unwrap(), Body::empty()).await;
    assert_eq!(
        response.headers()["uri"],
        format!("{uri}/some.Service/Method")
    );

    let other = Dialer::new(&uri, Some(roots.clone()), Some("other.test")).unwrap();
    let error = other.connect().await.unwrap_err().to_string();
    assert!(
        error.contains("not valid for name") && error.contains(&uri),
        "{error}"
    );
    let unnamed = Dialer::new(&uri, Some(roots), None).unwrap();
    assert!(
        unnamed.connect().await.is_err(),
        "127.0.0.1 is not in the certificate"
    );
}

#[tokio::test]
async fn a_silent_peer_does_not_hold_up_handshakes() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (cert, key) = authority.write_pair(NAME);
    let roots = ClientTls::load(authority.write_root()).unwrap();
    let drain = Drain::new(Duration::from_secs(5));
    let (address, server) = start(Some(ServerTls::load(cert, key).unwrap()), &drain).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let dialer = Dialer::new(&format!("https://{address}"), Some(roots), Some(NAME)).unwrap();
    in_time(async { call(dialer.connect().await.unwrap(), Body::empty()).await }).await;
    drain.end_now();
    in_time(server).await.unwrap().unwrap();
}

#[tokio::test]
async fn dedicated_connections_are_distinct() {
    let drain = Drain::new(Duration::from_secs(5));
    let (address, _server) = start(None, &drain).await;
    let dialer = Dialer::new(&format!("http://{address}"), None, None).unwrap();
    let peer = async |channel| call(channel, Body::empty()).await.headers()["peer"].clone();
    let one = dialer.connect().await.unwrap();
    let other = dialer.connect().await.unwrap();
    assert_ne!(peer(one.clone()).await, peer(other).await);
    assert_eq!(peer(one.clone()).await, peer(one).await);
}

/// A call whose request body stays open until the sender is dropped; the first echoed frame is awaited.
async fn open_stream(channel: Channel) -> (futures::channel::mpsc::Sender<Bytes>, Body) {
    let (mut sender, frames) = futures::channel::mpsc::channel::<Bytes>(4);
    let frames = frames.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    sender.try_send(Bytes::from_static(b"hello")).unwrap();
    let mut body = call(channel, Body::new(StreamBody::new(frames)))
        .await
        .into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "hello"
    );
    (sender, body)
}

#[tokio::test]
async fn drain_refuses_new_connections_and_lets_streams_finish() {
    let drain = Drain::new(Duration::from_secs(60));
    let (address, server) = start(None, &drain).await;
    let dialer = Dialer::new(&format!("http://{address}"), None, None).unwrap();
    let (mut sender, mut body) = open_stream(dialer.connect().await.unwrap()).await;

    drain.start();
    in_time(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    sender.try_send(Bytes::from_static(b"still here")).unwrap();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "still here"
    );
    assert!(!server.is_finished());
    drop(sender);
    in_time(server).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_the_drain_cuts_streams_off() {
    let drain = Drain::new(Duration::from_millis(50));
    let (address, server) = start(None, &drain).await;
    let dialer = Dialer::new(&format!("http://{address}"), None, None).unwrap();
    let (_sender, mut body) = open_stream(dialer.connect().await.unwrap()).await;
    drain.start();
    in_time(server).await.unwrap().unwrap();
    let next = in_time(body.frame()).await;
    assert!(next.is_none_or(|frame| frame.is_err()));
}

#[tokio::test]
async fn a_lazy_channel_survives_a_restart_of_the_server() {
    let drain = Drain::new(Duration::ZERO);
    let (address, server) = start(None, &drain).await;
    let channel = Dialer::new(&format!("http://{address}"), None, None)
        .unwrap()
        .channel();
    call(channel.clone(), Body::empty()).await;
    drain.start();
    in_time(server).await.unwrap().unwrap();

    let listener = TcpListener::bind(address).await.unwrap();
    let drain = Drain::new(Duration::from_secs(5));
    tokio::spawn(async move { serve(listener, None, service_fn(echo), &drain).await });
    let answered = async {
        loop {
            let request = Request::post("/s/m").body(Body::empty()).unwrap();
            let mut channel = channel.clone();
            let Ok(ready) = channel.ready().await else {
                continue;
            };
            if ready.call(request).await.is_ok() {
                return;
            }
        }
    };
    in_time(answered).await;
}

#[tokio::test]
async fn addresses_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let tls = ClientTls::load(Authority::new(folder.path()).write_root()).unwrap();
    for bad in [
        "",
        "istiod:15012",
        "ftp://istiod:1",
        "http://istiod",
        "http://a:1/x",
        "http://:1",
    ] {
        assert!(
            matches!(Dialer::new(bad, None, None), Err(Error::Address { .. })),
            "{bad}"
        );
    }
    assert!(matches!(
        Dialer::new("https://a:1", None, None),
        Err(Error::Address { .. })
    ));
    assert!(matches!(
        Dialer::new("http://a:1", Some(tls.clone()), None),
        Err(Error::Address { .. })
    ));
    let error = Dialer::new("https://a:1", Some(tls.clone()), Some("not a name")).unwrap_err();
    assert!(matches!(error, Error::ServerName { .. }));
    for good in [
        "https://istiod.istio-system.svc:15012",
        "https://[::1]:15012",
        "https://10.0.0.1:1/",
    ] {
        assert_eq!(
            Dialer::new(good, Some(tls.clone()), None)
                .unwrap()
                .address(),
            good
        );
    }
}

#[tokio::test]
async fn a_closed_port_is_a_clear_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Dialer::new(&address, None, None)
        .unwrap()
        .connect()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&address) && error.contains("refused"),
        "{error}"
    );
}
