//! What can be asked of the mesh.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dependency_graph::mode;
use ipnet::IpNet;

use super::{
    Filter, Kind, MeshConfig, Name, Namespace, Pod, Route, Service, Sidecar, World, index,
};

impl World {
    /// What Kubernetes' DNS appends, such as `cluster.local`.
    #[must_use]
    pub fn cluster_domain(&self) -> &str {
        &self.cluster_domain
    }

    /// The mesh config.
    #[must_use]
    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// A namespace.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(&Name::cluster(name))
    }

    /// Whether Lazymesh's own namespace says that all of it is paused.
    pub fn is_paused(&self) -> bool {
        let says = |own: &Namespace| own.labels.get(mode::PAUSED).is_some_and(|is| is == "true");
        self.namespace(&self.own_namespace).is_some_and(says)
    }

    /// The names of all namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(|(name, _)| name.name.as_str())
    }

    /// The pods of a namespace.
    pub fn pods(&self, namespace: &str) -> impl Iterator<Item = (&Name, &Pod)> {
        self.pods.within(namespace)
    }

    /// A pod.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&Name::new(namespace, name))
    }

    /// Every service: of Kubernetes, and one for each host of a ServiceEntry.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        let entries = self.entries.iter().flat_map(|(_, services)| services);
        self.services
            .iter()
            .map(|(_, service)| service)
            .chain(entries)
    }

    /// The Kubernetes services of a namespace.
    pub fn services_in(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        self.services.within(namespace).map(|(_, service)| service)
    }

    /// The services with exactly this host, in every namespace. For a wildcard: those that have it as their host.
    pub fn services_named<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a Service> + use<'a> {
        self.index
            .services_named(host)
            .filter_map(|at| self.service_at(at))
    }

    /// The services whose host is a wildcard.
    pub fn wildcard_services(&self) -> impl Iterator<Item = &Service> {
        self.index
            .wildcard_services()
            .filter_map(|at| self.service_at(at))
    }

    /// The services with this address.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Service> {
        self.index
            .services_at(address)
            .filter_map(|at| self.service_at(at))
    }

    fn service_at(&self, at: &index::ServiceAt) -> Option<&Service> {
        match at.kind {
            Kind::Service => self.services.get(&at.name),
            _ => self
                .entries
                .get(&at.name)
                .and_then(|all| all.get(at.position)),
        }
    }

    /// The mesh routes with exactly this host.
    pub fn routes_named<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a Route> + use<'a> {
        self.index
            .routes_named(host)
            .filter_map(|(kind, name)| self.route(*kind, name))
    }

    /// The mesh routes with a wildcard among their hosts.
    pub fn wildcard_routes(&self) -> impl Iterator<Item = &Route> {
        self.index
            .wildcard_routes()
            .filter_map(|(kind, name)| self.route(*kind, name))
    }

    /// The routes of Gateway API whose parent is this ServiceEntry.
    pub fn routes_of_entry(&self, entry: &Name) -> impl Iterator<Item = &Route> {
        self.index
            .routes_of_entry(entry)
            .filter_map(|(kind, name)| self.route(*kind, name))
    }

    /// A route.
    #[must_use]
    pub fn route(&self, kind: Kind, name: &Name) -> Option<&Route> {
        self.routes.get(&kind)?.get(name)
    }

    /// Every route.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes
            .values()
            .flat_map(|of| of.iter().map(|(_, route)| route))
    }

    /// The Sidecars of a namespace, ours and others'.
    pub fn sidecars(&self, namespace: &str) -> impl Iterator<Item = (&Name, &Sidecar)> {
        self.sidecars.within(namespace)
    }

    /// A Sidecar.
    #[must_use]
    pub fn sidecar(&self, name: &Name) -> Option<&Sidecar> {
        self.sidecars.get(name)
    }

    /// An EnvoyFilter.
    #[must_use]
    pub fn filter(&self, name: &Name) -> Option<&Filter> {
        self.filters.get(name)
    }

    /// How many Sidecars and EnvoyFilters there are of ours.
    #[must_use]
    pub fn ours(&self) -> (usize, usize) {
        let sidecars = self.sidecars.iter().filter(|(_, one)| one.ours.is_some());
        let filters = self.filters.iter().filter(|(_, one)| one.ours.is_some());
        (sidecars.count(), filters.count())
    }

    /// The EnvoyFilters of a namespace, ours and others'.
    pub fn filters(&self, namespace: &str) -> impl Iterator<Item = (&Name, &Filter)> {
        self.filters.within(namespace)
    }

    /// Where Kubernetes takes the addresses of services from, in order, each once.
    #[must_use]
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        let all: BTreeSet<IpNet> = self.cidrs.iter().flat_map(|(_, c)| c).copied().collect();
        all.into_iter().collect()
    }

    /// What could not be read, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (Kind, &Name, &str)> {
        self.unreadable
            .iter()
            .map(|((kind, name), reason)| (*kind, name, reason.as_str()))
    }

    /// Why what is known of the mesh config is not what the mesh config says, if so.
    #[must_use]
    pub fn mesh_config_fault(&self) -> Option<String> {
        let mut unreadable = self.unreadable();
        let fault = unreadable.find(|(kind, ..)| *kind == Kind::MeshConfig);
        let fault = fault.map(|(_, name, why)| format!("ConfigMap {name}: {why}"));
        match (&self.config.name, fault) {
            (Some(_), fault) => Some(format!("{}; what it said last holds", fault?)),
            (None, fault) => {
                let why = fault.unwrap_or_else(|| "it is not there".to_owned());
                Some(format!("{why}; Istio's defaults are assumed"))
            }
        }
    }

    /// Whether a service may be called from a namespace: its `exportTo`, else the mesh's default.
    #[must_use]
    pub fn sees_service(&self, namespace: &str, service: &Service) -> bool {
        let default = &self.config.default_service_export_to;
        exported(&service.export_to, default, &service.namespace, namespace)
    }

    /// Whether a route holds for callers of a namespace: its `exportTo`, else the mesh's default.
    #[must_use]
    pub fn sees_route(&self, namespace: &str, route: &Route) -> bool {
        let default = &self.config.default_route_export_to;
        exported(&route.export_to, default, &route.namespace, namespace)
    }
}

/// Istio's `exportTo`: `*` all, `.` its own namespace, `~` nobody, else a namespace.
fn exported(own: &[String], default: &[String], home: &str, to: &str) -> bool {
    let set = if own.is_empty() { default } else { own };
    set.iter().any(|name| match name.as_str() {
        "*" => true,
        "." => home == to,
        "~" => false,
        other => other == to,
    })
}
