//! gRPC over HTTP/2, both sides, with the keepalive and windows istiod has. It moves any service: tonic's and raw ones.

mod client;
mod server;
mod token;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use client::{Dialer, Error};
pub use server::serve;
pub use token::{TokenError, TokenFile};

/// Time between pings. istiod closes connections that ping more often than every 15 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a ping may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes a peer may send before it must wait for a window update. Config pushes are megabytes long.
const STREAM_WINDOW: u32 = 1 << 20;
/// As [`STREAM_WINDOW`], over all streams of a connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
