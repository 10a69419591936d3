//! What is done with a request: redirect it, relay it, refuse it, or wait for more to be known.
//!
//! Pure. Asked again after each wait, it comes to an end within a few. It never relays unasked: a namespace of which
//! nothing is known is refused.

mod why;

use std::time::Duration;

use dependency_graph::fallback::Policy;

use crate::incoming::{Incoming, Path};
use crate::refuse::Refusal;
use crate::shape::{BodySeen, Kind, Shape};
use crate::tries;
pub use why::Why;

/// How long a request waits for a controller that is away.
const CONTROLLER_AWAY: Duration = Duration::from_millis(200);

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
    UnknownCaller,
    /// The Sidecar will not have it: mode off, capped, a Sidecar of the user's.
    Refused,
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
    /// The longest a body is waited for.
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
    match now.policy {
        None => Step::Refuse(Refusal::PolicyUnknown(namespace(now))),
        Some(Policy::RelayOnly) => Step::Relay(Why::RelayOnly),
        Some(Policy::PreferRedirect) => redirect(now, settings).unwrap_or_else(Step::Relay),
        Some(Policy::RedirectOnly) => redirect(now, settings).unwrap_or_else(|why| {
            Step::Refuse(Refusal::RedirectOnly {
                namespace: namespace(now),
                why: why.text(),
            })
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
    match now.answer {
        Answer::Refused => return Err(Why::Refused),
        Answer::UnknownCaller => return Err(Why::UnknownCaller),
        _ => {}
    }
    if now.incoming.tries >= settings.tries.min(tries::MOST) {
        return Err(Why::UsedUp);
    }
    match now.body {
        BodySeen::TooLarge => return Err(Why::TooLarge),
        BodySeen::Complete { trailers: true, .. } => return Err(Why::Trailers),
        BodySeen::Complete { bytes, .. } | BodySeen::Open { bytes } if bytes > settings.body => {
            return Err(Why::TooLarge);
        }
        BodySeen::Open { .. } => {
            return left(settings.body_wait, now.waited)
                .map(Step::ReadBody)
                .ok_or(Why::SlowBody);
        }
        BodySeen::Empty | BodySeen::Complete { .. } => {}
    }
    match now.answer {
        Answer::UnknownName => Ok(Step::Plain),
        Answer::Unheard | Answer::Pending => {
            let (hold, why) = if now.controller_up {
                (settings.hold, Why::NotWritten)
            } else {
                (settings.hold.min(CONTROLLER_AWAY), Why::ControllerAway)
            };
            left(hold, now.waited).map(Step::AwaitAnswer).ok_or(why)
        }
        Answer::Written { age } => {
            match tries::pause(now.incoming.tries, age, now.waited, settings.tries) {
                None => Err(Why::UsedUp),
                Some(Duration::ZERO) => Ok(Step::Redirect {
                    tries: now.incoming.tries + 1,
                }),
                Some(pause) => Ok(Step::Pause(pause)),
            }
        }
        Answer::Refused => Err(Why::Refused),
        Answer::UnknownCaller => Err(Why::UnknownCaller),
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
