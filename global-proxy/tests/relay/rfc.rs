//! Requests that break the rules of HTTP, or strain them, and what becomes of each: `global-proxy/rfc-table.md` is
//! what this test saw, and the test fails when it sees something else. With `LAZYMESH_WRITE=1` it writes the file.
//!
//! Whatever the table says, no request may reach the server that the proxy did not take for one.

mod http1;
mod http2;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::support::{Proxy, Raw, Server};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rfc-table.md");

/// One row.
struct Row {
    rule: &'static str,
    case: &'static str,
    did: String,
    saw: Vec<String>,
}

/// What the server has seen; each request as its line, its framing and its body.
type Seen = Arc<Mutex<Vec<String>>>;

/// A server that takes requests apart for itself, strictly, and answers each.
async fn recording() -> (Server, Seen) {
    let seen = Seen::default();
    let to = seen.clone();
    let server = Server::raw(move |raw, _| record(raw, to.clone())).await;
    (server, seen)
}

async fn record(raw: Raw, seen: Seen) {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    let mut io = BufReader::new(raw.0);
    loop {
        let (mut first, mut length, mut chunked, mut host) =
            (String::new(), None, false, String::new());
        if io.read_line(&mut first).await.unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if io.read_line(&mut line).await.unwrap_or(0) == 0 {
                seen.lock()
                    .await
                    .push(format!("{}, broken off", first.trim()));
                return;
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse::<usize>().ok(),
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(("host", value)) => value.clone_into(&mut host),
                Some(_) => {}
            }
        }
        let mut told = format!(
            "{} at {host}",
            first.trim_end().trim_end_matches(" HTTP/1.1")
        );
        let place = {
            let mut seen = seen.lock().await;
            seen.push(format!("{told}, broken off"));
            seen.len() - 1
        };
        if chunked {
            let mut body = String::new();
            while !body.ends_with("0\r\n\r\n") {
                if io.read_line(&mut body).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            write!(told, ", chunked {body:?}").unwrap();
        } else if let Some(length) = length {
            let mut body = vec![0; length];
            if io.read_exact(&mut body).await.is_err() {
                return;
            }
            write!(
                told,
                ", {length} bytes {:?}",
                String::from_utf8_lossy(&body)
            )
            .unwrap();
        }
        seen.lock().await[place] = told;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if io.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Waits until nothing more comes to the server, and takes what came.
async fn taken(seen: &Seen) -> Vec<String> {
    let mut last = usize::MAX;
    loop {
        let now = seen.lock().await.iter().map(String::len).sum();
        if now == last {
            return std::mem::take(&mut *seen.lock().await);
        }
        last = now;
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
    }
}

fn table(rows: &[Row], to: SocketAddr) -> String {
    let mut text = String::from(
        "# What the global proxy does with requests that break or strain the rules of HTTP\n\n\
         Written by `tests/relay/rfc.rs`, which fails when it sees something else; `LAZYMESH_WRITE=1 cargo test -p \
         global-proxy rfc` writes it anew.\n\n\
         | rule | request | the proxy | whole requests the server saw |\n| --- | --- | --- | --- |\n",
    );
    for row in rows {
        // Whether the beginning of a request that breaks off still gets out is a matter of moments.
        let whole = row.saw.iter().filter(|seen| !seen.ends_with("broken off"));
        let saw: Vec<_> = whole.map(|seen| seen.replace('|', "\\|")).collect();
        let saw = match saw.as_slice() {
            [] => "nothing".to_owned(),
            saw => saw.join("; "),
        };
        let line = format!("| {} | {} | {} | {saw} |\n", row.rule, row.case, row.did);
        text += &line.replace(&to.to_string(), "ORIGINAL-DST");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc_table() {
    let proxy = Proxy::start(&[]).await;
    let (server, seen) = recording().await;
    let mut rows = http1::rows(&proxy, server.address, &seen).await;
    rows.extend(http2::rows(&proxy).await);
    for row in &rows {
        let smuggled = row.saw.iter().any(|seen| seen.contains("GET /smuggled"));
        assert!(!smuggled, "{}: {:?}", row.case, row.saw);
    }
    let now = table(&rows, server.address);
    if std::env::var_os("LAZYMESH_WRITE").is_some() {
        std::fs::write(TABLE, &now).unwrap();
    }
    let before = std::fs::read_to_string(TABLE).unwrap_or_default();
    for (before, now) in before.lines().zip(now.lines()) {
        assert_eq!(before, now, "rfc-table.md differs");
    }
    assert_eq!(before.lines().count(), now.lines().count());
}
