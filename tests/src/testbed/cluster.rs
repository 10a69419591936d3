//! What the controllers and the kube-proxy of a real cluster would do: EndpointSlices that follow pods and services,
//! and ClusterIPs that lead to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::DynamicObject;
use serde_json::json;
use tokio::sync::Mutex;

use super::network::{self, VirtualIps};
use super::resources::Resources;

/// Namespace and name.
type Key = (String, String);

/// A service as this module sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Its ClusterIP; a headless service has none.
    pub vip: Option<Ipv4Addr>,
    selector: Option<BTreeMap<String, String>>,
    ports: Vec<Port>,
    /// `sessionAffinity: ClientIP`; here, all callers have the same endpoint.
    sticky: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: Option<String>,
    app_protocol: Option<String>,
    number: u16,
    target: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    address: Ipv4Addr,
    /// Its namespace and name; none for an endpoint outside the mesh's pods.
    pod: Option<Key>,
}

/// A pod as an endpoint of services of any namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEndpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

#[derive(Clone, Debug)]
struct PodEntry {
    labels: BTreeMap<String, String>,
    address: Ipv4Addr,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<Key, Service>,
    pods: BTreeMap<Key, PodEntry>,
    fixed: BTreeMap<Key, BTreeSet<Endpoint>>,
    written: BTreeMap<Key, (Service, BTreeSet<Endpoint>)>,
    translated: VirtualIps,
}

/// The cluster's services and ready pods.
#[derive(Debug, Default)]
pub struct Cluster {
    state: Mutex<State>,
}

impl Cluster {
    /// Takes note of what was just applied, if it is a service.
    ///
    /// # Errors
    /// When it has a port this module cannot translate (a named target port), or a write fails.
    pub async fn applied(&self, resources: &Resources, objects: &[DynamicObject]) -> Result<()> {
        let mut state = self.state.lock().await;
        for (key, object) in services_of("", objects) {
            let service: core::Service = object.clone().try_parse().context("a Service")?;
            state.services.insert(key, Service::read(&service)?);
        }
        state.write(resources).await
    }

    /// Takes note of what was just deleted, if it is a service.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn deleted(
        &self,
        resources: &Resources,
        namespace: &str,
        objects: &[DynamicObject],
    ) -> Result<()> {
        let mut state = self.state.lock().await;
        for (key, _) in services_of(namespace, objects) {
            state.services.remove(&key);
            state.fixed.remove(&key);
        }
        state.write(resources).await
    }

    /// A pod has become ready, or its labels have changed.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn pod_ready(
        &self,
        resources: &Resources,
        (namespace, name): (&str, &str),
        labels: &BTreeMap<String, String>,
        address: Ipv4Addr,
    ) -> Result<()> {
        let mut state = self.state.lock().await;
        state.pods.insert(
            (namespace.into(), name.into()),
            PodEntry {
                labels: labels.clone(),
                address,
            },
        );
        state.write(resources).await
    }

    /// A pod is going away: it is out of all endpoints when this returns.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn pod_gone(&self, resources: &Resources, namespace: &str, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        state.pods.remove(&(namespace.to_owned(), name.to_owned()));
        state.write(resources).await
    }

    /// Gives a service without a selector its endpoints.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn set_endpoints(
        &self,
        resources: &Resources,
        (namespace, name): (&str, &str),
        addresses: &[Ipv4Addr],
    ) -> Result<()> {
        let mut state = self.state.lock().await;
        let endpoints = addresses
            .iter()
            .map(|&address| Endpoint { address, pod: None })
            .collect();
        state
            .fixed
            .insert((namespace.into(), name.into()), endpoints);
        state.write(resources).await
    }

    /// Gives services without a selector the pods behind them, which may be of another namespace. The services may not
    /// be there yet.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn set_pods(
        &self,
        resources: &Resources,
        services: Vec<((String, String), Vec<PodEndpoint>)>,
    ) -> Result<()> {
        let mut state = self.state.lock().await;
        for (key, pods) in services {
            let endpoints = pods.into_iter().map(|pod| Endpoint {
                address: pod.address,
                pod: Some((pod.namespace, pod.name)),
            });
            state.fixed.insert(key, endpoints.collect());
        }
        state.write(resources).await
    }

    /// The address that the host of a URL stands for, seen from `namespace`: the ClusterIP of `name`, `name.ns`,
    /// `name.ns.svc` or the full name; for a headless service, its first endpoint.
    pub async fn resolve(&self, namespace: &str, host: &str) -> Option<Ipv4Addr> {
        let state = self.state.lock().await;
        let key = service_key(namespace, host)?;
        let service = state.services.get(&key)?;
        service.vip.or_else(|| {
            state
                .endpoints(&key, service)
                .first()
                .map(|endpoint| endpoint.address)
        })
    }
}

/// Which service a host name means, seen from `namespace`.
fn service_key(namespace: &str, host: &str) -> Option<Key> {
    let mut labels = host.trim_end_matches('.').split('.');
    let name = labels.next()?;
    let of = labels.next().unwrap_or(namespace);
    let rest: Vec<_> = labels.collect();
    matches!(rest[..], [] | ["svc"] | ["svc", "cluster", "local"])
        .then(|| (of.to_owned(), name.to_owned()))
}

/// The services among `objects`; those that name no namespace are of `namespace`.
fn services_of<'a>(
    namespace: &'a str,
    objects: &'a [DynamicObject],
) -> impl Iterator<Item = (Key, &'a DynamicObject)> {
    objects.iter().filter_map(move |object| {
        let types = object.types.as_ref()?;
        let is_service = types.api_version == "v1" && types.kind == "Service";
        let key = (
            object
                .metadata
                .namespace
                .clone()
                .unwrap_or(namespace.to_owned()),
            object.metadata.name.clone()?,
        );
        is_service.then_some((key, object))
    })
}

impl Service {
    fn read(service: &core::Service) -> Result<Self> {
        let spec = service.spec.as_ref().context("a Service without a spec")?;
        let vip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
        let ports = spec
            .ports
            .iter()
            .flatten()
            .map(Port::read)
            .collect::<Result<_>>()?;
        Ok(Self {
            vip,
            selector: spec.selector.clone(),
            ports,
            sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        })
    }
}

impl Port {
    fn read(port: &core::ServicePort) -> Result<Self> {
        let number = u16::try_from(port.port)?;
        let target = match &port.target_port {
            None => number,
            Some(IntOrString::Int(target)) => u16::try_from(*target)?,
            Some(IntOrString::String(name)) => {
                bail!("targetPort {name}: the testbed's pods have no named ports")
            }
        };
        Ok(Self {
            name: port.name.clone(),
            app_protocol: port.app_protocol.clone(),
            number,
            target,
        })
    }
}

impl State {
    fn endpoints(&self, key: &Key, service: &Service) -> BTreeSet<Endpoint> {
        let Some(selector) = service
            .selector
            .as_ref()
            .filter(|selector| !selector.is_empty())
        else {
            return self.fixed.get(key).cloned().unwrap_or_default();
        };
        self.pods
            .iter()
            .filter(|((namespace, _), _)| *namespace == key.0)
            .filter(|(_, pod)| {
                selector
                    .iter()
                    .all(|(label, value)| pod.labels.get(label) == Some(value))
            })
            .map(|(pod, entry)| Endpoint {
                address: entry.address,
                pod: Some(pod.clone()),
            })
            .collect()
    }

    /// Whether the testbed looks after this service's endpoints: not when it has neither a selector nor endpoints
    /// given by hand, for then a test may write EndpointSlices of its own.
    fn is_ours(&self, key: &Key, service: &Service) -> bool {
        service
            .selector
            .as_ref()
            .is_some_and(|selector| !selector.is_empty())
            || self.fixed.contains_key(key)
    }

    /// Brings EndpointSlices and the translation table in line with services and pods.
    async fn write(&mut self, resources: &Resources) -> Result<()> {
        let wanted: BTreeMap<Key, (Service, BTreeSet<Endpoint>)> = self
            .services
            .iter()
            .filter(|(key, service)| self.is_ours(key, service))
            .map(|(key, service)| (key.clone(), (service.clone(), self.endpoints(key, service))))
            .collect();
        let virtual_ips = virtual_ips(&wanted);
        if virtual_ips != self.translated {
            network::translate(&virtual_ips).await?;
            self.translated = virtual_ips;
        }
        for (key, content) in &wanted {
            if self.written.get(key) != Some(content) {
                resources
                    .apply(&key.0, &endpoint_slice(key, &content.0, &content.1))
                    .await?;
            }
        }
        for (key, (service, endpoints)) in self
            .written
            .iter()
            .filter(|(key, _)| !wanted.contains_key(*key))
        {
            resources
                .delete(&key.0, &endpoint_slice(key, service, endpoints))
                .await?;
        }
        self.written = wanted;
        Ok(())
    }
}

fn virtual_ips(services: &BTreeMap<Key, (Service, BTreeSet<Endpoint>)>) -> VirtualIps {
    let mut table = VirtualIps::new();
    for (service, endpoints) in services.values() {
        let Some(vip) = service.vip else { continue };
        let most = if service.sticky { 1 } else { usize::MAX };
        for port in &service.ports {
            let targets = endpoints
                .iter()
                .take(most)
                .map(|endpoint| (endpoint.address, port.target))
                .collect();
            table.insert((vip, port.number), targets);
        }
    }
    table
}

/// The one EndpointSlice of a service. JSON is YAML.
fn endpoint_slice(
    (namespace, name): &Key,
    service: &Service,
    endpoints: &BTreeSet<Endpoint>,
) -> String {
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| {
            json!({"name": port.name.as_deref().unwrap_or(""), "port": port.target, "protocol": "TCP", "appProtocol": port.app_protocol})
        })
        .collect();
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            // istiod looks at the pod's labels to learn that it speaks mTLS.
            let target = endpoint.pod.as_ref().map(|(namespace, pod)| json!({"kind": "Pod", "name": pod, "namespace": namespace}));
            json!({"addresses": [endpoint.address], "conditions": {"ready": true, "serving": true, "terminating": false},
                   "nodeName": "node-1", "targetRef": target})
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-testbed"), "namespace": namespace,
                     "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let port = Port {
            name: Some("http".into()),
            app_protocol: None,
            number: 80,
            target: 8080,
        };
        let service = Service {
            vip: Some(Ipv4Addr::new(10, 96, 0, 7)),
            selector: Some(BTreeMap::from([("app".into(), "a".into())])),
            ports: vec![port],
            sticky: false,
        };
        let pod = |label: &str, last| PodEntry {
            labels: BTreeMap::from([("app".into(), label.into())]),
            address: Ipv4Addr::new(10, 20, 1, last),
        };
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        State {
            services: BTreeMap::from([(key("ns", "svc"), service)]),
            pods: BTreeMap::from([
                (key("ns", "one"), pod("a", 1)),
                (key("ns", "other"), pod("b", 2)),
                (key("elsewhere", "one"), pod("a", 3)),
            ]),
            ..State::default()
        }
    }

    #[test]
    fn a_service_has_the_pods_of_its_namespace_that_its_selector_matches() {
        let state = state();
        let (key, service) = state.services.first_key_value().unwrap();
        let endpoints = state.endpoints(key, service);
        let wanted = Endpoint {
            address: Ipv4Addr::new(10, 20, 1, 1),
            pod: Some(("ns".into(), "one".into())),
        };
        assert_eq!(endpoints, BTreeSet::from([wanted]));
        let table = virtual_ips(&BTreeMap::from([(
            key.clone(),
            (service.clone(), endpoints),
        )]));
        assert_eq!(
            table[&(Ipv4Addr::new(10, 96, 0, 7), 80)],
            [(Ipv4Addr::new(10, 20, 1, 1), 8080)]
        );
    }

    #[test]
    fn hosts_mean_services_as_in_kubernetes() {
        let key = |namespace: &str, name: &str| Some((namespace.to_owned(), name.to_owned()));
        assert_eq!(service_key("shop", "cart"), key("shop", "cart"));
        assert_eq!(service_key("shop", "cart.bank"), key("bank", "cart"));
        assert_eq!(
            service_key("shop", "cart.bank.svc.cluster.local."),
            key("bank", "cart")
        );
        assert_eq!(service_key("shop", "example.com.org"), None);
    }
}
