//! What the controller says of workloads in their records.

use super::{Finding, workload};
use crate::snapshot::Snapshot;
use crate::view;

/// The word for each condition, and what to do; docs/operations.md says more of each.
const KNOWN: [(&str, &str, &str); 15] = [
    (
        "Capped",
        "capped",
        "it calls more than --max-dependencies: raise that, or forget what it no longer calls",
    ),
    (
        "EditedByHand",
        "edited-by-hand",
        "your fields stay; delete the object to have it anew",
    ),
    (
        "FallbackDown",
        "fallback-down",
        "get the global proxy's pods ready: it gets no Sidecar until one is",
    ),
    (
        "NameTaken",
        "name-taken",
        "rename your object, if Lazymesh is to write its own",
    ),
    (
        "NoEvidence",
        "stale-graph",
        "nothing is forgotten: Prometheus does not tell what is called; look at --prometheus and its data",
    ),
    (
        "NoGlobalProxy",
        "no-global-proxy",
        "install the global proxy, or name its Service with --global-proxy-service",
    ),
    (
        "NoSelector",
        "no-selector",
        "give its pods a label that tells them from others",
    ),
    (
        "NotDiscovered",
        "not-discovered",
        "istiod does not look at its namespace: see discoverySelectors in the mesh config",
    ),
    (
        "NotLearned",
        "not-learned",
        "restart its pods, pin what it uses, or label it observe first",
    ),
    (
        "RootNamespace",
        "root-namespace",
        "what is written there holds for the whole mesh: take the label off",
    ),
    (
        "SharedSelector",
        "shared-selector",
        "give its pods a label of their own, if it is to have its own Sidecar",
    ),
    ("SidecarCapped", "sidecar-capped", "raise --max-hosts"),
    (
        "SidecarWritten",
        "sidecar-failed",
        "see the message; the controller's log says more",
    ),
    ("Settled", "not-settled", "see the message"),
    (
        "UserSidecar",
        "user-sidecar",
        "your Sidecar holds; delete it, if Lazymesh is to write its own",
    ),
];

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    for record in &snapshot.records {
        for problem in view::problems(record) {
            let known = KNOWN
                .iter()
                .find(|(condition, ..)| *condition == problem.condition);
            let (word, hint) = known.map_or(
                ("condition", "docs/operations.md says more"),
                |(_, word, hint)| (word, hint),
            );
            let seen = format!("{}: {}", problem.condition, problem.message);
            found.push(Finding::new(word, workload(record), seen, hint));
        }
    }
    found
}
