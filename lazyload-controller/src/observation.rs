//! What is made of a call that was seen, whoever tells of it.

use dependency_graph::{Dependency, Observed, Timestamp, Workload};

use crate::limits::Limits;
use crate::state::State;

/// What is to be done about a call that was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nothing: it is stored.
    Nothing,
    /// It is to be stored: it is new, or its last call is worth writing again.
    Storing,
    /// It will not be kept for want of room, and the store must say so in the record.
    Saying,
    /// It will not be kept for want of room, and that is said already.
    Refusing,
}

/// What is to be done about a call. `seen`: absent when nobody knows when.
#[must_use]
pub fn due(
    state: &State,
    limits: &Limits,
    workload: &Workload,
    dependency: &Dependency,
    seen: Option<Timestamp>,
) -> Due {
    match state.would(workload, dependency, seen, limits) {
        (Observed::Known, _) => Due::Nothing,
        (Observed::New | Observed::Refreshed, _) => Due::Storing,
        (Observed::Refused, false) => Due::Saying,
        (Observed::Refused, true) => Due::Refusing,
    }
}

/// The time of a call as far as it makes sense. One that does not is taken for one that nobody knows: a wrong clock,
/// here or there, must not keep anything from being learned.
#[must_use]
pub fn believed(seen: Option<Timestamp>, now: Timestamp, limits: &Limits) -> Option<Timestamp> {
    let sane =
        |seen: &Timestamp| now.since(*seen) <= limits.oldest && seen.since(now) <= limits.newest;
    // A clock a little ahead of ours would else be written down as it is.
    seen.filter(sane).map(|seen| seen.min(now))
}
