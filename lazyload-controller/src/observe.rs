//! What is learned from telemetry: who of the workloads known is meant by a name, and which services of the mesh.
//!
//! Telemetry names a workload without its kind and a service without its port. A name stands for every workload that has
//! it, and a service for all its ports of that protocol: more than was called, never less.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use dependency_graph::{Host, Learned, Mode, Protocol, Source, Timestamp, Workload};

use crate::expiry::Called;
use crate::mesh::World;
use crate::mesh::service::Form;
use crate::prometheus::Row;
use crate::resolve::by_host;

/// What each workload was told to call, by the name that telemetry has for it.
pub type Calls = BTreeMap<String, BTreeSet<Called>>;

/// Takes rows into what was told; says how many of them name no host.
pub fn take_in(calls: &mut Calls, rows: &[Row], protocol: Protocol) -> usize {
    let mut unreadable = 0;
    for row in rows {
        match row.service.to_ascii_lowercase().parse() {
            Ok(host) => {
                let of_workload = calls.entry(row.workload.clone()).or_default();
                of_workload.insert((host, protocol));
            }
            Err(_) => unreadable += 1,
        }
    }
    unreadable
}

/// Adds, to each service that was called, the other names that the mesh has for it (`ExternalName`): telemetry tells the
/// service, and a record the name that was called.
pub fn add_aliases(world: &World, calls: &mut Calls) {
    let mut names: BTreeMap<&str, Vec<Host>> = BTreeMap::new();
    for service in world.services() {
        if let Form::Alias(target) = &service.form
            && let Ok(host) = service.host.parse()
        {
            names.entry(target).or_default().push(host);
        }
    }
    for called in calls.values_mut() {
        let also: Vec<Called> = called
            .iter()
            .filter_map(|(host, protocol)| Some((names.get(host.as_str())?, *protocol)))
            .flat_map(|(names, protocol)| names.iter().map(move |name| (name.clone(), protocol)))
            .collect();
        called.extend(also);
    }
}

/// What is learned, and how much was skipped for which reason.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// What is learned.
    pub learned: BTreeMap<Workload, Learned>,
    /// Calls of a name that no workload known has.
    pub unknown_workload: usize,
    /// Calls to what is no service of the mesh that the workload sees.
    pub unknown_host: usize,
    /// Calls of workloads that are not to be learned for.
    pub other_mode: usize,
}

/// What the calls of a namespace teach. `modes`: of its workloads. `wanted`: the modes to learn for.
#[must_use]
pub fn observe(
    world: &World,
    namespace: &str,
    modes: &BTreeMap<Workload, Mode>,
    wanted: &[Mode],
    calls: &Calls,
    at: Timestamp,
) -> Observed {
    let mut observed = Observed::default();
    let mut named: BTreeMap<&str, Vec<(&Workload, Mode)>> = BTreeMap::new();
    for (workload, mode) in modes {
        let of_name = named.entry(workload.name()).or_default();
        of_name.push((workload, *mode));
    }
    for (name, called) in calls {
        let Some(meant) = named.get(name.as_str()) else {
            observed.unknown_workload += called.len();
            continue;
        };
        let meant: Vec<&Workload> = meant
            .iter()
            .filter(|(_, mode)| wanted.contains(mode))
            .map(|(workload, _)| *workload)
            .collect();
        if meant.is_empty() {
            observed.other_mode += called.len();
            continue;
        }
        for (host, protocol) in called {
            let dependencies = by_host(world, namespace, host, *protocol);
            if dependencies.is_empty() {
                observed.unknown_host += 1;
            }
            for workload in &meant {
                for dependency in &dependencies {
                    let learned = observed.learned.entry((*workload).clone()).or_default();
                    learned.see(dependency, at, Source::Telemetry);
                }
            }
        }
    }
    observed
}
