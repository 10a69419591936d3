//! Micro benches of the hot paths; see `benches/`. `cargo bench -p mesh-benches` runs them.
