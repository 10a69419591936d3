//! Envoy's end of a delta stream, as far as it holds clusters, endpoints, listeners and routes
//! (docs/facts.md says what was tried).

use super::find::{Call, End, connection_manager, rds_name, socket};
use super::*;
use std::collections::{BTreeMap, VecDeque};

/// A cluster or a listener: what is in use, and what is to be once it is ready.
#[derive(Debug)]
pub(super) struct Slot<T> {
    pub(super) active: Option<T>,
    pub(super) warming: Option<T>,
}

#[derive(Debug, Default)]
pub(super) struct Envoy {
    pub(super) clusters: BTreeMap<String, Slot<Any>>,
    pub(super) endpoints: BTreeMap<String, Vec<u8>>,
    pub(super) listeners: BTreeMap<String, Slot<lds::Listener>>,
    pub(super) routes: BTreeMap<String, (rds::RouteConfiguration, String)>,
    /// Names that were ever asked for on demand: each once.
    pub(super) asked: BTreeSet<String>,
    versions: BTreeMap<&'static str, BTreeMap<String, String>>,
    watched_endpoints: BTreeSet<String>,
    watched_routes: BTreeSet<String>,
    /// Whether it watches endpoints, and listeners: not at the very start.
    has_clusters: bool,
    watches_endpoints: bool,
    watches_listeners: bool,
    /// What is to be said about clusters, once none warms.
    first_due: bool,
    acks_due: VecDeque<pb::DeltaDiscoveryRequest>,
    asks_due: Vec<String>,
    pub(super) out: VecDeque<Bytes>,
    /// The next response of this type is refused, though all of it is applied.
    pub(super) refuses: Option<&'static str>,
    pub(super) held: Vec<(Call, String)>,
    pub(super) ended: Vec<(Call, End)>,
}

fn known_type(type_url: &str) -> &'static str {
    let types = [ads::CDS, ads::EDS, ads::LDS, ads::RDS];
    types.into_iter().find(|t| *t == type_url).unwrap()
}

pub(super) fn eds_of(any: &Any) -> Option<String> {
    let cluster = cds::Cluster::decode(&*any.value).unwrap();
    let is_eds =
        cluster.cluster_discovery_type == Some(cds::cluster::ClusterDiscoveryType::Type(3));
    let named = cluster.eds_cluster_config.map(|e| e.service_name);
    is_eds.then(|| named.filter(|n| !n.is_empty()).unwrap_or(cluster.name))
}

impl Envoy {
    /// The stream is there, for the first time or again.
    pub(super) fn connects(&mut self) {
        self.out.clear();
        self.acks_due.clear();
        self.asks_due.clear();
        self.first_due = true;
        self.speaks();
        if self.watches_endpoints {
            let names = self.watched_endpoints.iter().cloned().collect();
            self.opens(ads::EDS, names);
        }
        if self.watches_listeners {
            self.opens(ads::LDS, Vec::new());
            let names: Vec<_> = self.watched_routes.iter().cloned().collect();
            if !names.is_empty() {
                self.opens(ads::RDS, names);
            }
        }
    }

    fn opens(&mut self, type_url: &'static str, names: Vec<String>) {
        let versions = self.versions.entry(type_url).or_default().clone();
        self.says(&pb::DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe: names,
            initial_resource_versions: versions.into_iter().collect(),
            ..Default::default()
        });
    }

    fn says(&mut self, request: &pb::DeltaDiscoveryRequest) {
        self.out.push_back(request.encode_to_vec().into());
    }

    pub(super) fn warms(&self) -> bool {
        self.clusters.values().any(|c| c.warming.is_some())
    }

    /// Says about clusters what is due, unless one warms; and begins to watch what it did not yet.
    pub(super) fn speaks(&mut self) {
        if self.has_clusters && !self.watches_endpoints {
            self.watches_endpoints = true;
            let names = self.clusters.values().filter_map(|c| c.warming.as_ref());
            self.watched_endpoints = names.filter_map(eds_of).collect();
            let names: Vec<_> = self.watched_endpoints.iter().cloned().collect();
            if !names.is_empty() {
                self.opens(ads::EDS, names);
            }
        }
        if self.warms() {
            return;
        }
        if std::mem::take(&mut self.first_due) {
            let names = std::iter::once("*".to_owned()).chain(self.asked.iter().cloned());
            self.asks_due.clear();
            self.opens(ads::CDS, names.collect());
        }
        while let Some(mut ack) = self.acks_due.pop_front() {
            ack.resource_names_subscribe = std::mem::take(&mut self.asks_due);
            self.says(&ack);
        }
        if !self.asks_due.is_empty() {
            let names = std::mem::take(&mut self.asks_due);
            self.subscribes(ads::CDS, names, Vec::new());
        }
        if self.watches_endpoints && !self.watches_listeners {
            self.watches_listeners = true;
            self.opens(ads::LDS, Vec::new());
        }
    }

    fn subscribes(&mut self, type_url: &'static str, names: Vec<String>, not: Vec<String>) {
        if names.is_empty() && not.is_empty() {
            return;
        }
        self.says(&pb::DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe: names,
            resource_names_unsubscribe: not,
            ..Default::default()
        });
    }

    pub(super) fn hears(&mut self, response: &pb::DeltaDiscoveryResponse) {
        let type_url = known_type(&response.type_url);
        match type_url {
            ads::CDS => self.takes_clusters(response),
            ads::EDS => self.takes_endpoints(response),
            ads::LDS => self.takes_listeners(response),
            _ => self.takes_routes(response),
        }
        let refused = self.refuses.take_if(|t| *t == type_url).is_some();
        let versions = self.versions.entry(type_url).or_default();
        // Of what it refuses Envoy applies the valid part and does not say so when it comes back. Such a
        // cluster or listener may stay as it was, with us as without us: not looked at here.
        let said = !refused || matches!(type_url, ads::CDS | ads::LDS);
        for resource in response.resources.iter().filter(|_| said) {
            let wanted = match type_url {
                ads::EDS => self.watched_endpoints.contains(&resource.name),
                ads::RDS => self.watched_routes.contains(&resource.name),
                _ => true,
            };
            if wanted {
                versions.insert(resource.name.clone(), resource.version.clone());
            }
        }
        for name in &response.removed_resources {
            versions.remove(name);
        }
        let ack = match refused {
            true => refusal(response, "broken"),
            false => pb::DeltaDiscoveryRequest {
                type_url: type_url.into(),
                response_nonce: response.nonce.clone(),
                ..Default::default()
            },
        };
        match type_url {
            ads::CDS => self.acks_due.push_back(ack),
            _ => self.says(&ack),
        }
        if self.watches_endpoints {
            self.speaks();
        }
        self.goes_on();
    }

    fn takes_clusters(&mut self, response: &pb::DeltaDiscoveryResponse) {
        let mut new = Vec::new();
        for name in &response.removed_resources {
            self.clusters.remove(name);
        }
        for resource in &response.resources {
            let any = resource.resource.clone().unwrap();
            let name = resource.name.clone();
            let slot = self.clusters.entry(name).or_insert(Slot {
                active: None,
                warming: None,
            });
            if slot.warming.as_ref().or(slot.active.as_ref()) == Some(&any) {
                continue;
            }
            match eds_of(&any) {
                Some(eds) => {
                    slot.warming = Some(any);
                    if self.watches_endpoints && self.watched_endpoints.insert(eds.clone()) {
                        new.push(eds);
                    }
                }
                None => {
                    *slot = Slot {
                        active: Some(any),
                        warming: None,
                    }
                }
            }
        }
        self.has_clusters = true;
        self.watches_no_endpoints_for_nothing(new);
    }

    fn watches_no_endpoints_for_nothing(&mut self, new: Vec<String>) {
        let all = self.clusters.values();
        let both = all.flat_map(|c| c.active.iter().chain(&c.warming));
        let used: BTreeSet<String> = both.filter_map(eds_of).collect();
        let unused: Vec<_> = self.watched_endpoints.difference(&used).cloned().collect();
        for name in &unused {
            self.watched_endpoints.remove(name);
            self.endpoints.remove(name);
            self.versions.entry(ads::EDS).or_default().remove(name);
        }
        self.subscribes(ads::EDS, new, unused);
    }

    fn takes_endpoints(&mut self, response: &pb::DeltaDiscoveryResponse) {
        let given = response.resources.iter();
        let given = given.map(|r| (&r.name, r.resource.as_ref().map(|a| a.value.clone())));
        let removed = response.removed_resources.iter().map(|n| (n, None));
        for (name, content) in given.chain(removed) {
            if !self.watched_endpoints.contains(name) {
                continue;
            }
            match content {
                Some(content) => self.endpoints.insert(name.clone(), content),
                None => self.endpoints.remove(name),
            };
            for cluster in self.clusters.values_mut() {
                let warm = cluster
                    .warming
                    .take_if(|any| eds_of(any).as_ref() == Some(name));
                cluster.active = warm.or(cluster.active.take());
            }
        }
    }

    fn takes_listeners(&mut self, response: &pb::DeltaDiscoveryResponse) {
        for name in &response.removed_resources {
            self.listeners.remove(name);
        }
        for resource in &response.resources {
            let any = resource.resource.as_ref().unwrap();
            let listener = lds::Listener::decode(&*any.value).unwrap();
            for (name, other) in &self.listeners {
                for other in other.active.iter().chain(&other.warming) {
                    let same = socket(other).is_some() && socket(other) == socket(&listener);
                    assert!(
                        !same || *name == listener.name,
                        "{name} and {} at one address",
                        listener.name
                    );
                }
            }
            let name = resource.name.clone();
            let slot = self.listeners.entry(name).or_insert(Slot {
                active: None,
                warming: None,
            });
            slot.warming = Some(listener);
        }
        let new: Vec<_> = self
            .used_routes()
            .difference(&self.watched_routes)
            .cloned()
            .collect();
        self.watched_routes.extend(new.clone());
        self.listeners_go_on();
        let unused: Vec<_> = self
            .watched_routes
            .difference(&self.used_routes())
            .cloned()
            .collect();
        for name in &unused {
            self.watched_routes.remove(name);
            self.routes.remove(name);
            self.versions.entry(ads::RDS).or_default().remove(name);
        }
        self.subscribes(ads::RDS, new, unused);
    }

    fn used_routes(&self) -> BTreeSet<String> {
        let all = self.listeners.values();
        let both = all.flat_map(|l| l.active.iter().chain(&l.warming));
        both.flat_map(routes_of).collect()
    }

    fn listeners_go_on(&mut self) {
        for listener in self.listeners.values_mut() {
            let ready =
                |l: &mut lds::Listener| routes_of(l).iter().all(|r| self.routes.contains_key(r));
            let warm = listener.warming.take_if(ready);
            listener.active = warm.or(listener.active.take());
        }
    }

    fn takes_routes(&mut self, response: &pb::DeltaDiscoveryResponse) {
        for resource in &response.resources {
            let any = resource.resource.as_ref().unwrap();
            let config = rds::RouteConfiguration::decode(&*any.value).unwrap();
            let mut domains = BTreeSet::new();
            for host in &config.virtual_hosts {
                assert!(!host.domains.is_empty(), "{}", host.name);
                for domain in &host.domains {
                    assert!(domains.insert(domain), "{domain} twice");
                }
            }
            if self.watched_routes.contains(&resource.name) {
                let version = resource.version.clone();
                self.routes.insert(resource.name.clone(), (config, version));
            }
        }
        self.listeners_go_on();
    }

    /// An application calls.
    pub(super) fn calls(&mut self, call: Call) {
        let end = self.leads(&call);
        self.goes(call, end);
        self.speaks();
    }

    fn goes(&mut self, call: Call, end: End) {
        match end {
            End::Held(name) => {
                if self.asked.insert(name.clone()) {
                    self.asks_due.push(name.clone());
                }
                self.held.push((call, name));
            }
            End::Early => {}
            end => self.ended.push((call, end)),
        }
    }

    /// Calls whose cluster is there go on.
    fn goes_on(&mut self) {
        for (call, name) in std::mem::take(&mut self.held) {
            match self.at_cluster(&name, &call, true) {
                End::Held(same) if same == name => self.held.push((call, name)),
                end => self.goes(call, end),
            }
        }
        if self.watches_endpoints {
            self.speaks();
        }
    }
}

fn routes_of(listener: &lds::Listener) -> Vec<String> {
    let chains = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    let managers = chains.filter_map(connection_manager);
    managers.map(|m| rds_name(&m).to_owned()).collect()
}
