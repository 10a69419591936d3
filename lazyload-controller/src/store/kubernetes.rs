//! Keeps the graph in `WorkloadDependencies` resources. Any number of replicas may write: the status is written with
//! the resource version it was read at, and a conflict leads to reading again.

use std::collections::HashSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dependency_graph::{Learned, Mode, Workload, mode};
use futures::future::{BoxFuture, try_join};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{PartialObjectMeta, PostParams};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Error, Store, Stored};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::resource::{Entry, WorkloadDependencies, entry, learn, new_record};
use crate::state::{State, Versioned};

/// Attempts of one write against others' changes; then the writer takes it up again later.
const ATTEMPTS: u32 = 8;
/// First wait after a conflict; it doubles.
const CONFLICT_WAIT: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    metrics: Metrics,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Keeps the graph in the cluster of this client.
    #[must_use]
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics }
    }

    async fn follow_namespaces(&self, state: &State) -> Result<(), Error> {
        // Of a namespace only its metadata is asked for.
        let api = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let mut events = pin!(
            watch(api, watcher::Config::default())
                .default_backoff()
                .boxed()
        );
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(namespace)) => {
                    listed.insert(namespace.name_any());
                    state.set_namespace(&namespace.name_any(), namespace_mode(&namespace));
                }
                Ok(Event::InitDone) => {
                    state.retain_namespaces(&listed);
                    state.namespaces_synced();
                }
                Ok(Event::Apply(namespace)) => {
                    state.set_namespace(&namespace.name_any(), namespace_mode(&namespace));
                }
                Ok(Event::Delete(namespace)) => state.set_namespace(&namespace.name_any(), None),
                Err(error) => warn!(%error, "watching namespaces; trying again"),
            }
        }
        Err(Error::Unavailable("the watch of namespaces ended".into()))
    }

    async fn follow_records(
        &self,
        state: &State,
        stale: &mpsc::Sender<Workload>,
    ) -> Result<(), Error> {
        let api = Api::<DeserializeGuard<WorkloadDependencies>>::all(self.client.clone());
        let mut events = pin!(
            watch(api, watcher::Config::default())
                .default_backoff()
                .boxed()
        );
        let (mut listed, mut as_of) = (HashSet::new(), 0);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    listed.clear();
                    as_of = state.revision();
                }
                Ok(Event::InitApply(guard)) => {
                    if let Some(versioned) = self.read(&guard) {
                        listed.insert(versioned.entry.workload.clone());
                        take(state, stale, versioned);
                    }
                }
                Ok(Event::InitDone) => {
                    state.retain_records(&listed, as_of);
                    state.records_synced();
                }
                Ok(Event::Apply(guard)) => {
                    if let Some(versioned) = self.read(&guard) {
                        take(state, stale, versioned);
                    }
                }
                Ok(Event::Delete(guard)) => {
                    if let Some(Versioned { entry, revision }) = self.read(&guard) {
                        state.remove_record(&entry.workload, revision);
                    }
                }
                Err(error) => warn!(
                    %error,
                    "watching WorkloadDependencies; trying again (hint: is the CRD installed?)"
                ),
            }
        }
        Err(Error::Unavailable(
            "the watch of WorkloadDependencies ended".into(),
        ))
    }

    /// One that cannot be read is skipped, so that it stands in the way of no other.
    fn read(&self, guard: &DeserializeGuard<WorkloadDependencies>) -> Option<Versioned> {
        let name = format!(
            "{}/{}",
            guard.namespace().unwrap_or_default(),
            guard.name_any()
        );
        let read = match &guard.0 {
            Ok(resource) => versioned(resource).map_err(|error| error.to_string()),
            Err(invalid) => Err(invalid.error.clone()),
        };
        read.inspect_err(|error| {
            self.metrics.unreadable.inc();
            warn!(
                resource = name,
                error, "skipping a WorkloadDependencies that cannot be read"
            );
        })
        .ok()
    }

    async fn try_learn(
        &self,
        workload: &Workload,
        calls: &Learned,
        limits: &Limits,
    ) -> Result<Stored, Error> {
        let api =
            Api::<WorkloadDependencies>::namespaced(self.client.clone(), workload.namespace());
        let name = workload.record_name();
        let mut conflicts = 0;
        loop {
            let resource = match api.get_opt(&name).await.map_err(|e| fault(&e))? {
                Some(resource) => resource,
                None => match api
                    .create(&PostParams::default(), &new_record(workload))
                    .await
                {
                    Ok(resource) => resource,
                    Err(kube::Error::Api(status)) if status.is_already_exists() => continue,
                    Err(error) => return Err(fault(&error)),
                },
            };
            let unwritable = |error: crate::resource::Error| Error::Unwritable(error.to_string());
            let learning =
                learn(&resource, calls, limits, SystemTime::now().into()).map_err(unwritable)?;
            let Some(status) = learning.status else {
                let now = Versioned {
                    entry: learning.entry,
                    revision: revision(&resource),
                };
                return Ok(Stored {
                    now,
                    refused: learning.refused,
                    conflicts,
                    wrote: false,
                });
            };
            let next = WorkloadDependencies {
                status: Some(status),
                ..resource
            };
            match api
                .replace_status(&name, &PostParams::default(), &next)
                .await
            {
                Ok(written) => {
                    let now = versioned(&written).map_err(unwritable)?;
                    return Ok(Stored {
                        now,
                        refused: learning.refused,
                        conflicts,
                        wrote: true,
                    });
                }
                // Gone since it was read: made again on the next turn.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                    conflicts += 1;
                    if conflicts >= ATTEMPTS {
                        return Err(Error::Unavailable(format!(
                            "{conflicts} conflicts in a row"
                        )));
                    }
                    debug!(%workload, conflicts, "changed meanwhile; reading again");
                    tokio::time::sleep(CONFLICT_WAIT * 2_u32.pow(conflicts - 1)).await;
                }
                Err(error) => return Err(fault(&error)),
            }
        }
    }
}

impl Store for Kubernetes {
    fn follow(
        self: Arc<Self>,
        state: State,
        stale: mpsc::Sender<Workload>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        async move {
            let records = self.follow_records(&state, &stale);
            try_join(self.follow_namespaces(&state), records)
                .await
                .map(|_| ())
        }
        .boxed()
    }

    fn learn<'a>(
        &'a self,
        workload: &'a Workload,
        calls: &'a Learned,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Stored, Error>> {
        self.try_learn(workload, calls, limits).boxed()
    }
}

fn take(state: &State, stale: &mpsc::Sender<Workload>, versioned: Versioned) {
    if versioned.entry.stale {
        // When it is full, the next change or list finds this one again.
        let _ = stale.try_send(versioned.entry.workload.clone());
    }
    state.set_record(versioned);
}

fn versioned(resource: &WorkloadDependencies) -> Result<Versioned, crate::resource::Error> {
    let entry: Entry = entry(resource)?;
    Ok(Versioned {
        entry,
        revision: revision(resource),
    })
}

/// Resource versions are numbers that grow over all objects; Kubernetes promises it since 1.35, and etcd gave none else
/// before. One that is no number is taken as the latest there can be, so that it is never ignored.
fn revision(resource: &WorkloadDependencies) -> u64 {
    let version = resource.metadata.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX)
}

fn namespace_mode(namespace: &PartialObjectMeta<Namespace>) -> Option<Mode> {
    let label = namespace.labels().get(mode::LABEL)?;
    label
        .parse()
        .inspect_err(|error| {
            warn!(namespace = namespace.name_any(), %error, "its label is ignored");
        })
        .ok()
}

/// Which errors are worth another try.
fn fault(error: &kube::Error) -> Error {
    if let kube::Error::SerdeError(error) = error {
        return Error::Unwritable(format!("its record cannot be read: {error}"));
    }
    let kube::Error::Api(status) = error else {
        return Error::Unavailable(error.to_string());
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let terminating = causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating");
    let message = status.message.clone();
    // A namespace that is gone or going, or a record the API server's own validation refuses.
    if status.is_not_found() || terminating || matches!(status.code, 400 | 413 | 422) {
        Error::Unwritable(message)
    } else {
        Error::Unavailable(message)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::response::{Status, StatusCause, StatusDetails};

    use super::*;

    fn api_error(code: u16, reason: &str, cause: Option<&str>) -> Error {
        let causes = cause.map(|reason| StatusCause {
            reason: reason.into(),
            message: String::new(),
            field: String::new(),
        });
        let causes: Vec<_> = causes.into_iter().collect();
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes,
            retry_after_seconds: 0,
        };
        let status = Status::failure("m", reason)
            .with_code(code)
            .with_details(details);
        fault(&kube::Error::Api(status.boxed()))
    }

    #[test]
    fn only_what_can_never_work_is_given_up() {
        for (code, reason, cause) in [
            (404, "NotFound", None),
            (403, "Forbidden", Some("NamespaceTerminating")),
            (422, "Invalid", None),
            (413, "RequestEntityTooLarge", None),
        ] {
            let fault = api_error(code, reason, cause);
            assert!(matches!(fault, Error::Unwritable(_)), "{code} {fault:?}");
        }
        for (code, reason) in [
            (403, "Forbidden"),
            (401, "Unauthorized"),
            (429, "TooManyRequests"),
            (500, "InternalError"),
        ] {
            let fault = api_error(code, reason, None);
            assert!(matches!(fault, Error::Unavailable(_)), "{code} {fault:?}");
        }
    }

    #[test]
    fn a_revision_that_is_no_number_is_the_latest() {
        let mut resource = new_record(&Workload::new("shop", "Deployment", "a").unwrap());
        resource.metadata.resource_version = Some("41".into());
        assert_eq!(revision(&resource), 41);
        resource.metadata.resource_version = Some("opaque".into());
        assert_eq!(revision(&resource), u64::MAX);
    }
}
