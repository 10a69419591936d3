//! TCP, and HTTP on ports that the caller's Envoy has no listener for: tunnels to where the application was going.
//!
//! The caller's Envoy opens a CONNECT for each connection of its application, as streams of one HTTP/2 connection to our
//! port for tunnels, or on a connection of its own over HTTP/1.1. Our own sidecar takes that connection for TCP, verifies
//! the caller, and wraps it into an outer CONNECT that names it.
//!
//! Once the drain starts, HTTP/2 connections say GOAWAY; open tunnels go on until the drain ends.

mod carry;
mod decide;
mod end;
mod head;
mod origin;
mod pump;
mod record;
mod sniff;

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderMap, Method, Request, Response, Version};
use mesh_runtime::BoxError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::accepted::{Accepted, Spoken};
use crate::local::http2 as limits;
use crate::refuse::Refusal;
use crate::serve::cut;
use crate::worker::Worker;
use crate::xfcc::SpiffeId;
use end::Stream;
pub(crate) use end::{End, Watch};
use head::Connect;
pub(crate) use origin::Origin;
pub(crate) use record::Outcome;
use record::Record;

/// How long the head of a tunnel may take. Envoy sends it with the connection.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes a caller may send on a stream before they are taken.
const STREAM_WINDOW: u32 = 64 << 10;
/// Streams a caller may have open on one connection; Envoy opens another one beyond.
const STREAMS: u32 = 1000;
/// Room for all streams of a connection at once, so that none that stalls can stall another.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// Resets of a connection that are remembered, or may wait to be seen. Callers' applications break connections as they
/// like, also many in one moment; that is no attack on HTTP/2.
const RESETS: usize = STREAMS as usize;
/// What a connection may get wrong in all its life. Frames for tunnels that were broken long ago count, and the
/// connection may live for months.
const MISTAKES: usize = 1 << 20;

const OPENED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// Serves a connection from our own sidecar to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream) {
    if let Err(error) = connection(worker, stream).await {
        debug!(%error, "tunnel connection ended");
    }
}

async fn connection(worker: Rc<Worker>, stream: TcpStream) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let mut accepted = Accepted::new(stream);
    let opened = tokio::select! {
        opened = outer(&worker, &mut accepted) => opened?,
        () = worker.drain.started() => return Ok(()),
    };
    let Some((caller, spoken)) = opened else {
        return Ok(());
    };
    match spoken {
        Spoken::Http1 => single(&worker, accepted, &caller).await,
        Spoken::Http2 => many(&worker, accepted, &caller).await,
    }
}

/// Takes the outer tunnel. Who the caller is, and what it speaks inside; `None` when it was refused or has gone.
async fn outer(
    worker: &Worker,
    accepted: &mut Accepted,
) -> Result<Option<(SpiffeId, Spoken)>, BoxError> {
    let read = timeout(HEAD, read_head(accepted)).await?;
    let caller = read.and_then(|connect| {
        let trust = worker.settings.trust;
        connect
            .map(|connect| head::caller(&connect.headers, trust))
            .transpose()
    });
    let caller = match caller {
        Ok(Some(caller)) => caller,
        Ok(None) => return Ok(None),
        Err(refusal) => {
            let record = Record::new(worker.metrics.clone(), Version::HTTP_11, "");
            refuse(accepted, &refusal, &record).await?;
            return Ok(None);
        }
    };
    accepted.write_all(OPENED).await?;
    let spoken = timeout(HEAD, accepted.spoken()).await??;
    Ok(spoken.map(|spoken| (caller, spoken)))
}

/// Reads the head of a CONNECT, and leaves what comes after it. `None`: the caller has closed or broken it.
async fn read_head(accepted: &mut Accepted) -> Result<Option<Connect>, Refusal> {
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if let Some((connect, length)) = head::connect(&read)? {
            accepted.put_back(read.split_off(length).freeze());
            return Ok(Some(connect));
        }
        if !matches!(accepted.read_buf(&mut read).await, Ok(1..)) {
            return Ok(None);
        }
    }
}

async fn refuse(accepted: &mut Accepted, why: &Refusal, record: &Record) -> Result<(), BoxError> {
    record.refused(why);
    let body = told(why);
    let answer = format!(
        "HTTP/1.1 {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        why.status(),
        body.len(),
    );
    accepted.write_all(answer.as_bytes()).await?;
    Ok(accepted.shutdown().await?)
}

fn told(why: &Refusal) -> String {
    format!("global-proxy: {why}\n")
}

/// One tunnel, over HTTP/1.1.
async fn single(
    worker: &Rc<Worker>,
    mut accepted: Accepted,
    caller: &SpiffeId,
) -> Result<(), BoxError> {
    let record = Record::new(worker.metrics.clone(), Version::HTTP_11, caller.as_str());
    let opened = match timeout(HEAD, read_head(&mut accepted)).await? {
        Ok(Some(connect)) => open(
            worker,
            caller,
            &connect.authority,
            &connect.headers,
            &record,
        ),
        Ok(None) => return Ok(()),
        Err(refusal) => Err(refusal),
    };
    match opened {
        Ok(origin) => {
            accepted.write_all(OPENED).await?;
            carry::carry(worker.clone(), accepted, origin, record).await;
            Ok(())
        }
        Err(refusal) => refuse(&mut accepted, &refusal, &record).await,
    }
}

/// Many tunnels, as streams of HTTP/2.
async fn many(worker: &Rc<Worker>, accepted: Accepted, caller: &SpiffeId) -> Result<(), BoxError> {
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(head::MOST)?)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(MISTAKES))
        .handshake::<_, Bytes>(accepted);
    let mut connection = timeout(HEAD, handshake).await??;
    let mut gone = std::pin::pin!(gone(connection.ping_pong()));
    let mut draining = false;
    loop {
        tokio::select! {
            next = connection.accept() => match next {
                Some(next) => {
                    let (request, respond) = next?;
                    // One that the caller has broken already says so here, and only of itself.
                    if let Err(error) = stream(worker, caller, request, respond) {
                        debug!(%error, "a tunnel is gone before it is open");
                    }
                }
                None => return Ok(()),
            },
            () = worker.drain.started(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = worker.drain.ended() => return Err(cut("the drain is over")),
            () = gone.as_mut() => return Err(cut("the caller's Envoy is gone")),
        }
    }
}

/// Returns once the peer no longer answers. Its own sidecar answers for the connection it has with us, so this is the
/// only way to know.
async fn gone(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        sleep(limits::KEEPALIVE_INTERVAL).await;
        let pong = timeout(limits::KEEPALIVE_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

fn stream(
    worker: &Rc<Worker>,
    caller: &SpiffeId,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (parts, body) = request.into_parts();
    let record = Record::new(worker.metrics.clone(), Version::HTTP_2, caller.as_str());
    let opened = if parts.method == Method::CONNECT {
        let authority = parts
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        open(worker, caller, authority, &parts.headers, &record)
    } else {
        Err(Refusal::Malformed("a tunnel begins with CONNECT"))
    };
    match opened {
        Ok(origin) => {
            let send = respond.send_response(Response::new(()), false)?;
            let carried = carry::carry(worker.clone(), Stream::new(send, body), origin, record);
            worker.tasks.spawn_local(carried);
        }
        Err(refusal) => {
            record.refused(&refusal);
            let (parts, _) = refusal.response(false).into_parts();
            let mut send = respond.send_response(Response::from_parts(parts, ()), false)?;
            send.send_data(told(&refusal).into(), true)?;
        }
    }
    Ok(())
}

/// Takes a tunnel on, as far as its head goes.
fn open(
    worker: &Worker,
    caller: &SpiffeId,
    authority: &str,
    headers: &HeaderMap,
    record: &Record,
) -> Result<Rc<Origin>, Refusal> {
    let incoming = head::opened(authority, headers, caller, worker.settings.trust)?;
    record.came(&incoming);
    record.admitted(worker.limiter.stream(caller.as_str())?);
    Ok(Rc::new(Origin::new(incoming)))
}

#[cfg(test)]
mod tests;
