//! What people should know about a workload in mode `sidecar`, with what they can do about it.

use std::collections::BTreeSet;
use std::fmt;

use dependency_graph::Workload;

use crate::mesh::Name;

/// Something that holds for a workload. What is not said does not hold.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Condition {
    /// A user's Sidecar selects its pods.
    UserSidecar(Name),
    /// A user's Sidecar for the namespace or the mesh has listeners of its own.
    UserSidecarNotUnderstood(Name),
    /// Its pods have no labels in common that last, or only together with those of a workload in another mode.
    NoSelector,
    /// No labels tell its pods from those of the others named here.
    SharedSelector(BTreeSet<Workload>),
    /// Something of that name is there, and is not ours.
    NameTaken(Name),
    /// istiod does not look at its namespace.
    NotDiscovered,
    /// These run, and nothing is known of what they use.
    NotLearned(BTreeSet<Workload>),
    /// Its namespace is the mesh's root namespace.
    RootNamespace(String),
    /// There is nothing to fall back to.
    NoGlobalProxy(Name),
    /// The Service to fall back to has no pod that is ready.
    FallbackDown(Name),
    /// So many hosts did not fit into its Sidecar.
    Capped(usize),
}

impl Condition {
    /// The condition's type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UserSidecar(_) | Self::UserSidecarNotUnderstood(_) => "UserSidecar",
            Self::NoSelector => "NoSelector",
            Self::SharedSelector(_) => "SharedSelector",
            Self::NameTaken(_) => "NameTaken",
            Self::NotDiscovered => "NotDiscovered",
            Self::NotLearned(_) => "NotLearned",
            Self::RootNamespace(_) => "RootNamespace",
            Self::NoGlobalProxy(_) => "NoGlobalProxy",
            Self::FallbackDown(_) => "FallbackDown",
            Self::Capped(_) => "SidecarCapped",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserSidecar(name) => write!(
                f,
                "Sidecar {name} selects its pods and holds: the workload is not made lazy. Delete that Sidecar to change this."
            ),
            Self::UserSidecarNotUnderstood(name) => write!(
                f,
                "Sidecar {name} has ports, binds or ingress, so nothing is written beside it. Give it a single egress listener for all ports to change this."
            ),
            Self::NoSelector => f.write_str(
                "Its pods have no label that tells them from pods of workloads in another mode. Give them one.",
            ),
            Self::SharedSelector(workloads) => {
                f.write_str("No label tells these workloads apart, so they share a Sidecar:")?;
                workloads
                    .iter()
                    .try_for_each(|workload| write!(f, " {}", workload.record_name()))
            }
            Self::NameTaken(name) => write!(
                f,
                "{name}, or an EnvoyFilter lazymesh-fallback beside it, exists without our label and is left alone. Rename it."
            ),
            Self::NotDiscovered => f.write_str(
                "The namespace does not match discoverySelectors of the mesh config: istiod does not look at it.",
            ),
            Self::NotLearned(workloads) => {
                f.write_str("Nothing is known of what it uses, and pods of it ran before the fallback was there: made lazy, their calls under way would end. Restart its pods, pin what it uses, learn it first in mode observe (--prometheus), or set spec.mode in its record. It is about:")?;
                workloads
                    .iter()
                    .try_for_each(|workload| write!(f, " {}", workload.record_name()))
            }
            Self::RootNamespace(namespace) => write!(
                f,
                "{namespace} is the mesh's root namespace: an EnvoyFilter or Sidecar there holds for every pod of the mesh, so nothing is written. Move the workload, or take the label off."
            ),
            Self::NoGlobalProxy(name) => write!(
                f,
                "There is no Service {name} with a port for HTTP to fall back to: the workload is not made lazy. Install the global proxy."
            ),
            Self::FallbackDown(name) => write!(
                f,
                "No pod of Service {name} is ready, so there is nothing to fall back to: the workload is not made lazy until one is. See to the global proxy."
            ),
            Self::Capped(hosts) => write!(
                f,
                "{hosts} learned or pinned hosts did not fit into its Sidecar; calls to them go by the fallback. Raise --max-hosts."
            ),
        }
    }
}
