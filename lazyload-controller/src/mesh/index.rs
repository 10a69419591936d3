//! Which services and routes a host or address leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::object::Name;
use super::{Kind, Route, Service};

/// Where a service is kept: its kind, its object, and which of that object's hosts it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct ServiceAt {
    pub(super) kind: Kind,
    pub(super) name: Name,
    pub(super) position: usize,
}

type Many<K, V> = BTreeMap<K, BTreeSet<V>>;
type RouteAt = (Kind, Name);

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    by_host: Many<String, ServiceAt>,
    wildcards: BTreeSet<ServiceAt>,
    by_address: Many<IpAddr, ServiceAt>,
    routes: Many<String, RouteAt>,
    wildcard_routes: BTreeSet<RouteAt>,
    of_entry: Many<Name, RouteAt>,
}

fn put<K: Ord + Clone, V: Ord>(map: &mut Many<K, V>, key: &K, value: V) {
    map.entry(key.clone()).or_default().insert(value);
}

fn drop_one<K: Ord, V: Ord>(map: &mut Many<K, V>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

impl Index {
    pub(super) fn add_service(&mut self, kind: Kind, name: &Name, position: usize, s: &Service) {
        let at = ServiceAt {
            kind,
            name: name.clone(),
            position,
        };
        for address in &s.addresses {
            put(&mut self.by_address, address, at.clone());
        }
        if s.host.starts_with('*') {
            self.wildcards.insert(at.clone());
        }
        put(&mut self.by_host, &s.host, at);
    }

    pub(super) fn drop_service(&mut self, kind: Kind, name: &Name, position: usize, s: &Service) {
        let at = ServiceAt {
            kind,
            name: name.clone(),
            position,
        };
        for address in &s.addresses {
            drop_one(&mut self.by_address, address, &at);
        }
        self.wildcards.remove(&at);
        drop_one(&mut self.by_host, &s.host, &at);
    }

    pub(super) fn add_route(&mut self, kind: Kind, name: &Name, route: &Route) {
        if !route.mesh {
            return;
        }
        let at = (kind, name.clone());
        for host in &route.hosts {
            if host.starts_with('*') {
                self.wildcard_routes.insert(at.clone());
            }
            put(&mut self.routes, host, at.clone());
        }
        for entry in &route.entries {
            put(&mut self.of_entry, entry, at.clone());
        }
    }

    pub(super) fn drop_route(&mut self, kind: Kind, name: &Name, route: &Route) {
        let at = (kind, name.clone());
        for host in &route.hosts {
            drop_one(&mut self.routes, host, &at);
        }
        for entry in &route.entries {
            drop_one(&mut self.of_entry, entry, &at);
        }
        self.wildcard_routes.remove(&at);
    }

    pub(super) fn services_named<'a>(
        &'a self,
        host: &str,
    ) -> impl Iterator<Item = &'a ServiceAt> + use<'a> {
        self.by_host.get(host).into_iter().flatten()
    }

    pub(super) fn wildcard_services(&self) -> impl Iterator<Item = &ServiceAt> {
        self.wildcards.iter()
    }

    pub(super) fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ServiceAt> {
        self.by_address.get(&address).into_iter().flatten()
    }

    pub(super) fn routes_named<'a>(
        &'a self,
        host: &str,
    ) -> impl Iterator<Item = &'a RouteAt> + use<'a> {
        self.routes.get(host).into_iter().flatten()
    }

    pub(super) fn wildcard_routes(&self) -> impl Iterator<Item = &RouteAt> {
        self.wildcard_routes.iter()
    }

    pub(super) fn routes_of_entry(&self, entry: &Name) -> impl Iterator<Item = &RouteAt> {
        self.of_entry.get(entry).into_iter().flatten()
    }
}
