//! What is compared: a protocol and the sizes of bodies, and the messages they make.

use std::net::SocketAddr;

use crate::wire::Block;

/// The HTTP spoken on both sides of the relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    Http1,
    /// With prior knowledge.
    Http2,
}

impl Protocol {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }

    /// Connections to the relay, and requests under way at once on each: 32 requests in all.
    pub(crate) fn concurrency(self) -> (usize, usize) {
        match self {
            Self::Http1 => (32, 1),
            Self::Http2 => (4, 8),
        }
    }
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) protocol: Protocol,
    /// Of the request: 0 is a GET, more a POST.
    pub(crate) request_bytes: usize,
    /// Of the answer.
    pub(crate) body_bytes: usize,
}

impl Case {
    pub(crate) const fn new(protocol: Protocol, request_bytes: usize, body_bytes: usize) -> Self {
        Self {
            protocol,
            request_bytes,
            body_bytes,
        }
    }

    pub(crate) fn method(&self) -> &'static str {
        if self.request_bytes == 0 {
            "GET"
        } else {
            "POST"
        }
    }

    pub(crate) fn name(&self) -> String {
        let size = |bytes: usize| format!("{} kB", bytes >> 10);
        let (protocol, answer) = (self.protocol.as_str(), size(self.body_bytes));
        match self.request_bytes {
            0 => format!("{protocol}, {answer}"),
            bytes => format!("{protocol}, {answer} for {} sent", size(bytes)),
        }
    }
}

/// A body that shows whether its bytes are whole and in order.
pub(crate) fn body(bytes: usize) -> Vec<u8> {
    // A prime, so that no frame or buffer begins where another one does.
    (b'!'..=b'~').take(89).cycle().take(bytes).collect()
}

/// The headers of a request as a caller's Envoy and the global proxy's sidecar leave them.
fn request_headers(original: SocketAddr) -> Vec<(&'static str, String)> {
    let xfcc = "By=spiffe://cluster.local/ns/lazymesh-system/sa/global-proxy;\
                Hash=0a6a1d2c7c0d1f52f0c2fbdf9f6f3c8d6d7f1f0e2b3c4d5e6f708192a3b4c5d6;Subject=\"\";\
                URI=spiffe://cluster.local/ns/shop/sa/client";
    vec![
        ("user-agent", "bench/1.0".into()),
        ("accept", "*/*".into()),
        ("x-forwarded-proto", "http".into()),
        (
            "x-request-id",
            "c4a1b9a2-5d7e-4c62-9f0a-3f4c2c6d1e77".into(),
        ),
        ("x-forwarded-client-cert", xfcc.into()),
        ("x-lazymesh-original-dst", original.to_string()),
        ("x-lazymesh-pod", "client-7d4b9c6f5d-x2x4z".into()),
        ("x-lazymesh-tries", String::new()),
    ]
}

const HOST: &str = "reviews.shop.svc.cluster.local:9080";
const PATH: &str = "/reviews/17?full=true";
const DATE: &str = "Thu, 27 Aug 2026 10:00:00 GMT";

/// A request's head over HTTP/1.1.
pub(crate) fn request_h1(case: &Case, original: SocketAddr) -> Vec<u8> {
    let mut text = format!("{} {PATH} HTTP/1.1\r\nhost: {HOST}\r\n", case.method());
    for (name, value) in request_headers(original) {
        text += &format!("{name}: {value}\r\n");
    }
    if case.request_bytes > 0 {
        text += &format!("content-length: {}\r\n", case.request_bytes);
    }
    (text + "\r\n").into_bytes()
}

/// A request's header block over HTTP/2.
pub(crate) fn request_h2(case: &Case, original: SocketAddr) -> Block {
    let mut block = Block::default();
    // The static table has GET, POST, the scheme http, and the names of :path and :authority.
    block.indexed(if case.request_bytes == 0 { 2 } else { 3 });
    block.indexed(6);
    block.remembered(":path", PATH);
    block.remembered(":authority", HOST);
    for (name, value) in request_headers(original) {
        match name {
            "x-request-id" => block.literal(name, &value),
            _ => block.remembered(name, &value),
        }
    }
    if case.request_bytes > 0 {
        block.literal("content-length", &case.request_bytes.to_string());
    }
    block
}

/// An answer's head over HTTP/1.1.
pub(crate) fn answer_h1(case: &Case) -> Vec<u8> {
    let text = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nserver: bench\r\n\
         date: {DATE}\r\n\r\n",
        case.body_bytes
    );
    text.into_bytes()
}

/// An answer's header block over HTTP/2.
pub(crate) fn answer_h2(case: &Case) -> Block {
    let mut block = Block::default();
    block.indexed(8);
    block.remembered("content-type", "application/json");
    block.remembered("server", "bench");
    block.literal("content-length", &case.body_bytes.to_string());
    block.literal("date", DATE);
    block
}
