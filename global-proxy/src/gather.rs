//! Fewer and larger reads and writes for HTTP/2.
//!
//! h2 writes and flushes each DATA frame by itself and reads some KiB at a time: with 64 KiB of a body, a dozen calls
//! into the kernel where two do. Here a read takes all there is, and what is written is kept until the connection's
//! task has had its turn, or is much. So a flush is not one: whoever drives the connection does it within [`turns`],
//! which writes what was kept after each turn.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What is kept to be written before it is written at once, whoever's turn it is.
const MUCH: usize = 512 << 10;
/// What a read takes: little at first, more while reads come back full.
const READ: std::ops::RangeInclusive<usize> = 8 << 10..=128 << 10;

#[derive(Debug)]
struct Io<S> {
    stream: S,
    read: BytesMut,
    read_size: usize,
    out: BytesMut,
    /// About the most that was written at once lately: as much room is made at once.
    out_size: usize,
    /// How often it was used.
    used: u64,
    /// Writing failed outside of a write: the next use says so.
    failed: Option<io::ErrorKind>,
}

/// A connection that reads and writes much at once. Clones are the same connection.
#[derive(Debug)]
pub(crate) struct Gathered<S>(Rc<RefCell<Io<S>>>);

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(Io {
            stream,
            read: BytesMut::new(),
            read_size: *READ.start(),
            out: BytesMut::new(),
            out_size: 0,
            used: 0,
            failed: None,
        })))
    }
}

/// Runs the task that drives the connection: what it has written goes out after each of its turns.
pub(crate) async fn turns<S, F>(io: Gathered<S>, task: F) -> F::Output
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future,
{
    run(io, task, true).await
}

/// As [`turns`], of a task that may be another one: it is the one if it uses the connection. Another one must not
/// write, because a socket wakes only the task that asked last.
pub(crate) async fn perhaps_turns<S, F>(io: Gathered<S>, task: F) -> F::Output
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future,
{
    run(io, task, false).await
}

async fn run<S, F>(io: Gathered<S>, task: F, mut drives: bool) -> F::Output
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future,
{
    let mut task = pin!(task);
    poll_fn(|cx| {
        let before = io.0.borrow().used;
        let polled = task.as_mut().poll(cx);
        let mut io = io.0.borrow_mut();
        drives |= io.used != before;
        if drives {
            io.end_turn(cx);
        }
        polled
    })
    .await
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    fn end_turn(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            self.failed = Some(error.kind());
            self.out.clear();
            cx.waker().wake_by_ref();
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        self.used = self.used.wrapping_add(1);
        match self.failed {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    /// Writes what was kept.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.out_size = self.out.len().max(self.out_size - self.out_size / 8);
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        // An idle connection has no buffer.
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(self.read_size);
        let polled = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read);
        match polled {
            Poll::Ready(Ok(read)) if read >= self.read_size => {
                self.read_size = (self.read_size * 4).min(*READ.end());
            }
            Poll::Ready(Ok(read)) if read < self.read_size / 16 => {
                self.read_size = (self.read_size / 4).max(*READ.start());
            }
            Poll::Ready(_) => {}
            Poll::Pending => self.read = BytesMut::new(),
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut io = self.0.borrow_mut();
        io.begin()?;
        if io.read.is_empty() {
            ready!(io.poll_in(cx))?;
        }
        let taken = io.read.len().min(buf.remaining());
        buf.put_slice(&io.read[..taken]);
        io.read.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    fn poll_keep(&self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<io::Result<usize>> {
        let mut io = self.0.borrow_mut();
        io.begin()?;
        if io.out.len() >= MUCH {
            ready!(io.poll_out(cx))?;
        }
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if io.out.is_empty() {
            let room = io.out_size.max(length);
            io.out.reserve(room);
        }
        for buf in bufs {
            io.out.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_keep(cx, &[buf])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            [one] => self.poll_keep(cx, &[one]),
            [one, other] => self.poll_keep(cx, &[one, other]),
            more => self.poll_keep(cx, &more.iter().map(|buf| &**buf).collect::<Vec<_>>()),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().begin())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.0.borrow_mut();
        io.begin()?;
        ready!(io.poll_out(cx))?;
        Pin::new(&mut io.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
