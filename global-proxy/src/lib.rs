//! The fallback data plane: carries to its destination what a trimmed sidecar does not know.
//!
//! What is done with a request is decided by pure, synchronous functions of values ([`incoming`], [`shape`],
//! [`validate`], [`limits`], [`decide`] and what they use); sockets wrap them: a `worker` accepts, `serve` speaks HTTP
//! to the caller, `handle` has the request judged, `hold` waits for what that takes, `relay` carries it over a connection
//! of the `pool`. What is no HTTP, or came by a port that the caller's Envoy does not know, comes in a `tunnel`. [`graph`] is
//! what the lazyload controller is told and says.

mod accepted;
pub mod access_log;
pub mod app;
mod body;
pub mod config;
pub mod decide;
mod dial;
mod expect;
mod gather;
pub mod graph;
mod handle;
mod hold;
pub mod hygiene;
pub mod incoming;
mod kept;
pub mod limits;
mod local;
pub mod location;
pub mod metrics;
mod pool;
mod redirect;
pub mod refuse;
mod relay;
mod serve;
pub mod shape;
pub mod tries;
mod tunnel;
mod upgrade;
pub mod validate;
pub mod worker;
pub mod xfcc;
