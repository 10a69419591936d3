//! RFC 9113: HTTP/2, frame by frame, since no client library would send these.

use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Row;
use crate::support::{Proxy, Server, empty};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

type Headers<'a> = &'a [(&'a str, &'a str)];

const GOOD: Headers<'static> = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "server.shop"),
];

/// What is sent: the pseudo-headers, then `x-lazymesh-original-dst`, then more; and the pieces of a body.
const CASES: &[(&str, &str, Headers<'static>, Headers<'static>, &[&str])] = &[
    ("9113 8.3.1", "a good request", GOOD, &[], &["abc"]),
    (
        "9113 8.3.1",
        "Host and :authority differ",
        GOOD,
        &[("host", "other")],
        &[],
    ),
    (
        "9113 8.3.1",
        "neither Host nor :authority",
        &[(":method", "GET"), (":scheme", "http"), (":path", "/")],
        &[],
        &[],
    ),
    (
        "9113 8.3.1",
        "two Hosts",
        GOOD,
        &[("host", "server.shop"), ("host", "server.shop")],
        &[],
    ),
    (
        "9113 8.3.1",
        ":authority with user information",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "u@server.shop"),
        ],
        &[],
        &[],
    ),
    (
        "9113 8.3.1",
        "no :method",
        &[(":scheme", "http"), (":path", "/"), (":authority", "a")],
        &[],
        &[],
    ),
    (
        "9113 8.3.1",
        "no :path",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a")],
        &[],
        &[],
    ),
    (
        "9113 8.3.1",
        "an empty :path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", ""),
            (":authority", "a"),
        ],
        &[],
        &[],
    ),
    (
        "9113 8.3.1",
        ":path without a slash",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "a"),
            (":authority", "a"),
        ],
        &[],
        &[],
    ),
    (
        "9113 8.3.1",
        ":path twice",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":path", "/b"),
            (":authority", "a"),
        ],
        &[],
        &[],
    ),
    (
        "9113 8.3",
        "a pseudo-header nobody knows",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
            (":x", "1"),
        ],
        &[],
        &[],
    ),
    (
        "9113 8.3",
        "a pseudo-header after a header",
        GOOD,
        &[(":scheme", "http")],
        &[],
    ),
    (
        "9113 8.2.1",
        "a header name in capitals",
        GOOD,
        &[("X-A", "1")],
        &[],
    ),
    (
        "9113 8.2.1",
        "a line end in a value",
        GOOD,
        &[("x-a", "1\r\nx-b: 2")],
        &[],
    ),
    (
        "9113 8.2.1",
        "a colon in a name",
        GOOD,
        &[("x:a", "1")],
        &[],
    ),
    (
        "9113 8.2.1",
        "a space in :path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a HTTP/1.1"),
            (":authority", "a"),
        ],
        &[],
        &[],
    ),
    (
        "9113 8.2.2",
        "Connection",
        GOOD,
        &[("connection", "close")],
        &[],
    ),
    (
        "9113 8.2.2",
        "Transfer-Encoding",
        GOOD,
        &[("transfer-encoding", "chunked")],
        &[],
    ),
    (
        "9113 8.2.2",
        "Upgrade",
        GOOD,
        &[("upgrade", "websocket")],
        &[],
    ),
    ("9113 8.2.2", "TE: gzip", GOOD, &[("te", "gzip")], &[]),
    (
        "9113 8.1.1",
        "a body shorter than Content-Length",
        GOOD,
        &[("content-length", "5")],
        &["abc"],
    ),
    (
        "9113 8.1.1",
        "a body longer than Content-Length",
        GOOD,
        &[("content-length", "2")],
        &["abc"],
    ),
    (
        "9113 8.1.1",
        "no body, though Content-Length says so",
        GOOD,
        &[("content-length", "5")],
        &[],
    ),
    (
        "9113 8.5",
        "CONNECT with a :path, without :protocol",
        &[
            (":method", "CONNECT"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a:1"),
        ],
        &[],
        &[],
    ),
];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// RFC 7541 6.2.2, literals without indexing and without Huffman, so that anything can be said.
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        out.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127);
            out.push(length);
            out.extend(text.as_bytes());
        }
    }
    out
}

struct Connection(TcpStream);

impl Connection {
    async fn open(proxy: &Proxy) -> Self {
        let mut stream = proxy.connect().await.0;
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    /// Writes; a connection that has been closed meanwhile is seen when it is read.
    async fn send(&mut self, frame: &[u8]) {
        let _ = self.0.write_all(frame).await;
    }

    /// The first thing that is said of a stream, or of the connection.
    async fn did(&mut self) -> String {
        let first = timeout(Duration::from_secs(5), async {
            loop {
                let mut head = [0; 9];
                if self.0.read_exact(&mut head).await.is_err() {
                    return "closes".to_owned();
                }
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                if self.0.read_exact(&mut payload).await.is_err() {
                    return "closes".to_owned();
                }
                let code = |at: usize| {
                    let bytes = payload[at..at + 4].try_into().unwrap();
                    format!("{:?}", h2::Reason::from(u32::from_be_bytes(bytes)))
                };
                match head[3] {
                    HEADERS => return format!("answers {}", status(&payload)),
                    RST_STREAM => return format!("RST_STREAM {}", code(0)),
                    GOAWAY => return format!("GOAWAY {}", code(4)),
                    _ => {}
                }
            }
        });
        first.await.unwrap_or_else(|_| "says nothing".to_owned())
    }
}

/// RFC 7541 appendix A: the indices of `:status`.
fn status(block: &[u8]) -> String {
    match block.first() {
        Some(0x88) => "200".to_owned(),
        Some(0x8c) => "400".to_owned(),
        Some(0x8e) => "500".to_owned(),
        // A literal value under the name's index, of three Huffman-coded digits: told by a client library instead.
        _ => "another status".to_owned(),
    }
}

/// A server over HTTP/2 that says what it saw of each request.
async fn server() -> (Server, mpsc::UnboundedReceiver<String>) {
    let (saw, seen) = mpsc::unbounded_channel();
    let server = Server::http(move |request| {
        let saw = saw.clone();
        async move {
            use http_body_util::BodyExt;
            let line = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect().await;
            let _ = saw.send(match body {
                Ok(body) => format!("{line}, {:?}", String::from_utf8_lossy(&body.to_bytes())),
                Err(_) => format!("{line}, broken off"),
            });
            Ok(Response::new(empty()))
        }
    })
    .await;
    (server, seen)
}

pub(super) async fn rows(proxy: &Proxy) -> Vec<Row> {
    let (server, mut seen) = server().await;
    let to = server.address.to_string();
    let destination = [("x-lazymesh-original-dst", to.as_str())];
    let mut rows = Vec::new();
    for (rule, case, pseudo, more, body) in CASES {
        let mut connection = Connection::open(proxy).await;
        let headers = [*pseudo, &destination, *more].concat();
        let flags = END_HEADERS | if body.is_empty() { END_STREAM } else { 0 };
        connection
            .send(&frame(HEADERS, flags, 1, &block(&headers)))
            .await;
        for (at, piece) in body.iter().enumerate() {
            let end = if at + 1 == body.len() { END_STREAM } else { 0 };
            connection
                .send(&frame(DATA, end, 1, piece.as_bytes()))
                .await;
        }
        let did = connection.did().await;
        let mut saw = Vec::new();
        while let Ok(Some(one)) = timeout(Duration::from_millis(60), seen.recv()).await {
            saw.push(one);
        }
        rows.push(Row {
            rule,
            case,
            did,
            saw,
        });
    }
    rows.push(rapid_reset(proxy, &to).await);
    rows.push(continuation_flood(proxy).await);
    rows
}

/// CVE-2023-44487.
async fn rapid_reset(proxy: &Proxy, to: &str) -> Row {
    let mut connection = Connection::open(proxy).await;
    let headers = block(&[GOOD, &[("x-lazymesh-original-dst", to)]].concat());
    let mut all = Vec::new();
    for stream in (1..10_001).step_by(2) {
        all.extend(frame(HEADERS, END_HEADERS, stream, &headers));
        all.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    connection.send(&all).await;
    Row {
        rule: "9113 10.5",
        case: "5,000 streams opened and reset at once",
        did: connection.did().await,
        saw: vec!["not looked at".to_owned()],
    }
}

/// VU#421644: header blocks without end.
async fn continuation_flood(proxy: &Proxy) -> Row {
    let mut connection = Connection::open(proxy).await;
    connection.send(&frame(HEADERS, 0, 1, &block(GOOD))).await;
    let piece = block(&[("x-a", "1"); 1000]);
    for _ in 0..1000 {
        connection.send(&frame(CONTINUATION, 0, 1, &piece)).await;
    }
    Row {
        rule: "9113 10.5.1",
        case: "a header block of 8 MB in CONTINUATION frames",
        did: connection.did().await,
        saw: Vec::new(),
    }
}
