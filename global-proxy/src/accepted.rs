//! A caller's connection: gives back first what was read to tell its protocol, and can be asked whether the caller has
//! closed its side.
//!
//! It never reads on its own.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tracing::debug;

use crate::tunnel;

/// What an HTTP/2 connection with prior knowledge begins with, RFC 9113 3.4.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The HTTP a caller speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

#[derive(Debug)]
struct Socket {
    /// Never contended: both halves are on one thread, but hyper wants upgraded connections to be `Send`.
    stream: Mutex<TcpStream>,
    written: AtomicU64,
}

/// The connection, for reading and writing.
#[derive(Debug)]
pub(crate) struct Accepted {
    socket: Arc<Socket>,
    first: Bytes,
}

/// The connection, for looking at.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<Socket>);

impl Accepted {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let socket = Socket {
            stream: Mutex::new(stream),
            written: AtomicU64::new(0),
        };
        Self {
            socket: Arc::new(socket),
            first: Bytes::new(),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch(self.socket.clone())
    }

    /// Reads just enough to tell. `None`: the caller has closed without a word.
    pub(crate) async fn spoken(&mut self) -> io::Result<Option<Spoken>> {
        let mut first = BytesMut::with_capacity(PREFACE.len());
        let spoken = loop {
            match told_by(&first) {
                Some(spoken) => break spoken,
                None if self.read_buf(&mut first).await? == 0 => {
                    if first.is_empty() {
                        return Ok(None);
                    }
                    // The beginning of a preface, and then the end: HTTP/1 says what is wrong with it.
                    break Spoken::Http1;
                }
                None => {}
            }
        };
        self.put_back(first.freeze());
        Ok(Some(spoken))
    }

    /// Gives back what was read, to be read again first.
    pub(crate) fn put_back(&mut self, read: Bytes) {
        self.first = if self.first.is_empty() {
            read
        } else {
            [read, self.first.split_off(0)].concat().into()
        };
    }

    /// Whether the connection breaks when it is dropped, so that the peer does not take it for one that ended.
    pub(crate) fn breaks(&self, breaks: bool) {
        breaks_on_close(&self.socket.stream.lock(), breaks);
    }
}

/// Has a socket that is dropped send RST (`true`), or FIN.
pub(crate) fn breaks_on_close(stream: &TcpStream, breaks: bool) {
    let linger = breaks.then_some(Duration::ZERO);
    if let Err(error) = SockRef::from(stream).set_linger(linger) {
        debug!(%error, "cannot have a connection break");
    }
}

fn told_by(first: &[u8]) -> Option<Spoken> {
    let known = first.len().min(PREFACE.len());
    if first[..known] != PREFACE[..known] {
        Some(Spoken::Http1)
    } else if known == PREFACE.len() {
        Some(Spoken::Http2)
    } else {
        None
    }
}

impl tunnel::Watch for Watch {
    fn is_closed(&self) -> bool {
        let stream = self.0.stream.lock();
        let ready = stream.ready(Interest::READABLE).now_or_never();
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed())
    }

    fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// A socket says so when it is read or written, and only then.
    fn poll_reset(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    fn end(&self) {
        // An error says that it is closed already.
        let _ = SockRef::from(&*self.0.stream.lock()).shutdown(Shutdown::Write);
    }

    fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut room = [MaybeUninit::uninit(); 8 << 10];
        loop {
            let mut buf = ReadBuf::uninit(&mut room);
            let read = Pin::new(&mut *self.0.stream.lock()).poll_read(cx, &mut buf);
            if ready!(read).is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let taken = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..taken]);
            self.first.advance(taken);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.socket.stream.lock()).poll_read(cx, buf)
    }
}

impl Accepted {
    fn poll_write_with(
        &self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = ready!(write(Pin::new(&mut *self.socket.stream.lock())))?;
        let count = &self.socket.written;
        count.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.socket.stream.lock()).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::Watch as _;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[test]
    fn every_beginning_of_the_preface_needs_more() {
        for length in 0..PREFACE.len() {
            assert_eq!(told_by(&PREFACE[..length]), None, "{length}");
        }
        assert_eq!(told_by(PREFACE), Some(Spoken::Http2));
        assert_eq!(
            told_by(&[PREFACE, &b"\0\0"[..]].concat()),
            Some(Spoken::Http2)
        );
        for other in ["G", "PRO", "PRI /", "PRI * HTTP/1.1\r\n"] {
            assert_eq!(told_by(other.as_bytes()), Some(Spoken::Http1), "{other}");
        }
    }

    async fn pair() -> (TcpStream, Accepted) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), Accepted::new(accepted.unwrap().0))
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let (mut client, mut accepted) = pair().await;
        client.write_all(b"GET / HT").await.unwrap();
        assert_eq!(accepted.spoken().await.unwrap(), Some(Spoken::Http1));
        client.write_all(b"TP/1.1").await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        accepted.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1");
    }

    #[tokio::test]
    async fn a_closed_side_is_seen_without_reading() {
        let (mut client, mut accepted) = pair().await;
        let watch = accepted.watch();
        client.write_all(b"GET").await.unwrap();
        assert!(!watch.is_closed());
        client.shutdown().await.unwrap();
        while !watch.is_closed() {
            tokio::task::yield_now().await;
        }
        let mut all = Vec::new();
        accepted.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET");
        accepted.write_all(b"answer").await.unwrap();
        assert_eq!(watch.written(), 6);
        accepted.shutdown().await.unwrap();
        drop(accepted);
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"answer");
    }

    #[tokio::test]
    async fn nothing_at_all_is_no_protocol() {
        let (client, mut accepted) = pair().await;
        drop(client);
        assert_eq!(accepted.spoken().await.unwrap(), None);
    }
}
