//! One record and one count per tunnel, made when it is over. Requests in a tunnel have records of their own.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Instant;

use http::Version;
use tracing::info;

use crate::incoming::Incoming;
use crate::limits::Permit;
use crate::metrics::{Counted, Metrics};
use crate::refuse::Refusal;

/// What became of a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Both sides closed.
    Relayed,
    /// It carried HTTP.
    Http,
    /// Nothing moved for too long.
    Idle,
    /// The caller broke it, or the drain ended.
    CallerCut,
    /// The server broke it.
    ServerCut,
    /// It was not carried, for this reason.
    Refused(&'static str),
}

impl Outcome {
    /// All but refusals.
    pub(crate) const CARRIED: [Self; 5] = [
        Self::Relayed,
        Self::Http,
        Self::Idle,
        Self::CallerCut,
        Self::ServerCut,
    ];

    /// A short name, for metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Http => "http",
            Self::Idle => "idle",
            Self::CallerCut => "caller_cut",
            Self::ServerCut => "server_cut",
            Self::Refused(reason) => reason,
        }
    }
}

/// Bytes that have been carried.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) sent: Cell<u64>,
    pub(crate) received: Cell<u64>,
}

/// What is known of a tunnel; written when dropped.
#[derive(Debug)]
pub(crate) struct Record {
    metrics: Metrics,
    begin: Instant,
    version: Version,
    caller: String,
    came: Cell<Option<SocketAddr>>,
    pod: RefCell<Option<String>>,
    outcome: Cell<Outcome>,
    detail: RefCell<Option<String>>,
    pub(crate) moved: Moved,
    held: RefCell<Option<(Permit, Counted)>>,
}

impl Record {
    pub(crate) fn new(metrics: Metrics, version: Version, caller: &str) -> Self {
        Self {
            metrics,
            begin: Instant::now(),
            version,
            caller: caller.to_owned(),
            came: Cell::default(),
            pod: RefCell::default(),
            outcome: Cell::new(Outcome::CallerCut),
            detail: RefCell::default(),
            moved: Moved::default(),
            held: RefCell::default(),
        }
    }

    pub(crate) fn came(&self, incoming: &Incoming) {
        self.came.set(Some(incoming.original));
        self.pod.replace(incoming.caller.pod.clone());
    }

    /// Holds a permit until the tunnel is over.
    pub(crate) fn admitted(&self, permit: Permit) {
        let open = Counted::new(&self.metrics.tunnels_open);
        self.held.replace(Some((permit, open)));
    }

    pub(crate) fn ends(&self, outcome: Outcome) {
        self.outcome.set(outcome);
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.outcome.set(Outcome::Refused(refusal.reason()));
        self.detail.replace(Some(refusal.to_string()));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let outcome = self.outcome.get().as_str();
        let (sent, received) = (self.moved.sent.get(), self.moved.received.get());
        self.metrics.tunnel(outcome, sent, received);
        info!(
            target: "access",
            tunnel = outcome,
            version = ?self.version,
            caller = self.caller,
            pod = self.pod.get_mut().take(),
            destination = self.came.get().map(tracing::field::display),
            sent_bytes = sent,
            received_bytes = received,
            ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            detail = self.detail.get_mut().take(),
        );
    }
}
