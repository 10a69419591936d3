//! The echo service over gRPC.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mesh_tests::app::Saw;
use mesh_tests::app::echo::echo_server::{Echo, EchoServer};
use mesh_tests::app::echo::{EchoReply, EchoRequest};
use tonic::{Status, Streaming};
use tower::ServiceExt;

use super::State;
use super::http::{Body, saw, text};
use crate::digest::Digest;

/// The service for one call, whose head it has seen.
struct OneCall {
    state: Arc<State>,
    saw: Saw,
}

pub(crate) async fn handle(
    state: Arc<State>,
    request: Request<Incoming>,
    port: u16,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let saw = Saw {
        protocol: "grpc".to_owned(),
        ..saw(&parts, port)
    };
    let service = EchoServer::new(OneCall { state, saw }).max_decoding_message_size(64 << 20);
    match service.oneshot(Request::from_parts(parts, body)).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(never) => text(http::StatusCode::INTERNAL_SERVER_ERROR, &format!("{never}")),
    }
}

fn reply(state: &State, saw: &Saw, payload: &[u8]) -> Result<EchoReply, Status> {
    let mut saw = saw.clone();
    (saw.body_bytes, saw.body_sha256) = Digest::of(payload);
    let answer = serde_json::to_string(&state.answer(saw))
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(EchoReply { answer })
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for OneCall {
    type StreamStream = Replies;
    type ChatStream = Replies;

    async fn unary(
        &self,
        request: tonic::Request<EchoRequest>,
    ) -> Result<tonic::Response<EchoReply>, Status> {
        Ok(tonic::Response::new(reply(
            &self.state,
            &self.saw,
            &request.get_ref().payload,
        )?))
    }

    async fn stream(
        &self,
        request: tonic::Request<EchoRequest>,
    ) -> Result<tonic::Response<Replies>, Status> {
        let request = request.into_inner();
        let (state, saw) = (Arc::clone(&self.state), self.saw.clone());
        let replies =
            stream::iter(0..request.count).map(move |_| reply(&state, &saw, &request.payload));
        Ok(tonic::Response::new(replies.boxed()))
    }

    async fn chat(
        &self,
        request: tonic::Request<Streaming<EchoRequest>>,
    ) -> Result<tonic::Response<Replies>, Status> {
        let (state, saw) = (Arc::clone(&self.state), self.saw.clone());
        let replies = request
            .into_inner()
            .map(move |message| reply(&state, &saw, &message?.payload));
        Ok(tonic::Response::new(replies.boxed()))
    }
}
