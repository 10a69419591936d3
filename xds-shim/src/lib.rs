//! ADS relay between istiod and sidecars that gives each sidecar only what its workload uses.
//!
//! The decision what a proxy gets is [`session`]: pure and synchronous, with [`listener`],
//! [`references`] and [`treatment`] under it. [`relay`] moves messages, [`controller`] moves what is
//! learned. ARCHITECTURE.md follows a request through them.

pub mod admitted;
pub mod ads;
pub mod app;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod envoy;
pub mod graph;
pub mod listener;
pub mod metrics;
pub mod node;
pub mod pending;
pub mod pool;
pub mod raw;
pub mod references;
pub mod relay;
pub mod route_names;
pub mod session;
pub mod stand_in;
pub mod store;
pub mod streams;
pub mod table;
pub mod treatment;
pub mod wire;
