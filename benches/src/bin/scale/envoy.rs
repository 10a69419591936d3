//! A sidecar's end of a delta stream, as far as it has config: what Envoy subscribes, acknowledges and asks for, and in
//! which order. It keeps names and versions, no resources.
//!
//! Pure. How Envoy behaves was tried (docs/facts.md); the shim's own tests have a model of it that keeps everything
//! (xds-shim/src/session/tests/model).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use xds_shim::ads::{DeltaRequest, DeltaResponse, Resource, WILDCARD};
use xds_shim::{cluster, wire};

use crate::mesh::Use;
use crate::rules::Kind;

const HTTP_MANAGER: &[u8] =
    b"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// The beginning of names that stand for a request or a connection.
const STAND_IN: &str = "lazy";

#[derive(Debug)]
struct Cluster {
    version: Box<str>,
    /// What its endpoints are called; none when they come otherwise.
    endpoints: Option<Box<str>>,
    warm: bool,
}

#[derive(Debug)]
struct Listener {
    version: Box<str>,
    routes: BTreeSet<Box<str>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Envoy {
    /// The encoded `Node`.
    node: Bytes,
    uses: Arc<[Use]>,
    clusters: BTreeMap<Box<str>, Cluster>,
    /// Those that are watched, and the version there is.
    endpoints: BTreeMap<Box<str>, Option<Box<str>>>,
    listeners: BTreeMap<Box<str>, Listener>,
    /// Those that are watched, and the version there is.
    routes: BTreeMap<Box<str>, Option<Box<str>>>,
    /// What was asked for on demand: each name once.
    asked: BTreeSet<Box<str>>,
    /// Whether it watches endpoints, and listeners: not at the very start.
    watches_endpoints: bool,
    watches_listeners: bool,
    stream: Stream,
    out: Vec<DeltaRequest>,
}

/// What is of one stream.
#[derive(Debug, Default)]
struct Stream {
    has_node: bool,
    has_clusters: bool,
    has_listeners: bool,
    first_due: bool,
    /// Nonces of responses with clusters: said when no cluster warms.
    acks_due: Vec<String>,
    asks_due: Vec<String>,
}

impl Envoy {
    /// One that has nothing.
    pub(crate) fn new(node: Bytes, uses: Arc<[Use]>) -> Self {
        Self {
            node,
            uses,
            clusters: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            asked: BTreeSet::new(),
            watches_endpoints: false,
            watches_listeners: false,
            stream: Stream::default(),
            out: Vec::new(),
        }
    }

    /// The same proxy, begun anew.
    pub(crate) fn restarted(&self) -> Self {
        Self::new(self.node.clone(), Arc::clone(&self.uses))
    }

    /// A stream is there, for the first time or again: what is said on it first.
    pub(crate) fn connected(&mut self) -> Vec<Bytes> {
        self.stream = Stream {
            first_due: true,
            ..Stream::default()
        };
        self.speak();
        if self.watches_endpoints && !self.endpoints.is_empty() {
            self.open(Kind::Endpoints, names(&self.endpoints));
        }
        if self.watches_listeners {
            self.open(Kind::Listeners, Vec::new());
            if !self.routes.is_empty() {
                self.open(Kind::Routes, names(&self.routes));
            }
        }
        self.said()
    }

    /// A response came: what is said to it.
    ///
    /// # Errors
    /// When it is not one, or of a type that was not asked for.
    pub(crate) fn on_response(&mut self, response: &DeltaResponse) -> Result<Vec<Bytes>> {
        let url = &response.type_url;
        let kind = Kind::of(url).with_context(|| format!("a response of type {url:?}"))?;
        match kind {
            Kind::Clusters => self.take_clusters(response)?,
            Kind::Endpoints => self.take_endpoints(response)?,
            Kind::Listeners => self.take_listeners(response)?,
            Kind::Routes => take_versions(&mut self.routes, response)?,
        }
        if kind == Kind::Clusters {
            self.stream.acks_due.push(response.nonce.clone());
        } else {
            let ack = acknowledgement(kind, response.nonce.clone());
            self.say(ack);
        }
        self.call();
        self.speak();
        Ok(self.said())
    }

    /// Whether it has its config on this stream, and every service that is called.
    pub(crate) fn is_ready(&self) -> bool {
        let has = |one: &Use| {
            let cluster = self.clusters.get(one.cluster.as_str());
            cluster.is_some_and(|cluster| cluster.warm)
        };
        self.is_running()
            && self.stream.has_clusters
            && self.stream.has_listeners
            && !self.warms()
            && self.uses.iter().all(has)
    }

    /// How many clusters it has that stand in for others.
    pub(crate) fn copies(&self) -> usize {
        let all = self.clusters.keys();
        all.filter(|name| name.starts_with(STAND_IN)).count()
    }

    /// Past its start: it takes calls.
    fn is_running(&self) -> bool {
        self.watches_listeners
            && !self.listeners.is_empty()
            && self.routes.values().all(Option::is_some)
    }

    fn warms(&self) -> bool {
        self.clusters.values().any(|cluster| !cluster.warm)
    }

    /// The application calls all it uses; what Envoy lacks it asks for.
    fn call(&mut self) {
        if !self.is_running() {
            return;
        }
        let uses = Arc::clone(&self.uses);
        for one in uses.iter() {
            let lacks = !self.clusters.contains_key(one.cluster.as_str());
            if lacks && self.asked.insert(one.ask.as_str().into()) {
                self.stream.asks_due.push(one.ask.clone());
            }
        }
    }

    /// Says about clusters what is due, unless one warms; and begins to watch what it did not yet.
    fn speak(&mut self) {
        if self.stream.has_clusters && !self.watches_endpoints {
            self.watches_endpoints = true;
            if !self.endpoints.is_empty() {
                self.open(Kind::Endpoints, names(&self.endpoints));
            }
        }
        if self.warms() {
            return;
        }
        if std::mem::take(&mut self.stream.first_due) {
            self.stream.asks_due.clear();
            let asked = self.asked.iter().map(ToString::to_string);
            let names = std::iter::once(WILDCARD.to_owned()).chain(asked).collect();
            self.open(Kind::Clusters, names);
        }
        for nonce in std::mem::take(&mut self.stream.acks_due) {
            let subscribe = std::mem::take(&mut self.stream.asks_due);
            self.say(DeltaRequest {
                subscribe,
                ..acknowledgement(Kind::Clusters, nonce)
            });
        }
        if !self.stream.asks_due.is_empty() {
            let asks = std::mem::take(&mut self.stream.asks_due);
            self.subscribe(Kind::Clusters, asks, Vec::new());
        }
        if self.watches_endpoints && !self.watches_listeners {
            self.watches_listeners = true;
            self.open(Kind::Listeners, Vec::new());
        }
    }

    fn take_clusters(&mut self, response: &DeltaResponse) -> Result<()> {
        self.stream.has_clusters = true;
        for name in &response.removed {
            self.clusters.remove(name.as_str());
        }
        for resource in &response.resources {
            let version = version_of(resource)?;
            let held = self.clusters.get(resource.name.as_str());
            if held.is_some_and(|held| *held.version == *version) {
                continue;
            }
            let endpoints = cluster::eds_name(&resource.raw)?.map(Box::from);
            let taken = Cluster {
                version: version.into(),
                warm: endpoints.is_none(),
                endpoints,
            };
            self.clusters.insert(resource.name.as_str().into(), taken);
        }
        let clusters = self.clusters.values();
        let used: BTreeSet<_> = clusters.filter_map(|one| one.endpoints.clone()).collect();
        let (new, unused) = watch(&mut self.endpoints, used);
        if self.watches_endpoints {
            self.subscribe(Kind::Endpoints, new, unused);
        }
        Ok(())
    }

    fn take_endpoints(&mut self, response: &DeltaResponse) -> Result<()> {
        take_versions(&mut self.endpoints, response)?;
        for resource in &response.resources {
            for cluster in self.clusters.values_mut() {
                cluster.warm |= cluster.endpoints.as_deref() == Some(resource.name.as_str());
            }
        }
        Ok(())
    }

    fn take_listeners(&mut self, response: &DeltaResponse) -> Result<()> {
        self.stream.has_listeners = true;
        for name in &response.removed {
            self.listeners.remove(name.as_str());
        }
        for resource in &response.resources {
            let taken = Listener {
                version: version_of(resource)?.into(),
                routes: routes_of(&resource.raw)?,
            };
            self.listeners.insert(resource.name.as_str().into(), taken);
        }
        let listeners = self.listeners.values();
        let used = listeners.flat_map(|one| one.routes.clone()).collect();
        let (new, unused) = watch(&mut self.routes, used);
        self.subscribe(Kind::Routes, new, unused);
        Ok(())
    }

    /// The first request of a type on this stream: with what is held of it.
    fn open(&mut self, kind: Kind, subscribe: Vec<String>) {
        let pair = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        let of_named = |all: &BTreeMap<Box<str>, Option<Box<str>>>| {
            let held = all.iter();
            held.filter_map(|(name, version)| Some(pair(name, version.as_deref()?)))
                .collect()
        };
        let initial_versions = match kind {
            Kind::Clusters => {
                let all = self.clusters.iter();
                all.map(|(name, one)| pair(name, &one.version)).collect()
            }
            Kind::Listeners => {
                let all = self.listeners.iter();
                all.map(|(name, one)| pair(name, &one.version)).collect()
            }
            Kind::Endpoints => of_named(&self.endpoints),
            Kind::Routes => of_named(&self.routes),
        };
        self.say(DeltaRequest {
            type_url: kind.url().to_owned(),
            subscribe,
            initial_versions,
            ..DeltaRequest::default()
        });
    }

    fn subscribe(&mut self, kind: Kind, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return;
        }
        self.say(DeltaRequest {
            type_url: kind.url().to_owned(),
            subscribe,
            unsubscribe,
            ..DeltaRequest::default()
        });
    }

    /// The first message of a stream carries the node.
    fn say(&mut self, mut request: DeltaRequest) {
        if !std::mem::replace(&mut self.stream.has_node, true) {
            request.node = Some(self.node.clone());
        }
        self.out.push(request);
    }

    fn said(&mut self) -> Vec<Bytes> {
        self.out.drain(..).map(|request| request.encode()).collect()
    }
}

fn acknowledgement(kind: Kind, nonce: String) -> DeltaRequest {
    DeltaRequest {
        type_url: kind.url().to_owned(),
        nonce,
        ..DeltaRequest::default()
    }
}

fn names(of: &BTreeMap<Box<str>, Option<Box<str>>>) -> Vec<String> {
    of.keys().map(ToString::to_string).collect()
}

/// Watches what is used and nothing else: the names that are new, and those that are not used any longer.
fn watch(
    watched: &mut BTreeMap<Box<str>, Option<Box<str>>>,
    used: BTreeSet<Box<str>>,
) -> (Vec<String>, Vec<String>) {
    let unused = watched.keys().filter(|name| !used.contains(*name));
    let unused: Vec<String> = unused.map(ToString::to_string).collect();
    for name in &unused {
        watched.remove(name.as_str());
    }
    let new: Vec<_> = used
        .into_iter()
        .filter(|name| !watched.contains_key(name))
        .collect();
    let told = new.iter().map(ToString::to_string).collect();
    watched.extend(new.into_iter().map(|name| (name, None)));
    (told, unused)
}

fn take_versions(
    watched: &mut BTreeMap<Box<str>, Option<Box<str>>>,
    response: &DeltaResponse,
) -> Result<()> {
    for resource in &response.resources {
        if let Some(version) = watched.get_mut(resource.name.as_str()) {
            *version = Some(version_of(resource)?.into());
        }
    }
    for name in &response.removed {
        if let Some(version) = watched.get_mut(name.as_str()) {
            *version = None;
        }
    }
    Ok(())
}

/// `Resource.version` = 1.
fn version_of(resource: &Resource) -> Result<&str> {
    Ok(wire::string(&resource.raw, 1)?)
}

/// The route configurations of an encoded listener. `Listener`: `filter_chains` = 3, `default_filter_chain` = 25;
/// `FilterChain.filters` = 3, `Filter.typed_config` = 4, `HttpConnectionManager.rds` = 3, `Rds.route_config_name` = 2.
fn routes_of(resource: &[u8]) -> Result<BTreeSet<Box<str>>, wire::Error> {
    let listener = cluster::payload(resource)?;
    let mut found = BTreeSet::new();
    for chain in wire::each(listener, 3).chain(wire::each(listener, 25)) {
        for filter in wire::each(chain?, 3) {
            let any = wire::last(filter?, 4)?.unwrap_or_default();
            if wire::last(any, 1)? != Some(HTTP_MANAGER) {
                continue;
            }
            let manager = wire::last(any, 2)?.unwrap_or_default();
            if let Some(rds) = wire::last(manager, 3)? {
                found.insert(wire::string(rds, 2)?.into());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
