//! Hosts, workloads, dependencies and the graph of them, pure; and the graph API's protocol.

/// The graph API, generated from `proto/lazymesh/graph/v1alpha1/graph.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod api {
    tonic::include_proto!("lazymesh.graph.v1alpha1");
}
