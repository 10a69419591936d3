//! What the global proxy and the lazyload controller tell each other: calls that fell back go there, and what becomes of
//! each, and what each namespace allows, comes from there.
//!
//! `book` keeps what is not settled, `heard` what was said, `policies` what namespaces allow: all three pure.
//! `calls` moves the batches. A [`Graph`] is shared by all workers.

mod book;
mod calls;
mod heard;
mod policies;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dependency_graph::api::{WatchRequest, WatchResponse};
use dependency_graph::fallback::Policy;
use dependency_graph::{Dependency, Protocol};
use graph_client::{Controller, Sink};
use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::decide::Answer;
use crate::metrics::Metrics;
use book::Book;
use heard::{Heard, Told};
use policies::Policies;

/// How many calls' answers are kept, and how long at the most; [`Heard::is_fresh`] says how long each is good.
const MOST_KEPT: u64 = 50_000;
const KEPT: Duration = Duration::from_secs(30);

/// The longest authority, in bytes, that may name a service: the controller looks at none that is longer, so it is not
/// told of any.
const LONGEST_AUTHORITY: usize = 300;

/// A call that fell back. Equal ones are told once, and share an answer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Call {
    /// The caller's verified identity.
    pub spiffe_id: String,
    /// The caller's pod, as its Envoy says.
    pub pod: Option<String>,
    /// The host as the application sent it; empty for what is not HTTP.
    pub authority: String,
    /// Where it was going.
    pub destination: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
}

#[derive(Debug)]
struct Shared {
    policies: RwLock<Policies>,
    book: Mutex<Book>,
    kept: Cache<Arc<Call>, Arc<Told>>,
    /// There is something to send.
    news: Notify,
    /// Whether calls can be sent.
    up: watch::Sender<bool>,
    /// Whether the policies are known.
    known: watch::Sender<bool>,
    metrics: Metrics,
}

/// See the module. Clones share all of it.
#[derive(Clone, Debug)]
pub struct Graph(Arc<Shared>);

impl Graph {
    /// Nothing is known yet, and nobody is told.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let kept = Cache::builder()
            .max_capacity(MOST_KEPT)
            .time_to_live(KEPT)
            .build();
        Self(Arc::new(Shared {
            policies: RwLock::default(),
            book: Mutex::default(),
            kept,
            news: Notify::new(),
            up: watch::Sender::new(false),
            known: watch::Sender::new(false),
            metrics,
        }))
    }

    /// What a namespace allows; `None` while that is not known. What was known stays when the controller goes away.
    #[must_use]
    pub fn policy(&self, namespace: &str) -> Option<Policy> {
        self.0.policies.read().policy(namespace)
    }

    /// Whether services of the mesh have addresses like this one.
    #[must_use]
    pub fn serves(&self, address: IpAddr) -> bool {
        self.0.policies.read().serves(address)
    }

    /// Returns once the policies are known.
    pub async fn known(&self) {
        // The sender is in here: it cannot be gone.
        let _ = self.0.known.subscribe().wait_for(|known| *known).await;
    }

    /// Whether the controller takes calls.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.0.up.borrow()
    }

    /// Tells the controller of a call, unless it was told a moment ago. When too many wait to be told, it is dropped and
    /// counted, and stays unheard.
    #[must_use]
    pub fn report(&self, call: Call) -> Ticket {
        let now = Instant::now();
        let told = if call.authority.len() > LONGEST_AUTHORITY {
            Some(Arc::new(Told::of(Heard::unknown_name(now))))
        } else {
            let kept = self.0.kept.get(&call).filter(|told| told.is_fresh(now));
            kept.or_else(|| self.add(call, now))
        };
        let graph = self.clone();
        Ticket {
            told,
            graph,
            last: (Heard::default(), false),
        }
    }

    fn add(&self, call: Call, now: Instant) -> Option<Arc<Told>> {
        let call = Arc::new(call);
        let told = {
            let mut book = self.0.book.lock();
            let told = book.add(&call, SystemTime::now(), now);
            self.count(&book);
            told
        };
        match &told {
            Some(told) => {
                self.0.kept.insert(call, told.clone());
                self.0.news.notify_one();
            }
            None => self.0.metrics.reports_dropped.inc(),
        }
        told
    }

    fn count(&self, book: &Book) {
        let pending = i64::try_from(book.len()).unwrap_or(i64::MAX);
        self.0.metrics.reports_pending.set(pending);
    }

    /// Follows what namespaces allow, for ever.
    pub async fn watch(&self, controller: &Controller) {
        let request = WatchRequest {
            namespaces_only: true,
        };
        controller.watch(request, self).await;
    }
}

impl Sink for Graph {
    fn begin(&self) {
        self.0.policies.write().begin();
    }

    fn apply(&self, update: WatchResponse) -> Vec<String> {
        self.0.policies.write().apply(update)
    }

    fn connected(&self, connected: bool) {
        self.0.policies.write().connected(connected);
        self.0.metrics.controller_watch.set(connected.into());
        if connected {
            self.0.known.send_replace(true);
        }
    }
}

/// What becomes of a call that was reported.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Absent when the call was dropped.
    told: Option<Arc<Told>>,
    graph: Graph,
    /// What was last looked at, and whether the controller was there.
    last: (Heard, bool),
}

impl Ticket {
    /// What the controller has said so far, and whether it is there to say more.
    pub fn look(&mut self) -> (Answer, bool) {
        let heard = self.told.as_ref().map(|told| told.heard());
        self.last = (heard.unwrap_or_default(), self.graph.is_up());
        (self.last.0.answer(Instant::now()), self.last.1)
    }

    /// What the controller has said so far.
    pub fn answer(&mut self) -> Answer {
        self.look().0
    }

    /// Why the controller said so, if it did.
    #[must_use]
    pub fn reason(&self) -> Option<Arc<str>> {
        self.told.as_ref().and_then(|told| told.heard().reason())
    }

    /// The service that the call is for, as far as the controller has said.
    #[must_use]
    pub fn service(&self) -> Option<Arc<Dependency>> {
        self.told.as_ref().and_then(|told| told.heard().service())
    }

    /// What the caller's namespace allows, if the controller has said so with its answer.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.told.as_ref().and_then(|told| told.heard().policy())
    }

    /// Whether services of the mesh have addresses like this one.
    #[must_use]
    pub fn serves(&self, address: IpAddr) -> bool {
        self.graph.serves(address)
    }

    /// Returns once there is something else to see than when it was last looked at.
    pub async fn changed(&mut self) {
        let (heard, was_up) = &self.last;
        let mut up = self.graph.0.up.subscribe();
        let said = async {
            match &self.told {
                Some(told) => told.differs(heard).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = said => {}
            _ = up.wait_for(|up| up != was_up) => {}
        }
    }

    /// Returns once the caller's Sidecar gives it the service.
    pub async fn written(&mut self) {
        while !matches!(self.answer(), Answer::Written { .. }) {
            self.changed().await;
        }
    }
}
