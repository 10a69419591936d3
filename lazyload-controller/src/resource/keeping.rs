//! What a resource says of forgetting: the evidence, what was forgotten, and the condition `NoEvidence`.

use dependency_graph::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::convert::{Error, condition as build, time, timestamp};
use super::{
    EvidenceSpan, ForgottenDependency, WorkloadDependenciesSpec, WorkloadDependenciesStatus,
};
use crate::expiry::{self, Evidence, Forgotten, Keeping, Lack};

pub(super) const NO_EVIDENCE: &str = "NoEvidence";

pub(super) fn read(
    spec: &WorkloadDependenciesSpec,
    status: Option<&WorkloadDependenciesStatus>,
) -> Result<Keeping, Error> {
    let mut forgotten = Forgotten::new();
    for one in status.iter().flat_map(|status| &status.forgotten) {
        let protocol = one.protocol.parse().map_err(|error| Error::Dependency {
            host: one.host.clone(),
            reason: format!("{error}"),
        })?;
        forgotten.add((one.host.parse()?, protocol), timestamp(&one.at));
    }
    let conditions = status.iter().flat_map(|status| &status.conditions);
    let lack = conditions
        .filter(|c| c.type_ == NO_EVIDENCE && c.status == "True")
        .find_map(|c| Lack::named(&c.reason));
    let span = status.and_then(|status| status.evidence.as_ref());
    Ok(Keeping {
        expire_after: spec.expire_after.as_deref().map(expiry::parse),
        evidence: span.map(|span| Evidence {
            since: timestamp(&span.since),
            until: timestamp(&span.until),
        }),
        lack,
        forgotten,
    })
}

pub(super) fn span(evidence: Evidence) -> EvidenceSpan {
    EvidenceSpan {
        since: time(evidence.since),
        until: time(evidence.until),
    }
}

pub(super) fn write_forgotten(forgotten: &Forgotten) -> Vec<ForgottenDependency> {
    let write = |(host, protocol, at): (&dependency_graph::Host, _, _)| ForgottenDependency {
        host: host.to_string(),
        protocol: dependency_graph::Protocol::to_string(&protocol),
        at: time(at),
    };
    forgotten.iter().map(write).collect()
}

/// Absent as long as nothing is to be forgotten.
pub(super) fn condition(
    before: &WorkloadDependenciesStatus,
    keeping: &Keeping,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<Condition> {
    let said = match (keeping.lack, keeping.evidence) {
        (Some(lack), _) => ("True", lack.as_str(), lack.hint().to_owned()),
        (None, Some(_)) => ("False", "Evidence", String::new()),
        (None, None) => return None,
    };
    Some(build(before, NO_EVIDENCE, said, generation, now))
}
