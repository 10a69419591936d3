//! What istiod sends of a mesh, encoded once for all streams: each resource as a record of a response, so that a push to
//! a thousand streams is a thousand times the same bytes behind a head of its own.

use std::collections::HashMap;

use anyhow::{Context, Result};
use bytes::Bytes;
use mesh_benches::mesh::resource;
use mesh_tests::embedded::resources::Resources;
use mesh_tests::embedded::{MeshShape, Service, endpoints, routes};
use prost::Message;
use xds_shim::ads;
use xds_shim::wire::{put_bytes, put_string};

use crate::mesh;
use crate::rules::{Answer, Kind, What};

/// The JSON that istiod puts into `control_plane.identifier`.
const IDENTIFIER: &str =
    r#"{"Component":"istiod","ID":"istiod-scale","Info":{"version":"1.31-scale"}}"#;

/// All resources of a mesh.
#[derive(Debug)]
pub(crate) struct Encoded {
    clusters: Bytes,
    listeners: Bytes,
    endpoints: HashMap<String, Bytes>,
    /// By namespace of the proxy, then by name.
    routes: HashMap<String, HashMap<String, Bytes>>,
}

/// A response as it goes out: pieces of one message.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) pieces: Vec<Bytes>,
}

impl Response {
    /// The size of the message.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

impl Encoded {
    /// Encodes a mesh.
    ///
    /// # Errors
    /// When the mesh lacks a type.
    pub(crate) fn new(shape: &MeshShape) -> Result<Self> {
        let mut resources = Resources::new(shape.clone());
        let snapshot = resources.snapshot("ns-0");
        let all = |kind: Kind| {
            let table = snapshot.table(kind.url());
            let table = table.with_context(|| format!("no resources of {}", kind.url()))?;
            let mut out = Vec::new();
            for (name, body) in table {
                put_resource(&mut out, kind, name, body);
            }
            anyhow::Ok(Bytes::from(out))
        };
        let of_endpoints = snapshot.table(ads::EDS).context("no endpoints")?;
        let of_namespace = |number| {
            let namespace = format!("ns-{number}");
            let configs = routes::all(shape, &namespace).into_iter().map(|config| {
                let body = config.encode_to_vec();
                let one = record(Kind::Routes, &config.name, &body);
                (config.name, one)
            });
            (namespace.clone(), configs.collect())
        };
        Ok(Self {
            clusters: all(Kind::Clusters)?,
            listeners: all(Kind::Listeners)?,
            endpoints: of_endpoints
                .iter()
                .map(|(name, body)| (name.clone(), record(Kind::Endpoints, name, body)))
                .collect(),
            routes: (0..mesh::NAMESPACES).map(of_namespace).collect(),
        })
    }

    /// Changes the endpoints of a service; the names of what changed.
    pub(crate) fn put_endpoints(&mut self, service: &Service) -> Vec<String> {
        let all = endpoints::of_service(service);
        let put = all.into_iter().map(|one| {
            let record = record(Kind::Endpoints, &one.cluster_name, &one.encode_to_vec());
            self.endpoints.insert(one.cluster_name.clone(), record);
            one.cluster_name
        });
        put.collect()
    }

    /// Bytes of clusters, listeners and route configurations that each stream is sent.
    pub(crate) fn bytes_per_stream(&self) -> usize {
        let routes = self.routes.values().next();
        let routes = routes.into_iter().flat_map(HashMap::values);
        self.clusters.len() + self.listeners.len() + routes.map(Bytes::len).sum::<usize>()
    }

    /// The response that an answer is, to a proxy in `namespace`. A name that there is not is removed.
    pub(crate) fn response(&self, answer: &Answer, namespace: &str, version: u64) -> Response {
        let mut head = Vec::with_capacity(256);
        put_string(&mut head, 1, &version.to_string());
        put_string(&mut head, 4, answer.kind.url());
        put_string(&mut head, 5, &answer.nonce);
        let mut control_plane = Vec::with_capacity(IDENTIFIER.len() + 2);
        put_string(&mut control_plane, 1, IDENTIFIER);
        put_bytes(&mut head, 7, &control_plane);
        let mut found = Vec::new();
        match (&answer.what, answer.kind) {
            (What::All, Kind::Clusters) => found.push(self.clusters.clone()),
            (What::All, Kind::Listeners) => found.push(self.listeners.clone()),
            (What::All, Kind::Endpoints | Kind::Routes) => {}
            (What::Names(names), kind) => {
                for name in names {
                    match self.named(kind, namespace, name) {
                        Some(record) => found.push(record.clone()),
                        None => put_bytes(&mut head, 6, name.as_bytes()),
                    }
                }
            }
        }
        let pieces = std::iter::once(head.into()).chain(found).collect();
        Response { pieces }
    }

    fn named(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Bytes> {
        match kind {
            Kind::Endpoints => self.endpoints.get(name),
            Kind::Routes => self.routes.get(namespace)?.get(name),
            Kind::Clusters | Kind::Listeners => None,
        }
    }
}

fn record(kind: Kind, name: &str, body: &[u8]) -> Bytes {
    let mut out = Vec::new();
    put_resource(&mut out, kind, name, body);
    out.into()
}

/// `DeltaDiscoveryResponse.resources` = 2.
fn put_resource(out: &mut Vec<u8>, kind: Kind, name: &str, body: &[u8]) {
    put_bytes(out, 2, &resource(kind.url(), name, body));
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_shim::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use xds_shim::envoy::config::route::v3::RouteConfiguration;
    use xds_shim::envoy::service::discovery::v3::DeltaDiscoveryResponse;

    fn encoded() -> Encoded {
        Encoded::new(&mesh::shape(40)).unwrap()
    }

    fn sent(encoded: &Encoded, kind: Kind, what: What) -> DeltaDiscoveryResponse {
        let answer = Answer {
            kind,
            what,
            nonce: "7/3".into(),
        };
        let response = encoded.response(&answer, "ns-1", 7);
        let whole = response.pieces.concat();
        assert_eq!(whole.len(), response.bytes());
        DeltaDiscoveryResponse::decode(&*whole).unwrap()
    }

    #[test]
    fn everything_of_a_type_is_a_response_that_prost_reads() {
        let response = sent(&encoded(), Kind::Clusters, What::All);
        // Two HTTP ports each, four TCP ports, four clusters of no service.
        assert_eq!(response.resources.len(), 88);
        assert_eq!(response.type_url, ads::CDS);
        assert_eq!(
            (
                response.system_version_info.as_str(),
                response.nonce.as_str()
            ),
            ("7", "7/3")
        );
        let names = response.resources.iter().map(|one| one.name.as_str());
        let service = mesh::service(3).cluster(80);
        assert!(names.into_iter().any(|name| name == service));
    }

    #[test]
    fn routes_are_those_of_the_namespace() {
        let response = sent(
            &encoded(),
            Kind::Routes,
            What::Names(vec!["80".into(), "81".into()]),
        );
        assert_eq!(response.removed_resources, ["81"]);
        let body = response.resources[0].resource.as_ref().unwrap();
        let config = RouteConfiguration::decode(&*body.value).unwrap();
        let has = |domain: &str| {
            let mut hosts = config.virtual_hosts.iter();
            hosts.any(|host| host.domains.iter().any(|one| one == domain))
        };
        assert!(has("svc-10") && !has("svc-0") && has("svc-0.ns-0"));
    }

    #[test]
    fn changed_endpoints_are_sent_from_then_on() {
        let mut encoded = encoded();
        let mut service = mesh::service(3);
        service.endpoints = mesh::changed_endpoints(&service, 5);
        let names = encoded.put_endpoints(&service);
        assert_eq!(names, [service.cluster(80), service.cluster(8080)]);
        let response = sent(&encoded, Kind::Endpoints, What::Names(names));
        let body = response.resources[0].resource.as_ref().unwrap();
        let assignment = ClusterLoadAssignment::decode(&*body.value).unwrap();
        assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 5);
        assert_eq!(response.removed_resources.len(), 0);
    }
}
