//! WebSocket: an upgrade, some messages each answered, a close.

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use mesh_tests::app::Outcome;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{Bytes, Error};

use super::{Target, file_body};

pub(crate) async fn call(target: &Target) -> Result<Outcome> {
    let mut request = format!("ws://{}{}", target.authority, target.path).into_client_request()?;
    request.headers_mut().extend(target.headers.clone());
    let (mut socket, response) = match client_async(request, target.connect().await?).await {
        Ok(opened) => opened,
        Err(Error::Http(response)) => {
            let mut outcome = Outcome {
                status: Some(response.status().as_u16()),
                ..Outcome::default()
            };
            file_body(&mut outcome, response.body().as_deref().unwrap_or_default());
            return Ok(outcome);
        }
        Err(error) => return Err(error).context("upgrade"),
    };
    let mut outcome = Outcome {
        status: Some(response.status().as_u16()),
        ..Outcome::default()
    };
    for _ in 0..target.messages {
        socket
            .send(Message::Binary(Bytes::copy_from_slice(&target.body)))
            .await?;
        match socket.next().await {
            Some(Ok(answer)) => file_body(&mut outcome, &answer.into_data()),
            Some(Err(error)) => return Err(error).context("waiting for an answer"),
            None => bail!("the socket was closed in the middle"),
        }
    }
    socket.close(None).await?;
    Ok(outcome)
}
