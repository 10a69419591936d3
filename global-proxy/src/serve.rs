//! HTTP of a caller, on a connection or in a tunnel: HTTP/1 or HTTP/2 with prior knowledge, told apart by how it begins.
//!
//! Once the drain starts, an HTTP/1 connection says `connection: close` with its next answer and an HTTP/2 one GOAWAY;
//! what is under way goes on until the drain ends. In a tunnel whose service has been learned HTTP/2 says GOAWAY as well;
//! the next answer of HTTP/1 there, which `handle` makes, says `connection: close`.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_runtime::BoxError;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::accepted::{Accepted, Spoken};
use crate::gather::{Gathered, turns};
use crate::handle::handle;
use crate::local::{LocalExec, http2 as limits};
use crate::tunnel::{End, Origin, Watch};
use crate::worker::Worker;

/// As much as is read ahead of one HTTP/1 connection, its request's head included.
const READ_AHEAD: usize = 64 << 10;
/// How long a connection over the limit is kept, to say why it is not served.
const SHED: Duration = Duration::from_secs(1);
/// How often a connection is looked at for a caller that has gone. HTTP/1 cannot tell one that has only closed its own
/// direction, and wants its answer, from one that is gone: it is gone when it is closed and nothing has been written
/// between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a caller may take to close a connection of HTTP/1 that we have ended, RFC 9112 9.6.
const LINGER: Duration = Duration::from_secs(2);

/// By what the requests came.
#[derive(Clone, Debug)]
pub(crate) enum Via {
    /// A connection of our own sidecar.
    Sidecar,
    /// One over the limit: each of its requests is refused, and it ends soon.
    Shed,
    /// A tunnel, which says for all its requests who called and where they were going.
    Tunnel(Rc<Origin>),
}

impl Via {
    fn is_shed(&self) -> bool {
        matches!(self, Self::Shed)
    }

    /// Whether what comes by it should come by something else from now on.
    pub(crate) fn is_learned(&self) -> bool {
        matches!(self, Self::Tunnel(origin) if origin.is_learned())
    }

    /// Returns once it should.
    async fn learned(&self) {
        match self {
            Self::Tunnel(origin) => origin.learned().await,
            Self::Sidecar | Self::Shed => std::future::pending().await,
        }
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, via: Via) {
    if let Err(error) = connection(worker, stream, via).await {
        debug!(%error, "connection ended");
    }
}

/// Serves what is in a tunnel to its end.
///
/// # Errors
/// When it ends otherwise than HTTP ends.
pub(crate) async fn tunnel(
    worker: &Rc<Worker>,
    end: impl End,
    spoken: Spoken,
    origin: Rc<Origin>,
) -> Result<(), BoxError> {
    let via = Via::Tunnel(origin);
    match spoken {
        Spoken::Http1 => serve_h1(worker, end, via).await,
        Spoken::Http2 => serve_h2(worker, end, via).await,
    }
}

async fn connection(worker: Rc<Worker>, stream: TcpStream, via: Via) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let mut accepted = Accepted::new(stream);
    let limit = if via.is_shed() {
        SHED
    } else {
        worker.settings.caller_idle
    };
    let spoken = tokio::select! {
        spoken = timeout(limit, accepted.spoken()) => match spoken {
            Ok(spoken) => spoken?,
            Err(_) => return Ok(()),
        },
        () = worker.drain.started() => return Ok(()),
    };
    match spoken {
        None => Ok(()),
        Some(Spoken::Http1) => serve_h1(&worker, accepted, via).await,
        Some(Spoken::Http2) => serve_h2(&worker, accepted, via).await,
    }
}

async fn serve_h1(worker: &Rc<Worker>, end: impl End, via: Via) -> Result<(), BoxError> {
    let watch = end.watch();
    drive_h1(worker, end, &watch, via).await?;
    // What was answered before its request had come ends the connection. Were it closed with something unread, the
    // kernel would break it, and the answer could be lost on its way.
    if watch.is_last() {
        watch.end();
        tokio::select! {
            biased;
            () = poll_fn(|cx| watch.poll_discard(cx)) => {}
            // What is there has been read; the rest is not worth a longer drain.
            () = worker.drain.started() => {}
            () = sleep(LINGER) => {}
        }
    }
    Ok(())
}

async fn drive_h1(
    worker: &Rc<Worker>,
    end: impl End,
    watch: &impl Watch,
    via: Via,
) -> Result<(), BoxError> {
    let shed = via.is_shed();
    let service = service_fn(|request| handle(worker.clone(), via.clone(), request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(worker.settings.caller_idle)
        .max_header_size(worker.settings.header_bytes)
        .max_buf_size(READ_AHEAD)
        .auto_date_header(false);
    let connection = http.serve_connection(TokioIo::new(end), service);
    let mut connection = pin!(connection.with_upgrades());
    let mut gone = pin!(gone(watch));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = gone.as_mut() => return Err(cut("the caller is gone")),
        () = sleep(SHED), if shed => return Ok(()),
        () = worker.drain.started() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => Ok(ended?),
        () = gone => Err(cut("the caller is gone")),
        () = worker.drain.ended() => Err(cut("the drain is over")),
    }
}

async fn serve_h2(worker: &Rc<Worker>, end: impl End, via: Via) -> Result<(), BoxError> {
    let (shed, of_service) = (via.is_shed(), (worker.clone(), via.clone()));
    let service = service_fn(move |request| {
        let (worker, via) = of_service.clone();
        handle(worker, via, request)
    });
    let header_list = u32::try_from(worker.settings.header_bytes).unwrap_or(u32::MAX);
    let mut http = http2::Builder::new(LocalExec);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS)
        .max_header_list_size(header_list)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .enable_connect_protocol()
        .auto_date_header(false);
    let io = Gathered::new(end);
    let mut connection = pin!(http.serve_connection(TokioIo::new(io.clone()), service));
    tokio::select! {
        ended = turns(io.clone(), connection.as_mut()) => return Ok(ended?),
        () = sleep(SHED), if shed => connection.as_mut().graceful_shutdown(),
        () = via.learned() => connection.as_mut().graceful_shutdown(),
        () = worker.drain.started() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = turns(io, connection) => Ok(ended?),
        () = sleep(SHED), if shed => Ok(()),
        () = worker.drain.ended() => Err(cut("the drain is over")),
    }
}

/// Returns once the caller has closed its direction and nothing has been written to it for a while, or has broken it.
async fn gone(watch: &impl Watch) {
    let mut written = None;
    loop {
        let broken = poll_fn(|cx| watch.poll_reset(cx));
        if timeout(LOOK, broken).await.is_ok() {
            return;
        }
        let now = watch.is_closed().then(|| watch.written());
        if now.is_some() && now == written {
            return;
        }
        written = now;
    }
}

pub(crate) fn cut(why: &'static str) -> BoxError {
    io::Error::new(io::ErrorKind::ConnectionAborted, why).into()
}
