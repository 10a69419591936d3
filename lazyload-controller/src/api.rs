//! The graph API as gRPC serves it: who calls is checked, then [`crate::report`], [`crate::watch`] or
//! [`crate::calls`] does the work.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dependency_graph::api::dependency_graph_server::{DependencyGraph, DependencyGraphServer};
use dependency_graph::api::{
    CallsRequest, CallsResponse, ReportRequest, ReportResponse, WatchRequest, WatchResponse,
};
use futures::Stream;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::auth::{self, Auth};
use crate::calls::Calls;
use crate::report::Reports;
use crate::state::Scope;
use crate::watch::watch;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub struct GraphApi {
    auth: Arc<Auth>,
    reports: Reports,
    calls: Calls,
    max_stream_age: Duration,
}

impl fmt::Debug for GraphApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphApi")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

impl GraphApi {
    /// The service, to be mounted. A stream ends when it is `max_stream_age` old, or a little earlier.
    #[must_use]
    pub fn server(
        auth: Auth,
        reports: Reports,
        calls: Calls,
        max_stream_age: Duration,
    ) -> DependencyGraphServer<Self> {
        DependencyGraphServer::new(Self {
            auth: Arc::new(auth),
            reports,
            calls,
            max_stream_age,
        })
    }

    /// Checks who calls; says when the stream must end, and its caller show its token again.
    async fn admit<T>(&self, request: &Request<T>, call: auth::Call) -> Result<Instant, Status> {
        self.auth
            .check(request.metadata(), call, &self.reports.metrics)
            .await?;
        debug!(peer = ?request.remote_addr(), ?call, "stream opened");
        let random = RandomState::new().hash_one(call);
        Ok(Instant::now() + jittered(self.max_stream_age, random))
    }
}

/// Up to a fifth less, so that streams which began together do not all begin again together. At most a year.
fn jittered(age: Duration, random: u64) -> Duration {
    let tenths_of_percent = 1000 - u32::try_from(random % 201).unwrap_or_default();
    age.min(Duration::from_secs(365 * 24 * 3600)) / 1000 * tenths_of_percent
}

#[tonic::async_trait]
impl DependencyGraph for GraphApi {
    type ReportStream = Answers<ReportResponse>;
    type WatchStream = Answers<WatchResponse>;
    type CallsStream = Answers<CallsResponse>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let until = self.admit(&request, auth::Call::Report).await?;
        let answers = self.reports.clone().stream(request.into_inner(), until);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let until = self.admit(&request, auth::Call::Watch).await?;
        let (state, drain) = (self.reports.state.clone(), self.reports.drain.clone());
        let scope = if request.get_ref().namespaces_only {
            Scope::Namespaces
        } else {
            Scope::Everything
        };
        let answers = watch(state, scope, drain, until);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn calls(
        &self,
        request: Request<Streaming<CallsRequest>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        let until = self.admit(&request, auth::Call::Calls).await?;
        let answers = self.calls.clone().stream(request.into_inner(), until);
        Ok(Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_live_for_at_least_four_fifths_of_their_age() {
        let hour = Duration::from_secs(3600);
        let lives: Vec<_> = (0..1000).map(|random| jittered(hour, random)).collect();
        assert_eq!(lives.iter().max(), Some(&hour));
        assert_eq!(lives.iter().min(), Some(&(hour / 5 * 4)));
        assert!(jittered(Duration::MAX, 7) < Duration::MAX);
    }
}
