//! Over a limit, the answer is there at once and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderValue;
use tokio::sync::Semaphore;

use crate::support::{Proxy, Server, empty, h2_request, head, soon, text, until};

/// Answers once it is told to.
struct Waiting {
    server: Server,
    go: Arc<Semaphore>,
    arrived: Arc<AtomicUsize>,
}

async fn waiting() -> Waiting {
    let (go, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (told, count) = (go.clone(), arrived.clone());
    let server = Server::http(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        let told = told.clone();
        async move {
            told.acquire().await?.forget();
            Ok(http::Response::new(empty()))
        }
    })
    .await;
    Waiting {
        server,
        go,
        arrived,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams() {
    let Waiting {
        server,
        go,
        arrived,
    } = waiting().await;
    let proxy = Proxy::start(&["--max-streams=2", "--max-share=1"]).await;
    let caller = proxy.h2().await;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let request = h2_request("/", server.address, empty());
            tokio::spawn(caller.clone().send_request(request))
        })
        .collect();
    let mut over = proxy.h2().await;
    until("both are under way", async || {
        arrived.load(Ordering::SeqCst) == 2
    })
    .await;
    let request = h2_request("/", server.address, empty());
    let response = soon(over.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(text(response.into_body()).await.contains("overloaded"));
    let mut request = h2_request("/", server.address, empty());
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    let response = soon(over.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-retry-pushback-ms"], "1000");
    let mut http1 = proxy.connect().await;
    http1
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    let answer = http1.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    until("counted", async || {
        proxy.exchanges("http2", "overloaded").await == 2.0
            && proxy.exchanges("http1", "overloaded").await == 1.0
    })
    .await;
    go.add_permits(100);
    for call in calls {
        assert_eq!(soon(call).await.unwrap().unwrap().status(), 200);
    }
    // Room again.
    let request = h2_request("/", server.address, empty());
    assert_eq!(
        soon(over.send_request(request)).await.unwrap().status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_leaves_room_for_others() {
    let Waiting {
        server,
        go,
        arrived,
    } = waiting().await;
    let proxy = Proxy::start(&["--max-streams=10", "--max-share=0.6"]).await;
    let caller = proxy.h2().await;
    let request = |who: &str| {
        let mut request = h2_request("/", server.address, empty());
        let xfcc = HeaderValue::from_str(&format!("URI=spiffe://td/ns/shop/sa/{who}")).unwrap();
        request
            .headers_mut()
            .insert("x-forwarded-client-cert", xfcc);
        request
    };
    let greedy: Vec<_> = (0..20)
        .map(|_| tokio::spawn(caller.clone().send_request(request("greedy"))))
        .collect();
    until("the greedy one is held to its share", async || {
        arrived.load(Ordering::SeqCst) == 6 && proxy.exchanges("http2", "overloaded").await == 14.0
    })
    .await;
    let modest = tokio::spawn(caller.clone().send_request(request("modest")));
    go.add_permits(100);
    assert_eq!(soon(modest).await.unwrap().unwrap().status(), 200);
    let mut served = 0;
    for call in greedy {
        served += usize::from(soon(call).await.unwrap().unwrap().status() == 200);
    }
    assert_eq!(served, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections() {
    let server = Server::mirror().await;
    let proxy = Proxy::start(&["--max-connections=1"]).await;
    let mut first = proxy.connect().await;
    first
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    assert!(first.head().await.starts_with("HTTP/1.1 200 "));
    let mut second = proxy.connect().await;
    second
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    let answer = second.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("too many connections"), "{answer}");
    let request = h2_request("/", server.address, empty());
    let response = soon(proxy.h2().await.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(
        proxy.metric("lazymesh_proxy_connections_shed_total").await,
        2.0
    );
    drop(first);
    until("there is room again", async || {
        let mut third = proxy.connect().await;
        third
            .send(&head(
                "GET / HTTP/1.1",
                server.address,
                "connection: close\r\n",
            ))
            .await;
        third.rest().await.starts_with("HTTP/1.1 200 ")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads() {
    let server = Server::mirror().await;
    let proxy = Proxy::start(&["--header-bytes=8192"]).await;
    let lines = format!("x-long: {}\r\n", "a".repeat(9000));
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, &lines))
        .await;
    let answer = caller.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let mut request = h2_request("/", server.address, empty());
    let long = HeaderValue::from_str(&"a".repeat(9000)).unwrap();
    request.headers_mut().insert("x-long", long);
    let mut caller = proxy.h2().await;
    let answer = soon(caller.send_request(request)).await;
    assert!(answer.is_err() || answer.unwrap().status() == 431);
    let request = h2_request("/", server.address, empty());
    assert_eq!(
        soon(caller.send_request(request)).await.unwrap().status(),
        200
    );
    assert_eq!(server.connections(), 1);
}
