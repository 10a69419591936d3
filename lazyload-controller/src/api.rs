//! The graph API as gRPC serves it: who calls is checked, then [`crate::report`] or [`crate::watch`] does the work.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use dependency_graph::api::dependency_graph_server::{DependencyGraph, DependencyGraphServer};
use dependency_graph::api::{ReportRequest, ReportResponse, WatchRequest, WatchResponse};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::auth::Auth;
use crate::report::Reports;
use crate::watch::watch;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub struct GraphApi {
    auth: Arc<Auth>,
    reports: Reports,
}

impl fmt::Debug for GraphApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphApi")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

impl GraphApi {
    /// The service, to be mounted.
    #[must_use]
    pub fn server(auth: Auth, reports: Reports) -> DependencyGraphServer<Self> {
        DependencyGraphServer::new(Self {
            auth: Arc::new(auth),
            reports,
        })
    }

    async fn admit<T>(&self, request: &Request<T>, call: &'static str) -> Result<(), Status> {
        self.auth
            .check(request.metadata(), &self.reports.metrics)
            .await?;
        debug!(peer = ?request.remote_addr(), call, "stream opened");
        Ok(())
    }
}

#[tonic::async_trait]
impl DependencyGraph for GraphApi {
    type ReportStream = Answers<ReportResponse>;
    type WatchStream = Answers<WatchResponse>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        self.admit(&request, "Report").await?;
        let answers = self.reports.clone().stream(request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.admit(&request, "Watch").await?;
        let answers = watch(self.reports.state.clone(), self.reports.drain.clone());
        Ok(Response::new(Box::pin(answers)))
    }
}
