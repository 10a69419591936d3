//! The testbed, the embedded control plane, the demo and the mesh tests.

pub mod app;
pub mod bench_report;
pub mod differential;
pub mod embedded;
pub mod running;
pub mod sandbox;
pub mod stats;
pub mod testbed;
