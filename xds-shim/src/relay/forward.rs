//! Hands a gRPC call through to istiod without looking into it: certificate signing, health,
//! reflection, whatever else a pod may send to its discovery address.

use super::{Response, Shared};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tower::{Service, ServiceExt};

pub(super) async fn forward(shared: &Shared, mut request: http::Request<Body>) -> Response {
    shared.metrics.relayed.inc();
    let headers = std::mem::take(request.headers_mut());
    *request.headers_mut() =
        super::metadata_for_istiod(MetadataMap::from_headers(headers)).into_headers();
    // Only the path is the caller's; where it goes is not.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
    call(shared, request).await.unwrap_or_else(|reason| {
        tracing::warn!(istiod = shared.istiod.address(), reason, "call not relayed");
        let text = format!(
            "xds-shim cannot reach istiod at {}",
            shared.istiod.address()
        );
        Status::unavailable(text).into_http()
    })
}

/// On a connection of its own: these calls are few, and one whose answer is not read must not hold up
/// another's.
async fn call(shared: &Shared, request: http::Request<Body>) -> Result<Response, String> {
    let mut channel = shared.istiod.connect().await.map_err(|e| e.to_string())?;
    let ready = channel.ready().await.map_err(|e| e.to_string())?;
    ready.call(request).await.map_err(|e| e.to_string())
}
