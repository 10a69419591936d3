//! Hosts, workloads, what they depend on, and the graph of it all; and the graph API's protocol.
//!
//! Pure: no I/O, no clock of its own. Whoever wants time to pass gives a [`Timestamp`].

pub mod convert;
pub mod cover;
pub mod dependency;
pub mod fallback;
pub mod graph;
pub mod host;
pub mod learned;
pub mod mode;
mod name;
pub mod time;
pub mod workload;

pub use dependency::{Dependency, Pin, Port, Protocol};
pub use graph::{Change, Graph, Namespace, Record};
pub use host::Host;
pub use learned::{Edge, Learned, Observed, Source};
pub use mode::Mode;
pub use time::Timestamp;
pub use workload::Workload;

/// The graph API, generated from `proto/lazymesh/graph/v1alpha1/graph.proto`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all
)]
pub mod api {
    tonic::include_proto!("lazymesh.graph.v1alpha1");
}

#[cfg(test)]
mod strategies;
