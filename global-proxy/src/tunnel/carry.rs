//! One tunnel: who speaks in it first, and what, and what it leads to, decides what becomes of it.
//!
//! Nobody is dialled before the controller has said that it is a service. Then a server is dialled that may speak first,
//! and the caller's first bytes are looked at meanwhile: such a server is not kept waiting for bytes that a caller will not
//! send, and a caller that speaks first is told apart by what it says. When that is HTTP, the connection was for nothing
//! and is closed: requests go by the pool, each with its own answer.

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

use super::decide::{Heard, Situation, Step, Word, barred, step, word};
use super::end::End;
use super::origin::Origin;
use super::pump::pump;
use super::record::{Outcome, Record};
use super::sniff::sniff;
use crate::accepted::{Spoken, breaks_on_close};
use crate::dial::dial;
use crate::graph::Ticket;
use crate::incoming::Incoming;
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

/// What becomes of a tunnel.
enum Decided {
    Http(Spoken),
    Relay,
    Refuse(Refusal),
}

type Dial = Pin<Box<dyn Future<Output = Result<TcpStream, Refusal>>>>;

/// What is known while it is not decided what becomes of a tunnel.
struct Opening {
    first: BytesMut,
    ended: bool,
    asked: Option<Protocol>,
    asked_at: Instant,
    /// None without a controller.
    ticket: Option<Ticket>,
    /// The server cannot be had.
    failed: Option<Refusal>,
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
    let mut opening = Opening::new(&worker);
    let idle = worker.settings.tunnel_idle;
    let decided = tokio::select! {
        decided = opening.decided(&worker, &origin, &mut caller) => decided,
        () = sleep(idle) => return broken(&mut caller, &record, Outcome::Idle),
    };
    let Ok(decided) = decided else {
        return broken(&mut caller, &record, Outcome::CallerCut);
    };
    caller.put_back(opening.first.split().freeze());
    match decided {
        Decided::Http(spoken) => {
            record.ends(Outcome::Http);
            drop(opening);
            if let Err(error) = serve::tunnel(&worker, caller, spoken, origin).await {
                debug!(%error, "HTTP in a tunnel ended");
            }
        }
        Decided::Refuse(refusal) => {
            record.refused(&refusal);
            caller.reset();
        }
        Decided::Relay => match opening.connected(&worker, &origin).await {
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
    fn new(worker: &Worker) -> Self {
        let now = Instant::now();
        Self {
            first: BytesMut::new(),
            ended: false,
            // Without a controller there is nobody to ask.
            asked: worker.graph.is_none().then_some(Protocol::Tcp),
            asked_at: now,
            ticket: None,
            failed: None,
            dial: None,
            server: None,
            server_first: false,
            since: now,
        }
    }

    /// What becomes of it.
    async fn decided<E: End>(
        &mut self,
        worker: &Worker,
        origin: &Origin,
        caller: &mut E,
    ) -> io::Result<Decided> {
        let mut was_barred = false;
        loop {
            let word = self.word(worker, origin.came());
            let barred = matches!(word, Word::Barred(_));
            if barred && !was_barred && self.first.is_empty() {
                self.since = Instant::now();
            }
            was_barred = barred;
            let next = step(&Situation {
                asked: self.asked,
                word: &word,
                sniffed: sniff(&self.first),
                begun: !self.first.is_empty(),
                ended: self.ended,
                dialled: self.dial.is_some() || self.server.is_some(),
                server_first: self.server_first,
                waited: self.since.elapsed(),
            });
            let limit = match next {
                Step::Ask(protocol) => {
                    self.ask(worker, origin.came(), protocol);
                    continue;
                }
                Step::Dial => {
                    self.dial = Some(dialing(worker, origin));
                    continue;
                }
                Step::Wait(limit) => limit,
                Step::Http(spoken) => return Ok(Decided::Http(spoken)),
                Step::Relay => return Ok(Decided::Relay),
                Step::Refuse(refusal) => return Ok(Decided::Refuse(refusal)),
            };
            // The caller's word first: a server that speaks at once, as one of HTTP/2 may, does not hide it.
            tokio::select! {
                biased;
                read = caller.read_buf(&mut self.first), if !self.ended => self.heard(read?),
                dialed = connected(&mut self.dial) => self.dialed(dialed, worker),
                () = spoken(self.server.as_ref()) => self.server_first = true,
                () = told(self.ticket.as_mut()) => {}
                () = sleep(limit.unwrap_or_default()), if limit.is_some() => {}
            }
        }
    }

    /// It is told whatever becomes of it, so that the next one goes direct. Requests in it are told one by one besides.
    fn ask(&mut self, worker: &Worker, came: &Incoming, protocol: Protocol) {
        self.asked = Some(protocol);
        self.asked_at = Instant::now();
        self.ticket = worker.report(came, b"", protocol);
    }

    fn word(&mut self, worker: &Worker, came: &Incoming) -> Word {
        if let Some(refusal) = &self.failed {
            return Word::Barred(refusal.clone());
        }
        let namespace = came.caller.spiffe.namespace();
        let policy = worker.policy(namespace);
        let Some(ticket) = &mut self.ticket else {
            let barred = barred(policy, namespace);
            return barred.map_or(Word::Carried(None), Word::Barred);
        };
        let heard = Heard {
            answer: ticket.answer(),
            protocol: ticket.service().map(|service| service.protocol),
            policy: ticket.policy().or(policy),
            serves: ticket.serves(came.original.ip()),
            waited: self.asked_at.elapsed(),
        };
        word(&heard, came)
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
                self.failed = Some(refusal);
                self.since = Instant::now();
            }
        }
    }

    async fn connected(&mut self, worker: &Worker, origin: &Origin) -> Result<Server, Refusal> {
        if let Some(server) = self.server.take() {
            return Ok(server);
        }
        let dial = self.dial.take().unwrap_or_else(|| dialing(worker, origin));
        Ok(Server::new(dial.await?, worker))
    }
}

fn dialing(worker: &Worker, origin: &Origin) -> Dial {
    Box::pin(dial(
        origin.came().original,
        worker.settings.connect_timeout,
    ))
}

/// Returns once the controller has said something else; never, if there is none.
async fn told(ticket: Option<&mut Ticket>) {
    match ticket {
        Some(ticket) => ticket.changed().await,
        None => std::future::pending().await,
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
