//! One connection of a caller: HTTP/1 or HTTP/2 with prior knowledge, told apart by how it begins.
//!
//! Once the drain starts, an HTTP/1 connection says `connection: close` with its next answer and an HTTP/2 one GOAWAY;
//! what is under way goes on until the drain ends.

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

use crate::accepted::{Accepted, Spoken, Watch};
use crate::gather::{Gathered, turns};
use crate::handle::handle;
use crate::local::{LocalExec, http2 as limits};
use crate::worker::Worker;

/// As much as is read ahead of one HTTP/1 connection, its request's head included.
const READ_AHEAD: usize = 64 << 10;
/// How long a connection over the limit is kept, to say why it is not served.
const SHED: Duration = Duration::from_secs(1);
/// How often a connection is looked at for a caller that has gone. HTTP/1 cannot tell one that has only closed its own
/// direction, and wants its answer, from one that is gone: it is gone when it is closed and nothing has been written
/// between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Serves it to its end. `shed`: each of its requests is refused, and it ends soon.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, shed: bool) {
    if let Err(error) = connection(worker, stream, shed).await {
        debug!(%error, "connection ended");
    }
}

async fn connection(worker: Rc<Worker>, stream: TcpStream, shed: bool) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let mut accepted = Accepted::new(stream);
    let limit = if shed {
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
        Some(Spoken::Http1) => serve_h1(&worker, accepted, shed).await,
        Some(Spoken::Http2) => serve_h2(&worker, accepted, shed).await,
    }
}

async fn serve_h1(worker: &Rc<Worker>, accepted: Accepted, shed: bool) -> Result<(), BoxError> {
    let watch = accepted.watch();
    let service = service_fn(|request| handle(worker.clone(), shed, request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(worker.settings.caller_idle)
        .max_header_size(worker.settings.header_bytes)
        .max_buf_size(READ_AHEAD)
        .auto_date_header(false);
    let connection = http.serve_connection(TokioIo::new(accepted), service);
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

async fn serve_h2(worker: &Rc<Worker>, accepted: Accepted, shed: bool) -> Result<(), BoxError> {
    let of_service = worker.clone();
    let service = service_fn(move |request| handle(of_service.clone(), shed, request));
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
    let io = Gathered::new(accepted);
    let mut connection = pin!(http.serve_connection(TokioIo::new(io.clone()), service));
    tokio::select! {
        ended = turns(io.clone(), connection.as_mut()) => return Ok(ended?),
        () = sleep(SHED), if shed => connection.as_mut().graceful_shutdown(),
        () = worker.drain.started() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = turns(io, connection) => Ok(ended?),
        () = sleep(SHED), if shed => Ok(()),
        () = worker.drain.ended() => Err(cut("the drain is over")),
    }
}

/// Returns once the caller has closed its direction and nothing has been written to it for a while.
async fn gone(watch: Watch) {
    let mut written = None;
    loop {
        sleep(LOOK).await;
        let now = watch.is_closed().then(|| watch.written());
        if now.is_some() && now == written {
            return;
        }
        written = now;
    }
}

fn cut(why: &'static str) -> BoxError {
    io::Error::new(io::ErrorKind::ConnectionAborted, why).into()
}
