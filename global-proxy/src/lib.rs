//! The fallback data plane: carries to its destination what a trimmed sidecar does not know.
//!
//! The decisions are pure and synchronous; sockets wrap them.

pub mod decide;
pub mod hygiene;
pub mod incoming;
pub mod limits;
pub mod location;
pub mod refuse;
pub mod shape;
pub mod tries;
pub mod validate;
pub mod xfcc;
