//! A drain lets what is under way end, takes nothing new, and cuts what is left at its end.

use std::time::{Duration, Instant};

use http::Response;

use crate::support::{Proxy, Server, empty, fed, h2_request, head, piece, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn http1_says_close_and_http2_goaway() {
    let go = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let told = go.clone();
    let server = Server::http(move |_| {
        let told = told.clone();
        async move {
            told.acquire().await.unwrap().forget();
            Ok(Response::new(empty()))
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut http1 = proxy.connect().await;
    http1
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    let mut idle = proxy.connect().await;
    let mut http2 = proxy.h2().await;
    let request = h2_request("/", server.address, empty());
    let call = tokio::spawn(http2.clone().send_request(request));
    until("both arrived", async || server.connections() == 2).await;
    proxy.drain.start();
    assert_eq!(idle.rest().await, "", "an idle connection is closed");
    until("GOAWAY", async || {
        http2.is_closed() || {
            let request = h2_request("/", server.address, empty());
            let probe = http2.clone().send_request(request);
            tokio::time::timeout(Duration::from_millis(50), probe)
                .await
                .is_ok_and(|answer| answer.is_err())
        }
    })
    .await;
    assert!(
        tokio::net::TcpStream::connect(proxy.address).await.is_err(),
        "nothing new is taken"
    );
    go.add_permits(9);
    let answer = http1.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(soon(call).await.unwrap().unwrap().status(), 200);
    let begin = Instant::now();
    soon(proxy.running).await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "it ends with the last exchange"
    );
    let _ = soon(http2.ready()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_end_is_cut_at_the_end() {
    let server = Server::http(|_| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            feed.data("first").await;
            feed.unwanted().await;
        });
        Ok(Response::new(body))
    })
    .await;
    let proxy = Proxy::start(&["--drain=500ms"]).await;
    let mut caller = proxy.h2().await;
    let response = soon(caller.send_request(h2_request("/", server.address, empty())));
    let mut body = response.await.unwrap().into_body();
    assert_eq!(piece(&mut body).await, "first");
    proxy.drain.start();
    let begin = Instant::now();
    let cut = soon(http_body_util::BodyExt::frame(&mut body)).await;
    assert!(cut.is_none_or(|frame| frame.is_err()));
    assert!(begin.elapsed() >= Duration::from_millis(400));
    soon(proxy.running).await.unwrap();
}
