//! One record and one count per exchange, both made in one place, when everything that belongs to it is gone.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, StatusCode, Version};
use tracing::info;

use crate::body::Sent;
use crate::decide::Why;
use crate::incoming::Incoming;
use crate::limits::Permit;
use crate::metrics::Metrics;
use crate::refuse::Refusal;

/// What became of an exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The answer went through to its end.
    Relayed,
    /// It was redirected, to go direct.
    Redirected,
    /// It was redirected, as the mesh has no such name.
    Plain,
    /// The caller went away, or the drain ended, before it was over.
    CallerCut,
    /// The server's answer broke off.
    ServerCut,
    /// It was not carried, or not answered, for this reason.
    Refused(&'static str),
}

impl Outcome {
    /// A short name, for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Redirected => "redirected",
            Self::Plain => "plain",
            Self::CallerCut => "caller_cut",
            Self::ServerCut => "server_cut",
            Self::Refused(reason) => reason,
        }
    }
}

/// What is known of an exchange; written when dropped.
#[derive(Debug)]
pub(crate) struct Record {
    metrics: Metrics,
    begin: Instant,
    version: Version,
    method: Method,
    path: String,
    authority: RefCell<Option<HeaderValue>>,
    caller: OnceLock<(String, SocketAddr)>,
    status: Cell<Option<StatusCode>>,
    outcome: Cell<Outcome>,
    why: Cell<Option<Why>>,
    held: Cell<Option<Duration>>,
    detail: RefCell<Option<String>>,
    received: Cell<u64>,
    sent: Arc<Sent>,
    permit: RefCell<Option<Permit>>,
}

impl Record {
    pub(crate) fn new<B>(metrics: Metrics, request: &Request<B>) -> Self {
        Self {
            metrics,
            begin: Instant::now(),
            version: request.version(),
            method: request.method().clone(),
            // Not the query: what people put there is not for logs.
            path: request.uri().path().to_owned(),
            authority: RefCell::default(),
            caller: OnceLock::new(),
            status: Cell::default(),
            outcome: Cell::new(Outcome::CallerCut),
            why: Cell::default(),
            held: Cell::default(),
            detail: RefCell::default(),
            received: Cell::default(),
            sent: Arc::default(),
            permit: RefCell::default(),
        }
    }

    pub(crate) fn came(&self, incoming: &Incoming) {
        let caller = incoming.caller.spiffe.to_string();
        let _ = self.caller.set((caller, incoming.original));
    }

    pub(crate) fn addressed(&self, authority: &HeaderValue) {
        self.authority.replace(Some(authority.clone()));
    }

    /// Holds a permit until the exchange is over.
    pub(crate) fn admitted(&self, permit: Permit) {
        self.permit.replace(Some(permit));
    }

    /// Since the request came.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// It was held until now.
    pub(crate) fn held(&self) {
        let held = self.elapsed();
        self.metrics.hold_seconds.observe(held.as_secs_f64());
        self.held.set(Some(held));
    }

    /// What the controller has to say of it.
    pub(crate) fn heard(&self, reason: Option<Arc<str>>) {
        if let Some(reason) = reason {
            self.detail.replace(Some(reason.as_ref().to_owned()));
        }
    }

    /// It is relayed, and why not redirected.
    pub(crate) fn relays(&self, why: Why) {
        self.metrics.relays(why);
        self.why.set(Some(why));
    }

    pub(crate) fn sent(&self) -> Arc<Sent> {
        self.sent.clone()
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.status.set(Some(status));
        self.metrics
            .head_seconds
            .observe(self.begin.elapsed().as_secs_f64());
    }

    pub(crate) fn ends(&self, outcome: Outcome) {
        self.outcome.set(outcome);
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.status.set(Some(refusal.status()));
        self.outcome.set(Outcome::Refused(refusal.reason()));
        self.detail.replace(Some(refusal.to_string()));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let outcome = self.outcome.get().as_str();
        let (sent, received) = (self.sent.bytes(), self.received.get());
        self.metrics.exchange(self.version, outcome, sent, received);
        let authority = self.authority.get_mut().take();
        let authority = authority.as_ref().and_then(|value| value.to_str().ok());
        let (caller, destination) = match self.caller.get() {
            Some((caller, destination)) => (Some(caller.as_str()), Some(destination)),
            None => (None, None),
        };
        info!(
            target: "access",
            outcome,
            why = self.why.get().map(Why::as_str),
            version = ?self.version,
            method = %self.method,
            authority,
            path = self.path,
            status = self.status.get().map(|status| status.as_u16()),
            caller,
            destination = destination.map(tracing::field::display),
            request_bytes = sent,
            response_bytes = received,
            held_ms = self.held.get().map(ms),
            ms = ms(self.begin.elapsed()),
            detail = self.detail.get_mut().take(),
        );
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
