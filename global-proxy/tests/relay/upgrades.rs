//! Requests that turn into bytes both ways.

use http::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Proxy, Raw, Server, empty, full, head, soon, text};

const ASK: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\n";

/// Upgrades, then says each byte back, and half-closes when the caller has.
async fn upgrading(mut raw: Raw, wanted: &'static str, answer: &'static str) {
    let seen = raw.head().await;
    assert!(seen.contains(wanted), "{seen}");
    raw.send(answer).await;
    // Server first.
    raw.send("hello").await;
    let all = raw.rest().await;
    raw.send(&format!("you said {all}")).await;
}

async fn talks(mut caller: Raw) {
    assert_eq!(caller.exactly(5).await, "hello");
    caller.send("abc").await;
    caller.0.shutdown().await.unwrap();
    assert_eq!(caller.rest().await, "you said abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_and_any_other_upgrade() {
    let server = Server::raw(|raw, number| async move {
        let (wanted, answer) = match number {
            0 => (
                "upgrade: websocket\r\n",
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                 upgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n",
            ),
            _ => (
                "upgrade: foo/2\r\n",
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                 upgrade: foo/2\r\n\r\n",
            ),
        };
        upgrading(raw, wanted, answer).await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    for (ask, protocol) in [
        (ASK, "websocket"),
        ("connection: upgrade\r\nupgrade: foo/2\r\n", "foo/2"),
    ] {
        let mut caller = proxy.connect().await;
        caller
            .send(&head("GET /chat HTTP/1.1", server.address, ask))
            .await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("connection: upgrade\r\n"), "{answer}");
        assert!(
            answer.contains(&format!("upgrade: {protocol}\r\n")),
            "{answer}"
        );
        talks(caller).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_right_behind_the_upgrade_are_not_lost() {
    let server = Server::raw(|mut raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nright behind")
            .await;
        assert_eq!(raw.exactly(5).await, "early");
        raw.send("!").await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let ask = "connection: upgrade\r\nupgrade: x\r\n";
    caller
        .send(&(head("GET / HTTP/1.1", server.address, ask) + "early"))
        .await;
    caller.head().await;
    assert_eq!(caller.exactly(13).await, "right behind!");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let server = Server::mirror().await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    for _ in 0..2 {
        caller
            .send(&head("GET / HTTP/1.1", server.address, ASK))
            .await;
        assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
        caller.until("sec-websocket-key: eA==\n").await;
        caller.until("\n\n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h2c_is_not_upgraded_to() {
    let server = Server::mirror().await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let ask = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    caller
        .send(&head("GET / HTTP/1.1", server.address, ask))
        .await;
    caller.head().await;
    let seen = caller.until("\n\n").await;
    assert!(
        !seen.contains("upgrade") && !seen.contains("settings"),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_over_http1() {
    let server = Server::raw(|raw, _| {
        upgrading(
            raw,
            "CONNECT db.shop:5432 HTTP/1.1\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        )
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let to = server.address;
    caller
        .send(&format!(
            "CONNECT db.shop:5432 HTTP/1.1\r\nhost: db.shop:5432\r\nx-lazymesh-original-dst: {to}\r\n\r\n"
        ))
        .await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.contains("content-length") && !answer.contains("chunked"));
    talks(caller).await;
}

fn h2_server() -> impl Future<Output = Server> {
    Server::http(|mut request| async move {
        let protocol = request.extensions().get::<hyper::ext::Protocol>().cloned();
        if *request.method() != Method::CONNECT {
            return Ok(Response::new(full("not CONNECT")));
        }
        let told = format!(
            "{} {}",
            request.uri(),
            protocol.as_ref().map_or("", |p| p.as_str())
        );
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let mut io = TokioIo::new(upgraded);
            io.write_all(told.as_bytes()).await.unwrap();
            io.write_all(b"\n").await.unwrap();
            let mut all = String::new();
            io.read_to_string(&mut all).await.unwrap();
            io.write_all(format!("you said {all}").as_bytes())
                .await
                .unwrap();
            io.shutdown().await.unwrap();
        });
        Ok(Response::new(empty()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_over_http2_plain_and_extended() {
    let (proxy, server) = (Proxy::start(&[]).await, h2_server().await);
    for (uri, protocol, told) in [
        ("db.shop:5432", None, "db.shop:5432 \n"),
        (
            "http://chat.shop/room",
            Some("websocket"),
            "http://chat.shop/room websocket\n",
        ),
    ] {
        let mut caller = proxy.h2().await;
        // Extended CONNECT may be asked for once the settings that allow it have come.
        let warm = crate::support::h2_request("/", server.address, empty());
        soon(caller.send_request(warm)).await.unwrap();
        let mut request = Request::connect(uri)
            .header("x-lazymesh-original-dst", server.address.to_string())
            .body(empty())
            .unwrap();
        if let Some(protocol) = protocol {
            let protocol = hyper::ext::Protocol::from_static(protocol);
            request.extensions_mut().insert(protocol);
        }
        let response = soon(caller.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let upgraded = soon(hyper::upgrade::on(response)).await.unwrap();
        let mut io = TokioIo::new(upgraded);
        let mut line = vec![0; told.len()];
        soon(io.read_exact(&mut line)).await.unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), told);
        io.write_all(b"abc").await.unwrap();
        io.shutdown().await.unwrap();
        let mut all = String::new();
        soon(io.read_to_string(&mut all)).await.unwrap();
        assert_eq!(all, "you said abc");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_connect_to_a_server_that_does_not_take_it() {
    let server = Server::raw(|raw, _| async move {
        let service = hyper::service::service_fn(|_| async {
            Ok::<_, std::io::Error>(Response::new(full("")))
        });
        let http = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        let _ = http.serve_connection(TokioIo::new(raw.0), service).await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.h2().await;
    let warm = crate::support::h2_request("/", server.address, empty());
    soon(caller.send_request(warm)).await.unwrap();
    let mut request = Request::connect("http://chat.shop/room")
        .header("x-lazymesh-original-dst", server.address.to_string())
        .body(empty())
        .unwrap();
    request
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    let response = soon(caller.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED);
    assert!(
        text(response.into_body())
            .await
            .contains("extended CONNECT")
    );
}
