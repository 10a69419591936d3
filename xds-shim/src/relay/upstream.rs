//! The stream to istiod, on a connection of its own.
//!
//! Its messages are read here and not by tonic: that reads all messages of a stream into one buffer, which stays as large
//! as the largest of them for as long as the stream lives. A stream is there for half an hour, and its first message is
//! the whole mesh.

use super::buffers::{Buffers, LARGE};
use super::{RawCodec, Shared, metadata_for_istiod};
use bytes::{Buf, Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryFutureExt};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::BodyExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::EncodeBody;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

/// Whether it is compressed, and the length: before each message.
const PREFIX: usize = 5;
/// As much as a protobuf message may have.
const MOST_MESSAGE_BYTES: usize = i32::MAX as usize;

/// Opens the stream; nothing is dialed before the responses are first looked for. `waiting`: how many requests may wait.
pub(super) fn call(
    shared: &Arc<Shared>,
    path: PathAndQuery,
    metadata: MetadataMap,
    waiting: usize,
) -> (
    mpsc::Sender<Bytes>,
    BoxStream<'static, Result<Bytes, Status>>,
) {
    let (to_istiod, requests) = mpsc::channel(waiting);
    let shared = Arc::clone(shared);
    let responses = async move { open(&shared, path, metadata, requests).await };
    (to_istiod, responses.try_flatten_stream().boxed())
}

/// A connection of its own: a slow stream then holds up no other, and istiod's balance between its replicas is as without
/// us.
async fn open(
    shared: &Shared,
    path: PathAndQuery,
    metadata: MetadataMap,
    requests: mpsc::Receiver<Bytes>,
) -> Result<impl Stream<Item = Result<Bytes, Status>> + use<>, Status> {
    let unavailable = |error: String| Status::unavailable(error);
    let mut channel = shared
        .istiod
        .connect()
        .await
        .map_err(|e| unavailable(e.to_string()))?;
    let requests = ReceiverStream::new(requests).map(Ok);
    let body = EncodeBody::new_client(RawCodec, requests, None, None);
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = path.into();
    *request.headers_mut() = metadata_for_istiod(metadata).into_headers();
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let ready = channel
        .ready()
        .await
        .map_err(|e| unavailable(e.to_string()))?;
    let response = ready.call(request).await;
    let response = response.map_err(|error| Status::from_error(Box::new(error)))?;
    check(response.status(), response.headers())?;
    Ok(messages(response.into_body(), shared.buffers.clone()))
}

/// Whether a call was taken: a refusal has its status among the headers.
fn check(http: StatusCode, headers: &HeaderMap) -> Result<(), Status> {
    if let Some(status) = Status::from_header_map(headers).filter(|s| s.code() != Code::Ok) {
        return Err(status);
    }
    if http == StatusCode::OK {
        return Ok(());
    }
    // https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
    let code = match http {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    Err(Status::new(code, format!("HTTP status {http}")))
}

fn messages(body: Body, buffers: Buffers) -> impl Stream<Item = Result<Bytes, Status>> {
    let incoming = Incoming {
        body,
        read: BytesMut::new(),
        buffers,
    };
    stream::try_unfold(incoming, |mut incoming| async move {
        Ok(incoming.next().await?.map(|message| (message, incoming)))
    })
}

struct Incoming {
    body: Body,
    read: BytesMut,
    buffers: Buffers,
}

impl Incoming {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = take(&mut self.read, &self.buffers)? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return self.end(&HeaderMap::new());
            };
            match frame?.into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return self.end(&trailers);
                    }
                }
            }
        }
    }

    /// A stream that is cut off has no trailers: it just ends.
    fn end(&self, trailers: &HeaderMap) -> Result<Option<Bytes>, Status> {
        match Status::from_header_map(trailers).filter(|s| s.code() != Code::Ok) {
            Some(status) => Err(status),
            None if self.read.is_empty() => Ok(None),
            None => Err(Status::internal("istiod's stream ended inside a message")),
        }
    }
}

/// The message at the beginning of what was read, if it is whole. The buffer goes with it, so that none stays as large as
/// a message was.
fn take(read: &mut BytesMut, buffers: &Buffers) -> Result<Option<Bytes>, Status> {
    let Some((prefix, rest)) = read.split_at_checked(PREFIX) else {
        return Ok(None);
    };
    if prefix[0] != 0 {
        return Err(Status::internal("istiod sent a compressed message"));
    }
    let length = (&prefix[1..]).get_u32() as usize;
    if length > MOST_MESSAGE_BYTES {
        let text = format!("istiod sent a message of {length} bytes");
        return Err(Status::out_of_range(text));
    }
    if rest.len() < length {
        let whole = PREFIX + length;
        if length >= LARGE
            && read.capacity() < whole
            && let Some(mut buffer) = buffers.take(whole)
        {
            buffer.extend_from_slice(read);
            *read = buffer;
        }
        read.reserve(whole - read.len());
        return Ok(None);
    }
    let mut whole = std::mem::take(read);
    read.extend_from_slice(&whole[PREFIX + length..]);
    whole.truncate(PREFIX + length);
    whole.advance(PREFIX);
    Ok(Some(whole.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::time::Instant;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], message].concat()
    }

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let none = Buffers::default();
        let both = [framed(b"abc"), framed(b""), framed(b"d")].concat();
        let (mut read, mut taken) = (BytesMut::new(), Vec::new());
        for byte in both {
            read.extend_from_slice(&[byte]);
            while let Some(message) = take(&mut read, &none).unwrap() {
                taken.push(message);
            }
        }
        assert_eq!(taken, ["abc", "", "d"]);
        assert!(read.is_empty());
    }

    #[test]
    fn no_buffer_stays_as_large_as_a_message_was() {
        let none = Buffers::default();
        let large = framed(&[7; 1 << 20]);
        let mut read = BytesMut::new();
        let (one, two) = large.split_at(10_000);
        read.extend_from_slice(one);
        assert_eq!(take(&mut read, &none).unwrap(), None);
        let before = read.capacity();
        assert!((large.len()..2 * large.len()).contains(&before), "{before}");
        read.extend_from_slice(two);
        read.extend_from_slice(&framed(b"next"));
        let message = take(&mut read, &none).unwrap().unwrap();
        assert_eq!(message.len(), 1 << 20);
        assert!(read.capacity() < 100, "{}", read.capacity());
        assert_eq!(take(&mut read, &none).unwrap().unwrap(), "next");
        assert_eq!(read.capacity(), 0);
    }

    #[test]
    fn a_large_message_is_read_into_a_buffer_that_another_one_had() {
        let (buffers, now) = (Buffers::default(), Instant::now());
        let large = framed(&[7; 2 << 20]);
        let mut places = Vec::new();
        for _ in 0..3 {
            let mut read = BytesMut::from(&large[..10_000]);
            assert_eq!(take(&mut read, &buffers).unwrap(), None);
            read.extend_from_slice(&large[10_000..]);
            let message = take(&mut read, &buffers).unwrap().unwrap();
            assert_eq!(message, large[PREFIX..]);
            places.push(message.as_ptr());
            buffers.give_back(message, now);
        }
        // What a message left out in front, its prefix, the next one has.
        assert_eq!(places[1], places[2]);
    }

    /// What comes of a body of these pieces, and these trailers.
    async fn read(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> Vec<Result<Bytes, Code>> {
        let data = pieces
            .iter()
            .map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
        let frames = data
            .chain(trailers.map(Frame::trailers))
            .map(Ok::<_, Status>);
        let frames: Vec<_> = frames.collect();
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        let read = messages(body, Buffers::default());
        read.map(|one| one.map_err(|status| status.code()))
            .collect()
            .await
    }

    /// istiod, or the way to it, may end at any byte: the proxy is given whole messages, and then the reason.
    #[tokio::test]
    async fn a_stream_may_end_anywhere_and_no_half_a_message_is_one() {
        let (one, two) = (framed(b"abc"), framed(b"defg"));
        let whole = [one.clone(), two.clone()].concat();
        for cut in 0..=whole.len() {
            let mut wanted = Vec::new();
            wanted.extend((cut >= one.len()).then(|| Ok("abc".into())));
            wanted.extend((cut == whole.len()).then(|| Ok("defg".into())));
            if ![0, one.len(), whole.len()].contains(&cut) {
                wanted.push(Err(Code::Internal));
            }
            assert_eq!(read(&[&whole[..cut]], None).await, wanted, "{cut}");
        }
        let refused = Status::unavailable("istiod goes").into_http::<()>();
        let trailers = refused.headers().clone();
        let read = read(&[&one, &two[..3]], Some(trailers)).await;
        assert_eq!(read, [Ok("abc".into()), Err(Code::Unavailable)]);
    }

    #[test]
    fn what_is_not_asked_for_is_refused() {
        let none = Buffers::default();
        let mut read = BytesMut::from(&b"\x01\0\0\0\0"[..]);
        assert_eq!(take(&mut read, &none).unwrap_err().code(), Code::Internal);
        let mut read = BytesMut::from(&b"\0\xff\xff\xff\xff"[..]);
        let refused = take(&mut read, &none).unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
    }

    #[test]
    fn a_refusal_is_told_by_its_headers_or_by_http() {
        let none = HeaderMap::new();
        assert!(check(StatusCode::OK, &none).is_ok());
        let refused = check(StatusCode::BAD_GATEWAY, &none).unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        let headers = Status::unauthenticated("no token").into_http::<()>();
        let refused = check(StatusCode::OK, headers.headers()).unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unauthenticated, "no token")
        );
    }
}
