//! HTTP/2 connections to servers: one per destination, more when its streams are used up.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::debug;

use super::{Pool, no_answer};
use crate::body::Outgoing;
use crate::dial::dial;
use crate::gather::{Gathered, perhaps_turns};
use crate::local::http2 as limits;
use crate::metrics::{Counted, Metrics};
use crate::refuse::Refusal;

/// Connections to one destination. When all are full, requests wait for a stream on the least used.
const PER_KEY: usize = 8;
/// How long a new server may take to send its settings.
const SETTINGS: Duration = Duration::from_secs(1);

type Sender = http2::SendRequest<Outgoing>;
type Dialing = Shared<LocalBoxFuture<'static, Result<(), Refusal>>>;

/// Runs hyper's tasks for one connection; it is driven by one of them.
#[derive(Clone, Debug)]
struct Turns(Gathered<TcpStream>);

impl<F> hyper::rt::Executor<F> for Turns
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        spawn_local(perhaps_turns(self.0.clone(), task));
    }
}

/// The connections to one destination.
#[derive(Debug, Default)]
pub(super) struct Host {
    connections: Vec<Connection>,
    dialing: Option<Dialing>,
}

#[derive(Debug)]
struct Connection {
    send: Sender,
    used: Rc<Used>,
}

#[derive(Debug)]
struct Used {
    streams: Cell<usize>,
    /// When the last stream ended.
    last: Cell<Instant>,
    ever: Cell<bool>,
    /// Streams the server allows.
    most: Cell<usize>,
    extended: Cell<bool>,
    opened: Instant,
    settings: Notify,
}

impl Used {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            streams: Cell::new(0),
            last: Cell::new(now),
            ever: Cell::new(false),
            most: Cell::new(1),
            extended: Cell::new(false),
            opened: now,
            settings: Notify::new(),
        }
    }
}

/// One stream's place on a connection.
#[derive(Debug)]
pub(crate) struct Stream(Rc<Used>);

impl Stream {
    fn open(used: &Rc<Used>) -> Self {
        used.streams.set(used.streams.get() + 1);
        Self(used.clone())
    }

    /// Whether the server takes extended CONNECT. It says so in its settings, which come at the beginning.
    pub(super) async fn takes_extended_connect(&self) -> bool {
        let told = self.0.settings.notified();
        if !self.0.extended.get() {
            let _ = timeout(SETTINGS.saturating_sub(self.0.opened.elapsed()), told).await;
        }
        self.0.extended.get()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.last.set(Instant::now());
    }
}

impl Host {
    /// Keeps what is in use or young; whether anything is left.
    pub(super) fn sweep(&mut self, now: Instant, age: Duration) -> bool {
        self.connections.retain(|connection| {
            let young = now.saturating_duration_since(connection.used.last.get()) < age;
            !connection.send.is_closed() && (young || connection.used.streams.get() > 0)
        });
        !self.connections.is_empty() || self.dialing.is_some()
    }

    /// A connection with a stream to spare, or the least used one when there may be no more.
    fn pick(&mut self) -> Option<&Connection> {
        self.connections
            .retain(|connection| !connection.send.is_closed());
        let full = self.connections.len() >= PER_KEY;
        let least = self
            .connections
            .iter()
            .min_by_key(|connection| connection.used.streams.get())?;
        (full || least.used.streams.get() < least.used.most.get()).then_some(least)
    }
}

/// A stream to `to`: on a connection that is there, or on a new one, which all that wait for it share. Whether the
/// connection is new.
pub(super) async fn stream(
    pool: &Rc<Pool>,
    to: SocketAddr,
) -> Result<(Sender, Stream, bool), Refusal> {
    loop {
        let dialing = {
            let mut hosts = pool.h2.borrow_mut();
            let host = hosts.entry(to).or_default();
            if let Some(connection) = host.pick() {
                let fresh = !connection.used.ever.replace(true);
                let stream = Stream::open(&connection.used);
                return Ok((connection.send.clone(), stream, fresh));
            }
            host.dialing
                .get_or_insert_with(|| start(pool.clone(), to))
                .clone()
        };
        dialing.await?;
    }
}

/// Dials in a task of its own, so that it goes on when the request that wanted it first is cancelled.
fn start(pool: Rc<Pool>, to: SocketAddr) -> Dialing {
    let dialed = spawn_local(async move {
        let connected = connect(to, pool.connect_timeout, &pool.metrics).await;
        let mut hosts = pool.h2.borrow_mut();
        let host = hosts.entry(to).or_default();
        host.dialing = None;
        match connected {
            Ok(connection) => {
                host.connections.push(connection);
                Ok(())
            }
            Err(refusal) => {
                if host.connections.is_empty() {
                    hosts.remove(&to);
                }
                Err(refusal)
            }
        }
    });
    let failed = move |_| Refusal::Connect {
        to,
        why: "the dial was given up".into(),
    };
    dialed
        .map(move |joined| joined.map_err(failed).and_then(|dialed| dialed))
        .boxed_local()
        .shared()
}

async fn connect(
    to: SocketAddr,
    limit: Duration,
    metrics: &Metrics,
) -> Result<Connection, Refusal> {
    let stream = dial(to, limit).await?;
    metrics.dials.inc();
    let io = Gathered::new(stream);
    let (mut send, mut connection) = http2::Builder::new(Turns(io.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_send_buf_size(limits::SEND_BUFFER)
        .max_header_list_size(limits::HEADER_LIST)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| no_answer(to, &error))?;
    let counted = Counted::new(&metrics.upstream_connections);
    let used = Rc::new(Used::new());
    let most = |now: usize| now.min(limits::STREAMS as usize);
    used.most.set(most(connection.current_max_send_streams()));
    let told = used.clone();
    spawn_local(async move {
        let _counted = counted;
        let ended = poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            told.most.set(most(connection.current_max_send_streams()));
            let extended = connection.is_extended_connect_protocol_enabled();
            if extended && !told.extended.replace(true) {
                told.settings.notify_waiters();
            }
            ended
        });
        if let Err(error) = ended.await {
            debug!(%error, %to, "connection to a server ended");
        }
    });
    send.ready().await.map_err(|error| no_answer(to, &error))?;
    Ok(Connection { send, used })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gives_its_place_back() {
        let used = Rc::new(Used::new());
        let begin = used.last.get();
        let (one, two) = (Stream::open(&used), Stream::open(&used));
        assert_eq!(used.streams.get(), 2);
        drop(one);
        drop(two);
        assert_eq!(used.streams.get(), 0);
        assert!(used.last.get() >= begin);
    }

    #[test]
    fn a_host_without_connections_is_forgotten() {
        let mut host = Host::default();
        assert!(!host.sweep(Instant::now(), Duration::from_secs(1)));
        let pending = std::future::pending().boxed_local().shared();
        host.dialing = Some(pending);
        assert!(host.sweep(Instant::now(), Duration::from_secs(1)));
        assert!(host.pick().is_none());
    }
}
