//! An istiod-shaped control plane, for tests and the demo: the same resources, order and session rules as istiod gives a
//! sidecar, without Kubernetes.
//!
//! From the value to the wire: [`shape`] is the mesh; [`clusters`], [`endpoints`], [`listeners`] and [`routes`] make
//! messages of it, `inbound` and `view` those of a proxy that serves something or that one of [`istio`]'s resources holds
//! for; [`resources`] keeps them encoded and says what a change pushes; [`session`] decides what goes out on one stream;
//! [`ControlPlane`] serves it and is the handle a test holds. Only the last does I/O.

mod canonical;
pub mod clusters;
pub mod endpoints;
mod follow;
mod http_filters;
mod inbound;
pub mod istio;
pub mod listeners;
pub mod mtls;
mod plane;
pub mod proxy;
mod record;
pub mod resources;
pub mod routes;
pub mod session;
pub mod shape;
mod stream;
mod view;
mod wire;

pub use follow::Following;
pub use istio::Documents;
pub use plane::{ControlPlane, Error};
pub use proxy::Proxy;
pub use record::{RequestRecord, Sent, StreamRecord, Variant};
pub use resources::{CDS, Change, EDS, LDS, RDS};
pub use shape::{MeshShape, Port, Protocol, Service};
