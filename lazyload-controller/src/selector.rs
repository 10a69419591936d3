//! The labels that select a workload's pods and no others: what a Sidecar and an EnvoyFilter of ours are limited by.
//!
//! They are taken from the pods, not from their owner: that works for every kind of owner, and needs no right to read it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use dependency_graph::Workload;

use crate::mesh::object::{Labels, selects};
use crate::mesh::{Pod, World};

/// Workloads of a namespace whose pods no labels tell apart: they share a Sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// The workloads, in order.
    pub workloads: BTreeSet<Workload>,
    /// The labels that select all pods of these workloads, and none of another one.
    pub selector: Labels,
}

/// The workloads of a namespace, by whether labels select them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Groups {
    /// Those that can be selected, in the order of their first workload.
    pub selected: Vec<Group>,
    /// Those whose pods have no label in common that stays, or that go with such a one.
    pub without: BTreeSet<Workload>,
}

/// Groups the workloads of a namespace that `wanted` names. Every pod counts, injected or not and wanted or not: what a
/// selector reaches, it reaches whoever owns it.
#[must_use]
pub fn groups(world: &World, namespace: &str, wanted: &BTreeSet<Workload>) -> Groups {
    let mut common: BTreeMap<&Workload, Labels> = BTreeMap::new();
    let mut unowned: Vec<&Pod> = Vec::new();
    for (_, pod) in world.pods(namespace) {
        if pod.ended {
            continue;
        }
        let Some(workload) = &pod.workload else {
            unowned.push(pod);
            continue;
        };
        common
            .entry(workload)
            .and_modify(|labels| labels.retain(|key, value| pod.labels.get(key) == Some(value)))
            .or_insert_with(|| lasting(&pod.labels));
    }
    let mut result = Groups::default();
    let mut found: Vec<Group> = Vec::new();
    for (workload, labels) in &common {
        if !wanted.contains(*workload) || found.iter().any(|g| g.workloads.contains(*workload)) {
            continue;
        }
        if labels.is_empty() {
            result.without.insert((*workload).clone());
            continue;
        }
        let mut start = BTreeSet::from([(*workload).clone()]);
        loop {
            let group = grow(world, namespace, start, &common);
            let meets = |other: &Group| !other.workloads.is_disjoint(&group.workloads);
            // What was a group until now is part of this one: a pod is in one group only.
            let (met, apart) = found.into_iter().partition::<Vec<_>, _>(meets);
            found = apart;
            if met.is_empty() {
                found.push(group);
                break;
            }
            start = group.workloads;
            start.extend(met.into_iter().flat_map(|group| group.workloads));
        }
    }
    for group in found {
        let reaches_unowned = unowned
            .iter()
            .any(|pod| selects(&group.selector, &pod.labels));
        let alone = group.workloads.is_subset(wanted) && !reaches_unowned;
        if alone && !group.selector.is_empty() {
            result.selected.push(group);
        } else {
            let without = group.workloads.intersection(wanted);
            result.without.extend(without.cloned());
        }
    }
    result
        .selected
        .sort_by(|one, other| one.workloads.cmp(&other.workloads));
    result
}

/// Takes in every workload that the labels which all share select, and gives up those they do not share, until that is
/// all. Without a label left it ends: that is no group.
fn grow(
    world: &World,
    namespace: &str,
    start: BTreeSet<Workload>,
    common: &BTreeMap<&Workload, Labels>,
) -> Group {
    let mut labels = start.iter().filter_map(|workload| common.get(workload));
    let mut selector = labels.next().cloned().unwrap_or_default();
    for theirs in labels {
        selector.retain(|key, value| theirs.get(key) == Some(value));
    }
    let mut workloads = start;
    while !selector.is_empty() {
        let reached = world
            .pods(namespace)
            .map(|(_, pod)| pod)
            .filter(|pod| !pod.ended && selects(&selector, &pod.labels))
            .filter_map(|pod| pod.workload.as_ref())
            .find(|workload| !workloads.contains(*workload));
        let Some(reached) = reached else {
            break;
        };
        if let Some(theirs) = common.get(reached) {
            selector.retain(|key, value| theirs.get(key) == Some(value));
        }
        workloads.insert(reached.clone());
    }
    Group {
        workloads,
        selector,
    }
}

/// The labels that a pod's successor has as well.
fn lasting(labels: &Labels) -> Labels {
    labels
        .iter()
        .filter(|(key, _)| !is_volatile(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Labels that controllers set per revision or pod, and those of Istio and of ours that opting in or out changes.
fn is_volatile(key: &str) -> bool {
    const EXACT: [&str; 8] = [
        "pod-template-hash",
        "rollouts-pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "istio.io/rev",
        "sidecar.istio.io/inject",
    ];
    let suffixed = ["job-name", "controller-uid", "job-completion-index"]
        .iter()
        .any(|suffix| key == *suffix || key.ends_with(&format!("/{suffix}")));
    let prefixed = ["security.istio.io/", "service.istio.io/", "lazymesh.dev/"]
        .iter()
        .any(|prefix| key.starts_with(prefix));
    EXACT.contains(&key) || suffixed || prefixed
}
