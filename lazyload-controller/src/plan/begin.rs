//! Whether a workload may be given its first Sidecar now.
//!
//! A first Sidecar takes away all that it does not hold. A pod that starts with it loses nothing by that; from one that
//! runs and of which nothing is known, it would take everything that it uses, with the calls under way.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use dependency_graph::{Graph, Mode, Timestamp, Workload};

use super::modes::counts;
use crate::mesh::{Name, World};
use crate::selector::Group;

/// How much older than its fallback a pod may be to count as one that started with it: what writes the fallback needs a
/// moment to see the pod, and may be starting itself.
const GRACE: u64 = 10;

/// Whether a group of workloads is given a Sidecar.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Begin {
    /// It may have one, or has one.
    Now,
    /// It will be known when its EnvoyFilter is there: only the cluster's own clock tells which came first.
    Later,
    /// Of these nothing is known, and they run.
    NotLearned(BTreeSet<Workload>),
}

/// See [`Begin`]. `filter`: the EnvoyFilter that its Sidecar needs.
pub(super) fn begin(
    world: &World,
    graph: &Graph,
    group: &Group,
    sidecar: &Name,
    filter: &Name,
) -> Begin {
    if has_sidecar(world, sidecar) {
        return Begin::Now;
    }
    let unknown: BTreeSet<&Workload> = group
        .workloads
        .iter()
        .filter(|workload| !is_known(graph, workload))
        .collect();
    if unknown.is_empty() {
        return Begin::Now;
    }
    let Some(filter) = world.filter(filter).and_then(|found| found.ours.as_ref()) else {
        return Begin::Later;
    };
    let running: BTreeSet<Workload> = unknown
        .into_iter()
        .filter(|workload| !is_fresh(world, workload, filter.created))
        .cloned()
        .collect();
    if running.is_empty() {
        Begin::Now
    } else {
        Begin::NotLearned(running)
    }
}

/// Whether a Sidecar of ours is there.
pub(super) fn has_sidecar(world: &World, name: &Name) -> bool {
    world.sidecar(name).is_some_and(|one| one.ours.is_some())
}

/// Whether something was learned or pinned, or somebody wants it lazy whatever is known.
fn is_known(graph: &Graph, workload: &Workload) -> bool {
    graph.workload(workload).is_some_and(|record| {
        !record.learned.is_empty()
            || !record.pinned.is_empty()
            || record.mode == Some(Mode::Sidecar)
    })
}

/// Whether all its pods started with the fallback, or after it.
fn is_fresh(world: &World, workload: &Workload, fallback: Timestamp) -> bool {
    let mut pods = world
        .pods(workload.namespace())
        .map(|(_, pod)| pod)
        .filter(|pod| counts(pod) && pod.workload.as_ref() == Some(workload));
    pods.all(|pod| pod.created.seconds().saturating_add(GRACE) >= fallback.seconds())
}
