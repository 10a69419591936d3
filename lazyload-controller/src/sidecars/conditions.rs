//! What records should say of workloads in mode `sidecar`, and of those that are to settle.

use std::collections::{BTreeMap, BTreeSet};

use dependency_graph::Workload;

use super::queue::{Key, Queue};
use crate::cluster::Fault;
use crate::mesh::{Kind, Name, World};
use crate::plan::{Condition, Desired, SidecarSpec};
use crate::resource::Said;
use crate::settle;

/// What is to be said of a workload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Wanted {
    pub(super) said: BTreeSet<Said>,
    /// Whether a record is made for it where there is none: only for what a person should know.
    pub(super) make: bool,
}

/// What is to be said of every workload of a namespace that is in mode `sidecar` or to settle.
pub(super) fn wanted(
    world: &World,
    desired: &Desired,
    queue: &Queue,
) -> BTreeMap<Workload, Wanted> {
    let mut all: BTreeMap<Workload, Wanted> = BTreeMap::new();
    for (workload, conditions) in &desired.conditions {
        let wanted = all.entry(workload.clone()).or_default();
        wanted.make = true;
        for condition in conditions {
            let kind = condition.kind();
            let said = Said::new(kind, true, reason(condition), &condition.to_string());
            wanted.said.insert(said);
        }
    }
    for (name, spec) in &desired.sidecars {
        for workload in &spec.workloads {
            let wanted = all.entry(workload.clone()).or_default();
            wanted.about_sidecar(world, name, spec, queue);
        }
    }
    for (workload, filter) in &desired.waiting {
        let key = Key::Object(Kind::EnvoyFilter, filter.clone());
        if let Some(fault @ (Fault::Refused(_) | Fault::Another(_))) = queue.fault(&key) {
            let wanted = all.entry(workload.clone()).or_default();
            wanted.refused(Kind::EnvoyFilter, filter, fault);
        }
    }
    for (workload, wanted) in &mut all {
        let has_sidecar = desired
            .sidecars
            .values()
            .any(|spec| spec.workloads.contains(workload));
        let waits = desired.waiting.contains_key(workload);
        if !has_sidecar
            && !waits
            && let Some(why) = wanted.said.first()
        {
            let message = format!("{} says why", why.kind);
            let said = Said::new("SidecarWritten", false, &why.kind, &message);
            wanted.said.insert(said);
        }
    }
    for workload in &desired.settled {
        let wanted = all.entry(workload.clone()).or_default();
        wanted.about_settling(world, workload, desired);
    }
    for (workload, lack) in &desired.unsettled {
        let wanted = all.entry(workload.clone()).or_default();
        wanted.said.insert(lack.said());
    }
    all
}

/// The reason tells apart what has one type.
fn reason(condition: &Condition) -> &'static str {
    match condition {
        Condition::UserSidecarNotUnderstood(_) => "NotUnderstood",
        Condition::UserSidecar(_) => "SelectsItsPods",
        other => other.kind(),
    }
}

impl Wanted {
    fn refused(&mut self, kind: Kind, name: &Name, fault: &Fault) {
        let reason = match fault {
            Fault::Unavailable(_) | Fault::Stale(_) => "Failed",
            _ => "Refused",
        };
        let message = format!("{kind} {name} cannot be written: {fault}");
        self.said
            .insert(Said::new("SidecarWritten", false, reason, &message));
        self.make = true;
    }

    /// After all else is said of its Sidecar.
    fn about_settling(&mut self, world: &World, workload: &Workload, desired: &Desired) {
        let mut sidecars = desired.sidecars.iter();
        let own = sidecars.find(|(_, spec)| spec.workloads.contains(workload));
        let there = |name: &Name| world.sidecar(name).is_some_and(|one| one.ours.is_some());
        let said = match own.filter(|(name, _)| there(name)) {
            Some((name, _)) => settle::said(Ok(&name.to_string())),
            None => {
                let mut said = self.said.iter();
                let not_written = said.find(|said| said.kind == "SidecarWritten" && !said.holds);
                let why = not_written.map_or(settle::STARTING, |said| &said.reason);
                settle::said(Err(why))
            }
        };
        self.said.insert(said);
    }

    fn about_sidecar(&mut self, world: &World, name: &Name, spec: &SidecarSpec, queue: &Queue) {
        let fault = |kind, name: &Name| queue.fault(&Key::Object(kind, name.clone()));
        let faults = [
            (Kind::Sidecar, name, fault(Kind::Sidecar, name)),
            (
                Kind::EnvoyFilter,
                &spec.filter,
                fault(Kind::EnvoyFilter, &spec.filter),
            ),
        ];
        for (kind, name, fault) in faults {
            if let Some(Fault::Edited(why)) = fault {
                let message = format!(
                    "{kind} {name} was edited by hand, and is left as it is: {why}. Delete it to have it written anew."
                );
                self.said
                    .insert(Said::new("EditedByHand", true, "Conflict", &message));
                self.make = true;
            }
        }
        let refused = faults.iter().find_map(|(kind, name, fault)| match fault {
            Some(Fault::Edited(_)) | None => None,
            Some(fault) => Some((kind, name, fault)),
        });
        let there = world.sidecar(name).is_some_and(|one| one.ours.is_some());
        if let Some((kind, name, fault)) = refused {
            self.refused(*kind, name, fault);
        } else if there {
            let message = format!("Sidecar {name} gives it what it is known to use.");
            self.said
                .insert(Said::new("SidecarWritten", true, "Written", &message));
        }
    }
}
