//! One request: looked at, judged, and redirected, carried or refused.

use std::convert::Infallible;
use std::rc::Rc;

use dependency_graph::Protocol;
use dependency_graph::fallback::Policy;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming as Body;

use crate::access_log::{Outcome, Record};
use crate::body::Relayed;
use crate::decide;
use crate::graph::Ticket;
use crate::hold::{Decided, Held};
use crate::incoming::{Trust, incoming};
use crate::kept::Kept;
use crate::location::location;
use crate::redirect::{Mark, redirect};
use crate::refuse::{self, Refusal};
use crate::relay::{Call, relay, route};
use crate::serve::Via;
use crate::shape::Shape;
use crate::validate;
use crate::worker::Worker;

/// Answers a request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    via: Via,
    request: Request<Body>,
) -> Result<Response<Relayed>, Infallible> {
    let shape = Shape::of(&request);
    let record = Rc::new(Record::new(worker.metrics.clone(), &request));
    let answered = if matches!(via, Via::Shed) {
        Err(Refusal::Overloaded("too many connections"))
    } else {
        answer(&worker, &via, shape, record.clone(), request).await
    };
    let mut answer = answered.unwrap_or_else(|refusal| refused(&refusal, shape, record));
    let switches = shape.becomes_bytes() || answer.status().is_informational();
    if via.is_learned() && shape.version != Version::HTTP_2 && !switches {
        refuse::close(answer.headers_mut());
    }
    Ok(answer)
}

fn refused(refusal: &Refusal, shape: Shape, record: Rc<Record>) -> Response<Relayed> {
    record.refused(refusal);
    let mut response = refusal.response(shape.is_grpc());
    if refusal.closes() && shape.version != Version::HTTP_2 {
        refuse::close(response.headers_mut());
    }
    response.map(|body| Relayed::ours(body, record))
}

async fn answer(
    worker: &Rc<Worker>,
    via: &Via,
    shape: Shape,
    record: Rc<Record>,
    request: Request<Body>,
) -> Result<Response<Relayed>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let incoming = match via {
        Via::Tunnel(origin) => origin.incoming(&mut parts.headers),
        Via::Sidecar | Via::Shed => incoming(&mut parts.headers, worker.settings.trust)?,
    };
    record.came(&incoming);
    let target = validate::target(
        &parts.method,
        &parts.uri,
        parts.version,
        &parts.headers,
        Some(incoming.original),
    )?;
    record.addressed(&target.authority);
    let caller = &incoming.caller.spiffe;
    record.admitted(worker.limiter.stream(caller.as_str())?);
    let policy = worker.policy(caller.namespace());
    // Whatever is done with it, it is told, so that the next one goes direct.
    let mut ticket = worker.report(&incoming, target.authority.as_bytes(), Protocol::Http);
    if let (Via::Tunnel(origin), Some(ticket)) = (via, &ticket) {
        origin.follow(ticket);
    }
    // Without a controller, nothing that relay-only has is ever redirected.
    let location = match (policy, &ticket) {
        (None | Some(Policy::RelayOnly), None) => None,
        _ => location(&target),
    };
    let mut body = Kept::new(body);
    let mut held = Held {
        worker,
        incoming: &incoming,
        shape: &shape,
        policy,
        sayable: location.is_some(),
        record: &record,
        ticket: ticket.as_mut(),
        body: &mut body,
    };
    let decided = match held.step() {
        Ok(decided) => decided,
        // Boxed: what is relayed at once should not carry its size.
        Err(wait) => Box::pin(held.until_decided(wait)).await?,
    };
    record.heard(ticket.as_ref().and_then(Ticket::reason));
    match decided {
        Decided::Relay(why) => {
            record.relays(why);
            let service = ticket.as_ref().and_then(Ticket::service);
            let (path, version) = (incoming.path, shape.version);
            let call = Call {
                to: incoming.original,
                target,
                shape,
                path,
                route: match worker.settings.trust {
                    Trust::Sidecar => route(incoming.original, service.as_deref())?,
                    Trust::NoSidecar => None,
                },
                record,
            };
            let mut response = relay(worker, call, parts, body).await?;
            let sticks = |ticket: &mut Ticket| decide::sticks(path, ticket.answer());
            if version != Version::HTTP_2
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
                && ticket.as_mut().is_some_and(sticks)
            {
                refuse::close(response.headers_mut());
            }
            Ok(response)
        }
        Decided::Redirect(mark) => redirected(location, mark, record),
        Decided::Refuse(refusal) => Err(refusal),
    }
}

fn redirected(
    location: Option<HeaderValue>,
    mark: Mark,
    record: Rc<Record>,
) -> Result<Response<Relayed>, Refusal> {
    let location = location.ok_or(Refusal::NotImplemented("a URL that no Location can say"))?;
    let response = redirect(location, mark);
    record.answered(response.status());
    record.ends(match mark {
        Mark::Try(_) => Outcome::Redirected,
        Mark::Plain => Outcome::Plain,
    });
    Ok(response.map(|body| Relayed::ours(body, record)))
}
