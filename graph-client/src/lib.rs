//! How the shim and the global proxy talk to the lazyload controller: dial, show a token, follow the graph, and begin
//! again when it is lost.
//!
//! It knows neither xDS nor HTTP; what is sent, and what becomes of what is heard, is its users'.

mod args;
mod controller;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod watch;

pub use args::ControllerArgs;
pub use controller::{Controller, Error, SetupError, next_of};
pub use watch::Sink;

#[cfg(test)]
mod tests;
