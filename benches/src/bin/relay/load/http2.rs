//! One HTTP/2 connection with several streams under way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;

use super::Tally;
use crate::case::{Case, body, request_h2};
use crate::wire::{Block, DATA, Frame, Wire, is_ok};

/// An answer that is awaited.
#[derive(Debug)]
struct Awaited {
    begin: Instant,
    head: bool,
    bytes: usize,
}

struct Caller<'a> {
    wire: Wire,
    request: Block,
    expected: Vec<u8>,
    awaited: HashMap<u32, Awaited>,
    next: u32,
    /// The streams below are compared byte by byte.
    compared: u32,
    tally: &'a Tally,
}

pub(super) async fn run(
    stream: TcpStream,
    case: &Case,
    origin: SocketAddr,
    tally: &Tally,
    streams: usize,
) -> Result<()> {
    let mut caller = Caller {
        wire: Wire::new(stream, body(case.request_bytes)),
        request: request_h2(case, origin),
        expected: body(case.body_bytes),
        awaited: HashMap::new(),
        next: 1,
        compared: u32::try_from(2 * streams)?,
        tally,
    };
    caller.wire.preface();
    for _ in 0..streams {
        caller.call();
    }
    loop {
        caller.wire.flush().await?;
        if caller.awaited.is_empty() {
            return Ok(());
        }
        ensure!(caller.wire.read().await?, "the connection ended");
        while let Some(frame) = caller.wire.next()? {
            caller.came(frame)?;
        }
    }
}

impl Caller<'_> {
    fn call(&mut self) {
        if !self.tally.start() {
            return;
        }
        let awaited = Awaited {
            begin: Instant::now(),
            head: false,
            bytes: 0,
        };
        self.awaited.insert(self.next, awaited);
        self.wire.send(self.next, &self.request);
        self.next += 2;
    }

    fn came(&mut self, frame: Frame) -> Result<()> {
        let payload = self.wire.payload(frame);
        let awaited = self.awaited.get_mut(&frame.stream);
        let awaited = awaited.context("an answer to nothing")?;
        if frame.kind == DATA {
            ensure!(awaited.head, "a body without a head");
            let end = awaited.bytes + payload.len();
            let expected = self.expected.get(awaited.bytes..end);
            let expected = expected.context("a body that is too long")?;
            if frame.stream < self.compared {
                ensure!(expected == payload, "another body than was sent");
            }
            awaited.bytes = end;
        } else {
            ensure!(!awaited.head && is_ok(payload), "answered {payload:?}");
            awaited.head = true;
        }
        if frame.ends_stream() {
            let (begin, bytes) = (awaited.begin, awaited.bytes);
            let length = self.expected.len();
            ensure!(
                bytes == length,
                "a body of {bytes} bytes instead of {length}"
            );
            self.awaited.remove(&frame.stream);
            self.tally.answered(begin);
            self.call();
        }
        Ok(())
    }
}
