//! What istiod sends of a mesh, encoded, and streams that take it.

use std::time::Duration;

use bytes::Bytes;
use mesh_tests::embedded::MeshShape;
use mesh_tests::embedded::resources::{Resources, Snapshot};
use prost::Message;
use xds_shim::ads::{CDS, DeltaRequest, RDS, ResponseWriter};
use xds_shim::envoy::google::protobuf::Any;
use xds_shim::envoy::service::discovery::v3::Resource;
use xds_shim::listener::OnDemandConfig;
use xds_shim::session::Session;
use xds_shim::store::Store;

use crate::must;

/// What a sidecar in the first namespace gets of a mesh of so many services.
fn snapshot(services: u32) -> Snapshot {
    Resources::new(MeshShape::with_services(services)).snapshot("ns-0")
}

/// An encoded `Resource`, as it stands in a response.
pub fn resource(type_url: &str, name: &str, body: &[u8]) -> Bytes {
    let resource = Resource {
        name: name.to_owned(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value: body.to_vec(),
        }),
        ..Resource::default()
    };
    resource.encode_to_vec().into()
}

/// A full push of a type, as it comes from istiod.
pub fn push(type_url: &str, services: u32) -> Bytes {
    let snapshot = snapshot(services);
    let mut writer = ResponseWriter::new(type_url, "nonce", &[]);
    for (name, body) in snapshot.table(type_url).into_iter().flatten() {
        writer.resource(&resource(type_url, name, body), "");
    }
    writer.finish()
}

/// The route configuration of port 80, with a virtual host for each service, in an encoded `Resource`.
///
/// # Panics
/// The mesh has none.
pub fn routes(services: u32) -> Bytes {
    const PORT: &str = "80";
    let snapshot = snapshot(services);
    let body = must(snapshot.get(RDS, PORT).ok_or("no routes of port 80"));
    resource(RDS, PORT, body)
}

/// A proxy's request.
pub fn request(type_url: &str, names: &[&str]) -> Bytes {
    let subscribe = names.iter().map(|n| (*n).to_owned()).collect();
    DeltaRequest {
        type_url: type_url.to_owned(),
        subscribe,
        ..DeltaRequest::default()
    }
    .encode()
}

/// A stream whose proxy has asked for a type.
///
/// # Panics
/// istiod is not asked.
pub fn opened(store: &Store, type_url: &str) -> Session {
    let config = OnDemandConfig::new(Duration::from_secs(5));
    let mut session = Session::new(store.clone(), config, []);
    let outputs = must(session.on_request(&request(type_url, &[])));
    assert!(!outputs.is_empty());
    session
}

/// A stream that has its first push.
///
/// # Panics
/// It was one of clusters, and they are not held: something else was measured than what a bench says.
pub fn pushed(store: &Store, type_url: &str, push: &Bytes) -> Session {
    let mut session = opened(store, type_url);
    must(session.on_response(push));
    let summary = session.summary();
    let held = type_url != CDS || summary.held > 0 && summary.admitted == 0;
    assert!(held, "nothing is held: {summary:?}");
    session
}
