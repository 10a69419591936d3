//! The resource `WorkloadDependencies`, and what of it is the graph's record.

pub mod conditions;
mod convert;
mod keeping;

#[cfg(test)]
mod tests;

pub use conditions::Said;
pub use convert::{Entry, Error, Learning, entry, learn, revise};
pub use workload_dependencies::{
    EvidenceSpan, ForgottenDependency, LearnedDependency, ModeName, Phase, Pinned,
    WorkloadDependencies, WorkloadDependenciesSpec, WorkloadDependenciesStatus, WorkloadRef,
    manifest, new_record,
};
