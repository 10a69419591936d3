//! The books on one resource type of one stream: what istiod gave, what the proxy holds, and which
//! response waits for which acknowledgement.

use super::snapshot::Snapshot;
use crate::ads::{DeltaRequest, ResponseWriter, WILDCARD};
use crate::store::{Store, Stored, Version};
use bytes::Bytes;
use foldhash::quality::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A response the proxy has not acknowledged yet.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    /// istiod's response that waits for this one.
    upstream: Option<String>,
    names: Vec<Box<str>>,
}

/// What became of an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It acknowledges nothing that is open.
    Nothing,
    /// The proxy took a response; istiod waits for this nonce, if any.
    Acked(Option<String>),
    /// The proxy refused a response; istiod is told under this nonce.
    Nacked(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) type_url: &'static str,
    /// What istiod gave on this stream.
    snapshot: Snapshot,
    /// What the proxy holds, under which version; `None` for a version that no shim gave.
    pub(super) proxy: HashMap<Box<str>, Option<Version>, RandomState>,
    /// Whether the proxy has asked for this type.
    pub(super) asked: bool,
    /// Whether istiod has been asked for all of this type.
    requested: bool,
    /// Whether istiod has answered for this type.
    pub(super) answered: bool,
    /// Names the proxy asked for and waits for, whatever version it holds.
    pub(super) owed: HashSet<Box<str>, RandomState>,
    /// Names istiod has been asked for; unused for types asked for by wildcard.
    pub(super) watched: HashSet<Box<str>, RandomState>,
    upstream_nonce: String,
    origin: Bytes,
    in_flight: VecDeque<InFlight>,
}

impl Ledger {
    pub(super) fn new(type_url: &'static str) -> Self {
        Self {
            type_url,
            snapshot: Snapshot::default(),
            proxy: HashMap::default(),
            asked: false,
            requested: false,
            answered: false,
            owed: HashSet::default(),
            watched: HashSet::default(),
            upstream_nonce: String::new(),
            origin: Bytes::new(),
            in_flight: VecDeque::new(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Stored>> {
        self.snapshot.get(name)
    }

    /// Makes room for so many resources more.
    pub(super) fn reserve(&mut self, count: usize) {
        self.snapshot.reserve(count);
    }

    /// Puts a resource in; whether there was none of its name.
    pub(super) fn put(&mut self, stored: Arc<Stored>) -> bool {
        self.snapshot.put(stored)
    }

    /// Takes a resource out; whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.snapshot.remove(name)
    }

    /// Everything istiod gave.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.snapshot.all()
    }

    /// Shares what there is with streams that were given the same. To be called when a push was taken in.
    pub(super) fn share(&mut self, store: &Store) {
        self.snapshot.share(store);
    }

    /// Takes in the first request of the type: what the proxy holds from before.
    pub(super) fn open(&mut self, request: &DeltaRequest) {
        self.asked = true;
        self.proxy = request
            .initial_versions
            .iter()
            .map(|(name, version)| (name.as_str().into(), Version::parse(version)))
            .collect();
    }

    /// A request for all of this type, the first time.
    pub(super) fn request_all(&mut self) -> Option<DeltaRequest> {
        let first = !std::mem::replace(&mut self.requested, true);
        first.then(|| self.request())
    }

    /// Whether the proxy has asked for this type and istiod has answered.
    pub(super) fn is_open(&self) -> bool {
        self.asked && self.answered
    }

    /// Whether the proxy watches a resource of this name: it has it, or waits for it.
    pub(super) fn is_watched(&self, name: &str) -> bool {
        self.proxy.contains_key(name) || self.owed.contains(name)
    }

    /// Whether the proxy holds this very resource.
    pub(super) fn holds(&self, stored: &Stored) -> bool {
        let held = self.proxy.get(&stored.name);
        held.is_some_and(|held| *held == Some(stored.version()))
    }

    /// Whether it holds one of this name under this version, which may be another than the content's own.
    pub(super) fn holds_as(&self, name: &str, version: Version) -> bool {
        self.proxy.get(name) == Some(&Some(version))
    }

    /// Takes in the head of a response of istiod's; whether it is the first.
    pub(super) fn heard(&mut self, nonce: &str, origin: &Bytes) -> bool {
        nonce.clone_into(&mut self.upstream_nonce);
        self.origin = origin.clone();
        !std::mem::replace(&mut self.answered, true)
    }

    /// How many responses wait for the proxy.
    pub(super) fn open_responses(&self) -> usize {
        self.in_flight.len()
    }

    /// Writes a response to the proxy and books it.
    ///
    /// `upstream`: the response of istiod's that is acknowledged when this one is.
    pub(super) fn respond<'a>(
        &mut self,
        nonce: String,
        upstream: Option<String>,
        resources: impl Iterator<Item = (&'a Stored, Version)>,
        removed: &[Box<str>],
    ) -> Bytes {
        let mut writer = ResponseWriter::new(self.type_url, &nonce, &self.origin);
        let mut names = Vec::new();
        for (stored, version) in resources {
            writer.resource(&stored.raw, &version.to_string());
            self.owed.remove(&stored.name);
            self.proxy.insert(stored.name.clone(), Some(version));
            names.push(stored.name.clone());
        }
        for name in removed {
            writer.removed(name);
            self.proxy.remove(name);
        }
        self.in_flight.push_back(InFlight {
            nonce,
            upstream,
            names,
        });
        writer.finish()
    }

    /// Takes in an acknowledgement. Of what the proxy refused nobody knows what it holds: Envoy
    /// applies the valid part of a push, and does not say which part that is. So it is sent again
    /// when it comes again, and removed when it goes.
    pub(super) fn settle(&mut self, request: &DeltaRequest) -> Settled {
        let Some(at) = self.in_flight.iter().position(|f| f.nonce == request.nonce) else {
            return Settled::Nothing;
        };
        let mut upstream = None;
        for flight in self.in_flight.drain(..=at) {
            if request.error_detail.is_some() && flight.nonce == request.nonce {
                for name in &flight.names {
                    if let Some(version) = self.proxy.get_mut(name) {
                        *version = None;
                    }
                }
                let nonce = flight
                    .upstream
                    .unwrap_or_else(|| self.upstream_nonce.clone());
                return Settled::Nacked(nonce);
            }
            upstream = flight.upstream.or(upstream);
        }
        Settled::Acked(upstream)
    }

    /// A request to istiod for this type, without a node.
    pub(super) fn request(&self) -> DeltaRequest {
        DeltaRequest {
            type_url: self.type_url.to_owned(),
            ..DeltaRequest::default()
        }
    }

    /// The names a request subscribes to, without the wildcard.
    pub(super) fn named(request: &DeltaRequest) -> impl Iterator<Item = &str> {
        request
            .subscribe
            .iter()
            .map(String::as_str)
            .filter(|name| *name != WILDCARD)
    }
}
