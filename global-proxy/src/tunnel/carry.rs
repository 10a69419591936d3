//! One tunnel: who speaks in it first, and what, decides what becomes of it.
//!
//! The server is dialled at once, and the caller's first bytes are looked at meanwhile: a server that speaks first is
//! not kept waiting for bytes that a caller will not send, and a caller that speaks first is told apart by what it says.
//! When that is HTTP, the connection was for nothing and is closed: requests go by the pool, each with its own answer.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use dependency_graph::Protocol;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::decide::{Situation, Step, barred, step};
use super::end::End;
use super::origin::Origin;
use super::pump::pump;
use super::record::{Outcome, Record};
use super::sniff::sniff;
use crate::accepted::breaks_on_close;
use crate::dial::dial;
use crate::metrics::Counted;
use crate::refuse::Refusal;
use crate::serve;
use crate::worker::Worker;

/// A connection to a server.
struct Server {
    stream: TcpStream,
    _counted: Counted,
}

impl Server {
    fn new(stream: TcpStream, worker: &Worker) -> Self {
        worker.metrics.dials.inc();
        Self {
            stream,
            _counted: Counted::new(&worker.metrics.upstream_connections),
        }
    }
}

type Dial = Pin<Box<dyn Future<Output = Result<TcpStream, Refusal>>>>;

/// What is known while it is not decided what becomes of a tunnel.
struct Opening {
    first: BytesMut,
    ended: bool,
    barred: Option<Refusal>,
    dial: Option<Dial>,
    server: Option<Server>,
    server_first: bool,
    since: Instant,
}

/// Carries it to its end.
pub(super) async fn carry<E: End>(
    worker: Rc<Worker>,
    mut caller: E,
    origin: Rc<Origin>,
    record: Record,
) {
    let mut opening = Opening::new(&worker, &origin);
    let idle = worker.settings.tunnel_idle;
    let decided = tokio::select! {
        decided = opening.decided(&worker, &mut caller) => decided,
        () = sleep(idle) => return broken(&mut caller, &record, Outcome::Idle),
    };
    let Ok(decided) = decided else {
        return broken(&mut caller, &record, Outcome::CallerCut);
    };
    if !matches!(decided, Step::Http(_)) {
        // It is told whatever becomes of it, so that the next one goes direct. Requests are told one by one, as all are.
        let _ = worker.report(origin.came(), b"", Protocol::Tcp);
    }
    caller.put_back(opening.first.split().freeze());
    match decided {
        Step::Http(spoken) => {
            record.ends(Outcome::Http);
            drop(opening);
            if let Err(error) = serve::tunnel(&worker, caller, spoken, origin).await {
                debug!(%error, "HTTP in a tunnel ended");
            }
        }
        Step::Refuse(refusal) => {
            record.refused(&refusal);
            caller.reset();
        }
        Step::Relay | Step::Wait(_) => match opening.connected(&worker).await {
            Ok(server) => relay(&mut caller, server, &record, idle).await,
            Err(refusal) => {
                record.refused(&refusal);
                caller.reset();
            }
        },
    }
}

async fn relay<E: End>(caller: &mut E, mut server: Server, record: &Record, idle: Duration) {
    // Dropped before both sides have closed theirs, also by the end of a drain, it breaks: the server must not take what
    // it has got for all there is.
    breaks_on_close(&server.stream, true);
    match pump(caller, &mut server.stream, &record.moved, idle).await {
        Outcome::Relayed => {
            breaks_on_close(&server.stream, false);
            record.ends(Outcome::Relayed);
        }
        outcome => broken(caller, record, outcome),
    }
}

fn broken<E: End>(caller: &mut E, record: &Record, outcome: Outcome) {
    record.ends(outcome);
    caller.reset();
}

impl Opening {
    fn new(worker: &Worker, origin: &Origin) -> Self {
        let came = origin.came();
        let namespace = came.caller.spiffe.namespace();
        let barred = barred(worker.policy(namespace), namespace);
        let dialing = || -> Dial { Box::pin(dial(came.original, worker.settings.connect_timeout)) };
        Self {
            first: BytesMut::new(),
            ended: false,
            dial: barred.is_none().then(dialing),
            barred,
            server: None,
            server_first: false,
            since: Instant::now(),
        }
    }

    /// What becomes of it.
    async fn decided<E: End>(&mut self, worker: &Worker, caller: &mut E) -> io::Result<Step> {
        loop {
            let next = step(&Situation {
                barred: self.barred.as_ref(),
                sniffed: sniff(&self.first),
                begun: !self.first.is_empty(),
                ended: self.ended,
                server_first: self.server_first,
                waited: self.since.elapsed(),
            });
            let Step::Wait(limit) = next else {
                return Ok(next);
            };
            // The caller's word first: a server that speaks at once, as one of HTTP/2 may, does not hide it.
            tokio::select! {
                biased;
                read = caller.read_buf(&mut self.first), if !self.ended => self.heard(read?),
                dialed = connected(&mut self.dial) => self.dialed(dialed, worker),
                () = spoken(self.server.as_ref()) => self.server_first = true,
                () = sleep(limit.unwrap_or_default()), if limit.is_some() => {}
            }
        }
    }

    fn heard(&mut self, read: usize) {
        self.ended = read == 0;
        if read > 0 && self.first.len() == read {
            self.since = Instant::now();
        }
    }

    /// Without a connection, only HTTP can still be told so.
    fn dialed(&mut self, dialed: Result<TcpStream, Refusal>, worker: &Worker) {
        self.dial = None;
        match dialed {
            Ok(stream) => self.server = Some(Server::new(stream, worker)),
            Err(refusal) => {
                self.barred = Some(refusal);
                self.since = Instant::now();
            }
        }
    }

    async fn connected(&mut self, worker: &Worker) -> Result<Server, Refusal> {
        match self.server.take() {
            Some(server) => Ok(server),
            None => Ok(Server::new(connected(&mut self.dial).await?, worker)),
        }
    }
}

/// Waits for the dial; for ever, when there is none.
async fn connected(dial: &mut Option<Dial>) -> Result<TcpStream, Refusal> {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

/// Returns once the server has said something, or has closed.
async fn spoken(server: Option<&Server>) {
    match server {
        // An error is seen again when it is read.
        Some(server) => drop(server.stream.readable().await),
        None => std::future::pending().await,
    }
}
