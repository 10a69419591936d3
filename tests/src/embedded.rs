//! An istiod-shaped control plane, for tests and the demo: the same resources, order and session rules as istiod gives a
//! sidecar, without Kubernetes.
//!
//! From the value to the wire: [`shape`] is the mesh; [`clusters`], [`endpoints`], [`listeners`] and [`routes`] make
//! messages of it; [`resources`] keeps them encoded and says what a change pushes; [`session`] decides what goes out on
//! one stream; [`ControlPlane`] serves it and is the handle a test holds. Only the last does I/O.

mod canonical;
pub mod clusters;
pub mod endpoints;
mod http_filters;
pub mod listeners;
pub mod mtls;
mod plane;
mod record;
pub mod resources;
pub mod routes;
pub mod session;
pub mod shape;
mod stream;
mod wire;

pub use plane::{ControlPlane, Error};
pub use record::{RequestRecord, Sent, StreamRecord, Variant};
pub use resources::{CDS, Change, EDS, LDS, RDS};
pub use shape::{MeshShape, Protocol, Service};
