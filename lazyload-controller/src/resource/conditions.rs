//! Conditions of a record that say what becomes of a workload in mode `sidecar`, or one that is to settle. They are written beside what is learned,
//! and neither touches the other.

use std::collections::BTreeSet;

use dependency_graph::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::convert::{CAPPED, time};
use super::{Entry, Error, Learning, WorkloadDependencies, WorkloadDependenciesStatus, entry};
use crate::settle;

/// The types of these conditions. One of them that is not said does not hold.
pub const KINDS: [&str; 13] = [
    "EditedByHand",
    "FallbackDown",
    "NameTaken",
    "NoGlobalProxy",
    "NoSelector",
    "NotDiscovered",
    "NotLearned",
    "RootNamespace",
    "Settled",
    "SharedSelector",
    "SidecarCapped",
    "SidecarWritten",
    "UserSidecar",
];

/// The longest message; a list in one may be long.
const LONGEST: usize = 2000;

/// A condition, apart from its times.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Said {
    /// Its type, one of [`KINDS`].
    pub kind: String,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one word.
    pub reason: String,
    /// Why, for a person, and what can be done about it.
    pub message: String,
}

impl Said {
    /// A condition; what is too long of the message is cut off.
    #[must_use]
    pub fn new(kind: &str, holds: bool, reason: &str, message: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            holds,
            reason: reason.to_owned(),
            message: message.chars().take(LONGEST).collect(),
        }
    }
}

/// What a resource says of these.
#[must_use]
pub fn said(resource: &WorkloadDependencies) -> BTreeSet<Said> {
    let conditions = resource.status.iter().flat_map(|status| &status.conditions);
    let ours = conditions.filter(|condition| is_ours(condition));
    ours.map(|condition| {
        let Condition {
            type_,
            status,
            reason,
            message,
            ..
        } = condition;
        Said::new(type_, status == "True", reason, message)
    })
    .collect()
}

/// What is to be written for a resource to say these and no others of them. All else stays as it is.
///
/// # Errors
/// When the resource cannot be read; it is then not to be written over.
pub fn say(
    resource: &WorkloadDependencies,
    wanted: &BTreeSet<Said>,
    now: Timestamp,
) -> Result<Learning, Error> {
    let entry = Entry {
        said: wanted.clone(),
        ..entry(resource)?
    };
    Ok(Learning {
        status: status(resource, wanted, now),
        entry,
        refused: 0,
    })
}

/// The status that says these; absent when the one there does.
fn status(
    resource: &WorkloadDependencies,
    wanted: &BTreeSet<Said>,
    now: Timestamp,
) -> Option<WorkloadDependenciesStatus> {
    if said(resource) == *wanted {
        return None;
    }
    let mut status = resource.status.clone().unwrap_or_default();
    status.phase = Some(settle::phase(wanted));
    let before = std::mem::take(&mut status.conditions);
    let written = wanted.iter().map(|said| {
        let is = if said.holds { "True" } else { "False" };
        let mut before = before.iter();
        let same = before.find(|before| before.type_ == said.kind && before.status == is);
        Condition {
            type_: said.kind.clone(),
            status: is.to_owned(),
            reason: said.reason.clone(),
            message: said.message.clone(),
            last_transition_time: same
                .map_or_else(|| time(now), |same| same.last_transition_time.clone()),
            observed_generation: resource.metadata.generation,
        }
    });
    // In the order in which what is learned is written, so that neither writes only to have its own order.
    let others = before
        .iter()
        .filter(|one| !is_ours(one) && one.type_ != CAPPED);
    let capped = before.iter().filter(|one| one.type_ == CAPPED);
    status.conditions = others
        .cloned()
        .chain(written)
        .chain(capped.cloned())
        .collect();
    Some(status)
}

fn is_ours(condition: &Condition) -> bool {
    KINDS.contains(&condition.type_.as_str())
}

#[cfg(test)]
mod tests {
    use dependency_graph::{Learned, Workload};

    use super::*;
    use crate::limits::Limits;
    use crate::plan::Condition as Planned;
    use crate::resource::{learn, new_record};

    fn record() -> WorkloadDependencies {
        let workload = Workload::new("shop", "Deployment", "cart").unwrap();
        let mut record = new_record(&workload);
        record.status = learn(&record, &Learned::new(), &Limits::default(), at(1))
            .unwrap()
            .status;
        record
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn some(message: &str) -> BTreeSet<Said> {
        BTreeSet::from([
            Said::new("SidecarWritten", true, "Written", message),
            Said::new("SidecarCapped", true, "SidecarCapped", "3 hosts"),
        ])
    }

    #[test]
    fn what_is_said_is_read_back_and_not_written_again() {
        let mut record = record();
        assert!(said(&record).is_empty());
        record.status = status(&record, &some("yes"), at(5));
        assert_eq!(said(&record), some("yes"));
        assert_eq!(status(&record, &some("yes"), at(9)), None);
    }

    #[test]
    fn learning_and_saying_leave_each_other_s_alone() {
        let mut record = record();
        record.status = status(&record, &some("yes"), at(5));
        let learning = learn(&record, &Learned::new(), &Limits::default(), at(6)).unwrap();
        assert_eq!(learning.status, None);
        let kinds = |record: &WorkloadDependencies| {
            let status = record.status.as_ref().unwrap();
            let kinds = status.conditions.iter().map(|one| one.type_.clone());
            kinds.collect::<Vec<_>>()
        };
        assert_eq!(
            kinds(&record),
            ["SidecarCapped", "SidecarWritten", "Capped"]
        );
        record.status = status(&record, &BTreeSet::new(), at(7));
        assert_eq!(kinds(&record), ["Capped"]);
    }

    #[test]
    fn the_time_is_that_of_the_change() {
        let mut record = record();
        record.status = status(&record, &some("yes"), at(5));
        record.status = status(&record, &some("another message"), at(9));
        let status = record.status.unwrap();
        let times = status
            .conditions
            .iter()
            .map(|one| &one.last_transition_time);
        let seconds: BTreeSet<i64> = times.map(|time| time.0.as_second()).collect();
        assert_eq!(seconds, BTreeSet::from([1, 5]));
    }

    #[test]
    fn every_condition_of_a_plan_is_one_of_these() {
        let name = crate::mesh::Name::new("shop", "x");
        for condition in [
            Planned::UserSidecar(name.clone()),
            Planned::UserSidecarNotUnderstood(name.clone()),
            Planned::NoSelector,
            Planned::SharedSelector(BTreeSet::new()),
            Planned::NameTaken(name.clone()),
            Planned::NotDiscovered,
            Planned::NoGlobalProxy(name),
            Planned::Capped(1),
        ] {
            assert!(KINDS.contains(&condition.kind()));
        }
    }
}
