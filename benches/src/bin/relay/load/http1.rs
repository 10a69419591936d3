//! One HTTP/1.1 connection, one request after the other.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Tally;
use crate::case::{Case, body, request_h1};

const READ: usize = 128 << 10;

pub(super) async fn run(
    mut stream: TcpStream,
    case: &Case,
    origin: SocketAddr,
    tally: &Tally,
) -> Result<()> {
    let request = [request_h1(case, origin), body(case.request_bytes)].concat();
    let expected = body(case.body_bytes);
    let mut buffer = vec![0; READ];
    let mut known = false;
    while tally.start() {
        let begin = Instant::now();
        stream.write_all(&request).await?;
        let (mut filled, head) = read_head(&mut stream, &mut buffer, case.body_bytes).await?;
        let end = head + case.body_bytes;
        ensure!(end <= READ, "a head of {head} bytes");
        while filled < end {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the connection ended in an answer's body");
            filled += read;
        }
        ensure!(filled == end, "bytes behind an answer");
        if !known {
            ensure!(buffer[head..end] == expected, "another body than was sent");
            known = true;
        }
        tally.answered(begin);
    }
    Ok(())
}

/// Reads a head, and says how much was read, and how much of it is the head.
async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    body: usize,
) -> Result<(usize, usize)> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection ended without an answer");
        filled += read;
        if let Some(end) = memmem::find(&buffer[..filled], b"\r\n\r\n") {
            check(&buffer[..end + 2], body)?;
            return Ok((filled, end + 4));
        }
        ensure!(filled < buffer.len(), "an answer's head without an end");
    }
}

/// Whether it is a 200 with a body of this length.
fn check(head: &[u8], body: usize) -> Result<()> {
    let text = std::str::from_utf8(head).context("an answer's head")?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "answered {text:?}");
    const NAME: &str = "content-length: ";
    for line in text.split("\r\n") {
        if line.len() > NAME.len()
            && line.as_bytes()[..NAME.len()].eq_ignore_ascii_case(NAME.as_bytes())
        {
            let length = line[NAME.len()..].parse::<usize>()?;
            ensure!(length == body, "a body of {length} bytes instead of {body}");
            return Ok(());
        }
    }
    bail!("an answer without a length: {text:?}")
}
