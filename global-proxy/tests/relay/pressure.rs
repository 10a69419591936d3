//! The slower side sets the pace, and nothing piles up in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::{Feed, Proxy, Server, empty, fed, full, h2_request, head, soon, text};

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

/// So many bodies once filled the window of a whole connection.
const STALLED: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_a_caller_that_stall_leave_room_for_the_next() {
    let stuck = Server::http(|request| async move {
        let _unread = request;
        std::future::pending::<()>().await;
        Ok(Response::new(empty()))
    })
    .await;
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut caller = proxy.h2().await;
    let mut held = Vec::new();
    for _ in 0..STALLED {
        let (feed, body) = fed();
        let response = tokio::spawn(caller.send_request(h2_request("/", stuck.address, body)));
        let filled = tokio::spawn(async move {
            stalls(&feed, &AtomicUsize::new(0)).await;
            feed
        });
        held.push((response, filled));
    }
    let mut feeds = Vec::new();
    for (response, filled) in held {
        feeds.push((response, filled.await.unwrap()));
    }
    let body = full("b".repeat(200_000));
    let response = soon(caller.send_request(h2_request("/", server.address, body))).await;
    let seen = text(response.unwrap().into_body()).await;
    assert!(seen.ends_with(&"b".repeat(200_000)));
    drop(feeds);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_a_server_that_stall_leave_room_for_the_next() {
    let stalled = Arc::new(tokio::sync::Semaphore::new(0));
    let told = stalled.clone();
    let server = Server::http(move |request| {
        let told = told.clone();
        async move {
            if request.uri().path() != "/stall" {
                return Ok(Response::new(full("b".repeat(200_000))));
            }
            let (feed, body) = fed();
            tokio::spawn(async move {
                stalls(&feed, &AtomicUsize::new(0)).await;
                told.add_permits(1);
                feed.unwanted().await;
            });
            Ok(Response::new(body))
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut unread = Vec::new();
    for _ in 0..STALLED {
        // Each on its own connection, whose window is not looked at here; to the server there is one.
        let mut caller = proxy.h2().await;
        let request = h2_request("/stall", server.address, empty());
        let response = soon(caller.send_request(request)).await.unwrap();
        unread.push((caller, response));
    }
    let all = u32::try_from(STALLED).unwrap();
    soon(stalled.acquire_many(all)).await.unwrap().forget();
    let request = h2_request("/", server.address, empty());
    let response = soon(proxy.h2().await.send_request(request)).await.unwrap();
    assert_eq!(text(response.into_body()).await.len(), 200_000);
    assert_eq!(server.connections(), 1);
    drop(unread);
}
