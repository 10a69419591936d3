//! WebSocket: a real upgrade, then one answer for each message.

use std::sync::Arc;

use anyhow::Result;
use futures::{SinkExt, StreamExt};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use mesh_tests::app::Saw;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::State;
use super::http::{Body, full, saw, text};
use crate::digest::Digest;

pub(crate) fn is_upgrade(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

pub(crate) fn accept(
    state: Arc<State>,
    mut request: Request<Incoming>,
    port: u16,
) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let saw = Saw {
        protocol: "ws".to_owned(),
        ..saw(&parts, port)
    };
    let Some(key) = parts.headers.get(header::SEC_WEBSOCKET_KEY) else {
        return text(StatusCode::BAD_REQUEST, "no sec-websocket-key");
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return text(StatusCode::BAD_REQUEST, "a strange sec-websocket-key");
    };
    tokio::spawn(async move {
        let ended = match upgrade.await {
            Ok(upgraded) => talk(&state, &saw, upgraded).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            eprintln!("websocket: {error:#}");
        }
    });
    let mut response = Response::new(full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend([
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ]);
    response
}

async fn talk(state: &State, saw: &Saw, upgraded: Upgraded) -> Result<()> {
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_close() {
            break;
        }
        if message.is_text() || message.is_binary() {
            let mut saw = saw.clone();
            (saw.body_bytes, saw.body_sha256) = Digest::of(&message.into_data());
            socket
                .send(Message::text(serde_json::to_string(&state.answer(saw))?))
                .await?;
        }
    }
    Ok(())
}
