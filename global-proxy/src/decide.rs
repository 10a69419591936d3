//! What is done with a request: redirect it, relay it, refuse it, or wait for more to be known.
//!
//! Pure. Asked again after each wait, it comes to an end within a few. It never relays unasked: a namespace of which
//! nothing is known is refused.

use std::time::Duration;

use crate::incoming::{Incoming, Path};
use crate::refuse::Refusal;
use crate::shape::{BodySeen, Kind, Shape};
use crate::tries;

/// How long a request waits for a controller that is away.
const CONTROLLER_AWAY: Duration = Duration::from_millis(200);

/// What a namespace allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Policy {
    /// Redirect what can be redirected, relay the rest.
    PreferRedirect,
    /// Redirect or refuse: nothing of this namespace is ever seen under our identity.
    RedirectOnly,
    /// Relay everything at once.
    RelayOnly,
}

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
    Relay,
    /// Do not carry it.
    Refuse(Refusal),
}

/// What to do now.
#[must_use]
pub fn step(now: &Situation<'_>, settings: &Settings) -> Step {
    match now.policy {
        None => Step::Refuse(Refusal::PolicyUnknown(namespace(now))),
        Some(Policy::RelayOnly) => Step::Relay,
        Some(Policy::PreferRedirect) => redirect(now, settings).unwrap_or(Step::Relay),
        Some(Policy::RedirectOnly) => redirect(now, settings).unwrap_or_else(|why| {
            Step::Refuse(Refusal::RedirectOnly {
                namespace: namespace(now),
                why,
            })
        }),
    }
}

fn namespace(now: &Situation<'_>) -> String {
    now.incoming.caller.spiffe.namespace().to_owned()
}

/// The next step towards a redirect, or why there is none.
fn redirect(now: &Situation<'_>, settings: &Settings) -> Result<Step, &'static str> {
    never(now)?;
    if now.answer == Answer::Refused {
        return Err("its Sidecar will not have the service");
    }
    if now.incoming.tries >= settings.tries.min(tries::MOST) {
        return Err("its redirects are used up");
    }
    match now.body {
        BodySeen::TooLarge => return Err("its body is too large"),
        BodySeen::Complete { trailers: true, .. } => return Err("its body has trailers"),
        BodySeen::Complete { bytes, .. } | BodySeen::Open { bytes } if bytes > settings.body => {
            return Err("its body is too large");
        }
        BodySeen::Open { .. } => {
            return left(settings.body_wait, now.waited)
                .map(Step::ReadBody)
                .ok_or("its body did not come in time");
        }
        BodySeen::Empty | BodySeen::Complete { .. } => {}
    }
    match now.answer {
        Answer::UnknownName => Ok(Step::Plain),
        Answer::Unheard | Answer::Pending => {
            let hold = if now.controller_up {
                settings.hold
            } else {
                settings.hold.min(CONTROLLER_AWAY)
            };
            left(hold, now.waited)
                .map(Step::AwaitAnswer)
                .ok_or("its Sidecar was not written in time")
        }
        Answer::Written { age } => {
            match tries::pause(now.incoming.tries, age, now.waited, settings.tries) {
                None => Err("its redirects are used up"),
                Some(Duration::ZERO) => Ok(Step::Redirect {
                    tries: now.incoming.tries + 1,
                }),
                Some(pause) => Ok(Step::Pause(pause)),
            }
        }
        Answer::Refused => Err("its Sidecar will not have the service"),
    }
}

/// What no waiting mends.
fn never(now: &Situation<'_>) -> Result<(), &'static str> {
    match now.shape.kind {
        _ if now.incoming.path == Path::Direct => Err("it did not come by a route that redirects"),
        Kind::Upgrade | Kind::Connect | Kind::ExtendedConnect => {
            Err("it turns into another protocol")
        }
        Kind::Plain | Kind::Grpc if now.shape.expects_100 => Err("it expects 100-continue"),
        Kind::Plain | Kind::Grpc if !now.sayable => Err("its URL cannot be said in a Location"),
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
