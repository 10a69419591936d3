//! gRPC: unary, server streaming and bidirectional streaming, each call on a connection of its own.

use anyhow::{Context, Result};
use futures::{Stream, StreamExt, stream};
use http::Uri;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tests::app::Outcome;
use mesh_tests::app::echo::echo_client::EchoClient;
use mesh_tests::app::echo::{EchoReply, EchoRequest};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::{Protocol, Target, file_body};

pub(crate) async fn call(target: &Target) -> Result<Outcome> {
    let io = TokioIo::new(target.connect().await?);
    let (sender, connection) =
        http2::handshake::<_, _, tonic::body::Body>(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let service = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let origin: Uri = format!("http://{}", target.authority).parse()?;
    let mut client = EchoClient::with_origin(service, origin).max_decoding_message_size(64 << 20);
    let message = EchoRequest {
        payload: target.body.to_vec(),
        count: target.messages,
    };
    let replies: Vec<EchoReply> = match target.protocol {
        Protocol::GrpcStream => collect(client.stream(request(target, message)).await).await?,
        Protocol::GrpcChat => {
            let messages = stream::iter(vec![message; target.messages as usize]);
            collect(client.chat(request(target, messages)).await).await?
        }
        _ => vec![
            client
                .unary(request(target, message))
                .await
                .map_err(|status| explain(&status))?
                .into_inner(),
        ],
    };
    let wanted = if target.protocol == Protocol::Grpc {
        1
    } else {
        target.messages as usize
    };
    anyhow::ensure!(
        replies.len() == wanted,
        "{} messages of {wanted}",
        replies.len()
    );
    let mut outcome = Outcome {
        status: Some(200),
        ..Outcome::default()
    };
    for reply in replies {
        file_body(&mut outcome, reply.answer.as_bytes());
    }
    Ok(outcome)
}

fn request<T>(target: &Target, message: T) -> Request<T> {
    Request::from_parts(
        MetadataMap::from_headers(target.headers.clone()),
        Extensions::default(),
        message,
    )
}

async fn collect<S>(opened: Result<tonic::Response<S>, Status>) -> Result<Vec<EchoReply>>
where
    S: Stream<Item = Result<EchoReply, Status>> + Unpin,
{
    let mut stream = opened.map_err(|status| explain(&status))?.into_inner();
    let mut replies = Vec::new();
    while let Some(reply) = stream.next().await {
        replies.push(
            reply
                .map_err(|status| explain(&status))
                .context("in the stream")?,
        );
    }
    Ok(replies)
}

fn explain(status: &Status) -> anyhow::Error {
    anyhow::anyhow!("grpc {:?}: {}", status.code(), status.message())
}
