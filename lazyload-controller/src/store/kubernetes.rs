//! Keeps the graph in `WorkloadDependencies` resources. Any number of replicas may write: the status is written with
//! the resource version it was read at, and a conflict leads to reading again.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dependency_graph::fallback::{POLICY_ANNOTATION, annotated};
use dependency_graph::{Learned, Namespace as Says, Workload, mode};
use futures::future::{BoxFuture, try_join};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{PartialObjectMeta, PostParams};
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource as _, ResourceExt};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Error, Store, Stored};
use crate::expiry::Verdict;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::resource::{
    Entry, Learning, Said, WorkloadDependencies, conditions, entry, learn, new_record, revise,
};
use crate::state::{State, Versioned};

/// Attempts of one write against others' changes; then the writer takes it up again later.
const ATTEMPTS: u32 = 8;
/// First wait after a conflict; it doubles.
const CONFLICT_WAIT: Duration = Duration::from_millis(5);
/// How long a write may take, all its attempts together. Trying again does no harm: it is a set union.
const PATIENCE: Duration = Duration::from_secs(10);

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
                    state.set_namespace(&namespace.name_any(), says(&namespace));
                }
                Ok(Event::InitDone) => {
                    state.retain_namespaces(&listed);
                    state.namespaces_synced();
                }
                Ok(Event::Apply(namespace)) => {
                    state.set_namespace(&namespace.name_any(), says(&namespace));
                }
                Ok(Event::Delete(namespace)) => {
                    state.set_namespace(&namespace.name_any(), Says::default());
                }
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
        let mut records = Records {
            state,
            stale,
            metrics: &self.metrics,
            listed: HashSet::new(),
            as_of: 0,
        };
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => records.take_in(event),
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

    /// Reads a record, makes something of it and writes that, until no other write comes between. `None` when there is
    /// no record, and none is to be made.
    async fn write(
        &self,
        workload: &Workload,
        missing: Missing,
        make: impl Fn(&WorkloadDependencies) -> Result<Learning, crate::resource::Error>,
    ) -> Result<Option<Stored>, Error> {
        let api =
            Api::<WorkloadDependencies>::namespaced(self.client.clone(), workload.namespace());
        let name = workload.record_name();
        let mut conflicts = 0;
        loop {
            let resource = match (api.get_opt(&name).await.map_err(|e| fault(&e))?, missing) {
                (Some(resource), _) => resource,
                (None, Missing::Leave) => return Ok(None),
                (None, Missing::Make) => match api
                    .create(&PostParams::default(), &new_record(workload))
                    .await
                {
                    Ok(resource) => resource,
                    // Made meanwhile by another replica.
                    Err(kube::Error::Api(status)) if status.is_already_exists() => {
                        wait_after_conflict(workload, &mut conflicts).await?;
                        continue;
                    }
                    Err(error) => return Err(fault(&error)),
                },
            };
            let unwritable = |error: crate::resource::Error| Error::Unwritable(error.to_string());
            let learning = make(&resource).map_err(unwritable)?;
            let stored = |now, wrote| Stored {
                now,
                refused: learning.refused,
                conflicts,
                wrote,
            };
            let Some(status) = learning.status.clone() else {
                let now = Versioned {
                    entry: learning.entry.clone(),
                    revision: revision(&resource.metadata),
                };
                return Ok(Some(stored(now, false)));
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
                    return Ok(Some(stored(now, true)));
                }
                // Gone since it was read: made again on the next turn, if it is to be.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                    wait_after_conflict(workload, &mut conflicts).await?;
                }
                Err(error) => return Err(fault(&error)),
            }
        }
    }
}

/// What to do where there is no record.
#[derive(Clone, Copy)]
enum Missing {
    Make,
    Leave,
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
        let make = |resource: &_| learn(resource, calls, limits, SystemTime::now().into());
        let write = async move {
            let stored = self.write(workload, Missing::Make, make).await?;
            stored.ok_or_else(|| Error::Unavailable("the record was not made".into()))
        };
        in_time(write).boxed()
    }

    fn revise<'a>(
        &'a self,
        workload: &'a Workload,
        verdict: &'a Verdict,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        let make = |resource: &_| revise(resource, verdict, limits, SystemTime::now().into());
        in_time(self.write(workload, Missing::Leave, make)).boxed()
    }

    fn say<'a>(
        &'a self,
        workload: &'a Workload,
        said: &'a BTreeSet<Said>,
        make: bool,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let missing = if make { Missing::Make } else { Missing::Leave };
        let make = |resource: &_| conditions::say(resource, said, SystemTime::now().into());
        let write = async move { self.write(workload, missing, make).await.map(|_| ()) };
        in_time(write).boxed()
    }
}

type Guarded = DeserializeGuard<WorkloadDependencies>;

/// What the watch of records says, on its way into the state.
struct Records<'a> {
    state: &'a State,
    stale: &'a mpsc::Sender<Workload>,
    metrics: &'a Metrics,
    /// Of the list that is under way.
    listed: HashSet<Workload>,
    /// What was known when that list began.
    as_of: u64,
}

impl Records<'_> {
    fn take_in(&mut self, event: Event<Guarded>) {
        match event {
            Event::Init => {
                self.listed.clear();
                self.as_of = self.state.revision();
            }
            Event::InitApply(guard) => {
                let workload = self.apply(&guard);
                self.listed.extend(workload);
            }
            Event::InitDone => {
                self.state.retain_records(&self.listed, self.as_of);
                self.state.records_synced();
            }
            Event::Apply(guard) => {
                self.apply(&guard);
            }
            Event::Delete(guard) => {
                let workload = match read(&guard) {
                    Ok(versioned) => Some(versioned.entry.workload),
                    Err(_) => self.before(&guard),
                };
                if let Some(workload) = workload {
                    self.state.remove_record(&workload, revision(guard.meta()));
                }
            }
        }
    }

    /// Says whose record it is. One that cannot be read is skipped, so that it stands in the way of no other; what was
    /// known of its workload before stays.
    fn apply(&self, guard: &Guarded) -> Option<Workload> {
        match read(guard) {
            Ok(versioned) => {
                let workload = versioned.entry.workload.clone();
                if versioned.entry.stale {
                    // When it is full, the next change or list finds this one again.
                    let _ = self.stale.try_send(workload.clone());
                }
                self.state.set_record(versioned);
                Some(workload)
            }
            Err(error) => {
                self.metrics.unreadable.inc();
                let (namespace, name) = (guard.namespace().unwrap_or_default(), guard.name_any());
                warn!(
                    namespace,
                    name,
                    error,
                    "skipping a WorkloadDependencies that cannot be read; what it said before stays"
                );
                self.before(guard)
            }
        }
    }

    /// Whose record it was when it could be read.
    fn before(&self, guard: &Guarded) -> Option<Workload> {
        let namespace = guard.namespace().unwrap_or_default();
        self.state.named(&namespace, &guard.name_any())
    }
}

fn read(guard: &Guarded) -> Result<Versioned, String> {
    match &guard.0 {
        Ok(resource) => versioned(resource).map_err(|error| error.to_string()),
        Err(invalid) => Err(invalid.error.clone()),
    }
}

async fn wait_after_conflict(workload: &Workload, conflicts: &mut u32) -> Result<(), Error> {
    *conflicts += 1;
    if *conflicts >= ATTEMPTS {
        let error = format!("{conflicts} conflicts in a row");
        return Err(Error::Unavailable(error));
    }
    debug!(%workload, conflicts, "changed meanwhile; reading again");
    tokio::time::sleep(CONFLICT_WAIT * 2_u32.pow(*conflicts - 1)).await;
    Ok(())
}

/// Gives up on a write in the end: a connection that died without a word would else hold it for minutes.
async fn in_time<T>(write: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Error::Unavailable(format!("Kubernetes took longer than {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, write).await.map_err(late)?
}

fn versioned(resource: &WorkloadDependencies) -> Result<Versioned, crate::resource::Error> {
    let entry: Entry = entry(resource)?;
    Ok(Versioned {
        entry,
        revision: revision(&resource.metadata),
    })
}

/// Resource versions are numbers that grow over all objects; Kubernetes promises it since 1.35, and etcd gave none else
/// before. One that is no number is taken as the latest there can be, so that it is never ignored.
fn revision(meta: &ObjectMeta) -> u64 {
    let version = meta.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX)
}

fn says(namespace: &PartialObjectMeta<Namespace>) -> Says {
    let name = namespace.name_any();
    let label = namespace.labels().get(mode::LABEL);
    let mode = label.and_then(|label| {
        let mode = label.parse();
        mode.inspect_err(|error| warn!(namespace = name, %error, "its label is ignored"))
            .ok()
    });
    let annotation = namespace.annotations().get(POLICY_ANNOTATION);
    let (fallback, wrong) = annotated(annotation.map(String::as_str));
    if let Some(error) = wrong {
        warn!(namespace = name, %error, counts_as = %fallback, "its annotation is none; nothing is relayed");
    }
    let paused = namespace.labels().get(mode::PAUSED);
    Says {
        mode,
        fallback,
        paused: paused.is_some_and(|value| value == "true"),
    }
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
    // Else what is not found is the resource's type: the CRD may come yet.
    let no_namespace = status.is_not_found()
        && status
            .details
            .as_ref()
            .is_some_and(|details| details.kind == "namespaces");
    let message = status.message.clone();
    // A namespace that is gone or going, or a record the API server's own validation refuses.
    if no_namespace || terminating || matches!(status.code, 400 | 413 | 422) {
        Error::Unwritable(message)
    } else {
        Error::Unavailable(message)
    }
}
