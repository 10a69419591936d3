//! What is known of the mesh: the resources that decide what a workload's sidecar may be left without.
//!
//! Pure: watched objects go in, questions are answered. An object that cannot be read is kept out, and the reason is
//! kept in its place; it never takes the rest down. Nothing here decides; see [`crate::closure`] and [`crate::plan`].

pub mod config;
pub mod namespace;
pub mod object;
pub mod pod;
pub mod route;
pub mod service;
pub mod sidecar;

mod entry;
#[cfg(test)]
pub(crate) mod fixture;
mod gateway_route;
mod index;
mod questions;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use kube::core::DynamicObject;
use thiserror::Error;

pub use config::MeshConfig;
pub use namespace::Namespace;
pub use object::Name;
pub use pod::Pod;
pub use route::Route;
pub use service::Service;
pub use sidecar::{Filter, Sidecar};

use index::Index;
use table::Table;

/// A kind of resource that is watched.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Service.
    Service,
    /// `v1` Pod.
    Pod,
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry,
    /// `networking.istio.io` VirtualService.
    VirtualService,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TCPRoute.
    TcpRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    TlsRoute,
    /// `networking.istio.io` Sidecar, ours and others'.
    Sidecar,
    /// `networking.istio.io` EnvoyFilter, ours and others'.
    EnvoyFilter,
    /// The ConfigMap that holds Istio's mesh config.
    MeshConfig,
    /// `networking.k8s.io` ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::Service,
        Self::Pod,
        Self::ServiceEntry,
        Self::VirtualService,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::Sidecar,
        Self::EnvoyFilter,
        Self::MeshConfig,
        Self::ServiceCidr,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::ServiceEntry => "ServiceEntry",
            Self::VirtualService => "VirtualService",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::Sidecar => "Sidecar",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::MeshConfig => "ConfigMap",
            Self::ServiceCidr => "ServiceCIDR",
        })
    }
}

/// Which namespaces a change may matter to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Touched {
    /// None: nothing that is read has changed.
    Nothing,
    /// This one.
    Namespace(String),
    /// Any.
    Everything,
}

/// An object that could not be read.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{kind} {name} is left out: {reason}")]
pub struct Unreadable {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// What is wrong with it.
    pub reason: String,
}

/// Said of a mesh config that was there.
const GONE: &str = "it is not there any more";

/// Everything watched, with the indexes that questions need. A copy costs little: it shares what does not change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    cluster_domain: String,
    /// Where it matters whether pods are ready.
    ready_in: String,
    /// Lazymesh's own namespace.
    own_namespace: String,
    config: MeshConfig,
    namespaces: Table<Namespace>,
    pods: Table<Pod>,
    services: Table<Service>,
    entries: Table<Vec<Service>>,
    routes: BTreeMap<Kind, Table<Route>>,
    sidecars: Table<Sidecar>,
    filters: Table<Filter>,
    cidrs: Table<Vec<IpNet>>,
    unreadable: BTreeMap<(Kind, Name), String>,
    index: Arc<Index>,
}

impl World {
    /// Nothing yet. `cluster_domain`: what Kubernetes' DNS appends, such as `cluster.local`.
    #[must_use]
    pub fn new(cluster_domain: &str) -> Self {
        Self {
            cluster_domain: cluster_domain.trim_matches('.').to_ascii_lowercase(),
            ..Self::default()
        }
    }

    /// Whether pods are ready is looked at in this namespace, that of the global proxy, and matters everywhere. Elsewhere
    /// it does not, and must be no reason to plan.
    #[must_use]
    pub fn looking_for_ready_pods(self, namespace: &str) -> Self {
        let ready_in = namespace.to_owned();
        Self { ready_in, ..self }
    }

    /// The same with Lazymesh's own namespace, whose label says whether all of it is paused.
    #[must_use]
    pub fn in_namespace(self, own: &str) -> Self {
        let own_namespace = own.to_owned();
        Self {
            own_namespace,
            ..self
        }
    }

    /// Takes an object as it now is; says which namespaces that may matter to.
    ///
    /// # Errors
    /// When it cannot be read. What was known of it before is forgotten then, for it is no longer true; of the mesh config
    /// the last good one stays, for all Sidecars would be written by Istio's defaults.
    pub fn apply(&mut self, kind: Kind, object: &DynamicObject) -> Result<Touched, Unreadable> {
        let name = Name::of(&object.metadata);
        match self.read_and_set(kind, &name, object) {
            Ok(touched) => {
                self.unreadable.remove(&(kind, name));
                Ok(touched)
            }
            Err(reason) => {
                if kind != Kind::MeshConfig {
                    self.remove(kind, &name);
                }
                self.unreadable.insert((kind, name.clone()), reason.clone());
                Err(Unreadable { kind, name, reason })
            }
        }
    }

    /// Forgets an object; says which namespaces that may matter to.
    pub fn delete(&mut self, kind: Kind, name: &Name) -> Touched {
        self.unreadable.remove(&(kind, name.clone()));
        self.remove(kind, name)
    }

    /// Forgets every object of a kind that is not among those listed, as after a watch began anew.
    pub fn retain(&mut self, kind: Kind, listed: &BTreeSet<Name>) -> Touched {
        self.unreadable
            .retain(|(of, name), _| *of != kind || listed.contains(name));
        let gone: Vec<Name> = self
            .names(kind)
            .into_iter()
            .filter(|name| !listed.contains(name))
            .collect();
        gone.iter()
            .map(|name| self.remove(kind, name))
            .fold(Touched::Nothing, Touched::and)
    }

    fn names(&self, kind: Kind) -> Vec<Name> {
        match kind {
            Kind::Namespace => self.namespaces.names(),
            Kind::Service => self.services.names(),
            Kind::Pod => self.pods.names(),
            Kind::ServiceEntry => self.entries.names(),
            Kind::Sidecar => self.sidecars.names(),
            Kind::EnvoyFilter => self.filters.names(),
            Kind::ServiceCidr => self.cidrs.names(),
            Kind::MeshConfig => self.config.name.iter().cloned().collect(),
            Kind::VirtualService
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TcpRoute
            | Kind::TlsRoute => self.routes.get(&kind).map(Table::names).unwrap_or_default(),
        }
    }

    fn read_and_set(
        &mut self,
        kind: Kind,
        name: &Name,
        object: &DynamicObject,
    ) -> Result<Touched, String> {
        let own = || Touched::Namespace(name.namespace.clone());
        Ok(match kind {
            Kind::Namespace => {
                let changed = self.namespaces.set(name, namespace::read(object));
                Touched::when(changed, Touched::Everything)
            }
            Kind::Pod => self.set_pod(name, pod::read(object)?),
            Kind::Sidecar => {
                let touched = self.of_sidecar(name);
                let changed = self.sidecars.set(name, sidecar::read(object)?);
                Touched::when(changed, touched)
            }
            Kind::EnvoyFilter => {
                Touched::when(self.filters.set(name, sidecar::read_filter(object)), own())
            }
            Kind::MeshConfig => {
                let config = config::read(name, object)?;
                let changed = self.config != config;
                self.config = config;
                Touched::when(changed, Touched::Everything)
            }
            Kind::ServiceCidr => Touched::when(
                self.cidrs.set(name, config::read_cidrs(object)?),
                Touched::Everything,
            ),
            Kind::Service => self.set_service(name, service::read(object, &self.cluster_domain)?),
            Kind::ServiceEntry => self.set_entry(name, entry::read(object)?),
            Kind::VirtualService => {
                self.set_route(kind, name, route::read(object, &self.cluster_domain)?)
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
                let route = gateway_route::read(object, &self.cluster_domain)?;
                self.set_route(kind, name, route)
            }
        })
    }

    fn set_pod(&mut self, name: &Name, mut pod: Pod) -> Touched {
        pod.ready &= name.namespace == self.ready_in;
        let was_ready = self.pods.get(name).is_some_and(|pod| pod.ready);
        let touched = if was_ready == pod.ready {
            Touched::Namespace(name.namespace.clone())
        } else {
            Touched::Everything
        };
        Touched::when(self.pods.set(name, pod), touched)
    }

    fn set_service(&mut self, name: &Name, service: Service) -> Touched {
        if self.services.get(name) == Some(&service) {
            return Touched::Nothing;
        }
        self.remove(Kind::Service, name);
        Arc::make_mut(&mut self.index).add_service(Kind::Service, name, 0, &service);
        self.services.set(name, service);
        Touched::Everything
    }

    fn set_entry(&mut self, name: &Name, services: Vec<Service>) -> Touched {
        if self.entries.get(name) == Some(&services) {
            return Touched::Nothing;
        }
        self.remove(Kind::ServiceEntry, name);
        for (position, service) in services.iter().enumerate() {
            Arc::make_mut(&mut self.index).add_service(Kind::ServiceEntry, name, position, service);
        }
        self.entries.set(name, services);
        Touched::Everything
    }

    fn set_route(&mut self, kind: Kind, name: &Name, route: Route) -> Touched {
        if self.routes.get(&kind).and_then(|of| of.get(name)) == Some(&route) {
            return Touched::Nothing;
        }
        self.remove(kind, name);
        Arc::make_mut(&mut self.index).add_route(kind, name, &route);
        self.routes.entry(kind).or_default().set(name, route);
        Touched::Everything
    }

    fn remove(&mut self, kind: Kind, name: &Name) -> Touched {
        let own = || Touched::Namespace(name.namespace.clone());
        match kind {
            Kind::Namespace => {
                Touched::when(self.namespaces.take(name).is_some(), Touched::Everything)
            }
            Kind::Pod => match self.pods.take(name) {
                Some(pod) if pod.ready => Touched::Everything,
                pod => Touched::when(pod.is_some(), own()),
            },
            Kind::Sidecar => {
                let touched = self.of_sidecar(name);
                Touched::when(self.sidecars.take(name).is_some(), touched)
            }
            Kind::EnvoyFilter => Touched::when(self.filters.take(name).is_some(), own()),
            Kind::MeshConfig => {
                // More likely a wrong name, or a revision that moved, than a mesh by Istio's defaults.
                if self.config.name.as_ref() == Some(name) {
                    self.unreadable.insert((kind, name.clone()), GONE.into());
                }
                Touched::Nothing
            }
            Kind::ServiceCidr => {
                Touched::when(self.cidrs.take(name).is_some(), Touched::Everything)
            }
            Kind::Service => match self.services.take(name) {
                Some(service) => {
                    Arc::make_mut(&mut self.index).drop_service(kind, name, 0, &service);
                    Touched::Everything
                }
                None => Touched::Nothing,
            },
            Kind::ServiceEntry => match self.entries.take(name) {
                Some(services) => {
                    for (position, service) in services.iter().enumerate() {
                        Arc::make_mut(&mut self.index).drop_service(kind, name, position, service);
                    }
                    Touched::Everything
                }
                None => Touched::Nothing,
            },
            Kind::VirtualService
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TcpRoute
            | Kind::TlsRoute => {
                let route = self.routes.get_mut(&kind).and_then(|of| of.take(name));
                match route {
                    Some(route) => {
                        Arc::make_mut(&mut self.index).drop_route(kind, name, &route);
                        Touched::Everything
                    }
                    None => Touched::Nothing,
                }
            }
        }
    }

    /// A Sidecar in the root namespace may hold for every other one.
    fn of_sidecar(&self, name: &Name) -> Touched {
        if name.namespace == self.config.root_namespace {
            Touched::Everything
        } else {
            Touched::Namespace(name.namespace.clone())
        }
    }
}

impl Touched {
    fn when(changed: bool, touched: Self) -> Self {
        if changed { touched } else { Self::Nothing }
    }

    /// What both matter to.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, other) | (other, Self::Nothing) => other,
            (Self::Namespace(one), Self::Namespace(two)) if one == two => Self::Namespace(one),
            _ => Self::Everything,
        }
    }
}
