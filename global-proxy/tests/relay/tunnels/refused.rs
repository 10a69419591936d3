//! What is not carried, and how that is said.

use http::{Request, StatusCode};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CALLER, Tunnels, echo, outer, wrapped};
use crate::support::{Proxy, Raw, Server, empty, soon, text, until};

const GET: &str = "GET / HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";

async fn with(flags: &[&str]) -> Proxy {
    let base = [
        "global-proxy",
        "--workers=1",
        "--listen=127.0.0.1:0",
        "--tunnel-listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ];
    Proxy::with(&[&base, flags].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_relayed_is_not() {
    let server = Server::mirror().await;
    for (flags, outcome, says) in [
        (
            &["--no-sidecar", "--policy=redirect-only"][..],
            "redirect_only",
            "redirect-only",
        ),
        (&["--no-sidecar"], "policy_unknown", "\"shop\""),
    ] {
        let proxy = with(flags).await;
        let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
        let mut said = tunnels.open(server.address).await.unwrap();
        said.up.write(b"\x16\x03\x01").await.unwrap();
        assert_eq!(said.down.broken().await, h2::Reason::CONNECT_ERROR);
        let mut silent = tunnels.open(server.address).await.unwrap();
        assert_eq!(silent.down.broken().await, h2::Reason::CONNECT_ERROR);
        until("both are counted", async || {
            proxy.tunnels(outcome).await == 2.0
        })
        .await;
        // HTTP is told why.
        let mut caller = tunnels.open(server.address).await.unwrap().socket();
        caller.write_all(GET.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(caller.read_to_string(&mut answer)).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains(says),
            "{answer}"
        );
        let io = TokioIo::new(tunnels.open(server.address).await.unwrap().socket());
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://s/").body(empty()).unwrap();
        let response = soon(send.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 503);
        assert!(text(response.into_body()).await.contains(says));
        assert_eq!(proxy.exchanges("http1", outcome).await, 1.0);
        assert_eq!(proxy.exchanges("http2", outcome).await, 1.0);
    }
    assert_eq!(server.connections(), 0, "the server is never dialled");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_heads_of_the_outer_tunnel() {
    let proxy = with(&["--policy=relay-only"]).await;
    let long = format!("CONNECT a:1 HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(9000));
    let twice = outer(CALLER).replace(
        "\r\n\r\n",
        &format!("\r\nx-lazymesh-caller: {CALLER}\r\n\r\n"),
    );
    for (head, status) in [
        (GET.to_owned(), "400"),
        (long, "400"),
        ("\x16\x03\x01\x02\0\r\n\r\n".to_owned(), "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
        (
            outer(CALLER).replace("host: ", "content-length: 4\r\nhost: "),
            "400",
        ),
        (outer("-"), "403"),
        (outer(""), "403"),
        (outer("spiffe://td/ns/a"), "403"),
        (outer(&format!("{CALLER},spiffe://td/ns/b/sa/b")), "403"),
        (twice, "403"),
        (
            "CONNECT lazymesh.tunnel:1 HTTP/1.1\r\nhost: lazymesh.tunnel:1\r\n\r\n".to_owned(),
            "403",
        ),
    ] {
        let mut raw = Raw(TcpStream::connect(proxy.tunnel()).await.unwrap());
        raw.send(&head).await;
        let answer = raw.head().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}: {answer}"
        );
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    // What ends before its head does is closed without a word.
    let mut raw = Raw(TcpStream::connect(proxy.tunnel()).await.unwrap());
    raw.send("CONNECT a:1 HT").await;
    raw.0.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, "");
    let counted = async || {
        (
            proxy.tunnels("malformed").await,
            proxy.tunnels("no_caller").await,
        )
    };
    assert_eq!(counted().await, (5.0, 6.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_carried_to() {
    let proxy = with(&["--policy=relay-only"]).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    for (to, status, says) in [
        ("127.0.0.1:15000", 403, "not an address"),
        ("[::1]:15000", 403, "not an address"),
        ("169.254.169.254:80", 403, "not an address"),
        ("10.0.0.1:0", 403, "not an address"),
        ("db.shop:5432", 400, "one IP address"),
    ] {
        let Err((said, body)) = tunnels.to(to).await else {
            panic!("{to} is carried to");
        };
        assert_eq!(said.as_u16(), status, "{to}: {body}");
        assert!(body.contains(says), "{to}: {body}");
        let mut raw = wrapped(proxy.tunnel(), CALLER).await;
        raw.send(&format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n"))
            .await;
        let answer = raw.rest().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(says), "{answer}");
    }
    let request = Request::get("http://10.0.0.1:80/").body(()).unwrap();
    let (response, _) = tunnels.0.send_request(request, true).unwrap();
    assert_eq!(
        soon(response).await.unwrap().status(),
        400,
        "only CONNECT is a tunnel"
    );
    assert_eq!(proxy.tunnels("forbidden_destination").await, 8.0);
    assert_eq!(proxy.tunnels("bad_destination").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_limits() {
    let server = echo().await;
    let proxy = Proxy::start(&["--max-streams=10", "--max-share=0.6", "--max-connections=3"]).await;
    let mut greedy = Tunnels::connect(proxy.tunnel()).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(greedy.open(server.address).await.unwrap());
    }
    let Err((status, body)) = greedy.open(server.address).await else {
        panic!("it has more than its share");
    };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("share"), "{body}");
    let modest = "spiffe://cluster.local/ns/shop/sa/modest";
    let mut modest = Tunnels::of(proxy.tunnel(), modest).await;
    let mut tunnel = modest.open(server.address).await.unwrap();
    tunnel.up.write(b"\0ok").await.unwrap();
    assert_eq!(tunnel.down.exactly(3).await, "\0ok");
    assert_eq!(proxy.metric("lazymesh_proxy_tunnels").await, 7.0);
    drop(open.pop());
    until("there is room again", async || {
        greedy.clone().open(server.address).await.is_ok()
    })
    .await;
    let _third = proxy.connect().await;
    until("it is taken", async || {
        proxy.metric("lazymesh_proxy_connections").await == 3.0
    })
    .await;
    let mut fourth = Raw(TcpStream::connect(proxy.tunnel()).await.unwrap());
    assert_eq!(fourth.rest().await, "", "it is closed at once");
    assert_eq!(
        proxy.metric("lazymesh_proxy_connections_shed_total").await,
        1.0
    );
}
