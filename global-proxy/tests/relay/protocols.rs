//! Every protocol that is carried, one row of the table each.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;

use crate::support::{
    Body, Feed, Proxy, Server, empty, fed, full, h2_request, head, piece, soon, text,
};

#[tokio::test(flavor = "multi_thread")]
async fn http1_goes_out_as_it_came() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut caller = proxy.connect().await;
    let lines = "accept: */*\r\nx-lazymesh-pod: a\r\nconnection: x-hop\r\nx-hop: 1\r\n\
                 cookie: a=1\r\nx-forwarded-client-cert: URI=spiffe://td/ns/shop/sa/a\r\n";
    caller
        .send(&head("GET /a%2Fb?c=%20d HTTP/1.1", server.address, lines))
        .await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let wanted = "GET /a%2Fb?c=%20d HTTP/1.1\naccept: */*\ncookie: a=1\nhost: server.shop:80\n\n";
    let seen = caller.exactly(wanted.len()).await;
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&seen), sorted(wanted));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again_and_pipelining_keeps_order() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut caller = proxy.connect().await;
    let both = head("GET /one HTTP/1.1", server.address, "")
        + &head(
            "POST /two HTTP/1.1",
            server.address,
            "content-length: 3\r\n",
        )
        + "abc";
    caller.send(&both).await;
    caller.head().await;
    assert!(caller.until("80\n\n").await.starts_with("GET /one"));
    caller.head().await;
    assert!(caller.until("abc").await.starts_with("POST /two"));
    for _ in 0..20 {
        caller
            .send(&head("GET /more HTTP/1.1", server.address, ""))
            .await;
        caller.head().await;
        caller.until("80\n\n").await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http10_is_answered_to_its_end() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut caller = proxy.connect().await;
    let to = server.address;
    caller
        .send(&format!(
            "GET /old HTTP/1.0\r\nx-lazymesh-original-dst: {to}\r\n\r\n"
        ))
        .await;
    // As `nc -N` does.
    caller.0.shutdown().await.unwrap();
    let answer = caller.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /old HTTP/1.1\n"), "{answer}");
    assert!(answer.contains(&format!("host: {to}\n")), "{answer}");
    assert!(!answer.contains("chunked"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_length_ends_an_http10_connection() {
    let server = Server::raw(|mut raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .await;
        raw.rest().await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.0", server.address, ""))
        .await;
    let answer = caller.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_half_closes_gets_its_answer() {
    let server = Server::raw(|mut raw, _| async move {
        raw.head().await;
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
            .await;
        raw.rest().await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, ""))
        .await;
    caller.0.shutdown().await.unwrap();
    assert!(caller.rest().await.ends_with("\r\n\r\nlate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_stays_http2() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    let mut caller = proxy.h2().await;
    let request = h2_request("/a?b=c", server.address, full("body"));
    let response = soon(caller.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = text(response.into_body()).await;
    assert!(
        seen.starts_with("POST http://server.shop:80/a?b=c HTTP/2.0\n")
            || seen.starts_with("GET http://server.shop:80/a?b=c HTTP/2.0\n"),
        "{seen}"
    );
    assert!(
        !seen.contains("x-lazymesh") && seen.ends_with("body"),
        "{seen}"
    );
    // All over one connection, side by side.
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50 {
        let mut caller = caller.clone();
        let request = h2_request(&format!("/{number}"), server.address, empty());
        calls.spawn(async move {
            let response = caller.send_request(request).await.unwrap();
            assert!(
                text(response.into_body())
                    .await
                    .contains(&format!("/{number} "))
            );
        });
    }
    soon(calls.join_all()).await;
    assert_eq!(server.connections(), 1);
}

/// Answers each message at once, and ends with a status: with it, all four kinds of gRPC calls can be made.
async fn grpc(request: Request<Incoming>) -> Result<Response<Body>, mesh_runtime::BoxError> {
    let deadline = request.headers().get("grpc-timeout").cloned();
    let te = request.headers().get("te").cloned();
    let (feed, body) = fed();
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                feed.data(data).await;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        feed.trailers(trailers).await;
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    for (name, value) in [("x-deadline", deadline), ("x-te", te)] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

async fn call(proxy: &Proxy, server: &Server) -> (Feed, Incoming) {
    let (feed, body) = fed();
    let mut request = h2_request("/pkg.Service/Method", server.address, body);
    *request.method_mut() = http::Method::POST;
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("grpc-timeout", HeaderValue::from_static("1S"));
    let response = soon(proxy.h2().await.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-deadline"], "1S");
    assert_eq!(response.headers()["x-te"], "trailers");
    (feed, response.into_body())
}

async fn ends_well(mut body: Incoming) {
    let frame = soon(body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0");
    assert!(soon(body.frame()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_unary_and_streams_of_either_side() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::http(grpc).await);
    // Any number of messages one way, any number back: none, one, many.
    for messages in [0, 1, 5] {
        let (feed, mut body) = call(&proxy, &server).await;
        for _ in 0..messages {
            assert!(feed.data("\0\0\0\0\x02hi").await);
        }
        drop(feed);
        let mut bytes = 0;
        while bytes < messages * 7 {
            bytes += piece(&mut body).await.len();
        }
        ends_well(body).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_chat() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::http(grpc).await);
    let (feed, mut body) = call(&proxy, &server).await;
    for turn in 0..10 {
        let message = format!("\0\0\0\0\x01{turn}");
        assert!(feed.data(message.clone()).await);
        assert_eq!(piece(&mut body).await, message.as_bytes());
    }
    drop(feed);
    ends_well(body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_over_http1_both_ways() {
    let server = Server::raw(|mut raw, _| async move {
        let seen = raw.head().await;
        assert!(seen.contains("te: trailers"), "{seen}");
        let seen = raw.until("\r\n\r\n").await;
        assert!(seen.ends_with("x-sum: 1\r\n\r\n"), "{seen}");
        raw.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-back\r\n\r\n")
            .await;
        raw.send("2\r\nok\r\n0\r\nx-back: 2\r\n\r\n").await;
        raw.rest().await;
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let lines =
        "transfer-encoding: chunked\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n";
    caller
        .send(&head("POST / HTTP/1.1", server.address, lines))
        .await;
    caller.send("2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n").await;
    let answer = caller.head().await;
    assert!(answer.contains("trailer: x-back"), "{answer}");
    assert!(caller.until("0\r\n").await.contains("ok"));
    assert_eq!(caller.head().await, "x-back: 2\r\n\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_come_one_by_one() {
    let server = Server::raw(|mut raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            .await;
        for event in 0..3 {
            raw.send(&format!("data: {event}\n\n")).await;
            // The next one only when the caller has said that it saw this one.
            raw.0.readable().await.unwrap();
            raw.exactly(1).await;
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let lines = "transfer-encoding: chunked\r\n";
    caller
        .send(&head("POST / HTTP/1.1", server.address, lines))
        .await;
    let answer = caller.head().await;
    assert!(answer.contains("text/event-stream"), "{answer}");
    caller.until("data: 0\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_is_the_servers_to_answer() {
    let server = Server::raw(|mut raw, number| async move {
        let seen = raw.head().await;
        assert!(seen.contains("expect: 100-continue"), "{seen}");
        match number {
            0 => {
                raw.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                assert_eq!(raw.exactly(4).await, "body");
                raw.send("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
            1 => {
                raw.send("HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n")
                    .await;
                assert_eq!(raw.rest().await, "", "nothing of the body came");
            }
            // Says nothing until it has the body.
            _ => {
                assert_eq!(raw.exactly(4).await, "body");
                raw.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let lines = "content-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n";
    let expecting = head("POST / HTTP/1.1", server.address, lines);
    for (continues, status) in [(true, "201"), (false, "417"), (true, "202")] {
        let mut caller = proxy.connect().await;
        caller.send(&expecting).await;
        if continues {
            assert_eq!(caller.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
            caller.send("body").await;
        }
        let answer = caller.head().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_comes_through() {
    let server = Server::raw(|mut raw, number| async move {
        raw.head().await;
        raw.send("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
            .await;
        if number == 0 {
            // Keeps reading.
            raw.rest().await;
        }
        // Else closes with the body unread, which resets the connection.
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    for _ in 0..2 {
        let mut caller = proxy.connect().await;
        let lines = "content-length: 1000000000\r\n";
        caller
            .send(&head("POST / HTTP/1.1", server.address, lines))
            .await;
        caller.send("the beginning").await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(caller.exactly(2).await, "no");
    }
}

/// Who still sends when the connection ends must not lose the answer to the kernel's reset.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_is_not_lost_while_more_is_sent() {
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    let to = SocketAddr::from(([127, 0, 0, 1], 1));
    let lines = "content-length: 1000000000\r\n";
    caller.send(&head("POST / HTTP/1.1", to, lines)).await;
    for _ in 0..1000 {
        caller.0.write_all(&[b'x'; 8 << 10]).await.unwrap();
    }
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(caller.rest().await.starts_with("global-proxy: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body() {
    let server = Server::raw(|mut raw, _| async move {
        loop {
            let seen = raw.head().await;
            let answer = match seen.split(' ').nth(1) {
                Some("/204") => "HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
                Some("/304") => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
                Some("/end") => return,
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n",
            };
            raw.send(answer).await;
        }
    })
    .await;
    let proxy = Proxy::start(&[]).await;
    let mut caller = proxy.connect().await;
    for (line, wanted) in [
        ("HEAD / HTTP/1.1", "content-length: 12345"),
        ("GET /204 HTTP/1.1", "x-a: 1"),
        ("GET /304 HTTP/1.1", "etag: \"x\""),
        ("HEAD / HTTP/1.1", "200 OK"),
    ] {
        caller.send(&head(line, server.address, "")).await;
        let answer = caller.head().await;
        assert!(answer.contains(wanted), "{answer}");
        assert!(!answer.contains("chunked"), "{answer}");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_leave_no_sockets() {
    let (proxy, server) = (Proxy::start(&[]).await, Server::mirror().await);
    for _ in 0..50 {
        let mut caller = proxy.connect().await;
        for _ in 0..20 {
            caller
                .send(&head("GET / HTTP/1.1", server.address, ""))
                .await;
            caller.head().await;
            caller.until("80\n\n").await;
        }
    }
    assert_eq!(server.connections(), 1);
    assert!(proxy.metric("lazymesh_proxy_upstream_connections").await <= 1.0);
}
