//! Micro benches.
