//! The calls of one stream: what is still to be said of each. Values in, answers out; [`super`] moves them.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use dependency_graph::api::call_answer::State as Said;
use dependency_graph::api::{self, CallAnswer, CallsResponse, FallbackPolicy};
use dependency_graph::fallback::Policy;
use dependency_graph::{Dependency, Learned, Source, Timestamp, Workload};
use tokio::time::Instant;

use super::judge::{About, Call, Denied, Known, Lesson, Verdict, judge, no_room};
use super::metrics::{Metrics, Outcome};
use super::rate::Rates;
use crate::given::{Given, Standing};
use crate::observation::Due;
use crate::state::State;

/// Calls that a message may have, and answers.
pub(super) const BATCH: usize = 1000;
/// Calls of which more is to be said, before no more are read. One message may go beyond it.
const OPEN: usize = 4096;
/// Callers that are waited for, of these.
const WAITING: usize = 1000;
/// How long a caller is waited for whose pod is not known: a watch may lag behind the pod's first call.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a call is followed that is stored and still not written.
const FOLLOWED: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    metrics: Metrics,
    /// Calls whose caller is not known yet.
    waiting: BTreeMap<u64, Waiting>,
    open: BTreeMap<u64, Open>,
    /// What is to be said next. A later answer takes the place of an earlier one.
    unsaid: BTreeMap<u64, CallAnswer>,
    /// Tells calls from later ones of the same id.
    next: u64,
    measured: i64,
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    until: Instant,
}

#[derive(Debug)]
struct Open {
    entry: u64,
    workload: Workload,
    dependency: Dependency,
    policy: Option<Policy>,
    kept: Kept,
    said: Option<(Said, bool)>,
    since: Instant,
}

/// What has become of it in the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kept {
    NotYet,
    Stored,
    Never,
}

/// A call that waits for the store: its id, and which of that id it is.
pub(super) type Entry = (u64, u64);

/// What is to be stored, and the calls that wait for it.
pub(super) type Work = BTreeMap<Workload, (Learned, Vec<Entry>)>;

/// What is needed to judge calls, and the clock.
pub(super) struct Court<'a> {
    pub(super) known: Known<'a>,
    pub(super) given: &'a Given,
    pub(super) rates: &'a mut Rates,
    pub(super) now: Instant,
}

impl Book {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            waiting: BTreeMap::new(),
            open: BTreeMap::new(),
            unsaid: BTreeMap::new(),
            next: 0,
            measured: 0,
        }
    }

    /// Takes in the calls of a message; says what is to be stored.
    pub(super) fn take(&mut self, calls: Vec<api::Call>, court: &mut Court<'_>) -> Work {
        let mut work = Work::new();
        for (index, message) in calls.into_iter().enumerate() {
            let id = message.id;
            // Sent again: it is judged anew.
            self.waiting.remove(&id);
            self.open.remove(&id);
            let call = if index < BATCH {
                Call::try_from(message)
            } else {
                let reason = format!("a message may have {BATCH} calls");
                Err(Denied::new(Outcome::BatchTooLarge, reason))
            };
            match call {
                Ok(call) => {
                    let until = court.now + PATIENCE;
                    self.judge(call, until, court, &mut work);
                }
                Err(denied) => self.deny(id, &denied),
            }
        }
        self.measure();
        work
    }

    /// Judges those again whose caller was not known: there is news of the mesh, or their time is over.
    pub(super) fn retry(&mut self, court: &mut Court<'_>) -> Work {
        let mut work = Work::new();
        for (_, waiting) in mem::take(&mut self.waiting) {
            self.judge(waiting.call, waiting.until, court, &mut work);
        }
        self.measure();
        work
    }

    /// Nothing comes of any of these, because of what this controller lacks.
    pub(super) fn refuse(&mut self, calls: &[api::Call], reason: &str) {
        for call in calls {
            self.deny(call.id, &Denied::new(Outcome::NoMesh, reason));
        }
    }

    fn judge(&mut self, call: Call, until: Instant, court: &mut Court<'_>, work: &mut Work) {
        let Court {
            known, rates, now, ..
        } = court;
        match judge(known, &call, |workload| rates.admit(workload, *now)) {
            Verdict::NotYet(_) if *now < until && self.waiting.len() < WAITING => {
                self.waiting.insert(call.id, Waiting { call, until });
            }
            Verdict::NotYet(why) => {
                let denied = Denied::new(Outcome::UnknownCaller, why.to_string());
                self.deny(call.id, &denied.about(About::of(known.world, &call)));
            }
            Verdict::Denied(denied) => {
                if let Some(lesson) = &denied.say {
                    learn(work, lesson, known.now);
                }
                self.deny(call.id, &denied);
            }
            Verdict::Learn(lesson) => {
                let entry = self.next;
                self.next += 1;
                let kept = if lesson.due == Due::Nothing {
                    Kept::Stored
                } else {
                    learn(work, &lesson, known.now).push((call.id, entry));
                    Kept::NotYet
                };
                let open = Open {
                    entry,
                    workload: lesson.workload,
                    dependency: lesson.dependency,
                    policy: lesson.policy,
                    kept,
                    said: None,
                    since: *now,
                };
                self.open.insert(call.id, open);
                self.say(call.id, court.given, court.now);
            }
        }
    }

    fn deny(&mut self, id: u64, denied: &Denied) {
        self.metrics.called(denied.outcome);
        let answer = CallAnswer {
            id,
            state: denied.outcome.state().into(),
            done: true,
            reason: match denied.outcome {
                Outcome::UnknownName => String::new(),
                _ => denied.reason.clone(),
            },
            resolved: denied.about.service.as_ref().map(Into::into),
            policy: told(denied.about.policy).into(),
            ..CallAnswer::default()
        };
        self.unsaid.insert(id, answer);
    }

    /// Takes in that calls are stored for good, or never will be.
    pub(super) fn stored(&mut self, calls: &[Entry], state: &State, given: &Given, now: Instant) {
        for (id, entry) in calls {
            let Some(open) = self.open.get_mut(id).filter(|open| open.entry == *entry) else {
                continue;
            };
            let record = state.record(&open.workload);
            let kept = record.is_some_and(|record| record.learned.contains(&open.dependency));
            open.kept = if kept { Kept::Stored } else { Kept::Never };
            self.say(*id, given, now);
        }
        self.measure();
    }

    /// Says what is new of every call: Sidecars have changed, or time has passed.
    pub(super) fn look(&mut self, given: &Given, now: Instant) {
        let ids: Vec<u64> = self.open.keys().copied().collect();
        for id in ids {
            self.say(id, given, now);
        }
        self.measure();
    }

    /// Says what holds of a call now, if that is news; lets go of it when there will be no more.
    fn say(&mut self, id: u64, given: &Given, now: Instant) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let answer = open.answer(id, given, now);
        let (state, done) = (answer.state(), answer.done);
        let news = open.said != Some((state, done));
        if news {
            if open.said.is_none() {
                self.metrics.called(open.outcome(state));
            } else if state == Said::Written && open.said != Some((state, !done)) {
                self.metrics.written_after(now - open.since);
            }
            open.said = Some((state, done));
            self.unsaid.insert(id, answer);
        }
        let over = open.kept == Kept::Never || state == Said::Written || now >= open.followed();
        if done && over {
            self.open.remove(&id);
        }
    }

    /// What is to be said next, if anything is.
    pub(super) fn answers(&mut self) -> Option<CallsResponse> {
        if self.unsaid.is_empty() {
            return None;
        }
        let mut answers = Vec::with_capacity(self.unsaid.len().min(BATCH));
        while answers.len() < BATCH
            && let Some((_, answer)) = self.unsaid.pop_first()
        {
            answers.push(answer);
        }
        Some(CallsResponse { answers })
    }

    /// Whether no more calls are to be read for now.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() + self.waiting.len() >= OPEN
    }

    /// Whether a caller is waited for.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether there is a call that must be sent again if the stream ends now.
    pub(super) fn owes(&self) -> bool {
        let unsure = |open: &Open| open.kept == Kept::NotYet;
        self.waits() || self.open.values().any(unsure)
    }

    /// When time alone next changes something.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let waiting = self.waiting.values().map(|waiting| waiting.until);
        let stored = self
            .open
            .values()
            .filter(|open| open.kept != Kept::NotYet)
            .map(Open::followed);
        waiting.chain(stored).min()
    }

    fn measure(&mut self) {
        let open = self.open.len() + self.waiting.len();
        let open = i64::try_from(open).unwrap_or(i64::MAX);
        self.metrics.open.add(open - self.measured);
        self.measured = open;
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.metrics.open.sub(self.measured);
    }
}

impl Open {
    fn followed(&self) -> Instant {
        self.since + FOLLOWED
    }

    fn outcome(&self, state: Said) -> Outcome {
        match state {
            Said::Written => Outcome::Written,
            Said::Refused if self.kept == Kept::Never => Outcome::Capped,
            Said::Refused => Outcome::NoSidecar,
            _ => Outcome::Pending,
        }
    }

    fn answer(&self, id: u64, given: &Given, now: Instant) -> CallAnswer {
        let done = self.kept != Kept::NotYet;
        let answer = CallAnswer {
            id,
            done,
            resolved: Some((&self.dependency).into()),
            policy: told(self.policy).into(),
            ..CallAnswer::default()
        };
        let refused = |reason| CallAnswer {
            state: Said::Refused.into(),
            reason,
            ..answer.clone()
        };
        if self.kept == Kept::Never {
            return refused(no_room(&self.workload));
        }
        match given.standing(&self.workload, self.dependency.host.as_str()) {
            Standing::None(reason) => refused(reason),
            Standing::Lacking => CallAnswer {
                state: Said::Pending.into(),
                ..answer
            },
            Standing::Given(since) => {
                let age = now.into_std().saturating_duration_since(since);
                CallAnswer {
                    state: Said::Written.into(),
                    written_ms_ago: u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
                    ..answer
                }
            }
        }
    }
}

/// A policy as answers have it: the default is said, since nothing said means that it is not known.
fn told(policy: Option<Policy>) -> FallbackPolicy {
    match policy {
        None => FallbackPolicy::Unspecified,
        Some(Policy::PreferRedirect) => FallbackPolicy::PreferRedirect,
        Some(Policy::RedirectOnly) => FallbackPolicy::RedirectOnly,
        Some(Policy::RelayOnly) => FallbackPolicy::RelayOnly,
    }
}

/// Adds to what is to be stored of a workload; gives the calls that wait for it.
fn learn<'a>(work: &'a mut Work, lesson: &Lesson, now: Timestamp) -> &'a mut Vec<Entry> {
    let (learned, waiting) = work.entry(lesson.workload.clone()).or_default();
    let seen = lesson.seen.unwrap_or(now);
    learned.see(&lesson.dependency, seen, Source::Fallback);
    waiting
}
