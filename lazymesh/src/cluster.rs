//! What is read from Kubernetes, and written to it, with the rights of who runs this.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use dependency_graph::Workload;
use dependency_graph::mode::PAUSED;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, Service};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use workload_dependencies::{
    WorkloadDependencies, WorkloadDependenciesSpec, WorkloadDependenciesStatus, new_record,
};

use crate::args::Cli;
use crate::name::Called;
use crate::snapshot::Snapshot;

/// The Lease whose holder writes Sidecars.
const LEASE: &str = "lazymesh-controller";
/// Pods of one answer.
const PAGE: u32 = 500;
/// How often a write that met another one is tried anew.
const TRIES: usize = 5;

/// A cluster, and the namespace that is meant.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// What `-n` or the context says.
    pub namespace: String,
    system: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads how to reach it; asks it nothing yet.
    ///
    /// # Errors
    /// When there is no such file or context.
    pub async fn connect(cli: &Cli) -> Result<Self> {
        let options = KubeConfigOptions {
            context: cli.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &cli.kubeconfig {
            Some(file) => {
                let read = Kubeconfig::read_from(file)?;
                Config::from_custom_kubeconfig(read, &options).await?
            }
            None if cli.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await?,
        };
        let namespace = cli.namespace.clone();
        Ok(Self {
            namespace: namespace.unwrap_or_else(|| config.default_namespace.clone()),
            client: Client::try_from(config)?,
            system: cli.system_namespace.clone(),
        })
    }

    /// Namespaces and records: of one namespace, or of all.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn snapshot(&self, namespace: Option<&str>) -> Result<Snapshot> {
        let mut snapshot = Snapshot {
            system_namespace: self.system.clone(),
            records: self.records(namespace).await?,
            ..Snapshot::default()
        };
        let all: Api<Namespace> = Api::all(self.client.clone());
        let namespaces = match namespace {
            Some(name) => all.get_opt(name).await.map(|one| one.into_iter().collect()),
            None => all
                .list(&ListParams::default())
                .await
                .map(|list| list.items),
        };
        let namespaces: Vec<Namespace> = namespaces.context("reading namespaces")?;
        if let Some(name) = namespace
            && namespaces.is_empty()
        {
            bail!("there is no namespace {name:?}");
        }
        let named = namespaces.into_iter().map(|one| (one.name_any(), one));
        snapshot.namespaces = named.collect();
        // It says whether all is paused.
        match all.get_opt(&self.system).await {
            Ok(own) => snapshot
                .namespaces
                .extend(own.map(|own| (self.system.clone(), own))),
            Err(error) => {
                let what = "whether all is paused";
                snapshot.unread.push((what, error.to_string()));
            }
        }
        Ok(snapshot)
    }

    /// Pauses all of Lazymesh, or ends that; whether there was something to do.
    ///
    /// # Errors
    /// When its namespace cannot be read or written.
    pub async fn pause(&self, paused: bool) -> Result<bool> {
        let all: Api<Namespace> = Api::all(self.client.clone());
        let own = all.get(&self.system).await;
        let own = own.with_context(|| {
            format!(
                "reading the namespace {} (hint: --system-namespace)",
                self.system
            )
        })?;
        if (own.labels().get(PAUSED).map(String::as_str) == Some("true")) == paused {
            return Ok(false);
        }
        let value = if paused { json!("true") } else { Value::Null };
        let patch = Patch::Merge(json!({"metadata": {"labels": {PAUSED: value}}}));
        let written = all
            .patch(&self.system, &PatchParams::default(), &patch)
            .await;
        written.with_context(|| format!("labelling the namespace {}", self.system))?;
        Ok(true)
    }

    /// [`Self::snapshot`], with pods and the Lease. What may not be read is said in it.
    ///
    /// # Errors
    /// When records or namespaces cannot be read.
    pub async fn everything(&self, namespace: Option<&str>) -> Result<Snapshot> {
        let mut snapshot = self.snapshot(namespace).await?;
        let mut of = vec![namespace];
        if namespace.is_some_and(|namespace| namespace != self.system) {
            of.push(Some(&self.system));
        }
        for namespace in of {
            match self.pods(namespace).await {
                Ok(pods) => {
                    let is_ours = |pod: &Pod| pod.namespace().as_deref() == Some(&self.system);
                    let (ours, others): (Vec<_>, Vec<_>) = pods.into_iter().partition(is_ours);
                    snapshot.system_pods.extend(ours);
                    snapshot.pods.extend(others);
                }
                Err(error) => snapshot.unread.push(("pods", error.to_string())),
            }
        }
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
        match leases.get_opt(LEASE).await {
            Ok(lease) => snapshot.lease = lease,
            Err(error) => {
                let error = error.to_string();
                snapshot.unread.push(("the controllers' Lease", error));
            }
        }
        Ok(snapshot)
    }

    /// Page by page, and of each pod only what is looked at: a cluster may have a hundred thousand.
    async fn pods(&self, namespace: Option<&str>) -> kube::Result<Vec<Pod>> {
        let api: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let mut pods = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            pods.extend(page.items.into_iter().map(slim));
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => params = params.continue_token(&more),
                None => return Ok(pods),
            }
        }
    }

    /// Which of the Services that a name may mean there are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn services(
        &self,
        called: &Called,
        namespace: &str,
    ) -> Result<BTreeSet<(String, String)>> {
        let mut there = BTreeSet::new();
        for (namespace, name) in called.services(namespace) {
            let services: Api<Service> = Api::namespaced(self.client.clone(), &namespace);
            let found = services.get_opt(&name).await;
            let found = match found {
                // Who may not look there does not know.
                Err(kube::Error::Api(status)) if status.is_forbidden() => None,
                found => {
                    found.with_context(|| format!("reading the Service {namespace}/{name}"))?
                }
            };
            if found.is_some() {
                there.insert((namespace, name));
            }
        }
        Ok(there)
    }

    async fn records(&self, namespace: Option<&str>) -> Result<Vec<WorkloadDependencies>> {
        let api: Api<WorkloadDependencies> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                bail!(
                    "the cluster does not know WorkloadDependencies (hint: is Lazymesh installed, its CRD with it?)"
                )
            }
            Err(error) => Err(error).context("reading WorkloadDependencies"),
        }
    }

    /// Changes what people say of a workload; whether there was something to change. Without a record one is made, if `create`.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn edit_spec(
        &self,
        workload: &Workload,
        create: bool,
        edit: impl Fn(&mut WorkloadDependenciesSpec) -> bool,
    ) -> Result<bool> {
        self.edit(workload, create, "spec", |record| {
            let changed = edit(&mut record.spec);
            let pinned = Some(&record.spec.pinned).filter(|pinned| !pinned.is_empty());
            changed.then(|| json!({"pinned": pinned}))
        })
        .await
    }

    /// Changes what was learned of a workload; whether there was something to change.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn edit_status(
        &self,
        workload: &Workload,
        edit: impl Fn(&mut WorkloadDependenciesStatus) -> bool,
    ) -> Result<bool> {
        self.edit(workload, false, "status", |record| {
            let status = record.status.as_mut()?;
            edit(status).then(|| {
                json!({
                    "dependencies": status.dependencies, "dependencyCount": status.dependency_count,
                    "forgotten": status.forgotten,
                })
            })
        })
        .await
    }

    /// Has a record changed in a part, until no other write comes between. `change`: which fields become what, nothing if none is to.
    async fn edit(
        &self,
        workload: &Workload,
        create: bool,
        part: &str,
        change: impl Fn(&mut WorkloadDependencies) -> Option<Value>,
    ) -> Result<bool> {
        let name = workload.record_name();
        let api: Api<WorkloadDependencies> =
            Api::namespaced(self.client.clone(), workload.namespace());
        for _ in 0..TRIES {
            let found = api.get_opt(&name).await;
            let found = found.with_context(|| format!("reading the record of {workload}"))?;
            let is_new = found.is_none();
            let mut record = found.unwrap_or_else(|| new_record(workload));
            let Some(change) = change(&mut record).filter(|_| create || !is_new) else {
                return Ok(false);
            };
            let (params, patch) = (PatchParams::default(), only(&record, part, &change));
            let written = match part {
                _ if is_new => api.create(&PostParams::default(), &record).await,
                "status" => api.patch_status(&name, &params, &patch).await,
                _ => api.patch(&name, &params, &patch).await,
            };
            if done(written, workload)? {
                return Ok(true);
            }
        }
        bail!("the record of {workload} changes all the time (hint: try again)")
    }
}

/// A write of these fields and no others: what a newer version knows beside them stays. It fails when somebody else wrote since.
fn only(record: &WorkloadDependencies, part: &str, change: &Value) -> Patch<Value> {
    let version = &record.metadata.resource_version;
    Patch::Merge(json!({"metadata": {"resourceVersion": version}, part: change}))
}

/// What is looked at of a pod.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    if let Some(spec) = &mut pod.spec {
        let others = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(others) {
            let args = container.args.take();
            *container = Container {
                name: std::mem::take(&mut container.name),
                args,
                ..Container::default()
            };
        }
        spec.volumes = None;
    }
    if let Some(status) = &mut pod.status {
        (status.container_statuses, status.init_container_statuses) = (None, None);
    }
    pod
}

/// Whether it was written; not, when somebody else was faster.
fn done(written: kube::Result<WorkloadDependencies>, workload: &Workload) -> Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("writing the record of {workload}")),
    }
}
