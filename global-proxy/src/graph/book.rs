//! Calls that the controller has not settled yet: sent in batches, kept until it says that they need not be sent again,
//! and sent again when their stream is lost.
//!
//! Pure: `calls` moves the batches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dependency_graph::api;
use prost::Message as _;

use super::Call;
use super::heard::{Heard, Told};

/// How many calls are kept while the controller is away, and of one identity, so that none takes all the room.
pub(super) const MOST: usize = 50_000;
pub(super) const MOST_OF_ONE: usize = 10_000;
/// How many calls go in one batch (the graph API takes no more).
pub(super) const BATCH: usize = 1000;
/// How many bytes go in one batch. The controller takes no message beyond 4 MiB, and ends the stream for one: what is in
/// it would be sent again on each next stream, and nothing else would ever get through.
const BATCH_BYTES: usize = 1 << 20;

/// How long more is expected to be said of a call that need not be sent again.
const LINGER: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Unsent,
    Sent,
    /// It need not be sent again, since then, but what becomes of it is not known.
    Stored(Instant),
}

#[derive(Debug)]
struct Entry {
    call: Arc<Call>,
    seen: SystemTime,
    told: Arc<Told>,
    stage: Stage,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// By id, which rises.
    entries: BTreeMap<u64, Entry>,
    ids: HashMap<Arc<Call>, u64>,
    of_caller: HashMap<Arc<str>, usize>,
    unsent: VecDeque<u64>,
    /// When each stored one was said to be.
    stored: VecDeque<(Instant, u64)>,
    last_id: u64,
}

impl Book {
    /// Takes in a call that is to be asked about, and says where the answer will be; `None` when there is no room.
    pub(super) fn add(
        &mut self,
        call: &Arc<Call>,
        seen: SystemTime,
        now: Instant,
    ) -> Option<Arc<Told>> {
        self.forget(now);
        if let Some(id) = self.ids.get(call)
            && let Some(entry) = self.entries.get_mut(id)
        {
            entry.seen = entry.seen.max(seen);
            if matches!(entry.stage, Stage::Stored(_)) {
                entry.stage = Stage::Unsent;
                self.unsent.push_back(*id);
            }
            return Some(entry.told.clone());
        }
        let count = self.of_caller.get(call.spiffe_id.as_str()).copied();
        let count = count.unwrap_or_default();
        if self.entries.len() >= MOST || count >= MOST_OF_ONE {
            return None;
        }
        self.last_id += 1;
        let told = Arc::<Told>::default();
        let entry = Entry {
            call: call.clone(),
            seen,
            told: told.clone(),
            stage: Stage::Unsent,
        };
        self.entries.insert(self.last_id, entry);
        self.ids.insert(call.clone(), self.last_id);
        self.of_caller
            .insert(call.spiffe_id.as_str().into(), count + 1);
        self.unsent.push_back(self.last_id);
        Some(told)
    }

    /// The next batch to send; `None` when all is sent.
    pub(super) fn batch(&mut self) -> Option<Vec<api::Call>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH
            && let Some(id) = self.unsent.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&id) {
                let call = message(id, entry);
                bytes += call.encoded_len();
                if bytes > BATCH_BYTES && !batch.is_empty() {
                    self.unsent.push_front(id);
                    break;
                }
                entry.stage = Stage::Sent;
                batch.push(call);
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Whether there is a batch to send.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes in an answer, and says what it says; `None` when it is of no call in here, or not understood.
    pub(super) fn answered(&mut self, answer: &api::CallAnswer, now: Instant) -> Option<Heard> {
        let id = answer.id;
        let entry = self.entries.get_mut(&id)?;
        let heard = Heard::of(answer, now);
        if let Some(heard) = &heard {
            entry.told.say(heard.clone());
        }
        if answer.done && entry.told.is_settled() {
            self.remove(id);
        } else if answer.done && entry.stage == Stage::Sent {
            entry.stage = Stage::Stored(now);
            self.stored.push_back((now, id));
        }
        heard
    }

    /// The stream is lost: all that is not settled is sent again on the next, as only there it is answered.
    pub(super) fn rewind(&mut self) {
        for entry in self.entries.values_mut() {
            entry.stage = Stage::Unsent;
        }
        self.unsent = self.entries.keys().copied().collect();
        self.stored.clear();
    }

    /// Lets go of what was stored long ago and never settled. Whoever calls it again, asks again.
    fn forget(&mut self, now: Instant) {
        let old = |since: Instant| now.saturating_duration_since(since) >= LINGER;
        while let Some((since, id)) = self.stored.pop_front_if(|(since, _)| old(*since)) {
            let stage = self.entries.get(&id).map(|entry| entry.stage);
            if stage == Some(Stage::Stored(since)) {
                self.remove(id);
            }
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.ids.remove(&entry.call);
        let caller = entry.call.spiffe_id.as_str();
        if let Some(count) = self.of_caller.get_mut(caller) {
            *count -= 1;
            if *count == 0 {
                self.of_caller.remove(caller);
            }
        }
    }

    /// How many are not settled yet.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn message(id: u64, entry: &Entry) -> api::Call {
    let call = &entry.call;
    api::Call {
        id,
        spiffe_id: call.spiffe_id.clone(),
        pod: call.pod.clone().unwrap_or_default(),
        authority: call.authority.clone(),
        destination: call.destination.to_string(),
        protocol: api::Protocol::from(call.protocol).into(),
        seen: Some(entry.seen.into()),
    }
}

#[cfg(test)]
mod tests;
