//! TCP: a line with a length, that many bytes, and an answer on a line; again and again. A server that speaks first
//! sends an answer to nothing before that.

use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_tests::app::Saw;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::State;
use crate::digest::Digest;

pub(crate) async fn serve(
    state: Arc<State>,
    stream: TcpStream,
    port: u16,
    speaks_first: bool,
) -> Result<()> {
    let peer = stream.peer_addr()?.ip().to_string();
    let mut stream = BufStream::new(stream);
    let protocol = if speaks_first {
        "tcp-server-first"
    } else {
        "tcp"
    };
    let head = Saw {
        protocol: protocol.to_owned(),
        port,
        host: peer,
        ..Saw::default()
    };
    if speaks_first {
        send(&mut stream, &state, head.clone()).await?;
    }
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let mut left: u64 = line
            .trim()
            .parse()
            .with_context(|| format!("not a length: {line:?}"))?;
        let (mut digest, mut buffer) = (Digest::default(), vec![0; 64 << 10]);
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let got = stream.read(&mut buffer[..wanted]).await?;
            anyhow::ensure!(got > 0, "the caller hung up with {left} bytes to go");
            digest.add(&buffer[..got]);
            left -= got as u64;
        }
        let mut saw = head.clone();
        (saw.body_bytes, saw.body_sha256) = digest.finish();
        send(&mut stream, &state, saw).await?;
        line.clear();
    }
    Ok(())
}

async fn send(stream: &mut BufStream<TcpStream>, state: &State, saw: Saw) -> Result<()> {
    let mut line = serde_json::to_vec(&state.answer(saw))?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await?;
    Ok(())
}
