//! Micro benches of the hot paths; see `benches/`. `cargo bench -p mesh-benches` runs them. `make bench-relay` runs
//! `src/bin/relay`.
