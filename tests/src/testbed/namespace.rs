//! A Kubernetes namespace of one test: what is made in it goes with it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::future::join_all;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use parking_lot::Mutex;
use serde_json::json;

use super::controller::Controllers;
use super::global_proxy::GlobalProxies;
use super::mesh::Mesh;
use super::part::Replica;
use super::pod::Pod;
use super::shim::Shims;
use super::workload::{ServiceSpec, Workload};

/// A namespace. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mesh: Mesh,
    name: String,
    /// Istio's own: it stays when the test ends.
    stays: bool,
    pods: Mutex<Vec<Pod>>,
    replicas: Mutex<Vec<Replica>>,
    applied: Mutex<Vec<String>>,
    service_accounts: Mutex<BTreeSet<String>>,
}

impl Namespace {
    pub(super) async fn create(mesh: &Mesh, name: String, labels: &[(&str, &str)]) -> Result<Self> {
        let labels: serde_json::Map<_, _> = labels
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.into()))
            .collect();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        mesh.resources().apply("", &object.to_string()).await?;
        Ok(Self::at(mesh, name, false))
    }

    /// Istio's own namespace, which is there already.
    pub(super) fn of_istio(mesh: &Mesh, name: &str) -> Self {
        Self::at(mesh, name.to_owned(), true)
    }

    fn at(mesh: &Mesh, name: String, stays: bool) -> Self {
        Self(Arc::new(Inner {
            mesh: mesh.clone(),
            name,
            stays,
            pods: Mutex::default(),
            replicas: Mutex::default(),
            applied: Mutex::default(),
            service_accounts: Mutex::default(),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The mesh it is in.
    pub fn mesh(&self) -> &Mesh {
        &self.0.mesh
    }

    /// Writes down a workload.
    pub fn workload(&self, name: &str) -> Workload {
        Workload::new(self, name)
    }

    /// Writes down a service that selects the pods labelled `app` = `name`.
    pub fn service(&self, name: &str) -> ServiceSpec {
        ServiceSpec::new(self, name)
    }

    /// Makes a service with the usual ports and one pod of the workload behind it, both called `name`.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn server(&self, name: &str) -> Result<Pod> {
        self.service(name).usual_ports().create().await?;
        self.workload(name).start().await
    }

    /// Applies any resources, in this namespace unless they name another one.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.0.applied.lock().push(yaml.to_owned());
        let applied = self.0.mesh.resources().apply(self.name(), yaml).await?;
        self.0
            .mesh
            .cluster()
            .applied(self.0.mesh.resources(), &applied)
            .await
    }

    /// Deletes the resources that the YAML names.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, yaml: &str) -> Result<()> {
        let deleted = self.0.mesh.resources().delete(self.name(), yaml).await?;
        self.0
            .mesh
            .cluster()
            .deleted(self.0.mesh.resources(), self.name(), &deleted)
            .await
    }

    /// Every pod of this namespace speaks mTLS and nothing else.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn strict_mtls(&self) -> Result<()> {
        self.apply(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict}, spec: {mtls: {mode: STRICT}}}",
        )
        .await
    }

    pub(super) async fn ensure_service_account(&self, name: &str) -> Result<()> {
        if self.0.service_accounts.lock().insert(name.to_owned()) {
            let object =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
            self.0
                .mesh
                .resources()
                .apply(self.name(), &object.to_string())
                .await?;
        }
        Ok(())
    }

    /// A file with a token of one of its service accounts, for the audience given.
    ///
    /// # Errors
    /// When the API server issues none.
    pub(super) async fn token(&self, service_account: &str, audience: &str) -> Result<PathBuf> {
        let client = self.0.mesh.resources().client().clone();
        let api: Api<ServiceAccount> = Api::namespaced(client, self.name());
        let spec = TokenRequestSpec {
            audiences: Some(vec![audience.to_owned()]),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec: Some(spec),
            ..TokenRequest::default()
        };
        let issued = api
            .create_token_request(service_account, &PostParams::default(), &request)
            .await?;
        let token = issued
            .status
            .and_then(|status| status.token)
            .context("a token request without an answer")?;
        let name = format!("{service_account}-{}.token", self.name());
        let file = self.0.mesh.places().work.join(name);
        tokio::fs::write(&file, token).await?;
        Ok(file)
    }

    pub(super) fn keep(&self, pod: Pod) {
        self.0.pods.lock().push(pod);
    }

    pub(super) fn keep_replica(&self, replica: Replica) {
        self.0.replicas.lock().push(replica);
    }

    /// Makes the service of shims; start replicas with [`Shims::start`].
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn shims(&self) -> Result<Shims> {
        Shims::create(self).await
    }

    /// Makes the service of controllers; start replicas with [`Controllers::start`].
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn controllers(&self) -> Result<Controllers> {
        Controllers::create(self).await
    }

    /// Applies the manifests of the global proxy; start replicas with [`GlobalProxies::start`]. Sidecars of opted-in
    /// namespaces fall back to them once the controllers are told `--global-proxy`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn global_proxies(&self, controllers: &Controllers) -> Result<GlobalProxies> {
        GlobalProxies::create(self, controllers).await
    }

    /// Removes all of it: pods, resources, the namespace itself. Of Istio's own, what the test did there.
    pub(super) async fn remove(&self) {
        let pods = std::mem::take(&mut *self.0.pods.lock());
        for result in join_all(pods.iter().map(Pod::delete)).await {
            report(self.name(), result);
        }
        let replicas = std::mem::take(&mut *self.0.replicas.lock());
        for result in join_all(replicas.iter().map(Replica::remove)).await {
            report(self.name(), result);
        }
        report(self.name(), self.remove_what_controllers_made().await);
        let applied = std::mem::take(&mut *self.0.applied.lock());
        for yaml in applied.iter().rev() {
            report(self.name(), self.delete(yaml).await);
        }
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name()}});
        let (object, resources) = (object.to_string(), self.0.mesh.resources());
        let removed = if self.0.stays {
            // Without the labels it was given.
            resources.apply("", &object).await
        } else {
            resources.delete("", &object).await
        };
        report(self.name(), removed.map(drop));
    }
}

impl Namespace {
    /// Nothing here empties a namespace that is deleted, as a cluster would.
    async fn remove_what_controllers_made(&self) -> Result<()> {
        let client = self.0.mesh.resources().client();
        for (group, version, kind, plural) in MADE_BY_CONTROLLERS {
            let kind = GroupVersionKind::gvk(group, version, kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, plural);
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), self.name(), &resource);
            let all = ListParams::default();
            match api.delete_collection(&DeleteParams::default(), &all).await {
                Ok(_) => {}
                // A kind that no test of this run has installed.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

const MADE_BY_CONTROLLERS: [(&str, &str, &str, &str); 3] = [
    ("networking.istio.io", "v1", "Sidecar", "sidecars"),
    (
        "networking.istio.io",
        "v1alpha3",
        "EnvoyFilter",
        "envoyfilters",
    ),
    (
        "lazymesh.dev",
        "v1alpha1",
        "WorkloadDependencies",
        "workloaddependencies",
    ),
];

/// A failed clean-up is worth a line, not a failed test: the run's end removes everything anyway.
fn report(namespace: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(namespace, "clean-up: {error:#}");
    }
}
