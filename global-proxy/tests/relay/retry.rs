//! A request that may have been processed is never sent again.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{Proxy, Server, empty, h2_request, head, soon};

#[tokio::test(flavor = "multi_thread")]
async fn not_when_the_server_dies_after_reading_it() {
    let heads = Arc::new(AtomicUsize::new(0));
    let count = heads.clone();
    let server = Server::raw(move |mut raw, _| {
        let count = count.clone();
        async move {
            loop {
                let seen = raw.head().await;
                count.fetch_add(1, Ordering::SeqCst);
                if seen.starts_with("GET /die") {
                    return;
                }
                raw.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    // On a new connection, and on one that has served before.
    for (path, status) in [("/die", "502"), ("/ok", "200"), ("/die", "502")] {
        let line = format!("GET {path} HTTP/1.1");
        caller.send(&head(&line, server.address, "")).await;
        let answer = caller.head().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        if status == "502" {
            caller.until("\n").await;
        }
    }
    assert_eq!(heads.load(Ordering::SeqCst), 3);
    assert_eq!(server.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_closed_meanwhile_is_not_used() {
    let server = Server::raw(|mut raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        // Closes, though it did not say so.
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    for round in 1..=20 {
        caller
            .send(&head(
                "POST / HTTP/1.1",
                server.address,
                "content-length: 0\r\n",
            ))
            .await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(server.connections(), round);
        crate::support::until("the close has come", async || {
            proxy.metric("lazymesh_proxy_upstream_connections").await == 0.0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn not_over_http2_either() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let server = Server::http(move |_| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            // Resets the stream, with a reason that says it was not processed: not believed either.
            Err(h2::Error::from(h2::Reason::REFUSED_STREAM).into())
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let request = h2_request("/", server.address, empty());
    let response = soon(proxy.h2().await.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_is_told_so() {
    // Bound and let go: nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = gone.local_addr().unwrap();
    drop(gone);
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    caller.send(&head("GET / HTTP/1.1", to, "")).await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(caller.until("\n").await.contains("cannot connect"));
    let response = soon(proxy.h2().await.send_request(h2_request("/", to, empty())));
    assert_eq!(response.await.unwrap().status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_the_connect_is_given_up_in_time() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let to = socket.local_addr().unwrap().as_socket().unwrap();
    // Fills the queue of those that wait to be accepted; the next is not answered.
    let mut waiting = Vec::new();
    let moment = Duration::from_millis(300);
    while let Ok(connected) = timeout(moment, TcpStream::connect(to)).await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 100);
    }
    let proxy = Proxy::start(&["--connect-timeout=200ms"]).await;
    let mut caller = proxy.connect().await;
    caller.send(&head("GET / HTTP/1.1", to, "")).await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let response = soon(proxy.h2().await.send_request(h2_request("/", to, empty())));
    assert_eq!(response.await.unwrap().status(), 504);
}

/// Says GOAWAY with its first answer, and serves what is under way.
async fn parting() -> Server {
    Server::raw(|raw, _| async move {
        let asked = Arc::new(Notify::new());
        let told = asked.clone();
        let service = service_fn(move |_| {
            told.notify_one();
            async { Ok::<_, std::io::Error>(Response::new(empty())) }
        });
        let http = http2::Builder::new(TokioExecutor::new());
        let mut connection = pin!(http.serve_connection(TokioIo::new(raw.0), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = asked.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_goaway_costs_no_request() {
    let (proxy, server) = (Proxy::start(&[]).await, parting().await);
    let mut caller = proxy.h2().await;
    for number in 0..200 {
        let request = h2_request("/", server.address, empty());
        let response = soon(caller.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200, "request {number}");
    }
    assert!(server.connections() > 1);
}
