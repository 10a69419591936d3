//! A real mesh on one machine, and the words a test needs to use it: see `tests/README.md`.
//!
//! It owns what a cluster and its nodes would do (the API server, istiod, pods as network namespaces, endpoints,
//! ClusterIPs). It never decides what Lazymesh decides: our own parts run as the binaries they are.

mod client;
mod cluster;
mod control_plane;
mod controller;
mod envoy;
mod global_proxy;
mod harness;
mod http;
mod mesh;
mod namespace;
mod network;
mod part;
mod pki;
mod pod;
mod process;
mod resources;
mod shim;
mod sidecar;
mod tools;
mod wait;
mod workload;

pub use crate::running::Running;
pub use client::{Call, Traffic, TrafficSummary};
pub use cluster::{Cluster, PodEndpoint};
pub use control_plane::{IstiodOptions, Places};
pub use controller::Controllers;
pub use envoy::{Envoy, Memory};
pub use global_proxy::{GlobalProxies, GlobalProxy};
pub use harness::{Case, Test, run};
pub use mesh::{Mesh, MeshOptions};
pub use namespace::Namespace;
pub use network::{ISTIOD, PodNetwork};
pub use part::{Parts, Replica};
pub use pki::{ServerCertificate, TestRoot};
pub use pod::{App, AppPorts, CONTROL_PORT, Pod, PodSpec, Program};
pub use resources::Resources;
pub use shim::Shims;
pub use sidecar::{ProxyType, SidecarOptions};
pub use tools::{Tools, build_dir, own_program};
pub use wait::{until, until_true};
pub use workload::{ServiceSpec, Workload};
