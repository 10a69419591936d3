//! Who goes away is noticed on the other side.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use tokio::sync::{Notify, mpsc};

use crate::support::{Proxy, Server, empty, fed, h2_request, head, piece, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_http1_caller_that_goes_ends_the_request_at_the_server() {
    let (told, mut ended) = mpsc::channel(9);
    let server = Server::raw(move |mut raw, _| {
        let told = told.clone();
        async move {
            raw.head().await;
            told.send("asked").await.unwrap();
            // Says nothing: only the connection's end tells.
            assert_eq!(raw.rest().await, "");
            told.send("gone").await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    assert_eq!(soon(ended.recv()).await, Some("asked"));
    drop(caller);
    assert_eq!(soon(ended.recv()).await, Some("gone"));
    until("counted", async || {
        proxy.exchanges("http1", "caller_cut").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_http1_caller_that_breaks_its_body_off_breaks_it_off_at_the_server() {
    let (told, mut ended) = mpsc::channel(9);
    let server = Server::raw(move |mut raw, _| {
        let told = told.clone();
        async move {
            raw.head().await;
            told.send(raw.rest().await).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let lines = "transfer-encoding: chunked\r\n";
    caller
        .send(&(head("POST / HTTP/1.1", server.address, lines) + "3\r\nabc\r\n"))
        .await;
    drop(caller);
    let seen = soon(ended.recv()).await.unwrap();
    assert!(
        !seen.ends_with("0\r\n\r\n"),
        "must not look complete: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_http2_caller_that_resets_resets_at_the_server() {
    let (told, mut heard) = mpsc::channel(9);
    let server = Server::http(move |request| {
        let told = told.clone();
        async move {
            let waits = request.uri().path() == "/wait";
            let (feed, body) = fed();
            told.send("asked").await.unwrap();
            let dropped = OnDrop(Some(told.clone()));
            if waits {
                // Before any answer.
                let _dropped = dropped;
                std::future::pending::<()>().await;
            } else {
                tokio::spawn(async move {
                    feed.data("first").await;
                    feed.unwanted().await;
                    drop(dropped);
                });
            }
            Ok(Response::new(body))
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.h2().await;
    // While the answer is awaited, as when a deadline passes.
    let waiting = caller.send_request(h2_request("/wait", server.address, empty()));
    assert!(
        tokio::time::timeout(Duration::from_millis(300), waiting)
            .await
            .is_err()
    );
    assert_eq!(soon(heard.recv()).await, Some("asked"));
    assert_eq!(soon(heard.recv()).await, Some("gone"));
    // While it flows.
    let response = soon(caller.send_request(h2_request("/flow", server.address, empty())));
    let mut body = response.await.unwrap().into_body();
    assert_eq!(soon(heard.recv()).await, Some("asked"));
    assert_eq!(piece(&mut body).await, "first");
    drop(body);
    assert_eq!(soon(heard.recv()).await, Some("gone"));
    // And neither cost the connection.
    assert_eq!(server.connections(), 1);
}

struct OnDrop(Option<mpsc::Sender<&'static str>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            let _ = told.try_send("gone");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_http2_server_that_breaks_off_resets_the_caller() {
    // A reset overtakes what came before it.
    let read = Arc::new(Notify::new());
    let told = read.clone();
    let server = Server::http(move |_| {
        let (told, (feed, body)) = (told.clone(), fed());
        tokio::spawn(async move {
            feed.data("first").await;
            told.notified().await;
            let reason = h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM);
            feed.fail(reason.into()).await;
        });
        async { Ok(Response::new(body)) }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.h2().await;
    let response = soon(caller.send_request(h2_request("/", server.address, empty())));
    let mut body = response.await.unwrap().into_body();
    assert_eq!(piece(&mut body).await, "first");
    read.notify_one();
    let error = soon(body.frame()).await.unwrap().unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    let reason = source.downcast_ref::<h2::Error>().unwrap().reason();
    assert_eq!(reason, Some(h2::Reason::ENHANCE_YOUR_CALM));
    until("counted", async || {
        proxy.exchanges("http2", "server_cut").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_http1_server_that_breaks_off_is_not_made_whole() {
    let server = Server::raw(|mut raw, number| async move {
        raw.head().await;
        let answer = match number {
            0 => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            _ => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        };
        raw.send(answer).await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    for _ in 0..2 {
        let mut caller = proxy.connect().await;
        caller
            .send(&head("GET / HTTP/1.1", server.address, ""))
            .await;
        let answer = caller.rest().await;
        assert!(answer.contains("abc"), "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    }
}
