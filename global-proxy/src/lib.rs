//! The fallback data plane: carries to its destination what a trimmed sidecar does not know.
//!
//! What is done with a request is decided by pure, synchronous functions of values ([`incoming`], [`shape`],
//! [`validate`], [`limits`], [`decide`] and what they use); sockets wrap them: a `worker` accepts, `serve` speaks HTTP
//! to the caller, `handle` has the request judged, `relay` carries it over a connection of the `pool`.
//!
//! It only relays so far. [`decide`] knows redirects, and [`tries`] and [`location`] what they need, but nothing asks
//! the lazyload controller yet, and without its word a redirect is never the decision.

mod accepted;
pub mod access_log;
pub mod app;
mod body;
pub mod config;
pub mod decide;
mod dial;
mod expect;
mod gather;
mod handle;
pub mod hygiene;
pub mod incoming;
pub mod limits;
mod local;
pub mod location;
pub mod metrics;
mod pool;
pub mod refuse;
mod relay;
mod serve;
pub mod shape;
pub mod tries;
mod upgrade;
pub mod validate;
pub mod worker;
pub mod xfcc;
