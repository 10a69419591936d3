//! What of a record is forgotten, and on what evidence.
//!
//! A dependency that a sidecar has is never asked for again, so that nobody asked proves nothing. What proves something
//! is telemetry: Prometheus answered for a whole time without a gap, the workload had series in all of that time, and
//! none of them says that the dependency was called. Everything else is no evidence, and on no evidence nothing expires.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use dependency_graph::{Host, Learned, Pin, Protocol, Record, Timestamp};

/// The annotation on a namespace that says after which time its workloads forget; a record's `spec.expireAfter` wins.
pub const ANNOTATION: &str = "lazymesh.dev/expire-after";
/// How many forgotten dependencies a record remembers; the oldest go first.
const MOST_FORGOTTEN: usize = 1000;
/// How long what was forgotten is remembered at least. Reports that are on their way take seconds.
const SHORTEST_MEMORY: Duration = Duration::from_secs(3600);

/// What a workload calls, as telemetry tells it: the port is not in it.
pub type Called = (Host, Protocol);

/// The time without a gap for which Prometheus told what a workload calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// From when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// Why nothing of a workload expires.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lack {
    /// The controller has no address of a Prometheus.
    NoAddress,
    /// Prometheus does not answer.
    QueryFailed,
    /// Prometheus has no series of the workload.
    NoSeries,
    /// Several workloads share a name, which Istio's metrics do not tell apart.
    AmbiguousName,
    /// It is not said after which time to forget: what is said is no duration.
    InvalidExpireAfter,
}

impl Lack {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::NoAddress,
        Self::QueryFailed,
        Self::NoSeries,
        Self::AmbiguousName,
        Self::InvalidExpireAfter,
    ];

    /// As the condition says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAddress => "NoAddress",
            Self::QueryFailed => "QueryFailed",
            Self::NoSeries => "NoSeries",
            Self::AmbiguousName => "AmbiguousName",
            Self::InvalidExpireAfter => "InvalidExpireAfter",
        }
    }

    /// The reason of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lack| lack.as_str() == name)
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoAddress => {
                "nothing expires: the controller has no address of a Prometheus (hint: --prometheus)"
            }
            Self::QueryFailed => "nothing expires: Prometheus does not answer (hint: see the log)",
            Self::NoSeries => {
                "nothing expires: Prometheus has no istio_requests_total or istio_tcp_connections_opened_total of this \
                 workload with reporter=\"source\" (hint: are its sidecars scraped, and its pods running?)"
            }
            Self::AmbiguousName => {
                "nothing expires: several workloads of this namespace have this name, and Istio's metrics do not tell \
                 their kind (hint: delete the record of the one that is gone)"
            }
            Self::InvalidExpireAfter => {
                "nothing expires: the time after which to forget is no duration (hint: such as 720h)"
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was forgotten and when, so that what is older does not bring it back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forgotten(BTreeMap<Called, Timestamp>);

impl Forgotten {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a call is older than its being forgotten. A call at a time that nobody knows is: a proxy says so of what
    /// it has held for long.
    #[must_use]
    pub fn blocks(&self, host: &Host, protocol: Protocol, seen: Option<Timestamp>) -> bool {
        let at = self.0.get(&(host.clone(), protocol));
        at.is_some_and(|at| seen.is_none_or(|seen| seen <= *at))
    }

    /// What of these calls is no older than its being forgotten.
    #[must_use]
    pub fn passing(&self, calls: &Learned) -> Learned {
        let mut passing = calls.clone();
        if !self.0.is_empty() {
            passing
                .retain(|host, protocol, edge| !self.blocks(host, protocol, Some(edge.last_seen)));
        }
        passing
    }

    /// Takes in that something was forgotten.
    pub fn add(&mut self, called: Called, at: Timestamp) {
        let known = self.0.entry(called).or_insert(at);
        *known = (*known).max(at);
    }

    /// Every one.
    pub fn iter(&self) -> impl Iterator<Item = (&Host, Protocol, Timestamp)> {
        self.0
            .iter()
            .map(|((host, protocol), at)| (host, *protocol, *at))
    }

    /// Drops what was learned again.
    pub fn forget_learned(&mut self, learned: &Learned) {
        self.0
            .retain(|(host, protocol), _| learned.get(host, *protocol).is_none());
    }

    /// Drops what was learned again, and what was forgotten longer ago than `memory`; and the oldest if there are many.
    pub fn tidy(&mut self, learned: &Learned, now: Timestamp, memory: Duration) {
        let memory = memory.max(SHORTEST_MEMORY);
        self.forget_learned(learned);
        self.0.retain(|_, at| now.since(*at) <= memory);
        let surplus = self.0.len().saturating_sub(MOST_FORGOTTEN);
        if surplus > 0 {
            let mut by_age: Vec<(Timestamp, Called)> =
                self.0.iter().map(|(c, at)| (*at, c.clone())).collect();
            by_age.sort();
            for (_, called) in by_age.into_iter().take(surplus) {
                self.0.remove(&called);
            }
        }
    }
}

/// What a record says of forgetting, beside what it says of the graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keeping {
    /// `spec.expireAfter`: absent if it is not said, else the duration, or the text if it is none.
    pub expire_after: Option<Result<Duration, String>>,
    /// The evidence there was when it was last written.
    pub evidence: Option<Evidence>,
    /// Why there is none, as the condition says it.
    pub lack: Option<Lack>,
    /// What was forgotten.
    pub forgotten: Forgotten,
}

/// Reads a time after which to forget. Nothing is forgotten after no time: `0s` says so.
///
/// # Errors
/// The text, cut short, when it is no duration.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| text.chars().take(32).collect())
}

/// After which time a workload forgets: what its record says, else its namespace's annotation, else the default.
///
/// # Errors
/// When what is said is no duration.
pub fn after(
    keeping: &Keeping,
    annotation: Option<&str>,
    default: Option<Duration>,
) -> Result<Option<Duration>, Lack> {
    let said = keeping
        .expire_after
        .clone()
        .or_else(|| annotation.map(parse))
        .transpose()
        .map_err(|_| Lack::InvalidExpireAfter)?;
    Ok(said.or(default).filter(|after| !after.is_zero()))
}

/// How much of the time looked at a workload had series in.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Coverage {
    /// None of it.
    None,
    /// A part.
    Part,
    /// All of it.
    Whole,
}

/// What Prometheus told of one workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Look {
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub at: Timestamp,
    /// What it called in that time.
    pub called: BTreeSet<Called>,
    /// Whether that is all it called.
    pub coverage: Coverage,
    /// The protocols whose metric there is in the namespace at all: one may be switched off.
    pub protocols: BTreeSet<Protocol>,
}

/// How often something is written that is no news.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How old a written last call must be before a later one is written over it.
    pub refresh_after: Duration,
    /// For how long queries may fail before a condition says so.
    pub patience: Duration,
}

/// A dependency to be forgotten, if nobody called it since.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expired {
    /// Which.
    pub called: Called,
    /// Its last call as it was judged.
    pub last_seen: Timestamp,
}

/// What is to become of a record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// When it was judged.
    pub at: Timestamp,
    /// What was called in the time looked at: its last call is now.
    pub called: BTreeSet<Called>,
    /// What is to be forgotten.
    pub expired: Vec<Expired>,
    /// The evidence there is now.
    pub evidence: Option<Evidence>,
    /// Why there is none.
    pub lack: Option<Lack>,
    /// What the record said when it was judged; if it says otherwise now, nothing is forgotten.
    pub expire_after: Option<Result<Duration, String>>,
    /// How long what is forgotten is remembered.
    pub memory: Duration,
    /// Whether any of it is worth a write.
    pub worth_writing: bool,
}

/// Judges a record. `latest`: the evidence as of the last look, which may be later than what was written. `after`: after
/// which time it forgets. `look`: what Prometheus told, or why it told nothing.
#[must_use]
pub fn judge(
    record: &Record,
    keeping: &Keeping,
    latest: Option<Evidence>,
    after: Option<Duration>,
    look: Result<&Look, Lack>,
    now: Timestamp,
    settings: &Settings,
) -> Verdict {
    let said = Verdict {
        at: now,
        expire_after: keeping.expire_after.clone(),
        memory: after.unwrap_or_default(),
        ..Verdict::default()
    };
    // An invalid duration comes as a lack, with no time at all.
    match (after, look) {
        (None, Err(lack)) | (Some(_), Err(lack)) => {
            without_evidence(keeping, latest, lack, settings, said)
        }
        (None, Ok(_)) => Verdict {
            worth_writing: keeping.evidence.is_some() || keeping.lack.is_some(),
            ..said
        },
        (Some(after), Ok(look)) => match evidence(latest, look) {
            None => Verdict {
                lack: Some(Lack::NoSeries),
                worth_writing: keeping.lack != Some(Lack::NoSeries) || keeping.evidence.is_some(),
                ..said
            },
            Some(evidence) => {
                let verdict = Verdict {
                    evidence: Some(evidence),
                    ..said
                };
                with_evidence(record, keeping, after, look, settings, verdict)
            }
        },
    }
}

/// What was found before stays: the next window covers the gap, or is too short and begins anew.
fn without_evidence(
    keeping: &Keeping,
    latest: Option<Evidence>,
    lack: Lack,
    settings: &Settings,
    said: Verdict,
) -> Verdict {
    let recently = latest.is_some_and(|e| said.at.since(e.until) <= settings.patience);
    let patient = lack == Lack::QueryFailed && recently;
    Verdict {
        evidence: latest,
        lack: if patient { keeping.lack } else { Some(lack) },
        worth_writing: !patient && keeping.lack != Some(lack),
        ..said
    }
}

/// The evidence after a look: what there was goes on if the look begins where it ended.
fn evidence(latest: Option<Evidence>, look: &Look) -> Option<Evidence> {
    let since = match look.coverage {
        Coverage::None => return None,
        Coverage::Part => look.at,
        Coverage::Whole => latest
            .filter(|latest| latest.until >= look.from)
            .map_or(look.from, |latest| latest.since.min(look.from)),
    };
    Some(Evidence {
        since,
        until: look.at,
    })
}

fn with_evidence(
    record: &Record,
    keeping: &Keeping,
    after: Duration,
    look: &Look,
    settings: &Settings,
    verdict: Verdict,
) -> Verdict {
    let Some(evidence) = verdict.evidence else {
        return verdict;
    };
    // Often enough for what is forgotten soon. A last call may be that much later than it is written.
    let refresh_after = settings.refresh_after.min(after / 4);
    let longest = after.saturating_add(refresh_after);
    let (mut called, mut expired, mut stale) = (BTreeSet::new(), Vec::new(), false);
    for (host, protocol, edge) in record.learned.edges() {
        let edge_of = (host.clone(), protocol);
        if was_called(look, host, protocol) {
            stale |= look.at.since(edge.last_seen) >= refresh_after;
            called.insert(edge_of);
        } else if look.protocols.contains(&protocol)
            && look.at.since(edge.last_seen.max(evidence.since)) > longest
            && !is_pinned(&record.pinned, host)
        {
            expired.push(Expired {
                called: edge_of,
                last_seen: edge.last_seen,
            });
        }
    }
    let told = keeping.evidence.is_some_and(|written| {
        written.since == evidence.since && look.at.since(written.until) < refresh_after
    });
    Verdict {
        worth_writing: stale || !expired.is_empty() || !told || keeping.lack.is_some(),
        called,
        expired,
        ..verdict
    }
}

/// Whether a host was called; one of a wildcard is by any name below it.
fn was_called(look: &Look, host: &Host, protocol: Protocol) -> bool {
    let below = |suffix: &str| {
        let mut called = look.called.iter();
        called.any(|(called, over)| *over == protocol && called.as_str().ends_with(suffix))
    };
    look.called.contains(&(host.clone(), protocol))
        || host.as_str().strip_prefix('*').is_some_and(below)
}

/// Whether someone wants the host known, whatever its port.
fn is_pinned(pinned: &BTreeSet<Pin>, host: &Host) -> bool {
    pinned.iter().any(|pin| {
        let below = pin.host.as_str().strip_prefix('*');
        pin.host == *host || below.is_some_and(|suffix| host.as_str().ends_with(suffix))
    })
}

/// Does to a record, as it is now, what was judged; says how many dependencies were forgotten. The record may have
/// changed since it was judged: what was called since stays, and so does everything if someone changed the time.
pub fn apply(record: &mut Record, keeping: &mut Keeping, verdict: &Verdict) -> usize {
    let before = record.learned.len();
    for (host, protocol) in &verdict.called {
        if let Some(edge) = record.learned.get(host, *protocol).cloned() {
            let last_seen = edge.last_seen.max(verdict.at);
            let edge = dependency_graph::Edge { last_seen, ..edge };
            record.learned.add(host.clone(), *protocol, edge);
        }
    }
    if keeping.expire_after == verdict.expire_after {
        for expired in &verdict.expired {
            let (host, protocol) = &expired.called;
            let edge = record.learned.get(host, *protocol);
            let called_since = edge.is_none_or(|edge| edge.last_seen > expired.last_seen);
            if !called_since && !is_pinned(&record.pinned, host) {
                record.learned.remove(host, *protocol);
                keeping.forgotten.add(expired.called.clone(), verdict.at);
            }
        }
    }
    keeping
        .forgotten
        .tidy(&record.learned, verdict.at, verdict.memory);
    keeping.evidence = verdict.evidence;
    keeping.lack = verdict.lack;
    before - record.learned.len()
}

/// Since when Prometheus is to be asked: since the evidence there is ends, at least for as long as it is asked each time,
/// and no longer than it may be asked at once.
#[must_use]
pub fn window(
    evidence: impl Iterator<Item = Option<Evidence>>,
    now: Timestamp,
    shortest: Duration,
    longest: Duration,
) -> Duration {
    let gaps = evidence.flatten().map(|e| now.since(e.until));
    // What is further back than can be asked for begins anew, and needs no long look.
    let gap = gaps.filter(|gap| *gap <= longest).max();
    gap.unwrap_or_default().max(shortest)
}
