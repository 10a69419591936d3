//! Process scaffolding shared by Lazymesh's binaries: telemetry, admin port, readiness, drain, supervised tasks,
//! TLS that follows its files, gRPC servers and dialers, retries. It knows nothing of xDS, of Kubernetes or of the graph.
//!
//! A binary's `main` puts them together in this order: [`telemetry::init`], a [`drain::Drain`] and its signals, a
//! [`readiness::Readiness`], an [`admin::Admin`], then its own parts as [`tasks::Tasks`], whose `run` ends the process.

pub mod admin;
pub mod drain;
pub mod grpc;
pub mod metrics;
pub mod port_file;
pub mod readiness;
pub mod retry;
pub mod tasks;
pub mod telemetry;
pub mod tls;

#[cfg(test)]
mod test_certs;

/// An error of any kind, as tower and hyper pass them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
