//! From a seed to a mesh: services of every kind, rules for them, what changes, and calls.
//!
//! Names and ports are few on purpose, so that they meet: services called like namespaces or like parts of a
//! domain, one port number with several protocols.

mod changes;
mod gateway_api;
mod policies;
mod probes;
mod routes;
mod rules;
mod services;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use fastrand::Rng;
use serde_json::{Value, json};

use super::scenario::{Resource, Scenario, Server};

/// What a port says it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    Http2,
    Grpc,
    Tcp,
    TcpServerFirst,
    Tls,
    /// It does not say; HTTP is behind it.
    AutoHttp,
    /// It does not say; TCP is behind it.
    AutoTcp,
}

impl Speaks {
    fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::AutoHttp)
    }
}

/// A port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port {
    number: u16,
    speaks: Speaks,
}

/// A service as the generator thinks of it.
#[derive(Clone, Debug)]
struct Service {
    /// `$A` or `$B`.
    namespace: &'static str,
    /// Its name; of a ServiceEntry the resource's.
    name: String,
    /// The host istiod knows it by.
    host: String,
    ports: Vec<Port>,
    /// Where an application connects to that looks its name up.
    address: String,
    servers: Vec<Server>,
    /// In Kubernetes, so that it has short names.
    is_kubernetes: bool,
    headless: bool,
}

impl Service {
    fn http_port(&self) -> Option<Port> {
        self.ports
            .iter()
            .copied()
            .find(|port| port.speaks.is_http())
    }

    /// Whether a server speaks first at one of its ports.
    fn greets(&self) -> bool {
        let mut ports = self.ports.iter();
        ports.any(|port| port.speaks == Speaks::TcpServerFirst)
    }

    fn tcp_port(&self) -> Option<Port> {
        self.ports
            .iter()
            .copied()
            .find(|port| matches!(port.speaks, Speaks::Tcp | Speaks::AutoTcp))
    }

    fn tls_port(&self) -> Option<Port> {
        self.ports
            .iter()
            .copied()
            .find(|port| port.speaks == Speaks::Tls)
    }

    /// The name of a rule for it, in whatever namespace that is.
    fn rule(&self, kind: &str) -> String {
        let of = if self.namespace == "$A" { "a" } else { "b" };
        format!("{}-{of}-{kind}", self.name)
    }

    /// Its host as a rule in `namespace` may write it.
    fn written(&self, rng: &mut Rng, namespace: &str) -> String {
        if self.is_kubernetes && self.namespace == namespace && rng.bool() {
            self.name.clone()
        } else {
            self.host.clone()
        }
    }
}

/// What is made so far.
struct World {
    services: Vec<Service>,
    resources: Vec<Resource>,
    features: BTreeSet<String>,
}

impl World {
    /// Says that this seed tries something.
    fn tries(&mut self, feature: impl Into<String>) {
        self.features.insert(feature.into());
    }

    /// Whether a VirtualService or a route of the Gateway API is its own.
    fn has_route(&self, service: &Service) -> bool {
        let name = service.rule("route");
        let mut resources = self.resources.iter();
        resources.any(|resource| resource.object["metadata"]["name"] == *name)
    }

    fn add(&mut self, object: Value) {
        self.resources.push(Resource { object, lead: None });
    }
}

/// What the seed makes.
pub fn scenario(seed: u64) -> Scenario {
    let mut world = World {
        services: Vec::new(),
        resources: Vec::new(),
        features: BTreeSet::new(),
    };
    // A stream of numbers for each step: more of one thing does not change the others.
    let rng = |step: u64| Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step);
    services::make(&mut world, &mut rng(1));
    rules::make(&mut world, &mut rng(2));
    routes::make(&mut world, &mut rng(3));
    gateway_api::make(&mut world, &mut rng(4));
    policies::make(&mut world, &mut rng(5));
    let probes = probes::make(&mut world, &mut rng(6));
    let (resources, changes) = changes::make(&mut world, &mut rng(7));
    Scenario {
        seed,
        resources,
        changes,
        probes,
        features: world.features,
    }
}

/// One of them.
fn one_of<T: Clone>(rng: &mut Rng, of: &[T]) -> Option<T> {
    (!of.is_empty()).then(|| of[rng.usize(..of.len())].clone())
}

/// One of at least one.
fn any<T: Copy, const N: usize>(rng: &mut Rng, of: [T; N]) -> T {
    const { assert!(N > 0) };
    of[rng.usize(..N)]
}

/// So often of a hundred.
fn percent(rng: &mut Rng, chance: u32) -> bool {
    rng.u32(..100) < chance
}

/// An Istio networking resource.
fn networking(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}
