//! What to write, in which order, and when to look again.
//!
//! A pod must never be without both a service and its fallback, so the EnvoyFilter comes before the Sidecar and goes
//! after it, with the time between them that istiod needs to give it to the proxies. How long an object has been there
//! is read off the object; only how long one has been unwanted must be remembered, and is counted anew after a restart.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use dependency_graph::Timestamp;
use serde_json::Value;

use super::Desired;
use crate::mesh::sidecar::Made;
use crate::mesh::{Kind, Name, World};
use crate::render;

/// How long after an EnvoyFilter was made its proxies are taken to have it.
pub const SETTLED: Duration = Duration::from_secs(3);
/// How long an EnvoyFilter outlives the last Sidecar that needed it.
pub const LINGER: Duration = Duration::from_secs(10);

/// Something to do in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Server-side apply, without force: where a user has edited a field of ours, theirs stays.
    Apply(Kind, Name, Value),
    /// Delete this very object.
    Delete(Kind, Name, String),
}

/// Since when EnvoyFilters of ours have been unwanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unwanted(BTreeMap<Name, Timestamp>);

/// What is to be done for a namespace now, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Todo {
    /// What to do.
    pub actions: Vec<Action>,
    /// When to look again, if nothing happens before.
    pub again: Option<Timestamp>,
}

impl Todo {
    fn look_again(&mut self, at: Timestamp) {
        self.again = Some(self.again.map_or(at, |before| before.min(at)));
    }
}

/// What is to be done to get a namespace from what is in the cluster to what is wanted.
pub fn todo(
    world: &World,
    namespace: &str,
    desired: &Desired,
    unwanted: &mut Unwanted,
    now: Timestamp,
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
    for (name, spec) in &desired.filters {
        let object = render::envoyfilter::render(name, spec);
        if differs(filters.get(name).copied(), &object) {
            let apply = Action::Apply(Kind::EnvoyFilter, name.clone(), object);
            todo.actions.push(apply);
        }
    }
    write_sidecars(desired, &sidecars, &filters, &mut todo, now);
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
        drop_filters(namespace, desired, &filters, unwanted, &mut todo, now);
    } else {
        // The time counts from when the last of them is seen to be gone.
        unwanted.0.retain(|name, _| name.namespace != namespace);
    }
    todo
}

/// Those that grow come first: somebody may be waiting for them.
fn write_sidecars(
    desired: &Desired,
    sidecars: &BTreeMap<&Name, &Made>,
    filters: &BTreeMap<&Name, &Made>,
    todo: &mut Todo,
    now: Timestamp,
) {
    let (mut growing, mut others, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for (name, spec) in &desired.sidecars {
        let object = render::sidecar::render(name, spec);
        let made = sidecars.get(name).copied();
        if !differs(made, &object) {
            continue;
        }
        let Some(made) = made else {
            // Without its fallback a Sidecar would cut off all that was not learned.
            let Some(filter) = filters.get(&spec.filter) else {
                continue;
            };
            if now.since(filter.created) < SETTLED {
                todo.look_again(later(filter.created, SETTLED));
                continue;
            }
            new.push(Action::Apply(Kind::Sidecar, name.clone(), object));
            continue;
        };
        let before = hosts(&made.spec);
        let after = hosts(&object["spec"]);
        let grows = before.len() < after.len() && before.iter().all(|host| after.contains(host));
        let which = if grows { &mut growing } else { &mut others };
        which.push(Action::Apply(Kind::Sidecar, name.clone(), object));
    }
    // Growth goes even before the EnvoyFilters: it needs none that is not there.
    growing.append(&mut todo.actions);
    todo.actions = growing;
    todo.actions.append(&mut others);
    todo.actions.append(&mut new);
}

fn drop_filters(
    namespace: &str,
    desired: &Desired,
    filters: &BTreeMap<&Name, &Made>,
    unwanted: &mut Unwanted,
    todo: &mut Todo,
    now: Timestamp,
) {
    let is_unwanted = |name: &Name| {
        let known = name.namespace == namespace;
        known && filters.contains_key(name) && !desired.filters.contains_key(name)
    };
    let since = &mut unwanted.0;
    since.retain(|name, _| name.namespace != namespace || is_unwanted(name));
    let names = filters.keys().filter(|name| is_unwanted(name));
    // One form gives way to another only when the other is there and has settled.
    let waits_for: Option<Timestamp> = desired
        .filters
        .keys()
        .map(|name| {
            let made = filters.get(name);
            made.map_or(later(now, SETTLED), |made| later(made.created, SETTLED))
        })
        .max();
    for name in names {
        let first = *since.entry((*name).clone()).or_insert(now);
        let due = waits_for.map_or(later(first, LINGER), |settled| {
            settled.max(later(first, LINGER))
        });
        if now < due {
            todo.look_again(due);
        } else if let Some(made) = filters.get(name) {
            let delete = Action::Delete(Kind::EnvoyFilter, (*name).clone(), made.uid.clone());
            todo.actions.push(delete);
        }
    }
}

/// Whether an object in the cluster is not as it is wanted: in its spec, or in a label of ours.
fn differs(made: Option<&Made>, object: &Value) -> bool {
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

fn hosts(spec: &Value) -> std::collections::BTreeSet<&str> {
    let hosts = spec["egress"][0]["hosts"].as_array();
    hosts
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_seconds(at.seconds().saturating_add(by.as_secs()))
}
