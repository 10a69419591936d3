//! What is wanted of one namespace, and what is told of its workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, Instant};

use dependency_graph::Workload;

use super::agenda::stage;
use crate::given::Given;
use crate::mesh::{Name, World};
use crate::plan::Desired;
use crate::plan::actions::Memory;
use crate::render::sidecar::Stage;

/// What is told of a workload that will have a Sidecar.
const NOT_YET: &str = "its Sidecar is not written yet";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) desired: Desired,
    /// Whose Sidecar is which.
    pub(super) of: BTreeMap<Workload, Name>,
    pub(super) memory: Memory,
    /// What was told of workloads, as a hash.
    told: BTreeMap<Workload, u64>,
    /// Sidecars that grow: since when, and whether what is new is announced.
    pub(super) growing: BTreeMap<Name, (Instant, bool)>,
    /// How long the last look at it took.
    pub(super) look_took: Duration,
}

impl Place {
    pub(super) fn plan(&mut self, desired: Desired) {
        let sidecars = desired.sidecars.iter();
        self.of = sidecars
            .flat_map(|(name, spec)| spec.workloads.iter().map(|of| (of.clone(), name.clone())))
            .collect();
        self.growing
            .retain(|name, _| desired.sidecars.contains_key(name));
        self.desired = desired;
    }

    /// Tells what every workload is given.
    pub(super) fn tell(&mut self, world: &World, given: &Given, now: Instant) {
        let names: Vec<Name> = self.desired.sidecars.keys().cloned().collect();
        for name in names {
            self.tell_of(world, &name, given, now);
        }
        for (workload, conditions) in &self.desired.conditions {
            if self.of.contains_key(workload) {
                continue;
            }
            if let Some(why) = conditions.first().map(ToString::to_string) {
                tell(&mut self.told, workload, &why, || {
                    given.none(workload, &why)
                });
            }
        }
        for workload in self.desired.waiting.keys() {
            tell(&mut self.told, workload, &None::<BTreeSet<String>>, || {
                given.none(workload, NOT_YET)
            });
        }
        let known = |workload: &Workload| {
            self.of.contains_key(workload)
                || self.desired.conditions.contains_key(workload)
                || self.desired.waiting.contains_key(workload)
        };
        self.told.retain(|workload, _| {
            let stays = known(workload);
            if !stays {
                given.forget(workload);
            }
            stays
        });
    }

    /// Tells what the workloads of one Sidecar are given: what is written in it, not what is wanted.
    pub(super) fn tell_of(&mut self, world: &World, name: &Name, given: &Given, now: Instant) {
        let Some(spec) = self.desired.sidecars.get(name) else {
            return;
        };
        let hosts: Option<BTreeSet<String>> = stage(world, name).map(|stage| {
            let hosts = stage.given.iter();
            let hosts = hosts.map(|host| host.split_once('/').map_or(host.as_str(), |(_, h)| h));
            hosts.map(str::to_owned).collect()
        });
        for workload in &spec.workloads {
            tell(&mut self.told, workload, &hosts, || match &hosts {
                Some(hosts) => given.gives(workload, hosts.clone(), now),
                None => given.none(workload, NOT_YET),
            });
        }
    }

    /// Whether a Sidecar gives all that is wanted of it.
    pub(super) fn gives_all(&self, world: &World, name: &Name) -> bool {
        let Some(spec) = self.desired.sidecars.get(name) else {
            return false;
        };
        let wanted = Stage::last(spec).given;
        stage(world, name).is_some_and(|stage| wanted.is_subset(&stage.given))
    }
}

/// Tells something of a workload unless it was the last that was told.
fn tell(
    told: &mut BTreeMap<Workload, u64>,
    workload: &Workload,
    what: &impl std::hash::Hash,
    say: impl FnOnce(),
) {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    let hash = hasher.finish();
    if told.get(workload) != Some(&hash) {
        told.insert(workload.clone(), hash);
        say();
    }
}
