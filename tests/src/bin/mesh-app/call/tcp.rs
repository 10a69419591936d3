//! TCP: see the server's side. With a server that speaks first, a new connection begins with its greeting.

use anyhow::{Context, Result};
use mesh_tests::app::{Answer, Outcome};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::{Protocol, Target};

/// An open connection.
pub(crate) type Connection = BufStream<TcpStream>;

pub(crate) async fn call(target: &Target) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let idle = target.idle_tcp.lock().pop();
    let mut connection = match idle {
        Some(connection) => connection,
        None => {
            let mut connection = BufStream::new(target.connect().await?);
            if target.protocol == Protocol::TcpServerFirst {
                outcome
                    .answers
                    .push(answer(&mut connection).await.context("the greeting")?);
            }
            connection
        }
    };
    connection
        .write_all(format!("{}\n", target.body.len()).as_bytes())
        .await?;
    connection.write_all(&target.body).await?;
    connection.flush().await?;
    outcome.answers.push(answer(&mut connection).await?);
    if target.reuse {
        target.idle_tcp.lock().push(connection);
    }
    Ok(outcome)
}

async fn answer(connection: &mut Connection) -> Result<Answer> {
    let mut line = String::new();
    let read = connection
        .read_line(&mut line)
        .await
        .context("waiting for an answer")?;
    anyhow::ensure!(read > 0, "the connection was closed without an answer");
    serde_json::from_str(&line).with_context(|| format!("not an answer: {line}"))
}
