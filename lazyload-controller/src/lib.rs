//! Keeps the dependency graph in Kubernetes, or in a folder, and gives it to shims.
//!
//! Reports come in by [`report`], are gathered per workload by [`writer`], written by a [`store`], and told to every
//! watcher from [`state`] by [`watch`]. Nothing here needs a leader: a report is a set union, written with optimistic
//! concurrency, so any replica takes reports and serves watches.
//!
//! The mode `sidecar` is acted on by [`sidecars`]: what [`cluster`] tells of the mesh and what the state knows becomes a
//! [`plan`], on every replica, and Sidecar and EnvoyFilter resources, written by the one that holds the [`lease`]. That one
//! also asks Prometheus, and learns and forgets by the answers: [`history`]. Workloads of mode `on-demand` that [`settle`] are
//! planned in the same way.

pub mod api;
pub mod app;
pub mod auth;
pub mod caller;
pub mod calls;
pub mod clean_up;
pub mod closure;
pub mod cluster;
pub mod config;
pub mod eligible;
pub mod expiry;
pub mod given;
pub mod history;
pub mod lease;
pub mod limits;
pub mod mesh;
pub mod metrics;
pub mod observation;
pub mod observe;
pub mod plan;
pub mod prometheus;
pub mod render;
pub mod report;
pub mod resolve;
pub mod resource;
pub mod selector;
pub mod settle;
pub mod sidecars;
pub mod state;
pub mod store;
pub mod watch;
pub mod writer;
