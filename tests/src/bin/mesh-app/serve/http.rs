//! HTTP/1.1 and HTTP/2 on one port. Query parameters of a request change the answer:
//! `status=N`, `location=URL`, `delay_ms=N` before it, `size=N` bytes of padding, `fail=N&fail_key=K` (the first N requests
//! with key K get 503), `fail_tries=N` (the first N tries of a request do, as Envoy counts them, whoever they come to),
//! `events=N&every_ms=M` (server-sent events), `early=1` (before the body is read).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tests::app::{Answer, Saw, verified_caller};
use tokio::net::TcpStream;

use super::{State, grpc, websocket};
use crate::digest::Digest;

pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) async fn serve(state: Arc<State>, stream: TcpStream, port: u16) -> Result<()> {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(handle(state, request, port).await) }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow!(error))
}

/// The control port.
pub(crate) async fn serve_control(state: Arc<State>, stream: TcpStream) -> Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            Ok::<_, Infallible>(match (request.method(), request.uri().path()) {
                (&Method::GET, "/_seen") => json(StatusCode::OK, &*state.seen.lock()),
                (&Method::DELETE, "/_seen") => {
                    state.forget();
                    text(StatusCode::OK, "")
                }
                (&Method::GET, "/_ready") => text(StatusCode::OK, "ready"),
                _ => text(StatusCode::NOT_FOUND, "not found"),
            })
        }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow!(error))
}

async fn handle(state: Arc<State>, request: Request<Incoming>, port: u16) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return grpc::handle(state, request, port).await;
    }
    if websocket::is_upgrade(&request) {
        return websocket::accept(state, request, port);
    }
    let (parts, mut body) = request.into_parts();
    let wishes = query(&parts);
    let mut digest = Digest::default();
    let early = wishes.contains_key("early");
    while !early && let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => frame
                .data_ref()
                .into_iter()
                .for_each(|data| digest.add(data)),
            Err(error) => return text(StatusCode::BAD_REQUEST, &format!("body: {error}")),
        }
    }
    let mut saw = saw(&parts, port);
    (saw.body_bytes, saw.body_sha256) = digest.finish();
    let number = |name: &str| wishes.get(name).and_then(|value| value.parse::<u32>().ok());
    if let Some(delay) = number("delay_ms") {
        tokio::time::sleep(Duration::from_millis(delay.into())).await;
    }
    let mut status =
        number("status").and_then(|code| StatusCode::from_u16(code.try_into().ok()?).ok());
    if let (Some(times), Some(key)) = (number("fail"), wishes.get("fail_key"))
        && state.is_to_fail(key, times)
    {
        status = Some(StatusCode::SERVICE_UNAVAILABLE);
    }
    if number("fail_tries").is_some_and(|times| try_of(&parts.headers) <= times) {
        status = Some(StatusCode::SERVICE_UNAVAILABLE);
    }
    let answer = state.answer(saw);
    if early {
        // Read all the same: a server that hangs up instead may well cut its own answer off.
        tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
    }
    if let Some(count) = number("events") {
        let pause = Duration::from_millis(number("every_ms").unwrap_or(0).into());
        return events(&answer, count, pause);
    }
    let mut response = json(status.unwrap_or(StatusCode::OK), &answer);
    if let Some(Ok(location)) = wishes.get("location").map(|url| HeaderValue::from_str(url)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Some(size) = number("size") {
        // White space after JSON is JSON.
        let padding = Bytes::from(vec![b' '; size as usize]);
        let (parts, body) = response.into_parts();
        let padded = body
            .collect()
            .await
            .map(|answer| [&answer.to_bytes()[..], &padding[..]].concat());
        response = Response::from_parts(parts, full(padded.unwrap_or_default().into()));
    }
    response
}

/// Server-sent events: the answer again and again, with a pause between two.
fn events(answer: &Answer, count: u32, pause: Duration) -> Response<Body> {
    let event = match serde_json::to_string(answer) {
        Ok(answer) => Bytes::from(format!("data: {answer}\n\n")),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let frames = stream::iter(0..count).then(move |number| {
        let event = event.clone();
        async move {
            if number > 0 {
                tokio::time::sleep(pause).await;
            }
            Ok(Frame::data(event))
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Which try of a request this is: the first, if Envoy does not say.
fn try_of(headers: &HeaderMap) -> u32 {
    let said = headers.get("x-envoy-attempt-count");
    let count = said.and_then(|count| count.to_str().ok()?.parse().ok());
    count.unwrap_or(1)
}

fn query(parts: &request::Parts) -> HashMap<&str, &str> {
    parts
        .uri
        .query()
        .unwrap_or("")
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect()
}

/// What the head of a request shows.
pub(crate) fn saw(parts: &request::Parts, port: u16) -> Saw {
    let headers = joined(&parts.headers);
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    Saw {
        protocol: if parts.version == Version::HTTP_2 {
            "http2"
        } else {
            "http1"
        }
        .to_owned(),
        port,
        method: parts.method.to_string(),
        path: parts
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
        host: authority
            .or_else(|| headers.get("host").cloned())
            .unwrap_or_default(),
        caller: headers
            .get("x-forwarded-client-cert")
            .and_then(|xfcc| verified_caller(xfcc)),
        headers,
        ..Saw::default()
    }
}

/// Header names and values as text.
pub(crate) fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut map = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        map.entry(name.as_str().to_owned())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    map
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(full(body.into()));
            *response.status_mut() = status;
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("application/json"),
            );
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(crate) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}
