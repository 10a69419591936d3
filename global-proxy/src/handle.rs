//! One request: looked at, judged, and carried or refused.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming as Body;

use crate::access_log::Record;
use crate::body::Relayed;
use crate::decide::{self, Answer, Situation, Step};
use crate::incoming::incoming;
use crate::location::location;
use crate::refuse::{self, Refusal};
use crate::relay::{Call, relay};
use crate::serve::Via;
use crate::shape::{BodySeen, Shape};
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
        carry(&worker, &via, shape, record.clone(), request).await
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

async fn carry(
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
    record.admitted(worker.limiter.stream(incoming.caller.spiffe.as_str())?);
    let now = Situation {
        incoming: &incoming,
        shape: &shape,
        body: BodySeen::Open { bytes: 0 },
        policy: worker.settings.policy,
        // No controller is asked yet: nothing will be heard, however long one waits.
        answer: Answer::Unheard,
        waited: Duration::MAX,
        controller_up: false,
        sayable: location(&target).is_some(),
    };
    match decide::step(&now, &worker.settings.decide) {
        Step::Relay => {
            let call = Call {
                to: incoming.original,
                target,
                shape,
                path: incoming.path,
                record,
            };
            relay(worker, call, parts, body).await
        }
        Step::Refuse(refusal) => Err(refusal),
        Step::ReadBody(_)
        | Step::AwaitAnswer(_)
        | Step::Pause(_)
        | Step::Redirect { .. }
        | Step::Plain => Err(Refusal::NotImplemented("redirects")),
    }
}
