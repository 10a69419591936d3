//! Encoded resources by type and name, and how a change of the mesh changes them.
//!
//! Pure: what a proxy in a namespace is to be given, as tables. Which of it goes out on a stream, and when, is decided
//! by `session`.

use super::istio::Documents;
use super::proxy::Proxy;
use super::shape::{MeshShape, Service};
use super::view::{self, Own};
use super::{clusters, endpoints, listeners, routes};
use bytes::Bytes;
use prost::{Message, Name};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use xds_shim::envoy::config::cluster::v3::Cluster;
use xds_shim::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_shim::envoy::config::listener::v3::Listener;
use xds_shim::envoy::config::route::v3::RouteConfiguration;

/// Clusters.
pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints.
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners.
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Route configs.
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Proxies whose tables are kept; more are looked at again.
const PROXIES_KEPT: usize = 1_000;
/// The order istiod pushes in (pilot/pkg/xds/ads.go `PushOrder`).
pub const PUSH_ORDER: [&str; 4] = [CDS, EDS, LDS, RDS];

/// Encoded resources of one type, by name.
pub type Table = BTreeMap<String, Bytes>;

/// Something that happens to the mesh.
#[derive(Debug, Clone)]
pub enum Change {
    /// A service comes into being, or its ports, address or endpoints are replaced.
    PutService(Service),
    /// The service of this host goes.
    RemoveService(String),
    /// The endpoints of the service of this host; an incremental push of those alone.
    Endpoints(String, Vec<std::net::Ipv4Addr>),
    /// A resource, of any type, in place of or beside the generated ones.
    PutResource {
        /// Its type URL.
        type_url: String,
        /// Its name.
        name: String,
        /// The encoded message.
        body: Bytes,
    },
    /// A resource that istiod no longer has, generated or put.
    RemoveResource {
        /// Its type URL.
        type_url: String,
        /// Its name.
        name: String,
    },
    /// Everything again, unchanged: what istiod does when it cannot tell what changed.
    FullPush,
}

impl Change {
    /// A resource to put, from its message.
    pub fn put<M: Message + Name>(name: &str, message: &M) -> Self {
        Self::PutResource {
            type_url: M::type_url(),
            name: name.to_owned(),
            body: message.encode_to_vec().into(),
        }
    }
}

/// What a push concerns, for one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// Nothing of the type.
    #[default]
    Nothing,
    /// These names alone, present or removed.
    Names(BTreeSet<String>),
    /// All of the type.
    All,
}

/// What a change asks to be pushed, by type URL; types that are absent are not pushed.
pub type Push = HashMap<String, Scope>;

/// What one proxy is to be given: a table per type URL.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    tables: HashMap<String, Arc<Table>>,
}

impl Snapshot {
    /// The resources of a type; none when the type is unknown.
    pub fn table(&self, type_url: &str) -> Option<&Table> {
        self.tables.get(type_url).map(Arc::as_ref)
    }

    /// One resource.
    pub fn get(&self, type_url: &str, name: &str) -> Option<&Bytes> {
        self.table(type_url)?.get(name)
    }
}

/// The mesh and the resources made of it.
#[derive(Debug)]
pub struct Resources {
    shape: MeshShape,
    /// Put (some) or removed (none) by hand, by type and name.
    overrides: HashMap<String, BTreeMap<String, Option<Bytes>>>,
    clusters: Arc<Table>,
    endpoints: Arc<Table>,
    listeners: Arc<Table>,
    /// By the namespace of the proxy. Emptied by each change that concerns routes.
    routes: HashMap<String, Arc<Table>>,
    documents: Documents,
    /// Of proxies that have been looked at. Emptied by each change that may concern them.
    own: HashMap<Proxy, Option<Own>>,
}

impl Resources {
    /// All resources of a mesh.
    pub fn new(shape: MeshShape) -> Self {
        let mut resources = Self {
            shape,
            overrides: HashMap::new(),
            clusters: Arc::default(),
            endpoints: Arc::default(),
            listeners: Arc::default(),
            routes: HashMap::new(),
            documents: Documents::default(),
            own: HashMap::new(),
        };
        let services = resources.shape.services.values();
        let endpoints = services.flat_map(endpoints::of_service);
        resources.endpoints = Arc::new(endpoints.map(|one| named(&one)).collect());
        resources.clusters = Arc::new(resources.cluster_table());
        resources.listeners = Arc::new(resources.listener_table());
        resources
    }

    /// The mesh as it is now.
    pub fn shape(&self) -> &MeshShape {
        &self.shape
    }

    /// What a proxy in `namespace` is to be given now, if it is like most.
    pub fn snapshot(&mut self, namespace: &str) -> Snapshot {
        self.snapshot_for(&Proxy::in_namespace(namespace))
    }

    /// What a proxy is to be given now.
    pub fn snapshot_for(&mut self, proxy: &Proxy) -> Snapshot {
        let mut snapshot = self.of_namespace(&proxy.namespace);
        let Self {
            shape,
            documents,
            clusters,
            ..
        } = self;
        if self.own.len() >= PROXIES_KEPT {
            self.own.clear();
        }
        let own = self.own.entry(proxy.clone()).or_insert_with(|| {
            let mut own = view::own(shape, documents, clusters, proxy)?;
            for (url, table) in own.tables() {
                apply_overrides(Arc::make_mut(table), self.overrides.get(url));
            }
            Some(own)
        });
        for (url, table) in own.iter_mut().flat_map(Own::tables) {
            snapshot.tables.insert(url.to_owned(), Arc::clone(table));
        }
        snapshot
    }

    fn of_namespace(&mut self, namespace: &str) -> Snapshot {
        let Self {
            shape,
            overrides,
            routes,
            ..
        } = self;
        let routes = routes.entry(namespace.to_owned()).or_insert_with(|| {
            let mut table: Table = routes::all(shape, namespace).iter().map(named).collect();
            apply_overrides(&mut table, overrides.get(RDS));
            Arc::new(table)
        });
        let generated = [
            (CDS, &self.clusters),
            (EDS, &self.endpoints),
            (LDS, &self.listeners),
            (RDS, &*routes),
        ];
        let mut tables: HashMap<_, _> = generated
            .map(|(url, table)| (url.to_owned(), Arc::clone(table)))
            .into();
        for (type_url, entries) in &self.overrides {
            // Types that nothing is generated for have what was put, and nothing else.
            tables.entry(type_url.clone()).or_insert_with(|| {
                let mut table = Table::new();
                apply_overrides(&mut table, Some(entries));
                Arc::new(table)
            });
        }
        Snapshot { tables }
    }

    /// Replaces Istio's resources. Gives the namespaces whose proxies istiod would push everything to; none for all.
    pub fn put_documents(&mut self, documents: Documents) -> Option<BTreeSet<String>> {
        let old = std::mem::replace(&mut self.documents, documents);
        self.own.clear();
        if self.documents.same_rules(&old) {
            return Some(self.documents.changed(&old));
        }
        self.clusters = Arc::new(self.cluster_table());
        None
    }

    /// Makes a change and says what istiod would push for it.
    pub fn apply(&mut self, change: Change) -> Push {
        self.own.clear();
        match change {
            Change::FullPush => everything(),
            Change::Endpoints(host, addresses) => self.set_endpoints(&host, addresses),
            Change::PutService(service) => {
                let host = service.host();
                self.replace_service(&host, Some(&service))
            }
            Change::RemoveService(host) => self.replace_service(&host, None),
            Change::PutResource {
                type_url,
                name,
                body,
            } => self.override_one(type_url, name, Some(body)),
            Change::RemoveResource { type_url, name } => self.override_one(type_url, name, None),
        }
    }

    fn set_endpoints(&mut self, host: &str, addresses: Vec<std::net::Ipv4Addr>) -> Push {
        let Some(service) = self.shape.services.get_mut(host) else {
            return Push::new();
        };
        service.endpoints = addresses;
        let fresh: Table = endpoints::of_service(service).iter().map(named).collect();
        let names = fresh.keys().cloned().collect();
        let table = Arc::make_mut(&mut self.endpoints);
        table.extend(fresh);
        apply_overrides(table, self.overrides.get(EDS));
        [(EDS.to_owned(), Scope::Names(names))].into()
    }

    /// A service event: a delta of its clusters and endpoints, all listeners, all routes asked for.
    fn replace_service(&mut self, host: &str, service: Option<&Service>) -> Push {
        let old = match service {
            Some(service) => self.shape.services.insert(host.to_owned(), service.clone()),
            None => self.shape.services.remove(host),
        };
        if old.as_ref() == service {
            return Push::new();
        }
        let fresh = service.map(|service| self.clusters_of(service));
        let (table, cla) = (
            Arc::make_mut(&mut self.clusters),
            Arc::make_mut(&mut self.endpoints),
        );
        let mut names = BTreeSet::new();
        for port in old.iter().flat_map(|service| &service.ports) {
            let name = super::shape::outbound_cluster(host, port.number);
            table.remove(&name);
            cla.remove(&name);
            names.insert(name);
        }
        if let Some(service) = service {
            table.extend(fresh.into_iter().flatten());
            cla.extend(endpoints::of_service(service).iter().map(named));
            names.extend(
                service
                    .ports
                    .iter()
                    .map(|port| service.cluster(port.number)),
            );
        }
        apply_overrides(table, self.overrides.get(CDS));
        apply_overrides(cla, self.overrides.get(EDS));
        self.listeners = Arc::new(self.listener_table());
        self.routes.clear();
        let names = Scope::Names(names);
        [
            (CDS, names.clone()),
            (EDS, names),
            (LDS, Scope::All),
            (RDS, Scope::All),
        ]
        .map(|(url, scope)| (url.to_owned(), scope))
        .into()
    }

    fn override_one(&mut self, type_url: String, name: String, body: Option<Bytes>) -> Push {
        let one = [(name.clone(), body.clone())].into();
        let names = Scope::Names([name.clone()].into());
        let push = match type_url.as_str() {
            CDS => {
                apply_overrides(Arc::make_mut(&mut self.clusters), Some(&one));
                // A changed cluster needs its endpoints again.
                [(CDS.to_owned(), names.clone()), (EDS.to_owned(), names)].into()
            }
            EDS => {
                apply_overrides(Arc::make_mut(&mut self.endpoints), Some(&one));
                [(EDS.to_owned(), names)].into()
            }
            LDS => {
                apply_overrides(Arc::make_mut(&mut self.listeners), Some(&one));
                [(LDS.to_owned(), Scope::All), (RDS.to_owned(), Scope::All)].into()
            }
            other => {
                self.routes.clear();
                [(other.to_owned(), Scope::All)].into()
            }
        };
        self.overrides
            .entry(type_url)
            .or_default()
            .insert(name, body);
        push
    }

    fn cluster_table(&self) -> Table {
        let services = self.shape.services.values();
        let mut table: Table = services
            .flat_map(|service| self.clusters_of(service))
            .collect();
        table.extend(clusters::special(&self.shape).iter().map(named));
        apply_overrides(&mut table, self.overrides.get(CDS));
        table
    }

    /// The clusters of a service, as its DestinationRule has them.
    fn clusters_of(&self, service: &Service) -> Vec<(String, Bytes)> {
        let host = service.host();
        let mut made = clusters::of_service(service, self.shape.auto_mtls);
        for (cluster, port) in made.iter_mut().zip(&service.ports) {
            if let Some(settings) = self.documents.settings(&host, port.number) {
                clusters::apply(cluster, settings);
            }
        }
        made.iter().map(named).collect()
    }

    fn listener_table(&self) -> Table {
        let mut table: Table = listeners::all(&self.shape).iter().map(named).collect();
        apply_overrides(&mut table, self.overrides.get(LDS));
        table
    }
}

impl Own {
    fn tables(&mut self) -> [(&'static str, &mut Arc<Table>); 3] {
        [
            (CDS, &mut self.clusters),
            (LDS, &mut self.listeners),
            (RDS, &mut self.routes),
        ]
    }
}

/// All types, all of each.
pub(super) fn everything() -> Push {
    PUSH_ORDER.map(|url| (url.to_owned(), Scope::All)).into()
}

fn apply_overrides(table: &mut Table, entries: Option<&BTreeMap<String, Option<Bytes>>>) {
    for (name, body) in entries.into_iter().flatten() {
        match body {
            Some(body) => table.insert(name.clone(), body.clone()),
            None => table.remove(name),
        };
    }
}

/// A message that says its own name, and is encoded to the same bytes each time.
pub(super) trait Named: Message + Sized {
    fn name(&self) -> &str;

    fn bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl Named for Cluster {
    fn name(&self) -> &str {
        &self.name
    }

    fn bytes(&self) -> Bytes {
        super::canonical::cluster(self)
    }
}

impl Named for ClusterLoadAssignment {
    fn name(&self) -> &str {
        &self.cluster_name
    }
}

impl Named for Listener {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for RouteConfiguration {
    fn name(&self) -> &str {
        &self.name
    }
}

pub(super) fn named<M: Named>(message: &M) -> (String, Bytes) {
    (message.name().to_owned(), message.bytes())
}

#[cfg(test)]
mod tests;
