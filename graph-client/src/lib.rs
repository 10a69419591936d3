//! How the shim and the global proxy talk to the lazyload controller: dial, show a token, follow the graph, and begin
//! again when it is lost.
//!
//! It knows neither xDS nor HTTP; what is sent, and what becomes of what is heard, is its users'.

mod controller;
mod watch;

pub use controller::{Controller, Error, SetupError, next_of};
pub use watch::Sink;

#[cfg(test)]
mod tests;
