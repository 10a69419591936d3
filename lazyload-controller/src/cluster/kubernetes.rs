//! Kubernetes: watches of the API server, and server-side apply without force under a field manager of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::{DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::discovery::{self, ApiResource};
use kube::error::DiscoveryError;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::debug;

use super::{Cluster, Fault, Lost, Watched};
use crate::mesh::sidecar::{MANAGED_BY, Made, is_ours};
use crate::mesh::{Kind, Name};

/// Who we are to server-side apply.
pub const FIELD_MANAGER: &str = "lazymesh";
/// After how long a kind that is not installed, or cannot be looked up, is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a write may take. Shorter than what is left of a lease whose holder could not renew it.
const PATIENCE: Duration = Duration::from_secs(4);

/// See the module.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    /// The ConfigMap of Istio's mesh config.
    mesh_config: Name,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

/// Where a kind is found.
enum Place {
    /// Always there, in this group and version.
    Fixed(&'static str, &'static str),
    /// Perhaps there, in the most stable version that it has.
    Group(&'static str),
}

fn place(kind: Kind) -> Place {
    match kind {
        Kind::Namespace | Kind::Service | Kind::Pod | Kind::MeshConfig => Place::Fixed("", "v1"),
        Kind::ServiceEntry | Kind::VirtualService | Kind::Sidecar | Kind::EnvoyFilter => {
            Place::Group("networking.istio.io")
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            Place::Group("gateway.networking.k8s.io")
        }
        Kind::ServiceCidr => Place::Group("networking.k8s.io"),
    }
}

/// A kind in the version that `render` writes.
fn written(kind: Kind) -> ApiResource {
    let version = match kind {
        Kind::EnvoyFilter => "v1alpha3",
        _ => "v1",
    };
    let gvk = GroupVersionKind::gvk("networking.istio.io", version, &kind.to_string());
    ApiResource::from_gvk(&gvk)
}

impl Kubernetes {
    /// The cluster of this client.
    #[must_use]
    pub fn new(client: Client, mesh_config: Name) -> Self {
        Self {
            client,
            mesh_config,
        }
    }

    /// How to ask for a kind; `None` if it is not installed.
    async fn resource(&self, kind: Kind) -> Result<Option<ApiResource>, kube::Error> {
        let named = kind.to_string();
        let group = match place(kind) {
            Place::Fixed(group, version) => {
                let gvk = GroupVersionKind::gvk(group, version, &named);
                return Ok(Some(ApiResource::from_gvk(&gvk)));
            }
            Place::Group(group) => group,
        };
        match discovery::group(&self.client, group).await {
            Ok(group) => {
                // Not only in the version that the group prefers: EnvoyFilter and TCPRoute have others.
                let all = group.resources_by_stability().into_iter();
                let mut all = all.map(|(resource, _)| resource);
                Ok(all.find(|resource| resource.kind == named))
            }
            Err(kube::Error::Discovery(DiscoveryError::MissingApiGroup(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Follows one kind for good, through its being absent.
    async fn follow_kind(&self, kind: Kind, watched: &Watched) -> Result<(), Lost> {
        loop {
            match self.resource(kind).await {
                Ok(Some(resource)) => self.watch(kind, &resource, watched).await,
                Ok(None) => watched.absent(kind),
                Err(error) => watched.failed(kind, &error.to_string()),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Watches one kind until it turns out not to be installed any more.
    async fn watch(&self, kind: Kind, resource: &ApiResource, watched: &Watched) {
        let config = watcher::Config::default();
        if kind == Kind::Namespace {
            // Of a namespace only its metadata is asked for.
            let api = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
            let objects = watcher(api, config).map_ok(|event| {
                map(event, |namespace| DynamicObject {
                    types: None,
                    metadata: namespace.metadata,
                    data: Value::Null,
                })
            });
            return follow(kind, objects, watched).await;
        }
        let (api, config) = if kind == Kind::MeshConfig {
            let Name { namespace, name } = &self.mesh_config;
            let api = Api::namespaced_with(self.client.clone(), namespace, resource);
            (api, config.fields(&format!("metadata.name={name}")))
        } else {
            (Api::all_with(self.client.clone(), resource), config)
        };
        follow(kind, watcher(api, config), watched).await;
    }

    fn api(&self, kind: Kind, name: &Name) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &name.namespace, &written(kind))
    }

    /// The objects of ours of a kind in all namespaces, with their uids. None where the kind is not installed.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn ours(&self, kind: Kind) -> Result<BTreeMap<Name, String>, Fault> {
        in_time(self.try_ours(kind)).await
    }

    async fn try_ours(&self, kind: Kind) -> Result<BTreeMap<Name, String>, Fault> {
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &written(kind));
        let (label, value) = MANAGED_BY;
        let labelled = ListParams::default().labels(&format!("{label}={value}"));
        let listed = match api.list_metadata(&labelled).await {
            Ok(listed) => listed,
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(BTreeMap::new()),
            Err(error) => return Err(fault(&error)),
        };
        let ours = listed.items.iter().map(|object| &object.metadata);
        Ok(ours
            .filter(|metadata| is_ours(metadata))
            .map(|metadata| (Name::of(metadata), metadata.uid.clone().unwrap_or_default()))
            .collect())
    }

    async fn try_apply(
        &self,
        kind: Kind,
        name: &Name,
        object: &Value,
        made: Option<&Made>,
    ) -> Result<DynamicObject, Fault> {
        let api = self.api(kind, name);
        let mut object = object.clone();
        match made {
            Some(made) => {
                object["metadata"]["uid"] = json!(made.uid);
                // Who led before may have written since: what it gave must not be taken back from what we knew.
                if let Some(revision) = &made.revision {
                    object["metadata"]["resourceVersion"] = json!(revision);
                }
            }
            // One of a user's that came this moment must not get our fields.
            None => {
                let there = api
                    .get_metadata_opt(&name.name)
                    .await
                    .map_err(|e| fault(&e))?;
                if there.is_some_and(|there| !is_ours(&there.metadata)) {
                    return Err(Fault::Another("it does not have our label".to_owned()));
                }
            }
        }
        let params = PatchParams::apply(FIELD_MANAGER);
        let mut applied = api
            .patch(&name.name, &params, &Patch::Apply(&object))
            .await
            .map_err(|error| fault(&error))?;
        applied.metadata.managed_fields = None;
        Ok(applied)
    }

    async fn try_delete(&self, kind: Kind, name: &Name, uid: &str) -> Result<(), Fault> {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        match self.api(kind, name).delete(&name.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(fault(&error)),
        }
    }
}

impl Cluster for Kubernetes {
    fn follow(self: Arc<Self>, watched: Watched) -> BoxFuture<'static, Result<(), Lost>> {
        async move {
            let kinds = Kind::ALL.map(|kind| self.follow_kind(kind, &watched));
            try_join_all(kinds).await.map(|_| ())
        }
        .boxed()
    }

    fn apply<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        object: &'a Value,
        made: Option<&'a Made>,
    ) -> BoxFuture<'a, Result<DynamicObject, Fault>> {
        in_time(self.try_apply(kind, name, object, made)).boxed()
    }

    fn delete<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        in_time(self.try_delete(kind, name, uid)).boxed()
    }
}

/// Takes in what a watch tells, until its kind is not installed any more.
async fn follow(
    kind: Kind,
    events: impl futures::Stream<Item = Result<Event<DynamicObject>, watcher::Error>> + Send,
    watched: &Watched,
) {
    let mut events = pin!(events.default_backoff());
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(Name::of(&object.metadata));
                watched.apply(kind, &object);
            }
            Ok(Event::InitDone) => watched.listed(kind, &listed),
            Ok(Event::Apply(object)) => watched.apply(kind, &object),
            Ok(Event::Delete(object)) => watched.delete(kind, &object),
            Err(error) if is_not_installed(&error) => {
                debug!(%kind, %error, "gone");
                return;
            }
            Err(error) => watched.failed(kind, &error.to_string()),
        }
    }
}

fn map<A, B>(event: Event<A>, f: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(f(object)),
        Event::Apply(object) => Event::Apply(f(object)),
        Event::Delete(object) => Event::Delete(f(object)),
    }
}

fn is_not_installed(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.is_not_found(),
        _ => false,
    }
}

async fn in_time<T>(write: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let late = |_| Fault::Unavailable(format!("Kubernetes took longer than {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, write).await.map_err(late)?
}

/// How the API server says that an object has another revision than the one given; no code or reason says it.
const MODIFIED: &str = "the object has been modified";

/// What a failed write means.
fn fault(error: &kube::Error) -> Fault {
    let kube::Error::Api(status) = error else {
        return Fault::Unavailable(error.to_string());
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let edited = causes
        .into_iter()
        .any(|cause| cause.reason == "FieldManagerConflict");
    let message = status.message.clone();
    match status.code {
        409 if edited => Fault::Edited(message),
        409 if message.contains(MODIFIED) => Fault::Stale(message),
        409 => Fault::Another(message),
        // Forbidden may be a namespace that is going, or rights that come yet.
        400 | 413 | 422 => Fault::Refused(message),
        _ => Fault::Unavailable(message),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn api_error(code: u16, cause: Option<&str>) -> kube::Error {
        let causes = cause.iter().map(|reason| StatusCause {
            reason: (*reason).to_owned(),
            message: String::new(),
            field: String::new(),
        });
        let details = StatusDetails {
            causes: causes.collect(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            retry_after_seconds: 0,
        };
        let status = Status::failure("why", "reason").with_code(code);
        kube::Error::Api(Box::new(status.with_details(details)))
    }

    #[test]
    fn only_a_conflict_about_fields_is_a_user_s_edit() {
        let edited = fault(&api_error(409, Some("FieldManagerConflict")));
        assert_eq!(edited, Fault::Edited("why".into()));
        let another = fault(&api_error(409, None));
        assert_eq!(another, Fault::Another("why".into()));
        let status = Status::failure(
            "Operation cannot be fulfilled on sidecars: the object has been modified; please apply your changes to the latest version and try again",
            "Conflict",
        );
        let stale = kube::Error::Api(Box::new(status.with_code(409)));
        assert!(matches!(fault(&stale), Fault::Stale(_)));
    }

    #[test]
    fn what_is_refused_is_told_from_what_may_work_later() {
        for code in [400, 413, 422] {
            assert!(matches!(fault(&api_error(code, None)), Fault::Refused(_)));
        }
        for code in [403, 404, 429, 500, 503] {
            let fault = fault(&api_error(code, None));
            assert!(matches!(fault, Fault::Unavailable(_)), "{code}");
        }
    }
}
