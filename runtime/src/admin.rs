//! The admin port: health, metrics, log level, and the debug pages a binary adds. For operators, never for the mesh.

mod server;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use http::StatusCode;
use prometheus::{Registry, TextEncoder};
use serde::Serialize;

use crate::drain::Drain;
use crate::readiness::Readiness;
use crate::telemetry::LogControl;

pub use server::Bound;

/// What a page answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Reply {
    /// Plain text.
    pub fn text(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// A value as JSON; what cannot be written as JSON is a 500 that says why.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(body) => Self {
                status: StatusCode::OK,
                content_type: "application/json",
                body,
            },
            Err(error) => Self::text(error.to_string()).status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// The same with another status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

type Page = Arc<dyn Fn() -> Reply + Send + Sync>;

/// The pages of the admin port.
#[derive(Clone)]
pub struct Admin {
    name: &'static str,
    registry: Registry,
    readiness: Readiness,
    drain: Drain,
    log: Option<LogControl>,
    notices: Vec<String>,
    pages: BTreeMap<&'static str, (&'static str, Page)>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("name", &self.name)
            .field("pages", &self.pages.keys())
            .finish()
    }
}

impl Admin {
    /// The pages every binary has. `name` heads the index.
    #[must_use]
    pub fn new(name: &'static str, registry: Registry, readiness: Readiness, drain: Drain) -> Self {
        let (log, notices, pages) = (None, Vec::new(), BTreeMap::new());
        Self {
            name,
            registry,
            readiness,
            drain,
            log,
            notices,
            pages,
        }
    }

    /// Lets PUT /logging change the log level.
    #[must_use]
    pub fn log_control(mut self, log: LogControl) -> Self {
        self.log = Some(log);
        self
    }

    /// Shows a line on the index page.
    #[must_use]
    pub fn notice(mut self, notice: impl Into<String>) -> Self {
        self.notices.push(notice.into());
        self
    }

    /// Adds a page for GET at `path`, such as `/debug/streams`. `page` runs on the server's thread: it must be quick.
    #[must_use]
    pub fn route(
        mut self,
        path: &'static str,
        about: &'static str,
        page: impl Fn() -> Reply + Send + Sync + 'static,
    ) -> Self {
        self.pages.insert(path, (about, Arc::new(page)));
        self
    }

    fn get(&self, path: &str) -> Reply {
        match path {
            "/" => self.index(),
            "/healthz/live" => Reply::text("live\n"),
            "/healthz/ready" => self.ready(),
            "/metrics" => self.metrics(),
            "/logging" => match self.log.as_ref().map(LogControl::filter) {
                Some(Ok(filter)) => Reply::text(filter + "\n"),
                Some(Err(error)) => {
                    Reply::text(format!("{error}\n")).status(StatusCode::INTERNAL_SERVER_ERROR)
                }
                None => not_found(),
            },
            other => self
                .pages
                .get(other)
                .map_or_else(not_found, |(_, page)| page()),
        }
    }

    fn put_logging(&self, filter: &str) -> Reply {
        match self.log.as_ref().map(|log| log.set_filter(filter)) {
            Some(Ok(())) => {
                tracing::info!(filter = filter.trim(), "log level changed");
                self.get("/logging")
            }
            Some(Err(error)) => Reply::text(format!("{error}\n")).status(StatusCode::BAD_REQUEST),
            None => not_found(),
        }
    }

    fn ready(&self) -> Reply {
        let mut pending = self.readiness.pending();
        if self.drain.is_leaving() {
            pending.push("draining".into());
        }
        if pending.is_empty() {
            return Reply::text("ready\n");
        }
        let text = pending
            .iter()
            .fold("pending:\n".to_owned(), |text, name| text + name + "\n");
        Reply::text(text).status(StatusCode::SERVICE_UNAVAILABLE)
    }

    fn metrics(&self) -> Reply {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(text) => Reply {
                content_type: prometheus::TEXT_FORMAT,
                ..Reply::text(text)
            },
            Err(error) => {
                Reply::text(format!("{error}\n")).status(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    fn index(&self) -> Reply {
        let mut text = format!("{}\n\n", self.name);
        for notice in &self.notices {
            let _ = writeln!(text, "{notice}\n");
        }
        let common = [
            ("GET /healthz/live", "the process runs"),
            ("GET /healthz/ready", "it is ready, or what is pending"),
            ("GET /metrics", "metrics in Prometheus's text format"),
            ("GET /logging", "the log filter"),
            (
                "PUT /logging",
                "replaces it by the body, for example: info,xds_shim=debug",
            ),
        ];
        for (page, about) in common {
            let _ = writeln!(text, "{page:<32} {about}");
        }
        for (path, (about, _)) in &self.pages {
            let _ = writeln!(text, "{:<32} {about}", format!("GET {path}"));
        }
        Reply::text(text)
    }
}

fn not_found() -> Reply {
    Reply::text("no such page; / lists them\n").status(StatusCode::NOT_FOUND)
}
