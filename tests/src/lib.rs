//! The testbed, the embedded control plane, the demo and the mesh tests.

pub mod embedded;
