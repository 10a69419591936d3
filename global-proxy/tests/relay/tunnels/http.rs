//! HTTP in tunnels is HTTP: judged request by request, for the caller and the destination of the tunnel.

use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{CALLER, Tunnels, echo, wrapped};
use crate::support::{Body, Proxy, Raw, Server, empty, full, soon, text, until};

async fn until_end_of(caller: &mut DuplexStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let byte = soon(caller.read_u8()).await;
        read.push(byte.unwrap_or_else(|e| panic!("{e} after {}", String::from_utf8_lossy(&read))));
    }
    String::from_utf8(read).unwrap()
}

/// The connection that was dialled before it was known that HTTP comes.
async fn unused(mut raw: Raw) {
    assert_eq!(raw.rest().await, "");
}

async fn h2_in(socket: DuplexStream) -> http2::SendRequest<Body> {
    let io = TokioIo::new(socket);
    let (send, connection) = soon(http2::handshake(TokioExecutor::new(), io))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

#[tokio::test(flavor = "multi_thread")]
async fn http1() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut caller = tunnels.open(server.address).await.unwrap().socket();
    // The head comes in pieces; what an application says in our name is not believed, nor passed on.
    for piece in [
        "G",
        "ET /a?b=c HTTP/1.1\r",
        "\nHost: Server.shop:9000\r\nx-lazymesh-original-dst: 127.0.0.1:1\r\n",
        "x-lazymesh-tries: 1\r\nx-forwarded-client-cert: URI=spiffe://td/ns/x/sa/y\r\nx-mine: 1\r\n\r\n",
    ] {
        caller.write_all(piece.as_bytes()).await.unwrap();
        caller.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let head = until_end_of(&mut caller, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(!head.contains("connection:"), "{head}");
    let seen = until_end_of(&mut caller, "\n\n").await;
    let mut lines: Vec<_> = seen.trim_end().lines().collect();
    lines[1..].sort_unstable();
    let expected = ["GET /a?b=c HTTP/1.1", "host: Server.shop:9000", "x-mine: 1"];
    assert_eq!(lines, expected);
    // Once more on the same connection, with a body.
    let request = "POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc";
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut rest = String::new();
    soon(caller.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.ends_with("\n\nabc"), "{rest}");
    until("all is counted", async || {
        proxy.exchanges("http1", "relayed").await == 2.0 && proxy.tunnels("http").await == 1.0
    })
    .await;
    assert_eq!(proxy.metric("lazymesh_proxy_tunnels").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let send = h2_in(tunnels.open(server.address).await.unwrap().socket()).await;
    let calls = (0..20).map(|number| {
        let mut send = send.clone();
        async move {
            let request = Request::post(format!("http://server.shop:9000/{number}"))
                .header("x-lazymesh-original-dst", "127.0.0.1:1")
                .body(full(format!("body {number}")))
                .unwrap();
            let response = soon(send.send_request(request)).await.unwrap();
            assert_eq!(response.status(), 200);
            let seen = text(response.into_body()).await;
            let line = format!("POST http://server.shop:9000/{number} HTTP/2.0\n");
            assert!(seen.starts_with(&line), "{seen}");
            assert!(!seen.contains("lazymesh"), "{seen}");
            assert!(seen.ends_with(&format!("\n\nbody {number}")), "{seen}");
        }
    });
    futures::future::join_all(calls).await;
    drop(send);
    until("all is counted", async || {
        proxy.exchanges("http2", "relayed").await == 20.0 && proxy.tunnels("http").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_in_a_tunnel_is_not_lost() {
    let server = Server::raw(|mut raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
            .await;
        raw.rest().await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: server.shop\r\ncontent-length: 1000000000\r\n\r\n";
    tunnel.up.write(head.as_bytes()).await.unwrap();
    for _ in 0..100 {
        tunnel.up.write(&[b'x'; 8 << 10]).await.unwrap();
    }
    let answer = tunnel.down.text().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_in_an_http1_tunnel() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut raw = wrapped(proxy.tunnel(), CALLER).await;
    let to = server.address;
    raw.send(&format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n"))
        .await;
    assert_eq!(raw.head().await, "HTTP/1.1 200 OK\r\n\r\n");
    raw.send("GET /x HTTP/1.1\r\nhost: server.shop\r\nconnection: close\r\n\r\n")
        .await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("GET /x HTTP/1.1\nhost: server.shop\n\n"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_in_a_tunnel() {
    let server = Server::raw(|mut raw, number| async move {
        if number == 0 {
            return unused(raw).await;
        }
        raw.head().await;
        raw.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
            .await;
        let said = raw.rest().await;
        raw.send(&format!("you said {said}")).await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut caller = tunnels.open(server.address).await.unwrap().socket();
    let request = b"GET / HTTP/1.1\r\nhost: s\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    caller.write_all(request).await.unwrap();
    let head = until_end_of(&mut caller, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    caller.write_all(b"abc").await.unwrap();
    caller.shutdown().await.unwrap();
    let mut rest = String::new();
    soon(caller.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "you said abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_cancelled_with_its_tunnel() {
    let server = Server::raw(|mut raw, number| async move {
        if number == 0 {
            return unused(raw).await;
        }
        raw.head().await;
        assert_eq!(raw.rest().await, "", "it is cancelled");
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: s\r\n\r\n";
    tunnel.up.write(request).await.unwrap();
    until("it is under way", async || server.connections() == 2).await;
    tunnel.up.reset();
    until("it is over", async || {
        proxy.exchanges("http1", "caller_cut").await == 1.0
            && proxy.metric("lazymesh_proxy_upstream_connections").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_http_is_told_so() {
    let gone = echo().await.address;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Proxy::start(&[]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut caller = tunnels.open(nobody).await.unwrap().socket();
    let request = b"GET / HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
    caller.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(caller.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("cannot connect"), "{answer}");
    // And what is not HTTP is broken.
    let mut tunnel = tunnels.open(nobody).await.unwrap();
    tunnel.up.write(b"\0").await.unwrap();
    assert_eq!(tunnel.down.broken().await, h2::Reason::CONNECT_ERROR);
    until("it is counted", async || {
        proxy.tunnels("connect").await == 1.0
    })
    .await;
    assert!(tunnels.open(gone).await.is_ok(), "the others go on");
    let mut idle = h2_in(tunnels.open(nobody).await.unwrap().socket()).await;
    let request = Request::get("http://s/").body(empty()).unwrap();
    assert_eq!(
        soon(idle.send_request(request)).await.unwrap().status(),
        503
    );
}
