//! The mode that holds for a workload.

use std::collections::{BTreeMap, BTreeSet};

use dependency_graph::{Graph, Mode, Workload, mode};

use crate::mesh::{Pod, World};

/// The mode that holds for a workload: its record's own, else its pods', else its namespace's, else off. While
/// all is paused, off.
#[must_use]
pub fn mode_of(world: &World, workload: &Workload, own: Option<Mode>) -> Mode {
    if world.is_paused() {
        return Mode::Off;
    }
    let namespace = workload.namespace();
    let by_pods = by_pods(world, namespace, |of| of == workload);
    let pods = by_pods.get(workload).copied().flatten();
    in_force(own, pods, of_namespace(world, namespace))
}

fn in_force(own: Option<Mode>, pods: Option<Mode>, namespace: Option<Mode>) -> Mode {
    own.or(pods).or(namespace).unwrap_or(Mode::Off)
}

/// What the pods of workloads say: something only where all pods of one say the same.
fn by_pods<'a>(
    world: &'a World,
    namespace: &str,
    of: impl Fn(&Workload) -> bool,
) -> BTreeMap<&'a Workload, Option<Mode>> {
    let mut by_pods: BTreeMap<&Workload, Option<Mode>> = BTreeMap::new();
    for (_, pod) in world.pods(namespace) {
        let workload = pod.workload.as_ref().filter(|workload| of(workload));
        let Some(workload) = workload.filter(|_| counts(pod)) else {
            continue;
        };
        let said = said(pod);
        by_pods
            .entry(workload)
            .and_modify(|before| *before = before.filter(|before| Some(*before) == said))
            .or_insert(said);
    }
    by_pods
}

fn of_namespace(world: &World, namespace: &str) -> Option<Mode> {
    world
        .namespace(namespace)?
        .labels
        .get(mode::LABEL)?
        .parse()
        .ok()
}

/// Whether a pod has a say in its workload's mode.
pub(super) fn counts(pod: &Pod) -> bool {
    pod.injected && !pod.ended
}

/// The mode that a pod's label says.
fn said(pod: &Pod) -> Option<Mode> {
    pod.labels.get(mode::LABEL)?.parse().ok()
}

/// The modes that hold for the workloads of a namespace: of injected pods, and those known that have no pods now.
#[must_use]
pub fn modes(world: &World, graph: &Graph, namespace: &str) -> BTreeMap<Workload, Mode> {
    let (of_namespace, paused) = (of_namespace(world, namespace), world.is_paused());
    let by_pods = by_pods(world, namespace, |_| true);
    let known = graph
        .workloads()
        .filter(|(workload, _)| workload.namespace() == namespace)
        .map(|(workload, record)| (workload, record.mode));
    let records: BTreeMap<&Workload, Option<Mode>> = known.collect();
    let all: BTreeSet<&Workload> = by_pods.keys().chain(records.keys()).copied().collect();
    let mode = |workload: &Workload| {
        if paused {
            return Mode::Off;
        }
        let own = records.get(workload).copied().flatten();
        let pods = by_pods.get(workload).copied().flatten();
        in_force(own, pods, of_namespace)
    };
    all.into_iter()
        .map(|workload| (workload.clone(), mode(workload)))
        .collect()
}
