//! RFC 9112: HTTP/1.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Row, Seen, taken};
use crate::support::Proxy;

/// `D` is the line that says where the request is going, `H` a good Host, `S` a request that must not get through.
const CASES: &[(&str, &str, &str)] = &[
    (
        "9112 6.3",
        "Content-Length and Transfer-Encoding, a request behind",
        "POST / HTTP/1.1\r\nHDcontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 6.3",
        "Transfer-Encoding and Content-Length, a request behind",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 6.3",
        "two Content-Lengths that differ",
        "POST / HTTP/1.1\r\nHDcontent-length: 3\r\ncontent-length: 4\r\n\r\nabcS",
    ),
    (
        "9112 6.3",
        "two Content-Lengths that agree",
        "POST / HTTP/1.1\r\nHDcontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    ),
    (
        "9110 8.6",
        "Content-Length: 3, 3",
        "POST / HTTP/1.1\r\nHDcontent-length: 3, 3\r\n\r\nabc",
    ),
    (
        "9110 8.6",
        "Content-Length: +3",
        "POST / HTTP/1.1\r\nHDcontent-length: +3\r\n\r\nabc",
    ),
    (
        "9110 8.6",
        "Content-Length: -1",
        "POST / HTTP/1.1\r\nHDcontent-length: -1\r\n\r\nabc",
    ),
    (
        "9110 8.6",
        "Content-Length: 0x3",
        "POST / HTTP/1.1\r\nHDcontent-length: 0x3\r\n\r\nabc",
    ),
    (
        "9110 8.6",
        "Content-Length beyond 64 bits",
        "POST / HTTP/1.1\r\nHDcontent-length: 99999999999999999999\r\n\r\nabc",
    ),
    (
        "9110 8.6",
        "Content-Length without a value",
        "POST / HTTP/1.1\r\nHDcontent-length:\r\n\r\nabc",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding: chunked, identity",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding: identity",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: identity\r\n\r\nS",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding: xchunked",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: xchunked\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding: gzip, chunked",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding: chunked, twice",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding: chunked, then identity",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding with a vertical tab",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 6.1",
        "Transfer-Encoding in HTTP/1.0",
        "POST / HTTP/1.0\r\nHDtransfer-encoding: chunked\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 5.1",
        "Transfer-Encoding : chunked (space before the colon)",
        "POST / HTTP/1.1\r\nHDtransfer-encoding : chunked\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 5.2",
        "a folded header line",
        "GET / HTTP/1.1\r\nHDx-a: 1\r\n 2\r\n\r\n",
    ),
    (
        "9112 5.2",
        "Transfer-Encoding on a folded line",
        "POST / HTTP/1.1\r\nHDx-a: 1\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\nS",
    ),
    (
        "9112 2.2",
        "lines that end with LF alone",
        "GET / HTTP/1.1\nhost: server.shop\nx-lazymesh-original-dst: ORIGINAL\n\n",
    ),
    (
        "9112 2.2",
        "CR alone in a value",
        "GET / HTTP/1.1\r\nHDx-a: 1\r2\r\n\r\n",
    ),
    (
        "9112 2.2",
        "an empty line first",
        "\r\nGET / HTTP/1.1\r\nHD\r\n",
    ),
    (
        "9112 2.2",
        "white space before the first header",
        "GET / HTTP/1.1\r\n x-a: 1\r\nHD\r\n",
    ),
    (
        "9110 5.5",
        "NUL in a value",
        "GET / HTTP/1.1\r\nHDx-a: 1\u{0}2\r\n\r\n",
    ),
    (
        "9110 5.1",
        "a header name with a space",
        "GET / HTTP/1.1\r\nHDx a: 1\r\n\r\n",
    ),
    (
        "9110 5.1",
        "a header without a name",
        "GET / HTTP/1.1\r\nHD: 1\r\n\r\n",
    ),
    (
        "9110 5.1",
        "a header line without a colon",
        "GET / HTTP/1.1\r\nHDx-a\r\n\r\n",
    ),
    (
        "9112 7.1.1",
        "a chunk extension",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "9112 7.1",
        "a chunk size beyond 64 bits",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\nS",
    ),
    (
        "9112 7.1",
        "a chunk size 0x3",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\nS",
    ),
    (
        "9112 7.1",
        "a chunk size -1",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\nS",
    ),
    (
        "9112 7.1",
        "a chunk longer than its size",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\nS",
    ),
    (
        "9112 7.1",
        "a chunk size that ends with LF alone",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\nS",
    ),
    (
        "9112 7.1",
        "a chunk extension with LF in it",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n3;a\nx\r\nabc\r\n0\r\n\r\nS",
    ),
    (
        "9112 8",
        "a body broken off",
        "POST / HTTP/1.1\r\nHDcontent-length: 9\r\n\r\nabc",
    ),
    (
        "9112 8",
        "a chunked body broken off",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ),
    (
        "9110 6.5.1",
        "Content-Length in trailers",
        "POST / HTTP/1.1\r\nHDtransfer-encoding: chunked\r\ntrailer: content-length\r\n\r\n0\r\ncontent-length: 9\r\n\r\n",
    ),
    (
        "9112 3.2",
        "two Hosts",
        "GET / HTTP/1.1\r\nHhost: other\r\nD\r\n",
    ),
    ("9112 3.2", "no Host", "GET / HTTP/1.1\r\nD\r\n"),
    (
        "9112 3.2",
        "an empty Host",
        "GET / HTTP/1.1\r\nhost:\r\nD\r\n",
    ),
    (
        "9112 3.2",
        "Host: a b",
        "GET / HTTP/1.1\r\nhost: a b\r\nD\r\n",
    ),
    (
        "9112 3.2",
        "Host: a, b",
        "GET / HTTP/1.1\r\nhost: a, b\r\nD\r\n",
    ),
    (
        "9112 3.2",
        "Host: user@a",
        "GET / HTTP/1.1\r\nhost: user@a\r\nD\r\n",
    ),
    (
        "9112 3.2",
        "Host: a:port",
        "GET / HTTP/1.1\r\nhost: a:port\r\nD\r\n",
    ),
    (
        "9112 3.2.2",
        "an absolute target and another Host",
        "GET http://abs.shop:81/x HTTP/1.1\r\nHD\r\n",
    ),
    (
        "9112 3.2.2",
        "an absolute target with user information",
        "GET http://user@abs.shop/x HTTP/1.1\r\nHD\r\n",
    ),
    (
        "9112 3.2.3",
        "CONNECT without a port",
        "CONNECT a HTTP/1.1\r\nhost: a\r\nD\r\n",
    ),
    (
        "9112 3.2.3",
        "CONNECT and another Host",
        "CONNECT a:1 HTTP/1.1\r\nhost: b:1\r\nD\r\n",
    ),
    ("9112 3.2.4", "OPTIONS *", "OPTIONS * HTTP/1.1\r\nHD\r\n"),
    ("9112 3.2.4", "GET *", "GET * HTTP/1.1\r\nHD\r\n"),
    (
        "9112 3",
        "two spaces in the request line",
        "GET  / HTTP/1.1\r\nHD\r\n",
    ),
    (
        "9112 3",
        "a space in the target",
        "GET /a b HTTP/1.1\r\nHD\r\n",
    ),
    (
        "9112 3.2",
        "a fragment in the target",
        "GET /a#b HTTP/1.1\r\nHD\r\n",
    ),
    (
        "9110 9.1",
        "a method with a forbidden character",
        "G@T / HTTP/1.1\r\nHD\r\n",
    ),
    (
        "9110 9.1",
        "a method of one's own, in lower case",
        "get / HTTP/1.1\r\nHD\r\n",
    ),
    ("9112 2.3", "HTTP/1.2", "GET / HTTP/1.2\r\nHD\r\n"),
    (
        "9112 2.3",
        "HTTP/2.0 in a request line",
        "GET / HTTP/2.0\r\nHD\r\n",
    ),
    ("9112 2.3", "HTTP/0.9", "GET /\r\n\r\n"),
    (
        "9110 9.3.1",
        "GET with a body",
        "GET / HTTP/1.1\r\nHDcontent-length: 3\r\n\r\nabc",
    ),
    (
        "9110 7.6.1",
        "Connection names Content-Length",
        "POST / HTTP/1.1\r\nHDconnection: content-length\r\ncontent-length: 3\r\n\r\nabc",
    ),
    (
        "9110 7.6.1",
        "Connection names Host",
        "GET / HTTP/1.1\r\nHDconnection: host\r\n\r\n",
    ),
    (
        "9110 10.1.1",
        "an expectation nobody knows",
        "GET / HTTP/1.1\r\nHDexpect: gold\r\n\r\n",
    ),
    (
        "6585 5",
        "more than 100 headers",
        "GET / HTTP/1.1\r\nHDMANY\r\n",
    ),
    (
        "6585 5",
        "a head of 70,000 bytes",
        "GET / HTTP/1.1\r\nHDLONG\r\n",
    ),
    (
        "9110 15.5.15",
        "a target of 70,000 bytes",
        "GET /PATH HTTP/1.1\r\nHD\r\n",
    ),
    (
        "ours",
        "two original destinations",
        "GET / HTTP/1.1\r\nHDD\r\n",
    ),
    (
        "ours",
        "Connection names the original destination",
        "GET / HTTP/1.1\r\nHDconnection: x-lazymesh-original-dst\r\n\r\n",
    ),
];

fn bytes(case: &str, to: SocketAddr) -> String {
    let destination = format!("x-lazymesh-original-dst: {to}\r\n");
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: server.shop\r\n{destination}\r\n");
    let (line, rest) = case.split_once('\n').unwrap_or((case, ""));
    let (line, rest) = if line == "\r" {
        let (second, rest) = rest.split_once('\n').unwrap();
        (format!("{line}\n{second}"), rest)
    } else {
        (line.to_owned(), rest)
    };
    let mut out = line.replace("/PATH", &format!("/{}", "p".repeat(70_000))) + "\n";
    // Capitals stand for something, in what follows the request line.
    let mut rest = rest;
    while let Some(next) = rest.chars().next() {
        let (taken, add) = match next {
            _ if rest.starts_with("MANY") => (4, "x-a: 1\r\n".repeat(110)),
            _ if rest.starts_with("LONG") => (4, format!("x-a: {}\r\n", "l".repeat(70_000))),
            _ if rest.starts_with("ORIGINAL") => (8, to.to_string()),
            'H' => (1, "host: server.shop\r\n".to_owned()),
            'D' => (1, destination.clone()),
            'S' => (1, smuggled.clone()),
            other => (other.len_utf8(), other.to_string()),
        };
        out += &add;
        rest = &rest[taken..];
    }
    out
}

/// The answers, and whether the connection ended with them though the caller's side was open.
async fn did(proxy: &Proxy, sent: &str) -> String {
    let mut caller = proxy.connect().await.0;
    let (mut read, mut write) = caller.split();
    let mut all = Vec::new();
    let _ = write.write_all(sent.as_bytes()).await;
    // First what there is to read, then whether the connection ends by itself. One that does not is told the end of
    // what is sent, and says what it has left.
    let _ = timeout(Duration::from_secs(1), read.readable()).await;
    let open = timeout(Duration::from_millis(400), read.read_to_end(&mut all)).await;
    let open = open.is_err();
    if open {
        let _ = write.shutdown().await;
        let _ = timeout(Duration::from_secs(5), read.read_to_end(&mut all)).await;
    }
    let text = String::from_utf8_lossy(&all);
    let statuses: Vec<_> = text
        .match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12))
        .collect();
    match (statuses.join(", "), open) {
        (none, _) if none.is_empty() => "closes".to_owned(),
        (statuses, true) => statuses,
        (statuses, false) => format!("{statuses}, closes"),
    }
}

pub(super) async fn rows(proxy: &Proxy, server: SocketAddr, seen: &Seen) -> Vec<Row> {
    let mut rows = Vec::new();
    for (rule, case, text) in CASES {
        let did = did(proxy, &bytes(text, server)).await;
        let saw = taken(seen).await;
        rows.push(Row {
            rule,
            case,
            did,
            saw,
        });
    }
    rows
}
