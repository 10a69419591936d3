//! What is done with a request: redirect it, relay it, refuse it, or wait for more to be known.
//!
//! Pure. Asked again after each wait, it comes to an end within a few. It never relays unasked: a namespace of which
//! nothing is known is refused, and so is what is no service as far as the controller says.

mod why;

use std::time::Duration;

use dependency_graph::fallback::Policy;

use crate::incoming::{Incoming, Path};
use crate::refuse::Refusal;
use crate::shape::{BodySeen, Kind, Shape};
use crate::tries;
pub use why::Why;

/// How long a call waits for a controller that is away or silent.
pub(crate) const CONTROLLER_AWAY: Duration = Duration::from_millis(200);

/// By when a caller's Envoy has taken a Sidecar that was written, if it is well.
const TAKEN: Duration = Duration::from_millis(500);

/// What the controller said of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Nothing yet.
    Unheard,
    /// It knows the call; the Sidecar is being written.
    Pending,
    /// The Sidecar is written.
    Written {
        /// Since when.
        age: Duration,
    },
    /// The host is in no registry.
    UnknownName,
    /// It does not know the caller's pod, or not as this one.
    UnknownCaller {
        /// Whether the call is for a service of the mesh.
        service: bool,
    },
    /// The Sidecar will not have it: mode off, capped, a Sidecar of the user's.
    Refused {
        /// Whether the call is for a service of the mesh.
        service: bool,
    },
}

/// Whether what is called may be carried at all. It may be if it is a service of the mesh, and nothing else is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carriage {
    /// It may.
    Carried,
    /// It is not known yet; wait, for so long at the most.
    Awaited(Duration),
    /// It may not, because of this.
    Barred(&'static str),
}

impl Carriage {
    /// `serves`: whether services have addresses like the one called, where the controller does not say more.
    #[must_use]
    pub fn of(answer: Answer, serves: bool, waited: Duration) -> Self {
        match answer {
            Answer::Pending
            | Answer::Written { .. }
            | Answer::UnknownCaller { service: true }
            | Answer::Refused { service: true } => Self::Carried,
            Answer::UnknownName
            | Answer::UnknownCaller { service: false }
            | Answer::Refused { service: false } => {
                Self::Barred("the lazyload controller knows no such service")
            }
            Answer::Unheard => match left(CONTROLLER_AWAY, waited) {
                Some(left) => Self::Awaited(left),
                None if serves => Self::Carried,
                None => Self::Barred(
                    "the lazyload controller is silent, and services have no such address",
                ),
            },
        }
    }
}

/// What a decision is made of.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What arrived.
    pub incoming: &'a Incoming,
    /// Its kind.
    pub shape: &'a Shape,
    /// What is known of its body.
    pub body: BodySeen,
    /// What the caller's namespace allows, if that is known.
    pub policy: Option<Policy>,
    /// What the controller said.
    pub answer: Answer,
    /// Whether services have addresses like the one called; always, without a controller to say so.
    pub serves: bool,
    /// Since the request came.
    pub waited: Duration,
    /// Whether the controller can be reached.
    pub controller_up: bool,
    /// Whether the target can be said in a `Location`.
    pub sayable: bool,
}

/// The settings of decisions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The most redirects of one request.
    pub tries: u8,
    /// The longest body, in bytes, that a redirected request may have.
    pub body: usize,
    /// The longest a body is waited for that may be relayed instead; one that may not, as long as the Sidecar.
    pub body_wait: Duration,
    /// The longest a request waits for its Sidecar.
    pub hold: Duration,
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Read the body, for so long at the most.
    ReadBody(Duration),
    /// Wait for the controller to say more, for so long at the most.
    AwaitAnswer(Duration),
    /// Wait.
    Pause(Duration),
    /// Redirect to the same URL, saying that it is redirect number `tries`.
    Redirect {
        /// From 1.
        tries: u8,
    },
    /// Redirect, marked as a name that plain Istio is to route.
    Plain,
    /// Carry it.
    Relay(Why),
    /// Do not carry it.
    Refuse(Refusal),
}

/// What to do now.
#[must_use]
pub fn step(now: &Situation<'_>, settings: &Settings) -> Step {
    match (now.policy, now.answer) {
        (None, _) => unknown_policy(now),
        // What is no service may still be answered as plain Istio does.
        (Some(Policy::RelayOnly), answer) if answer != Answer::UnknownName => {
            carry(now, Why::RelayOnly)
        }
        (Some(Policy::RedirectOnly), answer) if answer != Answer::UnknownName => {
            redirect(now, settings).unwrap_or_else(|why| {
                Step::Refuse(Refusal::RedirectOnly {
                    namespace: namespace(now),
                    why: why.text(),
                })
            })
        }
        (Some(_), _) => redirect(now, settings).unwrap_or_else(|why| carry(now, why)),
    }
}

/// The answer may say what the namespace allows, where the watch has not.
fn unknown_policy(now: &Situation<'_>) -> Step {
    match left(CONTROLLER_AWAY, now.waited) {
        Some(left) if now.controller_up && now.answer == Answer::Unheard => Step::AwaitAnswer(left),
        _ => Step::Refuse(Refusal::PolicyUnknown(namespace(now))),
    }
}

/// Carries it, if it is for a service.
fn carry(now: &Situation<'_>, why: Why) -> Step {
    match Carriage::of(now.answer, now.serves, now.waited) {
        Carriage::Carried => Step::Relay(why),
        Carriage::Awaited(at_most) => Step::AwaitAnswer(at_most),
        Carriage::Barred(why) => Step::Refuse(Refusal::NoService {
            to: now.incoming.original,
            why,
        }),
    }
}

fn namespace(now: &Situation<'_>) -> String {
    now.incoming.caller.spiffe.namespace().to_owned()
}

/// Whether the connection of a call that was relayed is in the way of the next one, which would go direct.
///
/// By a fallback route each request is routed anew, so nothing sticks there.
#[must_use]
pub fn sticks(path: Path, answer: Answer) -> bool {
    path == Path::Direct && matches!(answer, Answer::Written { age } if age >= TAKEN)
}

/// The next step towards a redirect, or why there is none.
fn redirect(now: &Situation<'_>, settings: &Settings) -> Result<Step, Why> {
    never(now)?;
    let next = match now.answer {
        Answer::Refused { .. } => return Err(Why::Refused),
        Answer::UnknownCaller { .. } => return Err(Why::UnknownCaller),
        Answer::UnknownName => Ok(Step::Plain),
        Answer::Unheard | Answer::Pending => await_answer(now, settings),
        Answer::Written { age } => written(now, age, settings),
    };
    if now.incoming.tries >= settings.tries.min(tries::MOST) {
        return Err(Why::UsedUp);
    }
    match now.body {
        BodySeen::TooLarge => Err(Why::TooLarge),
        BodySeen::Complete { trailers: true, .. } => Err(Why::Trailers),
        BodySeen::Complete { bytes, .. } | BodySeen::Open { bytes } if bytes > settings.body => {
            Err(Why::TooLarge)
        }
        BodySeen::Open { .. } => left(body_wait(now, settings), now.waited)
            .map(Step::ReadBody)
            .ok_or(Why::SlowBody),
        BodySeen::Empty | BodySeen::Complete { .. } => next,
    }
}

/// A body that cannot be relayed as it flows is worth a longer wait.
fn body_wait(now: &Situation<'_>, settings: &Settings) -> Duration {
    match now.policy {
        Some(Policy::RedirectOnly) => settings.hold.max(settings.body_wait),
        _ => settings.body_wait,
    }
}

fn await_answer(now: &Situation<'_>, settings: &Settings) -> Result<Step, Why> {
    let (hold, why) = if now.controller_up {
        (settings.hold, Why::NotWritten)
    } else {
        (settings.hold.min(CONTROLLER_AWAY), Why::ControllerAway)
    };
    left(hold, now.waited).map(Step::AwaitAnswer).ok_or(why)
}

fn written(now: &Situation<'_>, age: Duration, settings: &Settings) -> Result<Step, Why> {
    match tries::pause(now.incoming.tries, age, now.waited, settings.tries) {
        None => Err(Why::UsedUp),
        Some(Duration::ZERO) => Ok(Step::Redirect {
            tries: now.incoming.tries + 1,
        }),
        Some(pause) => Ok(Step::Pause(pause)),
    }
}

/// What no waiting mends.
fn never(now: &Situation<'_>) -> Result<(), Why> {
    match now.shape.kind {
        _ if now.incoming.path == Path::Direct => Err(Why::Direct),
        Kind::Upgrade | Kind::Connect | Kind::ExtendedConnect => Err(Why::Upgrade),
        Kind::Plain | Kind::Grpc if now.shape.expects_100 => Err(Why::Expects),
        Kind::Plain | Kind::Grpc if !now.sayable => Err(Why::Unsayable),
        Kind::Plain | Kind::Grpc => Ok(()),
    }
}

fn left(limit: Duration, waited: Duration) -> Option<Duration> {
    limit
        .checked_sub(waited)
        .filter(|left| *left > Duration::ZERO)
}

#[cfg(test)]
mod tests;
