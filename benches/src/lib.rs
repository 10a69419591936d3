//! Micro benches of the hot paths; see `benches/` and `make bench-micro`. `make bench-relay` runs `src/bin/relay`, `make
//! bench-scale` `src/bin/scale`. `make report` runs `src/bin/report`, which makes `results/` of what all benches found.

pub mod claims;
pub mod mesh;

use std::fmt::Debug;

/// What is there, or the end of a bench, with the reason why it is not.
///
/// # Panics
/// It is not there.
#[track_caller]
pub fn must<T, E: Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}
