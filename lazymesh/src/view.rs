//! A workload as its record says it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use workload_dependencies::WorkloadDependencies;

/// Something of a workload that a person should know.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// The condition's type.
    pub condition: String,
    /// Its reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Those that are good when they hold.
const GOOD: [&str; 2] = ["Settled", "SidecarWritten"];

/// What a record's conditions say is wrong. Each condition but the good ones is a problem when it holds; the good ones when they do not, unless
/// another one says why already.
#[must_use]
pub fn problems(record: &WorkloadDependencies) -> Vec<Problem> {
    let conditions = || record.status.iter().flat_map(|status| &status.conditions);
    let is_bad = |one: &&Condition| {
        let good = GOOD.contains(&one.type_.as_str());
        let said_already =
            || conditions().any(|other| other.type_ == one.reason && other.status == "True");
        if good {
            one.status == "False" && !said_already()
        } else {
            one.status == "True"
        }
    };
    let problem = |one: &Condition| Problem {
        condition: one.type_.clone(),
        reason: one.reason.clone(),
        message: one.message.clone(),
    };
    conditions().filter(is_bad).map(problem).collect()
}

/// Whether a condition holds.
#[must_use]
pub fn holds(record: &WorkloadDependencies, condition: &str) -> bool {
    let mut conditions = record.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|one| one.type_ == condition && one.status == "True")
}

/// Whom a record is about: its namespace, kind and name.
#[must_use]
pub fn about(record: &WorkloadDependencies) -> (&str, &str, &str) {
    let workload = &record.spec.workload_ref;
    let namespace = record.metadata.namespace.as_deref().unwrap_or_default();
    (namespace, &workload.kind, &workload.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{record, with_condition};

    #[test]
    fn a_good_condition_that_does_not_hold_is_a_problem_once() {
        let written = with_condition(
            record("shop", "web", &[]),
            "SidecarWritten",
            true,
            "Written",
        );
        assert!(problems(&written).is_empty() && holds(&written, "SidecarWritten"));
        let failed = with_condition(
            record("shop", "web", &[]),
            "SidecarWritten",
            false,
            "Failed",
        );
        assert_eq!(problems(&failed).len(), 1);
        let users = with_condition(
            record("shop", "web", &[]),
            "SidecarWritten",
            false,
            "UserSidecar",
        );
        let users = with_condition(users, "UserSidecar", true, "UserSidecar");
        let kinds: Vec<_> = problems(&users)
            .into_iter()
            .map(|one| one.condition)
            .collect();
        assert_eq!(kinds, ["UserSidecar"]);
        let below = with_condition(record("shop", "web", &[]), "Capped", false, "BelowLimit");
        assert!(problems(&below).is_empty());
    }
}
