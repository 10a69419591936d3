//! One HTTP/1.1 connection to a server.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::task::{AbortHandle, spawn_local};
use tracing::debug;

use super::idle::Fit;
use super::no_answer;
use crate::body::Outgoing;
use crate::dial::dial;
use crate::metrics::{Counted, Metrics};
use crate::refuse::Refusal;

/// As much of an answer's head, and of a body, as is read ahead.
const READ_AHEAD: usize = 64 << 10;

/// A connection. Dropped, it is closed at once, whatever is under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    to: SocketAddr,
    send: http1::SendRequest<Outgoing>,
    driver: Option<AbortHandle>,
}

impl Connection {
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        self.send.try_send_request(request).await
    }

    pub(super) fn to(&self) -> SocketAddr {
        self.to
    }

    pub(super) fn fit(&self) -> Fit {
        if self.send.is_closed() {
            Fit::Never
        } else if self.send.is_ready() {
            Fit::Now
        } else {
            Fit::Later
        }
    }

    /// Leaves it open when this is dropped.
    pub(super) fn let_go(&mut self) {
        self.driver = None;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

/// Opens one.
pub(super) async fn connect(
    to: SocketAddr,
    limit: Duration,
    metrics: &Metrics,
) -> Result<Connection, Refusal> {
    let stream = dial(to, limit).await?;
    metrics.dials.inc();
    let (mut send, connection) = http1::Builder::new()
        .max_buf_size(READ_AHEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(to, &error))?;
    let counted = Counted::new(&metrics.upstream_connections);
    let driver = spawn_local(async move {
        let _counted = counted;
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, %to, "connection to a server ended");
        }
    });
    let driver = Some(driver.abort_handle());
    send.ready().await.map_err(|error| no_answer(to, &error))?;
    Ok(Connection { to, send, driver })
}
