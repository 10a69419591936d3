//! The open streams, for the eyes of an operator.

use crate::session::Summary;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is shown of one stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stream {
    /// The proxy's node id.
    pub proxy: String,
    /// The peer's address.
    pub peer: String,
    /// `on_demand`, or the reason the proxy gets everything.
    pub treatment: &'static str,
    /// The workload it is of, if its metadata says; on demand it learns for it.
    pub workload: Option<String>,
    /// What is held and given; on on-demand streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Summary>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: BTreeMap<u64, Stream>,
}

impl Streams {
    /// Adds a stream; it is listed as long as the entry lives.
    pub fn add(&self, stream: Stream) -> Entry {
        let mut inner = self.0.lock();
        inner.next += 1;
        let id = inner.next;
        inner.open.insert(id, stream);
        Entry {
            id,
            streams: self.clone(),
        }
    }

    /// All of them.
    pub fn list(&self) -> Vec<Stream> {
        self.0.lock().open.values().cloned().collect()
    }
}

/// A listed stream.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    streams: Streams,
}

impl Entry {
    /// Shows other counts.
    pub fn show(&self, clusters: Summary) {
        if let Some(stream) = self.streams.0.lock().open.get_mut(&self.id) {
            stream.clusters = Some(clusters);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.streams.0.lock().open.remove(&self.id);
    }
}
