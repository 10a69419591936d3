//! The messages of the aggregated discovery service, read and written on the wire.
//!
//! Only what the shim decides by is taken out; resources stay the bytes that came. Field numbers:
//! envoy/service/discovery/v3/discovery.proto.

use crate::wire::{self, put_bytes, put_header, put_string};
use bytes::Bytes;

pub use crate::wire::Error;

/// The path of delta ADS.
pub const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The path of state-of-the-world ADS.
pub const SOTW_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Clusters.
pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints.
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners.
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Route configurations.
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// What `resource_names_subscribe` holds to ask for everything.
pub const WILDCARD: &str = "*";

/// A `DeltaDiscoveryRequest`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeltaRequest {
    /// The encoded `Node`; only the first request of a stream carries one.
    pub node: Option<Bytes>,
    /// Type of the resources asked for.
    pub type_url: String,
    /// Names asked for from now on; empty on the first request of a type stands for everything.
    pub subscribe: Vec<String>,
    /// Names not asked for any longer.
    pub unsubscribe: Vec<String>,
    /// What the proxy holds from an earlier stream: name and version.
    pub initial_versions: Vec<(String, String)>,
    /// The response this acknowledges; empty when it acknowledges none.
    pub nonce: String,
    /// The encoded `google.rpc.Status` of a NACK.
    pub error_detail: Option<Bytes>,
}

impl DeltaRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn decode(raw: &Bytes) -> Result<Self, Error> {
        let mut request = Self::default();
        for field in wire::fields(raw) {
            let field = field?;
            let Some(payload) = field.bytes() else {
                continue;
            };
            match field.number {
                1 => request.node = Some(wire::share(raw, payload)),
                2 => request.type_url = text(&field)?,
                3 => request.subscribe.push(text(&field)?),
                4 => request.unsubscribe.push(text(&field)?),
                5 => request.initial_versions.push((
                    wire::string(payload, 1)?.to_owned(),
                    wire::string(payload, 2)?.to_owned(),
                )),
                6 => request.nonce = text(&field)?,
                7 => request.error_detail = Some(wire::share(raw, payload)),
                _ => {}
            }
        }
        Ok(request)
    }

    /// Writes a request.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        if let Some(node) = &self.node {
            put_bytes(&mut out, 1, node);
        }
        put_string(&mut out, 2, &self.type_url);
        for name in &self.subscribe {
            put_bytes(&mut out, 3, name.as_bytes());
        }
        for name in &self.unsubscribe {
            put_bytes(&mut out, 4, name.as_bytes());
        }
        for (name, version) in &self.initial_versions {
            let mut entry = Vec::new();
            put_string(&mut entry, 1, name);
            put_string(&mut entry, 2, version);
            put_bytes(&mut out, 5, &entry);
        }
        put_string(&mut out, 6, &self.nonce);
        if let Some(status) = &self.error_detail {
            put_bytes(&mut out, 7, status);
        }
        out.into()
    }
}

/// The message in an encoded `google.rpc.Status`, for logs; cut at 500 characters.
pub fn status_message(status: &[u8]) -> String {
    wire::string(status, 2)
        .unwrap_or("(not readable)")
        .chars()
        .take(500)
        .collect()
}

/// A `Resource` as it stands in a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// The whole encoded `Resource`.
    pub raw: Bytes,
}

/// A `DeltaDiscoveryResponse`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeltaResponse {
    /// Type of the resources.
    pub type_url: String,
    /// To be repeated in the acknowledgement.
    pub nonce: String,
    /// Added or changed.
    pub resources: Vec<Resource>,
    /// Names of what is gone.
    pub removed: Vec<String>,
    /// Who answers and at which version: the records `system_version_info` and `control_plane`.
    pub origin: Bytes,
}

impl DeltaResponse {
    /// Reads a response.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn decode(raw: &Bytes) -> Result<Self, Error> {
        let mut response = Self::default();
        let mut origin = Vec::new();
        for field in wire::fields(raw) {
            let field = field?;
            let Some(payload) = field.bytes() else {
                continue;
            };
            match field.number {
                1 | 7 => origin.extend_from_slice(field.record),
                2 => response.resources.push(Resource {
                    name: wire::string(payload, 3)?.to_owned(),
                    raw: wire::share(raw, payload),
                }),
                4 => response.type_url = text(&field)?,
                5 => response.nonce = text(&field)?,
                6 => response.removed.push(text(&field)?),
                // removed_resource_names: ResourceName { name = 1 }
                8 => response.removed.push(wire::string(payload, 1)?.to_owned()),
                _ => {}
            }
        }
        response.origin = origin.into();
        Ok(response)
    }
}

/// Writes a response piece by piece, so that payloads are copied once.
#[derive(Debug)]
pub struct ResponseWriter(Vec<u8>);

impl ResponseWriter {
    /// Begins a response; `origin` as in [`DeltaResponse::origin`].
    pub fn new(type_url: &str, nonce: &str, origin: &[u8]) -> Self {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(origin);
        put_string(&mut out, 4, type_url);
        put_string(&mut out, 5, nonce);
        Self(out)
    }

    /// Adds an encoded `Resource` under a version. The version is appended: the last one wins.
    pub fn resource(&mut self, raw: &[u8], version: &str) {
        let mut tail = Vec::with_capacity(version.len() + 2);
        put_string(&mut tail, 1, version);
        put_header(&mut self.0, 2, raw.len() + tail.len());
        self.0.extend_from_slice(raw);
        self.0.extend_from_slice(&tail);
    }

    /// Adds a name that is gone.
    pub fn removed(&mut self, name: &str) {
        put_bytes(&mut self.0, 6, name.as_bytes());
    }

    /// Ends the response.
    pub fn finish(self) -> Bytes {
        self.0.into()
    }
}

fn text(field: &wire::Field<'_>) -> Result<String, Error> {
    Ok(field.str()?.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::service::discovery::v3 as pb;
    use prost::Message;

    #[test]
    fn reads_what_prost_writes_and_back() {
        let full = pb::DeltaDiscoveryRequest {
            node: Some(crate::envoy::config::core::v3::Node {
                id: "n".into(),
                ..Default::default()
            }),
            type_url: CDS.into(),
            resource_names_subscribe: vec!["*".into(), "a".into()],
            resource_names_unsubscribe: vec!["b".into()],
            initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
            response_nonce: "x".into(),
            error_detail: Some(crate::envoy::google::rpc::Status {
                code: 13,
                message: "no".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = DeltaRequest::decode(&full.encode_to_vec().into()).unwrap();
        assert_eq!(request.subscribe, ["*", "a"]);
        assert_eq!(request.initial_versions, [("a".into(), "1".into())]);
        assert_eq!(status_message(request.error_detail.as_ref().unwrap()), "no");
        assert_eq!(
            pb::DeltaDiscoveryRequest::decode(request.encode()).unwrap(),
            full
        );
    }

    #[test]
    fn writes_responses_prost_reads() {
        let resource = pb::Resource {
            name: "a".into(),
            version: "old".into(),
            ..Default::default()
        };
        let mut writer = ResponseWriter::new(CDS, "n1", &[]);
        writer.resource(&resource.encode_to_vec(), "new");
        writer.removed("b");
        let raw = writer.finish();
        let full = pb::DeltaDiscoveryResponse::decode(raw.clone()).unwrap();
        assert_eq!(
            (
                full.resources[0].name.as_str(),
                full.resources[0].version.as_str()
            ),
            ("a", "new")
        );
        assert_eq!(
            (full.nonce.as_str(), full.removed_resources),
            ("n1", vec!["b".to_owned()])
        );
        let read = DeltaResponse::decode(&raw).unwrap();
        assert_eq!(
            (read.resources[0].name.as_str(), read.removed),
            ("a", vec!["b".to_owned()])
        );
    }
}
