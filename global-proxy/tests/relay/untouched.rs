//! What is the server's stays the server's: redirects, cookies, encodings, errors.

use crate::support::{Proxy, Server, empty, h2_request, head, soon};

const REDIRECT: &str = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://elsewhere/x?y\r\n\
                        set-cookie: a=1; Path=/\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed_and_cookies_stay_apart() {
    let server = Server::raw(|mut raw, _| async move {
        loop {
            raw.head().await;
            raw.send(REDIRECT).await;
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    let answer = caller.head().await;
    assert!(
        answer.starts_with("HTTP/1.1 307 Temporary Redirect\r\n"),
        "{answer}"
    );
    for line in [
        "\r\nlocation: http://elsewhere/x?y\r\n",
        "\r\nset-cookie: a=1; Path=/\r\n",
        "\r\nset-cookie: b=2\r\n",
    ] {
        assert!(answer.contains(line), "{line:?} in {answer}");
    }
    // By a route that would follow it inside, it says where under our name, and the route puts it back.
    caller
        .send(&head(
            "GET / HTTP/1.1",
            server.address,
            "x-lazymesh-tries: \r\n",
        ))
        .await;
    let answer = caller.head().await;
    assert!(
        answer.contains("\r\nx-lazymesh-location: http://elsewhere/x?y\r\n"),
        "{answer}"
    );
    assert!(!answer.contains("\r\nlocation:"), "{answer}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_reason_phrases_and_errors_pass() {
    let server = Server::raw(|mut raw, _| async move {
        let seen = raw.head().await;
        assert!(seen.contains("accept-encoding: br, gzip\r\n"), "{seen}");
        raw.send(
            "HTTP/1.1 599 Very Odd\r\ncontent-encoding: gzip\r\netag: W/\"1\"\r\n\
             content-length: 4\r\n\r\n\x1f\x01\x02\x03",
        )
        .await;
        raw.rest().await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let lines = "accept-encoding: br, gzip\r\n";
    caller
        .send(&head("GET / HTTP/1.1", server.address, lines))
        .await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 599 Very Odd\r\n"), "{answer}");
    assert!(answer.contains("content-encoding: gzip\r\n"), "{answer}");
    assert!(answer.contains("etag: W/\"1\"\r\n"), "{answer}");
    assert!(
        !answer.contains("date:") && !answer.contains("server:"),
        "{answer}"
    );
    assert_eq!(caller.exactly(4).await, "\x1f\x01\x02\x03");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_what_the_fallback_route_sets_nothing_is_carried() {
    let server = Server::mirror().await;
    // As it is deployed: it wants a verified caller. Loopback is no destination then.
    let flags = [
        "global-proxy",
        "--policy=relay-only",
        "--workers=1",
        "--listen=127.0.0.1:0",
        "--tunnel-listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ];
    let proxy = Proxy::with(&flags).await;
    let xfcc = "x-forwarded-client-cert: URI=spiffe://td/ns/shop/sa/a\r\n";
    let to = format!("x-lazymesh-original-dst: {}\r\n", server.address);
    for (lines, status, says) in [
        (to.clone(), "403", "no verified caller"),
        (xfcc.to_owned(), "400", "no original destination"),
        (
            format!("{xfcc}x-lazymesh-original-dst: x\r\n"),
            "400",
            "must be one IP address",
        ),
        (format!("{xfcc}{to}"), "403", "not an address"),
    ] {
        let mut caller = proxy.connect().await;
        caller
            .send(&format!(
                "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}\r\n"
            ))
            .await;
        let answer = caller.rest().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(says), "{answer}");
    }
    let request = h2_request("/", server.address, empty());
    let response = soon(proxy.h2().await.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(server.connections(), 0);
    until_counted(&proxy).await;
}

async fn until_counted(proxy: &Proxy) {
    crate::support::until("all refusals counted", async || {
        proxy.exchanges("http1", "no_caller").await == 1.0
            && proxy.exchanges("http1", "no_destination").await == 1.0
            && proxy.exchanges("http1", "bad_destination").await == 1.0
            && proxy.exchanges("http1", "forbidden_destination").await == 1.0
            && proxy.exchanges("http2", "no_caller").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_relayed_unasked() {
    let server = Server::mirror().await;
    let base = [
        "global-proxy",
        "--no-sidecar",
        "--workers=1",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ];
    for (policy, says) in [
        (None, "is not known yet"),
        (Some("--policy=redirect-only"), "is redirect-only"),
    ] {
        let flags: Vec<_> = base.iter().copied().chain(policy).collect();
        let proxy = Proxy::with(&flags).await;
        let mut caller = proxy.connect().await;
        caller
            .send(&head(
                "GET / HTTP/1.1",
                server.address,
                "connection: close\r\n",
            ))
            .await;
        let answer = caller.rest().await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(says), "{answer}");
        let mut request = h2_request("/", server.address, empty());
        let grpc = http::HeaderValue::from_static("application/grpc");
        request.headers_mut().insert("content-type", grpc);
        let response = soon(proxy.h2().await.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
    }
    assert_eq!(server.connections(), 0);
}
