//! Namespaces in mode `sidecar` on a real kube-apiserver: services and pods without anything that runs them.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use dependency_graph::{Workload, api};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt};
use lazyload_controller::clean_up;
use lazyload_controller::cluster::kubernetes::Kubernetes;
use lazyload_controller::cluster::{Cluster as _, Fault};
use lazyload_controller::mesh::sidecar::Made;
use lazyload_controller::mesh::{Kind, Name};
use lazyload_controller::resource::WorkloadDependencies;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::harness::{Controller, DEADLINE, seen_at};

/// How long EnvoyFilters outlive Sidecars.
pub(crate) const LINGERS: Duration = Duration::from_secs(2);
const TCP_ROUTES: &str = "tcproutes.gateway.networking.k8s.io";

/// Namespaces of a test, by the names the test calls them.
pub(crate) struct Mesh {
    client: Client,
    namespaces: BTreeMap<String, String>,
    /// Where controllers say what they wait for.
    admins: Mutex<Vec<SocketAddr>>,
}

/// `CONTROLLER_KUBECONFIG`, if set, has the controller's own rights.
fn kubeconfig() -> String {
    let own = std::env::var("CONTROLLER_KUBECONFIG");
    own.or_else(|_| std::env::var("KUBECONFIG"))
        .expect("KUBECONFIG names a cluster")
}

impl Mesh {
    /// Namespaces in mode `sidecar`, each with the workloads cart and web and the services pay and rates; and one with
    /// a global proxy.
    pub(crate) async fn new(lazy: &[&str]) -> Self {
        let client = Client::try_default()
            .await
            .expect("KUBECONFIG names a cluster");
        let mut mesh = Self {
            client,
            namespaces: BTreeMap::new(),
            admins: Mutex::default(),
        };
        mesh.add("system", json!({})).await;
        let ports = json!([
            {"name": "http", "port": 80},
            {"name": "tcp-tunnel", "port": 15009},
        ]);
        mesh.add_service("system", "global-proxy", ports).await;
        for namespace in lazy {
            mesh.add(namespace, json!({"lazymesh.dev/mode": "sidecar"}))
                .await;
            for service in ["pay", "rates"] {
                mesh.service(namespace, service).await;
            }
            for workload in ["cart", "web"] {
                mesh.pod(namespace, workload).await;
            }
        }
        mesh
    }

    async fn add(&mut self, called: &str, labels: Value) {
        let value = json!({"metadata": {"generateName": format!("{called}-"), "labels": labels}});
        let namespace: Namespace = serde_json::from_value(value).unwrap();
        let api = Api::<Namespace>::all(self.client.clone());
        let made = api
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        self.namespaces.insert(called.to_owned(), made.name_any());
    }

    /// Leaves nothing that a controller of another test would act on.
    pub(crate) async fn end(self) {
        for namespace in self.namespaces.keys() {
            if namespace != "system" {
                self.opt(namespace, "off").await;
            }
        }
    }

    pub(crate) fn namespace(&self, called: &str) -> &str {
        &self.namespaces[called]
    }

    pub(crate) fn workload(&self, namespace: &str, name: &str) -> Workload {
        Workload::new(self.namespace(namespace), "Deployment", name).unwrap()
    }

    pub(crate) fn host(&self, namespace: &str, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.namespace(namespace))
    }

    /// A controller that acts on these namespaces only.
    pub(crate) async fn controller(&self, flags: &[&str]) -> Controller {
        let lazy = self
            .namespaces
            .iter()
            .filter(|(called, _)| *called != "system");
        let lazy: Vec<&str> = lazy.map(|(_, name)| name.as_str()).collect();
        let (lazy, kubeconfig) = (lazy.join(","), kubeconfig());
        let proxy = format!("{}/global-proxy", self.namespace("system"));
        let all = [
            "--auth",
            "none",
            "--kubeconfig",
            &kubeconfig,
            "--sidecar-namespace",
            &lazy,
            "--global-proxy-service",
            &proxy,
            "--fallback-settles",
            "1s",
            "--fallback-lingers",
            "2s",
        ];
        let controller = Controller::start(&[&all[..], flags].concat()).await;
        self.admins.lock().push(controller.admin);
        controller
    }

    pub(crate) async fn service(&self, namespace: &str, name: &str) {
        let ports = json!([{"name": "http", "port": 80}]);
        self.add_service(namespace, name, ports).await;
    }

    async fn add_service(&self, namespace: &str, name: &str, ports: Value) {
        let value = json!({"metadata": {"name": name}, "spec": {"ports": ports}});
        let service: Service = serde_json::from_value(value).unwrap();
        let api = Api::namespaced(self.client.clone(), self.namespace(namespace));
        api.create(&PostParams::default(), &service).await.unwrap();
    }

    /// As a Deployment's ReplicaSet would make it, injected.
    async fn pod(&self, namespace: &str, workload: &str) {
        let value = json!({
            "metadata": {
                "name": format!("{workload}-abc-1"),
                "generateName": format!("{workload}-abc-"),
                "labels": {"app": workload, "pod-template-hash": "abc",
                           "security.istio.io/tlsMode": "istio"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                                     "name": format!("{workload}-abc"), "uid": "1"}],
            },
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        let pod: Pod = serde_json::from_value(value).unwrap();
        let api = Api::namespaced(self.client.clone(), self.namespace(namespace));
        api.create(&PostParams::default(), &pod).await.unwrap();
    }

    pub(crate) async fn opt(&self, namespace: &str, mode: &str) {
        let label = json!({"metadata": {"labels": {"lazymesh.dev/mode": mode}}});
        let api = Api::<Namespace>::all(self.client.clone());
        let name = self.namespace(namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(label))
            .await
            .unwrap();
    }

    pub(crate) fn seen(&self, namespace: &str, workload: &str, service: &str) -> api::Observation {
        let host = self.host(namespace, service);
        let mut seen = seen_at(workload, &host, Some(SystemTime::now()));
        let of = seen.workload.as_mut().unwrap();
        of.namespace = self.namespace(namespace).to_owned();
        seen
    }

    /// Workloads of shop call services of shop.
    pub(crate) async fn learn(&self, controller: &Controller, calls: &[(&str, &str)]) {
        let calls = calls.iter();
        let calls = calls.map(|(workload, service)| self.seen("shop", workload, service));
        let mut reporter = controller.report().await;
        reporter.send_and_wait(calls.collect()).await;
    }

    fn objects(&self, kind: &str, version: &str, namespace: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("networking.istio.io", version, kind);
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::from_gvk(&gvk))
    }

    fn sidecars(&self, namespace: &str) -> Api<DynamicObject> {
        self.objects("Sidecar", "v1", self.namespace(namespace))
    }

    pub(crate) async fn named(&self, namespace: &str, name: &str) -> Option<DynamicObject> {
        self.sidecars(namespace).get_opt(name).await.unwrap()
    }

    pub(crate) async fn sidecar(&self, namespace: &str, workload: &str) -> Option<DynamicObject> {
        let name = format!("lazymesh-deployment-{workload}");
        self.named(namespace, &name).await
    }

    pub(crate) async fn filter(&self, namespace: &str, name: &str) -> Option<DynamicObject> {
        let api = self.objects("EnvoyFilter", "v1alpha3", namespace);
        api.get_opt(name).await.unwrap()
    }

    /// Every Sidecar, EnvoyFilter and record of a namespace with its revision.
    pub(crate) async fn all(&self, namespace: &str) -> Vec<(String, Option<String>)> {
        let mut all = Vec::new();
        for (kind, version) in [("Sidecar", "v1"), ("EnvoyFilter", "v1alpha3")] {
            let api = self.objects(kind, version, namespace);
            let listed = api.list(&ListParams::default()).await.unwrap();
            all.extend(
                listed
                    .iter()
                    .map(|one| (one.name_any(), one.resource_version())),
            );
        }
        let records = Api::<WorkloadDependencies>::namespaced(self.client.clone(), namespace);
        let listed = records.list(&ListParams::default()).await.unwrap();
        all.extend(
            listed
                .iter()
                .map(|one| (one.name_any(), one.resource_version())),
        );
        all
    }

    pub(crate) async fn record(
        &self,
        namespace: &str,
        workload: &str,
    ) -> Option<WorkloadDependencies> {
        let namespace = self.namespace(namespace);
        let api = Api::<WorkloadDependencies>::namespaced(self.client.clone(), namespace);
        let name = format!("deployment-{workload}");
        api.get_opt(&name).await.unwrap()
    }

    /// As `kubectl edit` does.
    pub(crate) async fn edit(&self, namespace: &str, workload: &str, patch: &Value) {
        let name = format!("lazymesh-deployment-{workload}");
        let params = PatchParams {
            field_manager: Some("kubectl-edit".to_owned()),
            ..PatchParams::default()
        };
        let api = self.sidecars(namespace);
        api.patch(&name, &params, &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) async fn make_sidecar(
        &self,
        namespace: &str,
        name: &str,
        spec: &Value,
    ) -> DynamicObject {
        let value = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": name}, "spec": spec,
        });
        let sidecar: DynamicObject = serde_json::from_value(value).unwrap();
        let api = self.sidecars(namespace);
        api.create(&PostParams::default(), &sidecar).await.unwrap()
    }

    pub(crate) async fn label_sidecar(&self, namespace: &str, name: &str, label: &Value) {
        let (api, params) = (self.sidecars(namespace), PatchParams::default());
        api.patch(name, &params, &Patch::Merge(label))
            .await
            .unwrap();
    }

    /// Runs the command: what it said, and how it ended.
    pub(crate) async fn clean_up(&self) -> (Vec<String>, Result<(), String>) {
        let args = clean_up::Args {
            kubeconfig: Some(kubeconfig().into()),
            fallback_lingers: LINGERS,
            timeout: DEADLINE,
        };
        let mut said = Vec::new();
        let ended = clean_up::run(&args, |line| said.push(line.to_owned())).await;
        (said, ended.map_err(|error| error.to_string()))
    }

    /// A Sidecar of ours as a controller knows it.
    pub(crate) fn made(&self, controller: &Controller, namespace: &str, workload: &str) -> Made {
        let name = format!("lazymesh-deployment-{workload}");
        let world = controller.known.world.read();
        let sidecar = world.sidecar(&Name::new(self.namespace(namespace), &name));
        sidecar.unwrap().ours.clone().unwrap()
    }

    /// Writes a Sidecar as the controller does, where it is as given.
    pub(crate) async fn apply(
        &self,
        namespace: &str,
        workload: &str,
        made: &Made,
        spec: &Value,
    ) -> Result<DynamicObject, Fault> {
        let name = format!("lazymesh-deployment-{workload}");
        let name = Name::new(self.namespace(namespace), &name);
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": name.name, "namespace": name.namespace, "labels": made.labels},
            "spec": spec,
        });
        let cluster = Kubernetes::new(self.client.clone(), Name::default());
        cluster
            .apply(Kind::Sidecar, &name, &object, Some(made))
            .await
    }

    pub(crate) async fn delete_sidecar(&self, namespace: &str, name: &str) {
        let api = self.sidecars(namespace);
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) fn gives(&self, sidecar: &DynamicObject, service: &str) -> bool {
        self.says(sidecar, service, true)
    }

    fn says(&self, sidecar: &DynamicObject, service: &str, given: bool) -> bool {
        let listeners = sidecar.data["spec"]["egress"].as_array().unwrap();
        let mut listeners = listeners
            .iter()
            .filter(|one| !given || one["port"].is_null());
        listeners.any(|one| {
            let hosts = one["hosts"].as_array().unwrap();
            let end = format!("/{service}.{}.svc.cluster.local", self.namespace("shop"));
            hosts
                .iter()
                .any(|host| host.as_str().unwrap().ends_with(&end))
        })
    }

    /// Waits until the Sidecar of a workload of shop says something of a service: announces or gives it.
    pub(crate) async fn until_told_of(&self, workload: &str, service: &str) -> DynamicObject {
        self.until("the Sidecar does not grow", async || {
            let sidecar = self.sidecar("shop", workload).await?;
            self.says(&sidecar, service, false).then_some(sidecar)
        })
        .await
    }

    /// Waits until a workload's Sidecar gives services of shop.
    pub(crate) async fn until_given(
        &self,
        namespace: &str,
        workload: &str,
        services: &[&str],
    ) -> DynamicObject {
        self.until_given_in(DEADLINE, namespace, workload, services)
            .await
    }

    pub(crate) async fn until_given_in(
        &self,
        limit: Duration,
        namespace: &str,
        workload: &str,
        services: &[&str],
    ) -> DynamicObject {
        let what = format!("the Sidecar of {workload} does not give {services:?}");
        self.within(limit, &what, async || {
            let sidecar = self.sidecar(namespace, workload).await?;
            let all = services.iter().all(|service| self.gives(&sidecar, service));
            all.then_some(sidecar)
        })
        .await
    }

    pub(crate) async fn until_said(
        &self,
        namespace: &str,
        workload: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) {
        let what = format!("{workload} is not said to be {kind}={status} ({reason})");
        self.until(&what, async || {
            let record = self.record(namespace, workload).await?;
            let conditions = record.status?.conditions;
            let mut conditions = conditions.iter();
            conditions
                .any(|one| (&*one.type_, &*one.status, &*one.reason) == (kind, status, reason))
                .then_some(())
        })
        .await;
    }

    pub(crate) async fn until_nothing_is_left(&self, namespace: &str) {
        let namespace = self.namespace(namespace);
        let what = format!("something is left in {namespace}");
        self.until(&what, async || {
            let all = self.all(namespace).await;
            let left = all.iter().any(|(name, _)| name.starts_with("lazymesh-"));
            (!left).then_some(())
        })
        .await;
    }

    /// Waits until the controller knows a service.
    pub(crate) async fn until_listed(&self, controller: &Controller, host: &str) {
        self.until("the service is not known", async || {
            let world = controller.known.world.read();
            world.services_named(host).next().map(|_| ())
        })
        .await;
    }

    /// Waits until the controller leads and has nothing to do.
    pub(crate) async fn until_settled(&self, controller: &Controller) {
        self.until("the controller is not done", async || {
            let page = super::harness::get(controller.admin, "/debug/sidecars").await;
            let (_, body) = page.split_once("\r\n\r\n")?;
            let page: Value = serde_json::from_str(body).ok()?;
            let namespaces = page["namespaces"].as_object()?;
            let waits = |place: &Value| {
                let waits = place["waits_for"].as_array().unwrap();
                let waits = waits.iter().filter_map(Value::as_str);
                // What a user edited is looked at again after minutes.
                let later = |one: &str| {
                    let after = one.strip_prefix("a look in ");
                    let after = after.and_then(|rest| rest.strip_suffix(" ms")?.parse().ok());
                    after.is_some_and(|ms: u64| ms > 10_000)
                };
                waits
                    .filter(|one| !one.contains("edited") && !later(one))
                    .count()
            };
            let planned = !namespaces.is_empty() && page["planning"] == false;
            let done = namespaces.values().all(|place| waits(place) == 0);
            (page["leads"] == true && planned && done).then_some(())
        })
        .await;
    }

    /// What the controller has written of Sidecars, EnvoyFilters and conditions.
    pub(crate) async fn writes(&self, controller: &Controller) -> BTreeMap<&'static str, f64> {
        let mut writes = BTreeMap::new();
        for outcome in [
            "applied", "deleted", "said", "edited", "another", "refused", "failed",
        ] {
            let line = format!("lazymesh_controller_mesh_writes_total{{outcome=\"{outcome}\"}} ");
            let count = controller.metric(&line).await;
            if count > 0.0 {
                writes.insert(outcome, count);
            }
        }
        writes
    }

    fn crds(&self) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        Api::all_with(self.client.clone(), &ApiResource::from_gvk(&gvk))
    }

    /// Takes the kind away; what there was of it comes back.
    pub(crate) async fn remove_tcp_routes(&self) -> Option<DynamicObject> {
        let crds = self.crds();
        let before = crds.get_opt(TCP_ROUTES).await.unwrap()?;
        crds.delete(TCP_ROUTES, &DeleteParams::default())
            .await
            .unwrap();
        self.until("the CRD is still there", async || {
            let now = crds.get_opt(TCP_ROUTES).await.unwrap();
            now.is_none().then_some(())
        })
        .await;
        Some(before)
    }

    /// Gives the cluster back what a test took.
    pub(crate) async fn restore_tcp_routes(&self, before: Option<DynamicObject>) {
        let Some(mut crd) = before else { return };
        crd.metadata.resource_version = None;
        crd.metadata.uid = None;
        crd.data.as_object_mut().unwrap().remove("status");
        let crds = self.crds();
        crds.create(&PostParams::default(), &crd).await.unwrap();
    }

    pub(crate) async fn install_tcp_routes(&self) {
        let value = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": TCP_ROUTES, "annotations": {
                "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/891"}},
            "spec": {
                "group": "gateway.networking.k8s.io", "scope": "Namespaced",
                "names": {"kind": "TCPRoute", "plural": "tcproutes", "singular": "tcproute"},
                "versions": [{"name": "v1alpha2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object",
                        "x-kubernetes-preserve-unknown-fields": true}}}}}],
            },
        });
        let crd: DynamicObject = serde_json::from_value(value).unwrap();
        self.crds()
            .create(&PostParams::default(), &crd)
            .await
            .unwrap();
    }

    /// A rule of the mesh: who calls one service gets to the other.
    pub(crate) async fn make_tcp_route(&self, namespace: &str, parent: &str, to: &str) {
        let gvk = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1alpha2", "TCPRoute");
        let resource = ApiResource::from_gvk(&gvk);
        let namespace = self.namespace(namespace);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        let value = json!({
            "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
            "metadata": {"name": "moved"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": parent, "port": 80}],
                "rules": [{"backendRefs": [{"name": to, "port": 80}]}],
            },
        });
        let route: DynamicObject = serde_json::from_value(value).unwrap();
        self.until("the route is not taken", async || {
            api.create(&PostParams::default(), &route).await.ok()
        })
        .await;
    }

    pub(crate) async fn until<T>(&self, what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
        self.within(DEADLINE, what, ask).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut ask: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(limit, asking).await {
            Ok(answer) => answer,
            Err(_) => panic!("{what}; {}", self.pages().await),
        }
    }

    /// What the controllers that still run say of themselves.
    async fn pages(&self) -> String {
        let mut pages = String::new();
        let admins = self.admins.lock().clone();
        for admin in admins {
            if tokio::net::TcpStream::connect(admin).await.is_ok() {
                pages += &super::harness::get(admin, "/debug/sidecars").await;
            }
        }
        pages
    }
}
