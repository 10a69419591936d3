//! What went over each stream, kept for assertions and for the demo's figures. Bounded.

use std::collections::{BTreeMap, VecDeque};
use xds_shim::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

/// Requests kept per stream; the oldest go first.
const REQUESTS_KEPT: usize = 10_000;
/// Streams kept; the oldest go first.
const STREAMS_KEPT: usize = 1_000;

/// Which variant of ADS a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// Its type URL.
    pub type_url: String,
    /// Names subscribed to (delta) or listed (state of the world).
    pub subscribe: Vec<String>,
    /// Names no longer wanted (delta only).
    pub unsubscribe: Vec<String>,
    /// Names of `initial_resource_versions` (delta only), sorted.
    pub initial: Vec<String>,
    /// The response it answers; empty if none.
    pub nonce: String,
    /// The text of a NACK.
    pub error: Option<String>,
}

/// What was sent of one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Responses.
    pub responses: u64,
    /// Resources in them, removals not counted.
    pub resources: u64,
    /// Encoded size of the responses, without gRPC framing.
    pub bytes: u64,
}

/// One stream, from its start to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRecord {
    /// Counts up from 1 over the life of the control plane.
    pub id: u64,
    /// The variant it speaks.
    pub variant: Variant,
    /// `node.id` of the first request; empty before it.
    pub node: String,
    /// Text metadata of the call, such as `authorization` and `clusterid`, by lower-case name.
    pub metadata: BTreeMap<String, String>,
    /// Whether it is still there.
    pub open: bool,
    /// The last requests, oldest first.
    pub requests: VecDeque<RequestRecord>,
    /// By type URL.
    pub sent: BTreeMap<String, Sent>,
}

impl StreamRecord {
    /// Requests of one type, oldest first.
    pub fn requests_of(&self, type_url: &str) -> impl Iterator<Item = &RequestRecord> {
        self.requests
            .iter()
            .filter(move |request| request.type_url == type_url)
    }

    /// Requests that were NACKs.
    pub fn nacks(&self) -> impl Iterator<Item = &RequestRecord> {
        self.requests
            .iter()
            .filter(|request| request.error.is_some())
    }

    /// Encoded size of all responses.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.values().map(|sent| sent.bytes).sum()
    }

    pub(super) fn note(&mut self, request: RequestRecord) {
        if self.requests.len() == REQUESTS_KEPT {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }

    pub(super) fn note_sent(&mut self, type_url: &str, resources: usize, bytes: usize) {
        let sent = self.sent.entry(type_url.to_owned()).or_default();
        sent.responses += 1;
        sent.resources += resources as u64;
        sent.bytes += bytes as u64;
    }
}

/// All streams.
#[derive(Debug, Default)]
pub(super) struct Log {
    last: u64,
    pub(super) streams: VecDeque<StreamRecord>,
}

impl Log {
    /// Opens a record and gives its id.
    pub(super) fn open(&mut self, variant: Variant, metadata: BTreeMap<String, String>) -> u64 {
        if self.streams.len() == STREAMS_KEPT {
            self.streams.pop_front();
        }
        self.last += 1;
        self.streams.push_back(StreamRecord {
            id: self.last,
            variant,
            node: String::new(),
            metadata,
            open: true,
            requests: VecDeque::new(),
            sent: BTreeMap::new(),
        });
        self.last
    }

    /// The record of a stream, unless it is too old.
    pub(super) fn stream(&mut self, id: u64) -> Option<&mut StreamRecord> {
        self.streams.iter_mut().rev().find(|stream| stream.id == id)
    }
}

impl From<&DeltaDiscoveryRequest> for RequestRecord {
    fn from(request: &DeltaDiscoveryRequest) -> Self {
        let mut initial: Vec<_> = request.initial_resource_versions.keys().cloned().collect();
        initial.sort_unstable();
        Self {
            type_url: request.type_url.clone(),
            subscribe: request.resource_names_subscribe.clone(),
            unsubscribe: request.resource_names_unsubscribe.clone(),
            initial,
            nonce: request.response_nonce.clone(),
            error: request
                .error_detail
                .as_ref()
                .map(|status| status.message.clone()),
        }
    }
}

impl From<&DiscoveryRequest> for RequestRecord {
    fn from(request: &DiscoveryRequest) -> Self {
        Self {
            type_url: request.type_url.clone(),
            subscribe: request.resource_names.clone(),
            unsubscribe: vec![],
            initial: vec![],
            nonce: request.response_nonce.clone(),
            error: request
                .error_detail
                .as_ref()
                .map(|status| status.message.clone()),
        }
    }
}
