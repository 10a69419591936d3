//! What is made of one call that fell back: whose it is, what it is for, and whether that may be learned.

use std::net::SocketAddr;

use dependency_graph::fallback::Policy;
use dependency_graph::{Dependency, Mode, Protocol, Timestamp, Workload, api, convert};

use super::metrics::Outcome;
use crate::caller::{Unknown, caller, namespace_of};
use crate::closure::Closures;
use crate::limits::Limits;
use crate::mesh::World;
use crate::observation::{Due, believed, due};
use crate::plan::{mode_of, policy, user};
use crate::resolve::by_call;
use crate::state::State;

/// The longest texts of a call, in bytes: an identity, a pod, an authority, an address with its port.
const LONGEST: [usize; 4] = [2048, 253, 4096, 64];

/// A call, checked as far as that needs no knowledge.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) id: u64,
    identity: String,
    pod: String,
    authority: String,
    destination: SocketAddr,
    protocol: Protocol,
    seen: Option<Timestamp>,
}

/// What is known when a call is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) world: &'a World,
    pub(super) state: &'a State,
    pub(super) limits: &'a Limits,
    /// The time of day.
    pub(super) now: Timestamp,
}

/// What is so of a call whatever comes of it: by this a global proxy knows whether it may carry it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct About {
    /// The service it is for, as far as its caller may see.
    pub(super) service: Option<Dependency>,
    /// What the caller's namespace allows; `None` when its identity is none of this mesh's.
    pub(super) policy: Option<Policy>,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The caller may be known in a moment.
    NotYet(Unknown),
    /// It is known, or to be learned: [`Due::Nothing`] or [`Due::Storing`].
    Learn(Box<Lesson>),
    /// Nothing comes of it.
    Denied(Denied),
}

/// What a workload calls.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lesson {
    pub(super) workload: Workload,
    pub(super) dependency: Dependency,
    /// What the caller's namespace allows.
    pub(super) policy: Option<Policy>,
    pub(super) seen: Option<Timestamp>,
    pub(super) due: Due,
}

/// Why nothing comes of a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Denied {
    pub(super) outcome: Outcome,
    /// For a person.
    pub(super) reason: String,
    pub(super) about: About,
    /// What the store must say in the record, for want of room.
    pub(super) say: Option<Box<Lesson>>,
}

impl Denied {
    pub(super) fn new(outcome: Outcome, reason: impl Into<String>) -> Self {
        Self {
            outcome,
            reason: reason.into(),
            about: About::default(),
            say: None,
        }
    }

    pub(super) fn about(self, about: About) -> Self {
        Self { about, ..self }
    }
}

impl About {
    /// The service is looked up for every identity of the mesh, known pod or not: what it calls may be carried even where
    /// nothing is learned of it.
    pub(super) fn of(world: &World, call: &Call) -> Self {
        let Some(namespace) = namespace_of(world, &call.identity) else {
            return Self::default();
        };
        Self {
            service: resolve(world, namespace, call),
            policy: Some(policy(world, namespace)),
        }
    }
}

impl TryFrom<api::Call> for Call {
    type Error = Denied;

    fn try_from(message: api::Call) -> Result<Self, Denied> {
        let malformed = |reason: String| Denied::new(Outcome::Malformed, reason);
        let protocol = convert::protocol(message.protocol)
            .map_err(|error| malformed(error.to_string()))?
            .unwrap_or(if message.authority.is_empty() {
                Protocol::Tcp
            } else {
                Protocol::Http
            });
        let texts = [
            ("spiffe_id", &message.spiffe_id),
            ("pod", &message.pod),
            ("authority", &message.authority),
            ("destination", &message.destination),
        ];
        for ((name, text), longest) in texts.into_iter().zip(LONGEST) {
            if text.len() > longest {
                let reason = format!("{name} is longer than {longest} bytes");
                return Err(malformed(reason));
            }
        }
        let destination = message.destination.parse().map_err(|_| {
            let given = &message.destination;
            malformed(format!(
                "destination {given:?} is no address with a port (hint: 10.96.0.7:8080)"
            ))
        })?;
        let seconds = message.seen.map(|seen| u64::try_from(seen.seconds));
        Ok(Self {
            id: message.id,
            identity: message.spiffe_id,
            pod: message.pod,
            authority: message.authority,
            destination,
            protocol,
            seen: seconds.and_then(Result::ok).map(Timestamp::from_seconds),
        })
    }
}

/// Judges a call. `admit`: whether its workload may tell of one more.
pub(super) fn judge(
    known: &Known<'_>,
    call: &Call,
    admit: impl FnOnce(&Workload) -> bool,
) -> Verdict {
    let about = || About::of(known.world, call);
    match caller(known.world, &call.identity, Some(&call.pod)) {
        Ok(workload) => match learn(known, call, workload, about(), admit) {
            Ok(lesson) => Verdict::Learn(Box::new(lesson)),
            Err(denied) => Verdict::Denied(denied),
        },
        Err(unknown @ Unknown::Pod { .. }) => Verdict::NotYet(unknown),
        Err(unknown) => {
            let denied = Denied::new(Outcome::UnknownCaller, unknown.to_string());
            Verdict::Denied(denied.about(about()))
        }
    }
}

fn learn(
    known: &Known<'_>,
    call: &Call,
    workload: Workload,
    about: About,
    admit: impl FnOnce(&Workload) -> bool,
) -> Result<Lesson, Denied> {
    // First, in every mode: what is none is answered as plain Istio does, and never carried.
    let Some(dependency) = about.service.clone() else {
        return Err(Denied::new(Outcome::UnknownName, "").about(about));
    };
    if !admit(&workload) {
        let reason = format!("{workload} calls too much that is new at once");
        return Err(Denied::new(Outcome::Throttled, reason).about(about));
    }
    let own = known.state.record(&workload).and_then(|record| record.mode);
    let mode = mode_of(known.world, &workload, own);
    // One of mode `on-demand` that has settled calls in both ways, and one that settles no more for a while still does.
    if !matches!(mode, Mode::Sidecar | Mode::OnDemand) {
        let reason = format!("{workload} is in mode {mode}");
        return Err(Denied::new(Outcome::Mode, reason).about(about));
    }
    let seen = believed(call.seen, known.now, known.limits);
    let due = due(known.state, known.limits, &workload, &dependency, seen);
    let lesson = Lesson {
        workload,
        dependency,
        policy: about.policy,
        seen,
        due,
    };
    if matches!(due, Due::Nothing | Due::Storing) {
        return Ok(lesson);
    }
    let full = Denied::new(Outcome::Capped, no_room(&lesson.workload)).about(about);
    let say = (due == Due::Saying).then(|| Box::new(lesson));
    Err(Denied { say, ..full })
}

/// Why a dependency is not kept.
pub(super) fn no_room(workload: &Workload) -> String {
    format!("{workload}, or its namespace, has as many dependencies as it may have")
}

/// What a call is for, as far as its caller may see.
fn resolve(world: &World, namespace: &str, call: &Call) -> Option<Dependency> {
    let found = by_call(
        world,
        namespace,
        &call.authority,
        call.destination,
        call.protocol,
    )?;
    let host = found.dependency.host.as_str();
    // What a user's Sidecar for the namespace leaves out is unknown to its sidecars with plain Istio as well.
    if let user::User::Merged(merged) = user::for_all(world, namespace) {
        let mut closures = Closures::new(world, namespace);
        let mut named = closures.of(host).iter().filter(|named| named.host == host);
        if !named.any(|named| merged.allows(namespace, named)) {
            return None;
        }
    }
    Some(found.dependency)
}
