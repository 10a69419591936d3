//! The caller's end of a tunnel: a stream of HTTP/2, or a whole connection after an HTTP/1.1 CONNECT.
//!
//! hyper's upgraded streams are not used for this: they take a stream that the caller has cancelled for one that it has
//! ended, and a server would take half a message for a whole one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::accepted::{self, Accepted};

/// The caller's end. Closing one direction leaves the other open.
pub(crate) trait End: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    type Watch: Watch;

    fn watch(&self) -> Self::Watch;

    /// Gives back what was read, to be read again first.
    fn put_back(&mut self, read: Bytes);

    /// Breaks it, both ways.
    fn reset(&mut self);
}

/// An end, for looking at.
pub(crate) trait Watch {
    /// Whether the caller has closed its direction. Data that came before may still be unread.
    fn is_closed(&self) -> bool;

    /// Bytes written so far.
    fn written(&self) -> u64;

    /// Ready once the caller has broken it. To be polled by the task that reads and writes.
    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether the end itself is gone, so that nobody else reads or writes.
    fn is_last(&self) -> bool;

    /// Closes our direction, if it is not closed yet.
    fn end(&self);

    /// Reads and forgets; ready once the caller has closed its direction or broken it.
    fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl End for Accepted {
    type Watch = accepted::Watch;

    fn watch(&self) -> accepted::Watch {
        Accepted::watch(self)
    }

    fn put_back(&mut self, read: Bytes) {
        Accepted::put_back(self, read);
    }

    fn reset(&mut self) {
        self.breaks(true);
    }
}

struct Halves {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Of a frame, what has not been read yet.
    rest: Bytes,
    written: u64,
}

/// A stream of HTTP/2.
pub(crate) struct Stream {
    halves: Arc<Mutex<Halves>>,
    first: Bytes,
}

/// A stream of HTTP/2, for looking at.
pub(crate) struct StreamWatch(Arc<Mutex<Halves>>);

impl Stream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        let halves = Halves {
            send,
            recv,
            rest: Bytes::new(),
            written: 0,
        };
        Self {
            halves: Arc::new(Mutex::new(halves)),
            first: Bytes::new(),
        }
    }
}

impl End for Stream {
    type Watch = StreamWatch;

    fn watch(&self) -> StreamWatch {
        StreamWatch(self.halves.clone())
    }

    fn put_back(&mut self, read: Bytes) {
        self.first = [read, self.first.split_off(0)].concat().into();
    }

    /// RFC 9113 8.5: what a TCP connection's RST is said as.
    fn reset(&mut self) {
        self.halves.lock().send.send_reset(Reason::CONNECT_ERROR);
    }
}

impl Watch for StreamWatch {
    fn is_closed(&self) -> bool {
        let halves = self.0.lock();
        halves.rest.is_empty() && halves.recv.is_end_stream()
    }

    fn written(&self) -> u64 {
        self.0.lock().written
    }

    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.lock().send.poll_reset(cx).map(drop)
    }

    fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    fn end(&self) {
        // An error says that it is closed already.
        let _ = self.0.lock().send.send_data(Bytes::new(), true);
    }

    fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<()> {
        let recv = &mut self.0.lock().recv;
        while let Some(Ok(data)) = ready!(recv.poll_data(cx)) {
            if recv.flow_control().release_capacity(data.len()).is_err() {
                break;
            }
        }
        Poll::Ready(())
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Stream {
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
        let halves = &mut *self.halves.lock();
        while halves.rest.is_empty() {
            match ready!(halves.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => halves.rest = data.map_err(broken)?,
            }
        }
        let taken = halves.rest.len().min(buf.remaining());
        buf.put_slice(&halves.rest[..taken]);
        halves.rest.advance(taken);
        // Only what was taken makes room for more: that is the back-pressure.
        halves
            .recv
            .flow_control()
            .release_capacity(taken)
            .map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let halves = &mut *self.halves.lock();
        // Nothing is reserved while there is nothing to say: it would be taken from the connection's other streams.
        halves.send.reserve_capacity(buf.len());
        if halves.send.capacity() == 0 {
            match ready!(halves.send.poll_capacity(cx)) {
                Some(room) => drop(room.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let taken = halves.send.capacity().min(buf.len());
        let data = Bytes::copy_from_slice(&buf[..taken]);
        halves.send.send_data(data, false).map_err(broken)?;
        halves.written += taken as u64;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.halves.lock().send.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(broken))
    }
}
