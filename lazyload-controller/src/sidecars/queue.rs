//! Writes that wait for their turn: what somebody waits for first. Never two of one object at once, and what failed is not
//! tried again before there is a reason to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dependency_graph::Workload;
use serde_json::Value;

use crate::cluster::Fault;
use crate::mesh::sidecar::Made;
use crate::mesh::{Kind, Name};
use crate::resource::Said;

/// First wait after a write that failed, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// After so many failures in a row, some 13 seconds, people should know.
const LASTING: u32 = 7;
/// How long what was refused, or edited by a user, is left alone while nothing about it changes.
const LEAVE: Duration = Duration::from_secs(300);

/// What a write is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    /// A Sidecar or an EnvoyFilter.
    Object(Kind, Name),
    /// The conditions in a record.
    Record(Workload),
}

impl Key {
    pub(super) fn namespace(&self) -> &str {
        match self {
            Self::Object(_, name) => &name.namespace,
            Self::Record(workload) => workload.namespace(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(kind, name) => write!(f, "{kind} {name}"),
            Self::Record(workload) => write!(f, "conditions of {workload}"),
        }
    }
}

/// Something to write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Job {
    /// An object, in place of the one that is there.
    Apply { object: Value, made: Option<Made> },
    /// The end of this very object.
    Delete { uid: String },
    /// Conditions.
    Say { said: BTreeSet<Said>, make: bool },
}

/// What is more urgent comes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Urgency {
    /// Somebody may be waiting for it.
    Growth,
    /// Other Sidecars, and EnvoyFilters.
    Object,
    /// Conditions.
    Record,
}

/// A write that came to nothing.
#[derive(Debug)]
struct Held {
    job: Job,
    fault: Fault,
    until: Instant,
    failures: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Key, (Urgency, u64, Job)>,
    order: BTreeSet<(Urgency, u64, Key)>,
    busy: BTreeSet<Key>,
    held: BTreeMap<Key, Held>,
    next: u64,
}

impl Queue {
    /// Takes in a write in place of an earlier one about the same. Says whether it will be done.
    pub(super) fn put(&mut self, key: &Key, job: Job, urgency: Urgency, now: Instant) -> bool {
        // What is under way is looked at again when it is done.
        if self.busy.contains(key) || self.holds(key, &job, now) {
            return false;
        }
        let before = self.take_out(key);
        let (urgency, at) = match before {
            Some((before, at)) => (before.min(urgency), at),
            None => {
                self.next += 1;
                (urgency, self.next)
            }
        };
        self.order.insert((urgency, at, key.clone()));
        self.waiting.insert(key.clone(), (urgency, at, job));
        true
    }

    fn holds(&self, key: &Key, job: &Job, now: Instant) -> bool {
        self.held.get(key).is_some_and(|held| {
            let same = matches!(held.fault, Fault::Unavailable(_)) || held.job == *job;
            same && now < held.until
        })
    }

    fn take_out(&mut self, key: &Key) -> Option<(Urgency, u64)> {
        let (urgency, at, _) = self.waiting.remove(key)?;
        self.order.remove(&(urgency, at, key.clone()));
        Some((urgency, at))
    }

    /// Drops what waits in a namespace and is not wanted any more, and forgets its failures.
    pub(super) fn retain(&mut self, namespace: &str, wanted: &BTreeSet<Key>) {
        let stays = |key: &Key| key.namespace() != namespace || wanted.contains(key);
        self.held.retain(|key, _| stays(key));
        let gone: Vec<Key> = self
            .waiting
            .keys()
            .filter(|key| !stays(key))
            .cloned()
            .collect();
        for key in gone {
            self.take_out(&key);
        }
    }

    /// Whoever stops to lead writes nothing more.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.order.clear();
        self.held.clear();
    }

    /// What waits, is under way or was put off in a namespace.
    pub(super) fn keys(&self, namespace: &str) -> impl Iterator<Item = Key> {
        let all = self.waiting.keys().chain(self.held.keys());
        let of = all.filter(move |key| key.namespace() == namespace);
        of.cloned().collect::<BTreeSet<_>>().into_iter()
    }

    /// Whether something waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The most urgent one. It is under way until [`Queue::done`].
    pub(super) fn pop(&mut self) -> Option<(Key, Job)> {
        let (_, _, key) = self.order.pop_first()?;
        let (_, _, job) = self.waiting.remove(&key)?;
        self.busy.insert(key.clone());
        Some((key, job))
    }

    /// A write is over. Says when to look at it again if it failed.
    pub(super) fn done(
        &mut self,
        key: &Key,
        job: Job,
        result: Result<(), Fault>,
        now: Instant,
    ) -> Option<Instant> {
        self.busy.remove(key);
        let Err(fault) = result else {
            self.held.remove(key);
            return None;
        };
        let failures = self.held.get(key).map_or(0, |held| held.failures);
        let wait = match fault {
            Fault::Unavailable(_) | Fault::Stale(_) => {
                let doubled = RETRY.0.saturating_mul(2_u32.saturating_pow(failures));
                doubled.min(RETRY.1)
            }
            _ => LEAVE,
        };
        let held = Held {
            job,
            fault,
            until: now + wait,
            failures: failures.saturating_add(1),
        };
        let until = held.until;
        self.held.insert(key.clone(), held);
        Some(until)
    }

    /// Why writes of an object come to nothing, where that is more than a passing trouble.
    pub(super) fn fault(&self, key: &Key) -> Option<&Fault> {
        let held = self.held.get(key)?;
        let passing = matches!(held.fault, Fault::Unavailable(_) | Fault::Stale(_));
        (!passing || held.failures >= LASTING).then_some(&held.fault)
    }

    /// When something of a namespace that came to nothing may be tried again.
    pub(super) fn retry_at(&self, namespace: &str, now: Instant) -> Option<Instant> {
        let of = self
            .held
            .iter()
            .filter(|(key, _)| key.namespace() == namespace);
        of.map(|(_, held)| held.until).filter(|at| *at > now).min()
    }

    /// What a namespace waits for, for people.
    pub(super) fn about(&self, namespace: &str) -> Vec<String> {
        let of = |key: &&Key| key.namespace() == namespace;
        let waiting = self.waiting.keys().filter(of);
        let waiting = waiting.map(|key| format!("{key}: waits for its turn"));
        let busy = self.busy.iter().filter(of);
        let busy = busy.map(|key| format!("{key}: is being written"));
        let held = self.held.iter().filter(|(key, _)| of(key));
        let held = held.map(|(key, held)| format!("{key}: {}", held.fault));
        waiting.chain(busy).chain(held).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key::Object(Kind::Sidecar, Name::new("shop", name))
    }

    fn job(of: u32) -> Job {
        Job::Apply {
            object: json!(of),
            made: None,
        }
    }

    fn popped(queue: &mut Queue) -> Vec<(Key, Job)> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn growth_first_then_in_order_and_the_latest_of_each() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(&key("a"), job(1), Urgency::Object, now);
        queue.put(&key("b"), job(2), Urgency::Object, now);
        queue.put(&key("c"), job(3), Urgency::Growth, now);
        queue.put(&key("a"), job(4), Urgency::Object, now);
        let all = popped(&mut queue);
        assert_eq!(
            all,
            [(key("c"), job(3)), (key("a"), job(4)), (key("b"), job(2))]
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn never_two_of_one_object_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(&key("a"), job(1), Urgency::Object, now);
        assert!(queue.pop().is_some());
        assert!(!queue.put(&key("a"), job(2), Urgency::Object, now));
        assert_eq!(queue.done(&key("a"), job(1), Ok(()), now), None);
        assert!(queue.put(&key("a"), job(2), Urgency::Object, now));
    }

    #[test]
    fn what_failed_waits_longer_and_longer_whatever_it_is() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert!(queue.put(&key("a"), job(1), Urgency::Object, now));
            queue.pop();
            let down = Err(Fault::Unavailable("down".into()));
            let until = queue.done(&key("a"), job(1), down, now).unwrap();
            assert!(!queue.put(&key("a"), job(2), Urgency::Growth, now));
            waits.push(until - now);
            now = until;
        }
        assert_eq!(waits[..3], [RETRY.0, RETRY.0 * 2, RETRY.0 * 4]);
        assert_eq!(waits[9], RETRY.1);
    }

    #[test]
    fn what_a_user_edited_is_left_alone_until_something_changes() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(&key("a"), job(1), Urgency::Object, now);
        queue.pop();
        queue.done(&key("a"), job(1), Err(Fault::Edited("egress".into())), now);
        assert!(!queue.put(&key("a"), job(1), Urgency::Object, now));
        assert!(queue.put(&key("a"), job(2), Urgency::Object, now));
        assert!(queue.put(&key("a"), job(1), Urgency::Object, now + LEAVE));
    }

    #[test]
    fn what_has_changed_meanwhile_is_tried_again_soon_and_something_else_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(&key("a"), job(1), Urgency::Object, now);
        queue.pop();
        let stale = Err(Fault::Stale("modified".into()));
        let until = queue.done(&key("a"), job(1), stale, now);
        assert_eq!(until, Some(now + RETRY.0));
        assert!(!queue.put(&key("a"), job(1), Urgency::Object, now));
        assert!(queue.put(&key("a"), job(2), Urgency::Object, now));
        assert!(queue.put(&key("a"), job(1), Urgency::Object, now + RETRY.0));
    }

    #[test]
    fn only_what_goes_on_failing_is_said() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        for failures in 1..=LASTING {
            queue.put(&key("a"), job(1), Urgency::Object, now);
            queue.pop();
            let forbidden = Err(Fault::Unavailable("forbidden".into()));
            now = queue.done(&key("a"), job(1), forbidden, now).unwrap();
            let said = queue.fault(&key("a")).is_some();
            assert_eq!(said, failures == LASTING, "{failures}");
        }
        queue.put(&key("a"), job(1), Urgency::Object, now);
        queue.pop();
        queue.done(&key("a"), job(1), Ok(()), now);
        assert_eq!(queue.fault(&key("a")), None);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_not_written() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let elsewhere = Key::Object(Kind::Sidecar, Name::new("bank", "a"));
        for key in [&key("a"), &key("b"), &elsewhere] {
            queue.put(key, job(1), Urgency::Object, now);
        }
        queue.retain("shop", &BTreeSet::from([key("b")]));
        let left: Vec<Key> = popped(&mut queue).into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, [key("b"), elsewhere]);
    }
}
