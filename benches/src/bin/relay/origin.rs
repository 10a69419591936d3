//! The server behind the relay: answers each request with the same bytes, and looks at as little as it can.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use crate::case::{Case, Protocol, answer_h1, answer_h2, body};
use crate::wire::{HEADERS, Wire};

const READ: usize = 64 << 10;

/// A running origin; gone when dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub(crate) async fn start(case: Case) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("origin")?;
        let address = listener.local_addr()?;
        let task = spawn_local(async move {
            let case = Rc::new(case);
            while let Ok((stream, _)) = listener.accept().await {
                let case = case.clone();
                // The relay closes as it likes; what goes wrong shows in the answers.
                spawn_local(async move {
                    let _ = match case.protocol {
                        Protocol::Http1 => http1(stream, &case).await,
                        Protocol::Http2 => http2(stream, &case).await,
                    };
                });
            }
        });
        Ok(Self { address, task })
    }
}

async fn http1(mut stream: TcpStream, case: &Case) -> Result<()> {
    stream.set_nodelay(true)?;
    let answer = [answer_h1(case), body(case.body_bytes)].concat();
    let mut buffer = vec![0; READ];
    loop {
        let (mut filled, head) = (0, &b"\r\n\r\n"[..]);
        let mut left = loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            if let Some(end) = memmem::find(&buffer[..filled], head) {
                break (end + head.len() + case.request_bytes).checked_sub(filled);
            }
        };
        while left.context("more than one request")? > 0 {
            let read = stream.read(&mut buffer).await?;
            ensure!(read > 0, "half a request");
            left = left.and_then(|left| left.checked_sub(read));
        }
        stream.write_all(&answer).await?;
    }
}

async fn http2(stream: TcpStream, case: &Case) -> Result<()> {
    stream.set_nodelay(true)?;
    let head = answer_h2(case);
    let mut wire = Wire::new(stream, body(case.body_bytes));
    if !wire.expect_preface().await? {
        return Ok(());
    }
    loop {
        while let Some(frame) = wire.next()? {
            debug_assert!(frame.kind <= HEADERS);
            if frame.ends_stream() {
                wire.send(frame.stream, &head);
            }
        }
        wire.flush().await?;
        if !wire.read().await? {
            return Ok(());
        }
    }
}
