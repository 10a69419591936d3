//! gRPC streams over HTTP/2, as thin as they can be: messages are pieces of bytes that are never copied together.

use std::future::poll_fn;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode, Version};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use xds_shim::ads;

/// Bytes that may wait in a connection before a message waits itself.
pub(crate) const SEND_BUFFER: usize = 1 << 20;
/// Bytes a peer may send before it must wait for a window update, as pilot-agent has it.
const WINDOW: u32 = 1 << 20;
/// Compressed or not, and the length.
const PREFIX: usize = 5;

/// The messages that come on a stream.
#[derive(Debug)]
pub(crate) struct Messages {
    body: Incoming,
    read: BytesMut,
}

#[derive(Debug)]
enum Incoming {
    /// istiod's head comes with its first message, which it has no reason for before it was told who calls.
    Answer(ResponseFuture),
    Body(RecvStream),
}

impl From<RecvStream> for Messages {
    fn from(body: RecvStream) -> Self {
        Self {
            body: Incoming::Body(body),
            read: BytesMut::new(),
        }
    }
}

impl From<ResponseFuture> for Messages {
    fn from(answer: ResponseFuture) -> Self {
        Self {
            body: Incoming::Answer(answer),
            read: BytesMut::new(),
        }
    }
}

impl Messages {
    /// The body, once it is there.
    async fn body(&mut self) -> Result<&mut RecvStream> {
        if let Incoming::Answer(answer) = &mut self.body {
            let answer = answer.await?;
            let refused = answer.headers().get("grpc-status");
            ensure!(
                answer.status() == StatusCode::OK && refused.is_none(),
                "the call was refused: {answer:?}"
            );
            self.body = Incoming::Body(answer.into_body());
        }
        match &mut self.body {
            Incoming::Body(body) => Ok(body),
            Incoming::Answer(_) => bail!("no answer"),
        }
    }

    /// The next message; none at the end. Nothing is lost when it is not waited for to the end.
    ///
    /// # Errors
    /// When the stream breaks, or ends inside a message.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = take(&mut self.read)? {
                return Ok(Some(message));
            }
            let body = self.body().await?;
            let Some(chunk) = body.data().await else {
                ensure!(self.read.is_empty(), "the stream ended inside a message");
                return Ok(None);
            };
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.read.extend_from_slice(&chunk);
        }
    }
}

/// The message at the beginning of what was read, if it is whole.
fn take(read: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some((prefix, rest)) = read.split_at_checked(PREFIX) else {
        return Ok(None);
    };
    ensure!(
        prefix[0] == 0,
        "a compressed message, which nobody asked for"
    );
    let length = (&prefix[1..]).get_u32() as usize;
    if rest.len() < length {
        read.reserve(PREFIX + length - read.len());
        return Ok(None);
    }
    read.advance(PREFIX);
    Ok(Some(read.split_to(length).freeze()))
}

/// Sends the pieces of one message, as there is room for them.
///
/// # Errors
/// When the stream has ended.
pub(crate) async fn send(to: &mut SendStream<Bytes>, pieces: Vec<Bytes>) -> Result<()> {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut pieces = pieces.into_iter();
    // The prefix goes with the first piece, which is small.
    let first = pieces.next().unwrap_or_default();
    let mut head = BytesMut::with_capacity(PREFIX + first.len());
    head.put_u8(0);
    head.put_u32(u32::try_from(length).context("a message of more than 4 GB")?);
    head.put(first);
    for piece in std::iter::once(head.freeze()).chain(pieces) {
        send_piece(to, piece).await?;
    }
    Ok(())
}

async fn send_piece(to: &mut SendStream<Bytes>, mut piece: Bytes) -> Result<()> {
    while !piece.is_empty() {
        to.reserve_capacity(piece.len());
        let room = match to.capacity() {
            0 => poll_fn(|context| to.poll_capacity(context))
                .await
                .context("the stream has ended")??,
            room => room,
        };
        let some = piece.split_to(room.min(piece.len()));
        if !some.is_empty() {
            to.send_data(some, false)?;
        }
    }
    Ok(())
}

/// A delta ADS stream on a connection of its own, from the side that dials. Dropping it cuts the connection.
#[derive(Debug)]
pub(crate) struct Call {
    to: SendStream<Bytes>,
    pub(crate) from: Messages,
    connection: AbortHandle,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Call {
    /// Opens a stream. Whether the server takes the call its first message tells.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let (client, connection) = builder.handshake(socket).await?;
        let connection = tokio::spawn(async move {
            // What is wrong with it the stream tells.
            let _ = connection.await;
        })
        .abort_handle();
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{address}{}", ads::DELTA_PATH))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, to) = client.ready().await?.send_request(request, false)?;
        Ok(Self {
            to,
            from: response.into(),
            connection,
        })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the stream has ended.
    pub(crate) async fn say(&mut self, message: Bytes) -> Result<()> {
        send(&mut self.to, vec![message]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let mut read = BytesMut::new();
        assert_eq!(take(&mut read).unwrap(), None);
        read.extend_from_slice(b"\0\0\0\0\x03ab");
        assert_eq!(take(&mut read).unwrap(), None);
        read.extend_from_slice(b"c\0\0\0\0\0\0");
        assert_eq!(take(&mut read).unwrap().unwrap(), "abc");
        assert_eq!(take(&mut read).unwrap().unwrap(), "");
        assert_eq!((take(&mut read).unwrap(), read.len()), (None, 1));
    }

    #[test]
    fn compressed_messages_are_refused() {
        let mut read = BytesMut::from(&b"\x01\0\0\0\0"[..]);
        assert!(take(&mut read).is_err());
    }
}
