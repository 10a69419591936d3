//! What to write, in which order, and when to look again.
//!
//! A pod must never be without both a service and its fallback, so the EnvoyFilter comes before the Sidecar and goes
//! after it, with the time between them that istiod needs to give it to the proxies. How long an object has been there
//! is read off the object; only how long one has been unwanted, and when one was last written, must be remembered, and is
//! counted anew after a restart.
//!
//! A Sidecar changes in steps, so that no call fails: what is new is announced, then given; what goes stays announced
//! while it is taken, and is let go then. One write gives what was announced and announces what came meanwhile, and none
//! follows an announcement before that has settled: each write puts off what istiod does about the one before.
//!
//! The first Sidecar of a workload that has settled announces the whole mesh: its routes and listeners go first, and the
//! clusters after them, so that a shim can answer what was asked for at that moment.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dependency_graph::Timestamp;
use serde_json::Value;

use super::{Desired, SidecarSpec};
use crate::mesh::sidecar::Made;
use crate::mesh::{Kind, Name, World};
use crate::render;
use crate::render::sidecar::{EVERYTHING, Stage};

/// How long after an EnvoyFilter was made its proxies are taken to have it, unless said otherwise.
pub const SETTLED: Duration = Duration::from_secs(3);
/// How long an EnvoyFilter outlives the last Sidecar that needed it, unless said otherwise.
pub const LINGER: Duration = Duration::from_secs(10);

/// How long Sidecars stay when the Service of the global proxy is not there: it may be made anew.
pub const FORGIVEN: Duration = Duration::from_secs(30);

/// Something to do in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Server-side apply, without force: where a user has edited a field of ours, theirs stays.
    Apply(Kind, Name, Value),
    /// Delete this very object.
    Delete(Kind, Name, String),
}

/// How long after a step of a Sidecar the next one is taken, unless said otherwise: longer than istiod gathers changes
/// before it pushes them, which is 100 ms unless it is told otherwise.
pub const STEP: Duration = Duration::from_millis(130);

/// How much time lies between writes that follow one another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// From one step of a Sidecar to the next.
    pub step: Duration,
    /// From an EnvoyFilter to the first Sidecar that needs it.
    pub settled: Duration,
    /// From the end of the last Sidecar that needed an EnvoyFilter to its own.
    pub linger: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            step: STEP,
            settled: SETTLED,
            linger: LINGER,
        }
    }
}

/// What the objects of a namespace do not tell themselves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Since when EnvoyFilters of ours have been unwanted.
    unwanted: BTreeMap<Name, Timestamp>,
    /// Since when there has been no Service to fall back to.
    without_fallback: Option<Timestamp>,
    /// What Sidecars announce, and since when.
    announced: BTreeMap<Name, Announced>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Announced {
    hosts: BTreeSet<String>,
    since: Instant,
}

impl Memory {
    /// A Sidecar was written, and is now at this stage: the time to its next step counts from here.
    pub fn wrote(&mut self, sidecar: &Name, stage: Stage, at: Instant) {
        let announced = Announced {
            hosts: stage.announced,
            since: at,
        };
        self.announced.insert(sidecar.clone(), announced);
    }

    /// For how long a Sidecar has announced just this. A write that nobody saw end counts from when it is seen.
    fn announced_for(&mut self, sidecar: &Name, stage: &Stage, now: Instant) -> Duration {
        match self.announced.get(sidecar) {
            Some(before) if before.hosts == stage.announced => {
                now.saturating_duration_since(before.since)
            }
            _ => {
                self.wrote(sidecar, stage.clone(), now);
                Duration::ZERO
            }
        }
    }
}

/// The moment, on the clock that the cluster's objects are dated by and on one that never jumps.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// As objects are dated.
    pub wall: Timestamp,
    /// For what takes less than a second.
    pub tick: Instant,
}

/// What is to be done for a namespace now, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Todo {
    /// What to do.
    pub actions: Vec<Action>,
    /// After how long to look again, if nothing happens before.
    pub again: Option<Duration>,
}

impl Todo {
    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |before| before.min(after)));
    }
}

/// What is to be done to get a namespace from what is in the cluster to what is wanted.
pub fn todo(
    world: &World,
    namespace: &str,
    desired: &Desired,
    memory: &mut Memory,
    pace: &Pace,
    now: Now,
) -> Todo {
    let sidecars: BTreeMap<&Name, &Made> = world
        .sidecars(namespace)
        .filter_map(|(name, sidecar)| Some((name, sidecar.ours.as_ref()?)))
        .collect();
    let filters: BTreeMap<&Name, &Made> = world
        .filters(namespace)
        .filter_map(|(name, filter)| Some((name, filter.ours.as_ref()?)))
        .collect();
    let mut todo = Todo::default();
    if desired.without_fallback && !sidecars.is_empty() {
        let since = *memory.without_fallback.get_or_insert(now.wall);
        let due = later(since, FORGIVEN);
        if now.wall < due {
            todo.look_again(due.since(now.wall));
            return todo;
        }
    } else {
        memory.without_fallback = None;
    }
    for (name, spec) in &desired.filters {
        let object = render::envoyfilter::render(name, spec);
        if differs(filters.get(name).copied(), &object) {
            let apply = Action::Apply(Kind::EnvoyFilter, name.clone(), object);
            todo.actions.push(apply);
        }
    }
    let made = (&sidecars, &filters);
    write_sidecars(desired, made, memory, pace, &mut todo, now);
    for (name, made) in &sidecars {
        if !desired.sidecars.contains_key(*name) {
            let delete = Action::Delete(Kind::Sidecar, (*name).clone(), made.uid.clone());
            todo.actions.push(delete);
        }
    }
    if sidecars
        .keys()
        .all(|name| desired.sidecars.contains_key(*name))
    {
        drop_filters(namespace, desired, &filters, memory, pace, &mut todo, now);
    } else {
        // The time counts from when the last of them is seen to be gone.
        memory
            .unwanted
            .retain(|name, _| name.namespace != namespace);
    }
    todo
}

/// The next step of a Sidecar that is there, without a look at the rest of its namespace. Nothing where there is none:
/// its EnvoyFilter may have to come first.
pub fn advance(
    world: &World,
    name: &Name,
    spec: &SidecarSpec,
    memory: &mut Memory,
    pace: &Pace,
    now: Now,
) -> Todo {
    let mut todo = Todo::default();
    if let Some(made) = world.sidecar(name).and_then(|found| found.ours.as_ref()) {
        let action = step((name, spec), made, memory, pace, &mut todo, now);
        todo.actions.extend(action.map(|(action, _)| action));
    }
    todo
}

/// Those that grow come first: somebody may be waiting for them.
fn write_sidecars(
    desired: &Desired,
    (sidecars, filters): (&BTreeMap<&Name, &Made>, &BTreeMap<&Name, &Made>),
    memory: &mut Memory,
    pace: &Pace,
    todo: &mut Todo,
    now: Now,
) {
    let (mut growing, mut others, mut new) = (Vec::new(), Vec::new(), Vec::new());
    memory
        .announced
        .retain(|name, _| sidecars.contains_key(name));
    for (name, spec) in &desired.sidecars {
        if let Some(made) = sidecars.get(name).copied() {
            match step((name, spec), made, memory, pace, todo, now) {
                Some((action, true)) => growing.push(action),
                Some((action, false)) => others.push(action),
                None => {}
            }
            continue;
        }
        // Without its fallback a Sidecar would cut off all that was not learned.
        let Some(filter) = filters.get(&spec.filter) else {
            continue;
        };
        let age = now.wall.since(filter.created);
        if age < pace.settled {
            todo.look_again(pace.settled.saturating_sub(age));
            continue;
        }
        let object = render::sidecar::render_at(name, spec, &Stage::first(spec));
        new.push(Action::Apply(Kind::Sidecar, name.clone(), object));
    }
    // Growth goes even before the EnvoyFilters: it needs none that is not there.
    growing.append(&mut todo.actions);
    todo.actions = growing;
    todo.actions.append(&mut others);
    todo.actions.append(&mut new);
}

/// The next step of a Sidecar, and whether it makes it grow.
fn step(
    (name, spec): (&Name, &SidecarSpec),
    made: &Made,
    memory: &mut Memory,
    pace: &Pace,
    todo: &mut Todo,
    now: Now,
) -> Option<(Action, bool)> {
    let (is, last) = (Stage::of(&made.spec), Stage::last(spec));
    let waited = if is.announced.is_empty() {
        memory.announced.remove(name);
        pace.step
    } else {
        memory.announced_for(name, &is, now.tick)
    };
    let (stage, due) = next(&is, &last, waited, pace);
    if stage != last && stage == is {
        todo.look_again(due.saturating_sub(waited));
    }
    let object = render::sidecar::render_at(name, spec, &stage);
    let grows = !last.given.is_subset(&is.given);
    differs(Some(made), &object)
        .then(|| (Action::Apply(Kind::Sidecar, name.clone(), object), grows))
}

/// The stage after this one on the way to the last; this one while it has not settled, and how long that takes from when it
/// was written.
fn next(is: &Stage, last: &Stage, waited: Duration, pace: &Pace) -> (Stage, Duration) {
    if is.announced.contains(EVERYTHING) {
        return next_of_wide(is, last, waited, pace);
    }
    (next_of_step(is, last, waited >= pace.step), pace.step)
}

/// A first Sidecar with the clusters of the whole mesh: these stay until every proxy is taken to have its routes. What is
/// new meanwhile is announced by them.
fn next_of_wide(is: &Stage, last: &Stage, waited: Duration, pace: &Pace) -> (Stage, Duration) {
    let due = pace.settled.max(pace.step);
    if waited >= due {
        let stage = Stage {
            given: last.given.clone(),
            announced: is.given.difference(&last.given).cloned().collect(),
        };
        return (stage, pace.step);
    }
    if last.given.is_subset(&is.given) {
        return (is.clone(), due);
    }
    if waited < pace.step {
        return (is.clone(), pace.step);
    }
    let stage = Stage {
        given: is.given.union(&last.given).cloned().collect(),
        announced: is.announced.clone(),
    };
    (stage, due)
}

fn next_of_step(is: &Stage, last: &Stage, settled: bool) -> Stage {
    let new = last.given.difference(&is.given).cloned();
    let (announced, newer): (BTreeSet<String>, BTreeSet<String>) =
        new.partition(|host| is.announced.contains(host));
    if !settled {
        // Nothing may put off what waits to be given, or a burst would put it off for as long as it lasts.
        if announced.is_empty() && !newer.is_empty() {
            return Stage {
                given: is.given.clone(),
                announced: is.announced.union(&newer).cloned().collect(),
            };
        }
        return is.clone();
    }
    if !newer.is_empty() {
        return Stage {
            given: is.given.union(&announced).cloned().collect(),
            announced: newer,
        };
    }
    // What is announced and given is there by being given; what is taken stays announced once more.
    Stage {
        given: last.given.clone(),
        announced: is.given.difference(&last.given).cloned().collect(),
    }
}

fn drop_filters(
    namespace: &str,
    desired: &Desired,
    filters: &BTreeMap<&Name, &Made>,
    memory: &mut Memory,
    pace: &Pace,
    todo: &mut Todo,
    now: Now,
) {
    let now = now.wall;
    let is_unwanted = |name: &Name| {
        let known = name.namespace == namespace;
        known && filters.contains_key(name) && !desired.filters.contains_key(name)
    };
    let since = &mut memory.unwanted;
    since.retain(|name, _| name.namespace != namespace || is_unwanted(name));
    let names = filters.keys().filter(|name| is_unwanted(name));
    // One form gives way to another only when the other is there and has settled.
    let waits_for: Option<Timestamp> = desired
        .filters
        .keys()
        .map(|name| {
            let made = filters.get(name);
            let since = made.map_or(now, |made| made.created);
            later(since, pace.settled)
        })
        .max();
    for name in names {
        let first = *since.entry((*name).clone()).or_insert(now);
        let lingered = later(first, pace.linger);
        let due = waits_for.map_or(lingered, |settled| settled.max(lingered));
        if now < due {
            todo.look_again(due.since(now));
        } else if let Some(made) = filters.get(name) {
            let delete = Action::Delete(Kind::EnvoyFilter, (*name).clone(), made.uid.clone());
            todo.actions.push(delete);
        }
    }
}

/// Whether an object in the cluster is not as it is wanted: in its spec, or in a label of ours.
#[must_use]
pub fn differs(made: Option<&Made>, object: &Value) -> bool {
    let Some(made) = made else {
        return true;
    };
    let labels = object["metadata"]["labels"].as_object();
    let labelled = labels.is_none_or(|labels| {
        labels
            .iter()
            .all(|(key, value)| made.labels.get(key).map(String::as_str) == value.as_str())
    });
    made.spec != object["spec"] || !labelled
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_seconds(at.seconds().saturating_add(by.as_secs()))
}
