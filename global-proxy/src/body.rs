//! The two bodies of an exchange: the caller's on its way to the server, and the answer's on its way back.
//!
//! Nothing is kept in them: a frame is read when the other side can take it.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use mesh_runtime::BoxError;

use crate::access_log::{Outcome, Record};
use crate::expect::Gate;
use crate::hygiene;
use crate::kept::Kept;
use crate::pool::Lease;

/// What has become of a request's body.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    bytes: AtomicU64,
    done: AtomicBool,
}

impl Sent {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that went past the body, after an upgrade.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether all of it went out.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// The caller's body, towards the server.
#[derive(Debug)]
pub(crate) struct Outgoing {
    body: Kept,
    gate: Option<Gate>,
    sent: Arc<Sent>,
}

impl Outgoing {
    pub(crate) fn new(body: Kept, gate: Option<Gate>, sent: Arc<Sent>) -> Self {
        sent.done.store(body.is_end_stream(), Ordering::Relaxed);
        Self { body, gate, sent }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let frame = frame.map(|frame| frame.map(clean));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.sent.add(bytes);
                if self.body.is_end_stream() || frame.is_trailers() {
                    self.sent.done.store(true, Ordering::Relaxed);
                }
            }
            Some(Err(_)) => {}
            None => self.sent.done.store(true, Ordering::Relaxed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn clean(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hygiene::trailers(trailers);
    }
    frame
}

#[derive(Debug)]
enum Source {
    Server(Incoming),
    Ours(Full<Bytes>),
}

/// The body of an answer, towards the caller. Keeps what the exchange holds, its connection to the server among it,
/// until the last byte is read; dropped before, it ends the exchange.
#[derive(Debug)]
pub(crate) struct Relayed {
    source: Source,
    lease: Option<Lease>,
    record: Rc<Record>,
}

impl Relayed {
    /// The server's.
    pub(crate) fn server(body: Incoming, lease: Lease, record: Rc<Record>) -> Self {
        let mut relayed = Self {
            source: Source::Server(body),
            lease: Some(lease),
            record,
        };
        if relayed.is_end_stream() {
            relayed.finish();
        }
        relayed
    }

    /// One of our own.
    pub(crate) fn ours(body: Full<Bytes>, record: Rc<Record>) -> Self {
        Self {
            source: Source::Ours(body),
            lease: None,
            record,
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.record.ends(Outcome::Relayed);
            lease.finish();
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.source {
            Source::Server(body) => ready!(Pin::new(body).poll_frame(cx)),
            Source::Ours(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                return Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})));
            }
        };
        match frame {
            Some(Ok(frame)) => {
                self.record.received(frame.data_ref().map_or(0, Bytes::len));
                if self.is_end_stream() || frame.is_trailers() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(clean(frame))))
            }
            Some(Err(error)) => {
                self.record.ends(Outcome::ServerCut);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Server(body) => body.is_end_stream(),
            Source::Ours(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Server(body) => body.size_hint(),
            Source::Ours(body) => body.size_hint(),
        }
    }
}
