//! The slower side sets the pace, and nothing piles up in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::{Feed, Proxy, Server, empty, fed, h2_request, head, soon};

/// More than all that may wait on the way: windows, buffers, and the kernel's sockets.
const MUCH: usize = 64 << 20;
const PIECE: usize = 64 << 10;
/// What our windows and buffers may hold of one stream on its way over HTTP/2.
const HELD: usize = 4 << 20;

fn zeros() -> Bytes {
    Bytes::from_static(&[0; PIECE])
}

/// Feeds until nobody takes any more for a while; how much went.
async fn stalls(feed: &Feed, counted: &AtomicUsize) -> usize {
    while counted.load(Ordering::SeqCst) < MUCH {
        match timeout(Duration::from_millis(500), feed.data(zeros())).await {
            Ok(true) => counted.fetch_add(PIECE, Ordering::SeqCst),
            _ => break,
        };
    }
    counted.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_http2_reader_stalls_the_server() {
    let fed_so_far = Arc::new(AtomicUsize::new(0));
    let count = fed_so_far.clone();
    let server = Server::http(move |_| {
        let count = count.clone();
        async move {
            let (feed, body) = fed();
            tokio::spawn(async move { stalls(&feed, &count).await });
            Ok(Response::new(body))
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.h2().await;
    let response = soon(caller.send_request(h2_request("/", server.address, empty())));
    let body = response.await.unwrap().into_body();
    // Not read. The server's feed ends by itself, far from its end.
    let mut last = usize::MAX;
    crate::support::until("it stalls", async || {
        tokio::time::sleep(Duration::from_millis(600)).await;
        fed_so_far.load(Ordering::SeqCst) > 0
    })
    .await;
    while last != fed_so_far.load(Ordering::SeqCst) {
        last = fed_so_far.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(last < HELD, "{last} bytes are on the way");
    drop(body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_http2_server_stalls_the_caller() {
    let server = Server::http(|request| async move {
        let _unread = request;
        std::future::pending::<()>().await;
        Ok(Response::new(empty()))
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.h2().await;
    let (feed, body) = fed();
    let response = tokio::spawn(caller.send_request(h2_request("/", server.address, body)));
    let sent = stalls(&feed, &AtomicUsize::new(0)).await;
    assert!(sent > 0 && sent < HELD, "{sent} bytes are on the way");
    response.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_http1_reader_stalls_the_server() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let server = Server::raw(move |mut raw, _| {
        let count = count.clone();
        async move {
            raw.head().await;
            raw.send(&format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n"
            ))
            .await;
            while let Ok(Ok(bytes)) =
                timeout(Duration::from_millis(500), raw.0.write(&[0; PIECE])).await
            {
                count.fetch_add(bytes, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    caller.head().await;
    let mut last = usize::MAX;
    while last != written.load(Ordering::SeqCst) {
        last = written.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    // Two loopback sockets of the kernel's hold most of it.
    assert!(last > 0 && last < MUCH / 2, "{last} bytes are on the way");
}
