//! What breaks one side breaks the other, and a drain lets tunnels go on.

use std::io::ErrorKind;
use std::time::Duration;

use http::Request;
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::{Tunnels, echo};
use crate::support::{Proxy, Server, soon, until};

/// A server that says how reading from it ended; it greets first.
async fn listening() -> (Server, mpsc::Receiver<Result<String, ErrorKind>>) {
    let (said, heard) = mpsc::channel(1);
    let server = Server::raw(move |mut raw, _| {
        let said = said.clone();
        async move {
            raw.send("hello").await;
            let mut text = String::new();
            let read = raw.0.read_to_string(&mut text).await;
            let _ = said.send(read.map(|_| text).map_err(|e| e.kind())).await;
        }
    })
    .await;
    (server, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_is_no_client_that_ends() {
    let (server, mut heard) = listening().await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut broken = tunnels.open(server.address).await.unwrap();
    broken.down.exactly(5).await;
    broken.up.reset();
    assert_eq!(
        soon(heard.recv()).await,
        Some(Err(ErrorKind::ConnectionReset))
    );
    let mut ended = tunnels.open(server.address).await.unwrap();
    ended.down.exactly(5).await;
    ended.up.write(b"bye").await.unwrap();
    ended.up.end();
    assert_eq!(soon(heard.recv()).await, Some(Ok("bye".to_owned())));
    ended.down.drained().await.unwrap();
    until("both are counted", async || {
        proxy.tunnels("caller_cut").await == 1.0 && proxy.tunnels("relayed").await == 1.0
    })
    .await;
    // The caller's Envoy itself goes.
    let mut last = tunnels.open(server.address).await.unwrap();
    last.down.exactly(5).await;
    drop((tunnels, last, ended, broken));
    assert_eq!(
        soon(heard.recv()).await,
        Some(Err(ErrorKind::ConnectionReset))
    );
    until("nothing is left", async || {
        proxy.metric("lazymesh_proxy_tunnels").await == 0.0
            && proxy.metric("lazymesh_proxy_upstream_connections").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_break_at_once_harm_no_other() {
    let (proxy, server) = (Proxy::start(&[]).await, echo().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut steady = tunnels.open(server.address).await.unwrap();
    for _ in 0..5 {
        let mut opened = Vec::new();
        for _ in 0..100 {
            let request = Request::connect(server.address.to_string());
            let request = request.body(()).unwrap();
            opened.push(tunnels.0.send_request(request, false).unwrap());
        }
        // So that they have gone out when they are broken.
        tokio::task::yield_now().await;
        for (_, up) in &mut opened {
            up.send_reset(h2::Reason::CANCEL);
        }
    }
    steady.up.write(b"\0still").await.unwrap();
    assert_eq!(steady.down.exactly(6).await, "\0still");
    assert!(tunnels.open(server.address).await.is_ok());
    until("they are gone", async || {
        proxy.metric("lazymesh_proxy_tunnels").await <= 2.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_after_its_end_breaks() {
    let (closed, mut gone) = mpsc::channel(1);
    let server = Server::raw(move |mut raw, _| {
        let closed = closed.clone();
        async move {
            assert_eq!(raw.rest().await, "\0all");
            raw.send("wait").await;
            let error = raw.0.ready(tokio::io::Interest::ERROR).await;
            closed.send(error.is_ok()).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    tunnel.up.write(b"\0all").await.unwrap();
    tunnel.up.end();
    assert_eq!(tunnel.down.exactly(4).await, "wait");
    tunnel.up.reset();
    assert_eq!(soon(gone.recv()).await, Some(true));
    until("it is counted", async || {
        proxy.tunnels("caller_cut").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_is_no_server_that_ends() {
    let server = Server::raw(|mut raw, _| async move {
        raw.send("hello").await;
        assert_eq!(raw.exactly(3).await, "\0go");
        SockRef::from(&raw.0)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    tunnel.down.exactly(5).await;
    tunnel.up.write(b"\0go").await.unwrap();
    assert_eq!(tunnel.down.broken().await, h2::Reason::CONNECT_ERROR);
    until("it is counted", async || {
        proxy.tunnels("server_cut").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_tunnels_go_on() {
    let (proxy, server) = (Proxy::start(&[]).await, echo().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    tunnel.up.write(b"\0one").await.unwrap();
    tunnel.down.exactly(4).await;
    proxy.drain.start();
    let goaway = tunnels.clone();
    until("GOAWAY", async || {
        let ready = std::future::poll_fn(|cx| goaway.0.clone().poll_ready(cx));
        soon(ready).await.is_err()
    })
    .await;
    assert!(
        tokio::net::TcpStream::connect(proxy.tunnel())
            .await
            .is_err()
    );
    tunnel.up.write(b"\0two").await.unwrap();
    assert_eq!(tunnel.down.exactly(4).await, "\0two");
    tunnel.up.end();
    assert_eq!(tunnel.down.text().await, "");
    drop((tunnels, goaway));
    soon(proxy.running).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_of_a_drain_both_sides_break() {
    let (server, mut heard) = listening().await;
    let proxy = Proxy::start(&["--drain=300ms"]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    tunnel.down.exactly(5).await;
    proxy.drain.start();
    assert!(tunnel.down.drained().await.is_err());
    assert_eq!(
        soon(heard.recv()).await,
        Some(Err(ErrorKind::ConnectionReset))
    );
    soon(proxy.running).await.unwrap();
}
