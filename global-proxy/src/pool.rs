//! Connections to servers, kept per destination and used again.
//!
//! A request is sent a second time in one case only: the connection taken from here turns out to have closed before
//! anything of the request went out on it. Then it goes once more, on a new connection. Whatever else goes wrong, the
//! server may have processed it.

mod h1;
mod h2;
mod idle;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use crate::body::{Outgoing, Sent};
use crate::metrics::Metrics;
use crate::refuse::Refusal;
use idle::{Fit, Idle};

/// Idle connections kept per destination, and in all, of one worker.
const PER_KEY: usize = 64;
const TOTAL: usize = 1024;

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    connect_timeout: Duration,
    idle: Duration,
    metrics: Metrics,
    h1: RefCell<Idle<h1::Connection>>,
    h2: RefCell<HashMap<SocketAddr, h2::Host>>,
}

/// What an exchange holds of a connection. Dropped, it ends the exchange.
#[derive(Debug)]
pub(crate) enum Lease {
    /// A whole connection.
    Http1 {
        pool: Rc<Pool>,
        connection: h1::Connection,
        sent: Arc<Sent>,
    },
    /// One stream of one.
    Http2 { _stream: h2::Stream },
}

impl Lease {
    /// The answer has been read to its end: the connection may be used again if the request is through, too.
    pub(crate) fn finish(self) {
        if let Self::Http1 {
            pool,
            connection,
            sent,
        } = self
            && sent.is_done()
        {
            pool.give_back(connection);
        }
    }

    /// The connection has become another protocol's: it is nobody's here any more, and must not be closed.
    pub(crate) fn upgraded(&mut self) {
        if let Self::Http1 { connection, .. } = self {
            connection.let_go();
        }
    }
}

impl Pool {
    pub(crate) fn new(connect_timeout: Duration, idle: Duration, metrics: Metrics) -> Rc<Self> {
        Rc::new(Self {
            connect_timeout,
            idle,
            metrics,
            h1: RefCell::new(Idle::new(PER_KEY, TOTAL)),
            h2: RefCell::default(),
        })
    }

    /// Sends a request over HTTP/1.1.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub(crate) async fn http1(
        self: &Rc<Self>,
        to: SocketAddr,
        mut request: Request<Outgoing>,
        sent: Arc<Sent>,
    ) -> Result<(Response<Incoming>, Lease), Refusal> {
        let lease = |connection| Lease::Http1 {
            pool: self.clone(),
            connection,
            sent,
        };
        if let Some(mut connection) = self.take(to) {
            self.metrics.reused.inc();
            match connection.send(request).await {
                Ok(response) => return Ok((response, lease(connection))),
                Err(error) => request = self.unsent(to, error)?,
            }
        }
        let mut connection = h1::connect(to, self.connect_timeout, &self.metrics).await?;
        match connection.send(request).await {
            Ok(response) => Ok((response, lease(connection))),
            Err(error) => Err(no_answer(to, &error.into_error())),
        }
    }

    /// Sends a request over HTTP/2 with prior knowledge. `extended`: only to a server that takes extended CONNECT.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub(crate) async fn http2(
        self: &Rc<Self>,
        to: SocketAddr,
        mut request: Request<Outgoing>,
        extended: bool,
    ) -> Result<(Response<Incoming>, Lease), Refusal> {
        let mut again = false;
        loop {
            let (mut send, stream, fresh) = h2::stream(self, to).await?;
            if extended && !stream.takes_extended_connect().await {
                return Err(Refusal::NotImplemented(
                    "the server does not take extended CONNECT",
                ));
            }
            if !fresh {
                self.metrics.reused.inc();
            }
            match send.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease::Http2 { _stream: stream })),
                Err(error) if again => return Err(no_answer(to, &error.into_error())),
                Err(error) => request = self.unsent(to, error)?,
            }
            again = true;
        }
    }

    /// The request, if nothing of it went out.
    fn unsent(
        &self,
        to: SocketAddr,
        mut error: TrySendError<Request<Outgoing>>,
    ) -> Result<Request<Outgoing>, Refusal> {
        match error.take_message() {
            Some(request) => {
                self.metrics.resent.inc();
                Ok(request)
            }
            None => Err(no_answer(to, &error.into_error())),
        }
    }

    fn take(&self, to: SocketAddr) -> Option<h1::Connection> {
        self.h1.borrow_mut().take(to, h1::Connection::fit)
    }

    fn give_back(&self, connection: h1::Connection) {
        if connection.fit() != Fit::Never {
            let to = connection.to();
            self.h1.borrow_mut().put(to, connection, Instant::now());
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.h1
            .borrow_mut()
            .sweep(now, self.idle, |connection| connection.fit() != Fit::Never);
        self.h2
            .borrow_mut()
            .retain(|_, host| host.sweep(now, self.idle));
    }
}

fn no_answer(to: SocketAddr, error: &hyper::Error) -> Refusal {
    use std::error::Error as _;
    // hyper's user is us, and what we gave it is the caller's body.
    if error.is_user() {
        return Refusal::Malformed("its body broke off");
    }
    let why = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Refusal::NoAnswer { to, why }
}
