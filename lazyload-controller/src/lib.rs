//! Keeps the dependency graph in Kubernetes, or in a folder, and gives it to shims.
//!
//! Reports come in by [`report`], are gathered per workload by [`writer`], written by a [`store`], and told to every
//! watcher from [`state`] by [`watch`]. Nothing here needs a leader: a report is a set union, written with optimistic
//! concurrency, so any replica takes reports and serves watches. What only one replica may do, [`history`] does: it asks
//! Prometheus, and learns and forgets by the answers.

pub mod api;
pub mod app;
pub mod auth;
pub mod caller;
pub mod closure;
pub mod config;
pub mod eligible;
pub mod expiry;
pub mod given;
pub mod history;
pub mod limits;
pub mod mesh;
pub mod metrics;
pub mod observe;
pub mod plan;
pub mod prometheus;
pub mod render;
pub mod report;
pub mod resolve;
pub mod resource;
pub mod selector;
pub mod state;
pub mod store;
pub mod watch;
pub mod writer;
