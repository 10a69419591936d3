//! One exchange with a server: the request goes out as it came, the answer comes back as it is.
//!
//! Both bodies are streamed, at once and as fast as the slower side takes them. It follows no redirect, changes no
//! encoding, and sends nothing a second time.

use std::net::SocketAddr;
use std::rc::Rc;

use dependency_graph::fallback::ROUTE;
use dependency_graph::{Dependency, Protocol as Carried};
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use crate::access_log::Record;
use crate::body::{Outgoing, Relayed};
use crate::expect::Latch;
use crate::hygiene;
use crate::incoming::Path;
use crate::kept::Kept;
use crate::refuse::Refusal;
use crate::shape::{Kind, Shape};
use crate::upgrade;
use crate::validate::Target;
use crate::worker::Worker;

/// What is to be carried, besides the request itself.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) to: SocketAddr,
    pub(crate) target: Target,
    pub(crate) shape: Shape,
    pub(crate) path: Path,
    /// By what our sidecar is to choose where it goes: [`route`].
    pub(crate) route: Option<HeaderValue>,
    pub(crate) record: Rc<Record>,
}

/// Carries it.
///
/// # Errors
/// When there is no answer. Nothing has been said to the caller then.
pub(crate) async fn relay(
    worker: &Rc<Worker>,
    call: Call,
    parts: Parts,
    body: Kept,
) -> Result<Response<Relayed>, Refusal> {
    let (shape, version) = (call.shape, parts.version);
    let over_h2 = version == Version::HTTP_2;
    let mut parts = parts;
    let caller_side = shape
        .becomes_bytes()
        .then(|| parts.extensions.remove::<OnUpgrade>())
        .flatten();
    let latch = (shape.expects_100 && !over_h2).then(Latch::default);
    let sent = call.record.sent();
    let gate = latch.as_ref().map(Latch::gate);
    let body = Outgoing::new(body, gate, sent.clone());
    let request = request_out(&call, parts, body, latch.as_ref())?;
    let (mut response, mut lease) = if over_h2 {
        let extended = shape.kind == Kind::ExtendedConnect;
        worker.pool.http2(call.to, request, extended).await?
    } else {
        worker.pool.http1(call.to, request, sent).await?
    };
    if let Some(latch) = latch {
        latch.shut();
    }
    let status = response.status();
    hygiene::response_out(
        response.headers_mut(),
        status,
        version,
        shape.kind,
        call.path,
    );
    call.record.answered(status);
    if switches(shape.kind, status) {
        lease.upgraded();
        let server_side = hyper::upgrade::on(&mut response);
        let caller_side = caller_side.ok_or(Refusal::Malformed("nothing to upgrade"))?;
        upgrade::start(worker, caller_side, server_side, lease, call.record.clone());
        let answer = response.map(|_| Relayed::ours(Default::default(), call.record));
        return Ok(answer);
    }
    if status.is_informational() {
        return Err(Refusal::NoAnswer {
            to: call.to,
            why: format!("it answered {status} to a request that did not ask for it"),
        });
    }
    // What hyper keeps for itself in there (its own connection, reason phrases) is not for the other side, but a
    // reason phrase is.
    let reason = response
        .extensions_mut()
        .remove::<hyper::ext::ReasonPhrase>();
    response.extensions_mut().clear();
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    // hyper answers in the version of the request.
    *response.version_mut() = version;
    Ok(response.map(|body| Relayed::server(body, lease, call.record)))
}

/// By what our sidecar is to choose where a request goes, in [`ROUTE`]: the name of its service, as the caller's sidecar
/// would have it; where that is not known, the address that was called. Nothing, if the port is carried as TCP: there no
/// sidecar would take the header out again.
pub(crate) fn route(
    to: SocketAddr,
    service: Option<&Dependency>,
) -> Result<Option<HeaderValue>, Refusal> {
    let route = match service {
        Some(service) if service.protocol == Carried::Tcp => return Ok(None),
        Some(service) => format!("{}:{}", service.host, service.port),
        None => to.to_string(),
    };
    let route = HeaderValue::try_from(route);
    let route = route.map_err(|_| Refusal::Malformed("its service cannot be said"))?;
    Ok(Some(route))
}

/// Whether this answer turns the exchange into bytes both ways.
fn switches(kind: Kind, status: StatusCode) -> bool {
    match kind {
        Kind::Upgrade => status == StatusCode::SWITCHING_PROTOCOLS,
        Kind::Connect => status.is_success(),
        Kind::ExtendedConnect => status == StatusCode::OK,
        Kind::Plain | Kind::Grpc => false,
    }
}

fn request_out(
    call: &Call,
    mut parts: Parts,
    body: Outgoing,
    latch: Option<&Latch>,
) -> Result<Request<Outgoing>, Refusal> {
    let kind = call.shape.kind;
    let over_h2 = parts.version == Version::HTTP_2;
    let version = if over_h2 {
        Version::HTTP_2
    } else {
        // An HTTP/1.0 request goes on as ours: RFC 9110 2.5.
        Version::HTTP_11
    };
    hygiene::request_out(&mut parts.headers, version, kind);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.version_mut() = version;
    *request.uri_mut() = uri(&call.target, kind, over_h2)?;
    if !over_h2 {
        let host = call.target.authority.clone();
        parts.headers.insert(HOST, host);
    }
    if let Some(route) = &call.route {
        parts.headers.insert(ROUTE, route.clone());
    }
    *request.headers_mut() = parts.headers;
    if let Some(protocol) = parts.extensions.remove::<Protocol>() {
        request.extensions_mut().insert(protocol);
    }
    if let Some(latch) = latch.cloned() {
        hyper::ext::on_informational(&mut request, move |said| {
            if said.status() == StatusCode::CONTINUE {
                latch.open();
            }
        });
    }
    Ok(request)
}

fn uri(target: &Target, kind: Kind, over_h2: bool) -> Result<Uri, Refusal> {
    let uri = if over_h2 {
        target.for_h2(kind == Kind::ExtendedConnect)
    } else {
        target.for_h1()
    };
    uri.ok_or(Refusal::Malformed("the host cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_by_the_name_of_its_service_else_by_the_address() {
        let to = "10.96.0.7:8080".parse().unwrap();
        let of = |service: Option<Carried>| {
            let service = service.map(|protocol| Dependency {
                host: "reviews.shop.svc.cluster.local".parse().unwrap(),
                port: 8080.try_into().unwrap(),
                protocol,
            });
            let route = route(to, service.as_ref()).unwrap();
            route.map(|route| route.to_str().unwrap().to_owned())
        };
        let name = "reviews.shop.svc.cluster.local:8080";
        assert_eq!(of(Some(Carried::Http)).unwrap(), name);
        assert_eq!(of(None).unwrap(), "10.96.0.7:8080");
        assert_eq!(of(Some(Carried::Tcp)), None);
    }
}
