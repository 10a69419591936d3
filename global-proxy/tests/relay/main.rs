//! The relay over real sockets on loopback: a caller, the global proxy as it runs, and a server, all in this process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cancel;
mod controller;
mod drain;
mod graph;
mod held;
mod limits;
mod pressure;
mod program;
mod protocols;
mod redirects;
mod retry;
mod rfc;
mod support;
mod tunnels;
mod untouched;
mod upgrades;
