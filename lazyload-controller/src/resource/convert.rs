//! Between the resource and the graph's record.

use std::collections::BTreeSet;
use std::time::Duration;

use dependency_graph::{
    Edge, Host, Learned, Mode, Pin, Port, Protocol, Record, Source, Timestamp, Workload, host,
    workload,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff;
use thiserror::Error;

use super::keeping;
use super::{
    LearnedDependency, Pinned, Said, WorkloadDependencies, WorkloadDependenciesStatus, WorkloadRef,
    conditions,
};
use crate::expiry::{self, Keeping, Verdict};
use crate::limits::Limits;
use crate::settle;

pub(super) const CAPPED: &str = "Capped";

/// Why a resource is no record.
#[derive(Debug, Error)]
pub enum Error {
    /// It names no workload.
    #[error(transparent)]
    Workload(#[from] workload::Error),
    /// A host of it is none.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// A port of it is none.
    #[error("host {host}: port {port} is not in 1 to 65535")]
    Port {
        /// Of which host.
        host: String,
        /// The number.
        port: i32,
    },
    /// Something else of a learned dependency is unknown.
    #[error("host {host}: {reason}")]
    Dependency {
        /// Of which host.
        host: String,
        /// What.
        reason: String,
    },
    /// It is not called as its workload's record must be.
    #[error("it must be named {expected:?} after its workload (it is named {name:?})")]
    Name {
        /// What it is called.
        name: String,
        /// What it should be.
        expected: String,
    },
}

/// A resource, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Whom it is about.
    pub workload: Workload,
    /// What it says.
    pub record: Record,
    /// Whether its condition says that something was refused.
    pub capped: bool,
    /// Whether its spec changed since its status was written.
    pub stale: bool,
    /// What it says of the mode `sidecar`, and of settling.
    pub said: BTreeSet<Said>,
    /// `spec.settleAfter`: absent if it is not said, else the duration, or the text if it is none.
    pub settle_after: Option<Result<Duration, String>>,
    /// What it says of forgetting.
    pub keeping: Keeping,
}

/// Reads a resource.
///
/// # Errors
/// When it is not a record of a workload.
pub fn entry(resource: &WorkloadDependencies) -> Result<Entry, Error> {
    let meta = &resource.metadata;
    let WorkloadRef { kind, name } = &resource.spec.workload_ref;
    let workload = Workload::new(meta.namespace.as_deref().unwrap_or_default(), kind, name)?;
    let (name, expected) = (
        meta.name.clone().unwrap_or_default(),
        workload.record_name(),
    );
    if name != expected {
        return Err(Error::Name { name, expected });
    }
    let status = resource.status.as_ref();
    let mut learned = Learned::new();
    for dependency in status.iter().flat_map(|status| &status.dependencies) {
        let (host, protocol, edge) = edge(dependency)?;
        learned.add(host, protocol, edge);
    }
    let pinned = resource
        .spec
        .pinned
        .iter()
        .map(pin)
        .collect::<Result<_, _>>()?;
    let record = Record {
        mode: resource.spec.mode.map(Mode::from),
        pinned,
        learned,
    };
    let conditions = status.iter().flat_map(|status| &status.conditions);
    let capped = conditions
        .filter(|c| c.type_ == CAPPED)
        .any(|c| c.status == "True");
    let observed = status.and_then(|status| status.observed_generation);
    // A record without a status, or in a store without generations, has nothing to catch up with.
    let stale = meta.generation.is_some() && observed.is_some() && observed != meta.generation;
    Ok(Entry {
        workload,
        record,
        capped,
        stale,
        said: conditions::said(resource),
        settle_after: resource.spec.settle_after.as_deref().map(expiry::parse),
        keeping: keeping::read(&resource.spec, status)?,
    })
}

/// What learning makes of a resource.
#[derive(Clone, Debug)]
pub struct Learning {
    /// The status to write; absent when the one there will do.
    pub status: Option<WorkloadDependenciesStatus>,
    /// The resource as it will be read once that is written.
    pub entry: Entry,
    /// How many dependencies were refused for want of room.
    pub refused: usize,
}

/// Adds calls to what a resource says.
///
/// # Errors
/// When the resource cannot be read; it is then not to be written over.
pub fn learn(
    resource: &WorkloadDependencies,
    calls: &Learned,
    limits: &Limits,
    now: Timestamp,
) -> Result<Learning, Error> {
    let mut entry = entry(resource)?;
    let calls = entry.keeping.forgotten.passing(calls);
    let learned = &mut entry.record.learned;
    let refused = learned.merge_up_to(&calls, limits.dependencies);
    entry.keeping.forgotten.forget_learned(learned);
    // Once something was refused it stays said until there is room again.
    entry.capped =
        refused > 0 || (entry.capped && entry.record.learned.len() >= limits.dependencies);
    entry.stale = false;
    Ok(learning(resource, entry, refused, limits, now))
}

/// Does to a resource what was judged of forgetting.
///
/// # Errors
/// When the resource cannot be read; it is then not to be written over.
pub fn revise(
    resource: &WorkloadDependencies,
    verdict: &Verdict,
    limits: &Limits,
    now: Timestamp,
) -> Result<Learning, Error> {
    let mut entry = entry(resource)?;
    expiry::apply(&mut entry.record, &mut entry.keeping, verdict);
    entry.capped &= entry.record.learned.len() >= limits.dependencies;
    entry.stale = false;
    Ok(learning(resource, entry, 0, limits, now))
}

fn learning(
    resource: &WorkloadDependencies,
    entry: Entry,
    refused: usize,
    limits: &Limits,
    now: Timestamp,
) -> Learning {
    let before = resource.status.clone().unwrap_or_default();
    let status = status(&before, &entry, resource.metadata.generation, limits, now);
    let status = (resource.status.as_ref() != Some(&status)).then_some(status);
    Learning {
        status,
        entry,
        refused,
    }
}

fn status(
    before: &WorkloadDependenciesStatus,
    entry: &Entry,
    generation: Option<i64>,
    limits: &Limits,
    now: Timestamp,
) -> WorkloadDependenciesStatus {
    let learned = &entry.record.learned;
    let edges = learned
        .edges()
        .map(|(host, protocol, edge)| LearnedDependency {
            host: host.to_string(),
            ports: edge
                .ports
                .iter()
                .map(|port| i32::from(port.get()))
                .collect(),
            protocol: protocol.to_string(),
            first_seen: time(edge.first_seen),
            last_seen: time(edge.last_seen),
            source: edge.source.as_str().into(),
        });
    let others = before
        .conditions
        .iter()
        .filter(|condition| condition.type_ != CAPPED && condition.type_ != keeping::NO_EVIDENCE);
    let capped = capped_condition(before, entry, generation, limits, now);
    let no_evidence = keeping::condition(before, &entry.keeping, generation, now);
    WorkloadDependenciesStatus {
        phase: Some(settle::phase(&entry.said)),
        dependency_count: i32::try_from(learned.len()).unwrap_or(i32::MAX),
        last_learned: learned.last_learned().map(time),
        dependencies: edges.collect(),
        evidence: entry.keeping.evidence.map(keeping::span),
        forgotten: keeping::write_forgotten(&entry.keeping.forgotten),
        conditions: others.cloned().chain([capped]).chain(no_evidence).collect(),
        observed_generation: generation,
    }
}

fn capped_condition(
    before: &WorkloadDependenciesStatus,
    entry: &Entry,
    generation: Option<i64>,
    limits: &Limits,
    now: Timestamp,
) -> Condition {
    let (status, reason, message) = if entry.capped {
        let limit = limits.dependencies;
        let message =
            format!("something was not learned: the limit of {limit} dependencies is reached");
        ("True", "LimitReached", message)
    } else {
        ("False", "BelowLimit", String::new())
    };
    condition(before, CAPPED, (status, reason, message), generation, now)
}

/// A condition; its time is that of its last transition.
pub(super) fn condition(
    before: &WorkloadDependenciesStatus,
    type_: &str,
    (status, reason, message): (&str, &str, String),
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let same = before
        .conditions
        .iter()
        .find(|c| c.type_ == type_ && c.status == status);
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: same.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
        observed_generation: generation,
    }
}

fn edge(dependency: &LearnedDependency) -> Result<(Host, Protocol, Edge), Error> {
    let host: Host = dependency.host.parse()?;
    let bad = |reason: String| Error::Dependency {
        host: dependency.host.clone(),
        reason,
    };
    let edge = Edge {
        ports: ports(&dependency.host, &dependency.ports)?,
        first_seen: timestamp(&dependency.first_seen),
        last_seen: timestamp(&dependency.last_seen),
        source: dependency
            .source
            .parse::<Source>()
            .map_err(|e| bad(e.to_string()))?,
    };
    let protocol = dependency
        .protocol
        .parse()
        .map_err(|e| bad(format!("{e}")))?;
    Ok((host, protocol, edge))
}

fn pin(pinned: &Pinned) -> Result<Pin, Error> {
    Ok(Pin {
        host: pinned.host.parse()?,
        ports: ports(&pinned.host, &pinned.ports)?,
    })
}

fn ports<S: FromIterator<Port>>(host: &str, ports: &[i32]) -> Result<S, Error> {
    let port = |port: &i32| {
        let good = u32::try_from(*port)
            .ok()
            .and_then(|port| Port::try_from(port).ok());
        good.ok_or_else(|| Error::Port {
            host: host.into(),
            port: *port,
        })
    };
    ports.iter().map(port).collect()
}

/// What is before 1970 becomes 1970.
pub(super) fn timestamp(time: &Time) -> Timestamp {
    Timestamp::from_seconds(u64::try_from(time.0.as_second()).unwrap_or_default())
}

pub(super) fn time(timestamp: Timestamp) -> Time {
    let seconds = i64::try_from(timestamp.seconds()).unwrap_or(i64::MAX);
    Time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX))
}
