//! The differential test's decisions, all of them values: what a seed makes, what two outcomes have in common, which
//! differences are known, and what is left out to make one small. `tests/differential` applies them to a real mesh.
//!
//! It starts nothing, asks nobody and reads no clock: the same seed gives the same mesh and the same probes for ever.

mod compare;
mod generate;
mod known;
mod observe;
mod report;
mod scenario;
mod shrink;

pub use compare::{Calls, Verdict, judge};
pub use generate::scenario;
pub use known::{KNOWN, Known};
pub use observe::{Names, Observation, Seen};
pub use report::{Difference, Report, Tally};
pub use scenario::{Change, Lead, Phase, Probe, Resource, Scenario, Server};
pub use shrink::{Shrink, Subset};
