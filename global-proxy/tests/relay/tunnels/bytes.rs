//! What is not HTTP goes through as it is, whoever speaks first.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::{A_WHILE, CALLER, Tunnel, Tunnels, echo, wrapped};
use crate::support::{Proxy, Server, soon, until};

const MEGABYTE: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_speak_first() {
    let server = Server::raw(|mut raw, _| async move {
        raw.send("220 ready\r\n").await;
        assert_eq!(raw.until("\r\n").await, "EHLO client\r\n");
        raw.send("250 hello\r\n").await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    assert_eq!(tunnel.down.exactly(11).await, "220 ready\r\n");
    tunnel.up.write(b"EHLO client\r\n").await.unwrap();
    assert_eq!(tunnel.down.text().await, "250 hello\r\n");
    tunnel.up.end();
    until("it is counted", async || {
        proxy.tunnels("relayed").await == 1.0
    })
    .await;
    let sent = proxy.metric("lazymesh_proxy_tunnel_sent_bytes_total").await;
    let received = proxy
        .metric("lazymesh_proxy_tunnel_received_bytes_total")
        .await;
    assert_eq!((sent, received), (13.0, 22.0));
    assert_eq!(proxy.metric("lazymesh_proxy_tunnels").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_may_speak_first() {
    let (proxy, server) = (Proxy::start(&[]).await, echo().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    // A TLS hello, a line of Redis, and what begins as HTTP and stays unfinished.
    for said in [
        "\x16\x03\x01\x02",
        "GET key\r\n",
        "GET / HT",
        "PRI * HTTP/2.0\r\n",
    ] {
        let mut tunnel = tunnels.open(server.address).await.unwrap();
        tunnel.up.write(said.as_bytes()).await.unwrap();
        assert_eq!(tunnel.down.exactly(said.len()).await, said);
        tunnel.up.write(b" and more").await.unwrap();
        assert_eq!(tunnel.down.exactly(9).await, " and more");
        tunnel.up.end();
        assert_eq!(tunnel.down.text().await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_may_be_silent_for_long() {
    let speak = Arc::new(Notify::new());
    let told = speak.clone();
    let server = Server::raw(move |mut raw, _| {
        let told = told.clone();
        async move {
            told.notified().await;
            raw.send("at last").await;
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    let early = timeout(A_WHILE, tunnel.down.0.data()).await;
    assert!(early.is_err(), "{early:?}");
    speak.notify_one();
    assert_eq!(tunnel.down.text().await, "at last");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_may_close_first() {
    let server = Server::raw(|mut raw, _| async move {
        let mut got = Vec::new();
        raw.0.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), MEGABYTE);
        raw.0.write_all(&vec![8; MEGABYTE]).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    soon(tunnel.up.write(&vec![7; MEGABYTE])).await.unwrap();
    tunnel.up.end();
    assert_eq!(tunnel.down.drained().await.unwrap(), MEGABYTE);
    // Before it has said a word, too.
    let silent = Server::raw(|mut raw, _| async move {
        assert_eq!(raw.rest().await, "");
        raw.send("nothing said").await;
    })
    .await;
    let mut tunnel = tunnels.open(silent.address).await.unwrap();
    tunnel.up.end();
    assert_eq!(tunnel.down.text().await, "nothing said");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_close_first() {
    let (got, mut all) = mpsc::channel(1);
    let server = Server::raw(move |mut raw, _| {
        let got = got.clone();
        async move {
            raw.send("done").await;
            raw.0.shutdown().await.unwrap();
            let mut read = Vec::new();
            raw.0.read_to_end(&mut read).await.unwrap();
            got.send(read.len()).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    assert_eq!(tunnel.down.text().await, "done");
    soon(tunnel.up.write(&vec![7; MEGABYTE])).await.unwrap();
    tunnel.up.end();
    assert_eq!(soon(all.recv()).await, Some(MEGABYTE));
    until("it ends well", async || {
        proxy.tunnels("relayed").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stalls_stalls_nothing_else() {
    let deaf = Server::raw(|raw, _| async move {
        let _unread = raw;
        std::future::pending::<()>().await;
    })
    .await;
    let loud =
        Server::raw(|mut raw, _| async move { while raw.0.write_all(&[0; 4096]).await.is_ok() {} })
            .await;
    let (proxy, server) = (Proxy::start(&[]).await, echo().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let mut unread = tunnels.open(deaf.address).await.unwrap();
        let full = async { while unread.up.write(&[0; 64 << 10]).await.is_ok() {} };
        // Until windows and the kernel's buffers hold all they can.
        assert!(timeout(A_WHILE / 8, full).await.is_err());
        stuck.push(unread);
        stuck.push(tunnels.open(loud.address).await.unwrap());
    }
    let calls = (0..50).map(|number| {
        let mut tunnels = tunnels.clone();
        async move {
            let mut tunnel = tunnels.open(server.address).await.unwrap();
            let said = format!("\0call {number}");
            tunnel.up.write(said.as_bytes()).await.unwrap();
            tunnel.up.end();
            assert_eq!(tunnel.down.text().await, said);
        }
    });
    soon(futures::future::join_all(calls)).await;
    assert_eq!(proxy.metric("lazymesh_proxy_connections").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http1_a_connection_is_one_tunnel() {
    let (proxy, server) = (Proxy::start(&[]).await, echo().await);
    let mut raw = wrapped(proxy.tunnel(), CALLER).await;
    let to = server.address;
    raw.send(&format!(
        "CONNECT {to} HTTP/1.1\r\nhost: {to}\r\nx-lazymesh-pod: a\r\n\r\n"
    ))
    .await;
    assert_eq!(raw.head().await, "HTTP/1.1 200 OK\r\n\r\n");
    raw.send("\0bytes").await;
    assert_eq!(raw.exactly(6).await, "\0bytes");
    raw.0.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, "");
    until("it ends well", async || {
        proxy.tunnels("relayed").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_the_heads_is_not_lost() {
    let (proxy, server) = (Proxy::start(&[]).await, echo().await);
    let mut raw = crate::support::Raw(
        tokio::net::TcpStream::connect(proxy.tunnel())
            .await
            .unwrap(),
    );
    let to = server.address;
    let inner = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n\0early");
    raw.send(&(super::outer(CALLER) + &inner)).await;
    for _ in 0..2 {
        assert_eq!(raw.head().await, "HTTP/1.1 200 OK\r\n\r\n");
    }
    assert_eq!(raw.exactly(6).await, "\0early");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_moves_for_too_long() {
    let server = Server::raw(|mut raw, _| async move {
        raw.send("hello").await;
        let _open = raw;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::start(&["--tunnel-idle=1s"]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut talking = tunnels.open(server.address).await.unwrap();
    assert_eq!(talking.down.exactly(5).await, "hello");
    let deaf = echo().await;
    let Tunnel { mut down, up: _up } = tunnels.open(deaf.address).await.unwrap();
    assert_eq!(talking.down.broken().await, h2::Reason::CONNECT_ERROR);
    assert_eq!(down.broken().await, h2::Reason::CONNECT_ERROR);
    until("both are counted", async || {
        proxy.tunnels("idle").await == 2.0
    })
    .await;
    // What moves now and then stays.
    let mut busy = tunnels.open(deaf.address).await.unwrap();
    for _ in 0..5 {
        sleep(Duration::from_millis(250)).await;
        busy.up.write(b"\0").await.unwrap();
        busy.down.exactly(1).await;
    }
}
