//! Many workloads in mode `sidecar` on a real kube-apiserver, and controllers as processes of their own.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use dependency_graph::api;
use dependency_graph::api::dependency_graph_client::DependencyGraphClient;
use futures::channel::mpsc;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, Client, Resource, ResourceExt};
use lazyload_controller::resource::WorkloadDependencies;
use mesh_runtime::grpc::Dialer;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::harness::{Reporter, get, seen_at};

/// Requests of the test under way at once.
const AT_ONCE: usize = 32;
/// The namespace of the global proxy; every Sidecar has its services.
pub(crate) const SYSTEM: &str = "fleet-system";
/// One that is not in the mode.
pub(crate) const ELSEWHERE: &str = "fleet-elsewhere";

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) namespaces: usize,
    /// In each namespace; there are half as many services.
    pub(crate) workloads: usize,
    /// Of each workload.
    pub(crate) dependencies: usize,
}

impl Size {
    /// `LAZYMESH_SCALE`, such as `100x50x50`; else one that does not take long.
    pub(crate) fn chosen() -> Self {
        let said = std::env::var("LAZYMESH_SCALE").unwrap_or_else(|_| "10x30x20".to_owned());
        let numbers: Vec<usize> = said.split('x').map(|n| n.parse().unwrap()).collect();
        let [namespaces, workloads, dependencies] = numbers[..] else {
            panic!("LAZYMESH_SCALE={said} is not NAMESPACESxWORKLOADSxDEPENDENCIES");
        };
        Self {
            namespaces,
            workloads,
            dependencies,
        }
    }

    pub(crate) fn all(self) -> usize {
        self.namespaces * self.workloads
    }

    pub(crate) fn services(self) -> usize {
        self.all() / 2
    }

    /// How long anything may take.
    pub(crate) fn limit(self) -> Duration {
        Duration::from_secs(60 + self.all() as u64 / 10)
    }
}

/// The workloads, their services and what they use.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) client: Client,
    pub(crate) size: Size,
}

impl Fleet {
    pub(crate) async fn make(size: Size) -> Self {
        let client = Client::try_default().await;
        let fleet = Self {
            client: client.expect("KUBECONFIG names a cluster"),
            size,
        };
        let names = (0..size.namespaces).map(namespace);
        let lazy: Vec<Value> = names
            .map(|name| json!({"metadata": {"name": name, "labels": {"lazymesh.dev/mode": "sidecar"}}}))
            .chain([SYSTEM, ELSEWHERE].map(|name| json!({"metadata": {"name": name}})))
            .collect();
        let all = Api::<Namespace>::all(fleet.client.clone());
        at_once(lazy, |one| create(all.clone(), one)).await;
        let ports = json!([{"name": "http", "port": 80}, {"name": "tcp-tunnel", "port": 15009}]);
        fleet.service(SYSTEM, "global-proxy", ports).await;
        at_once(0..size.services() + 2, |number| {
            let (fleet, ports) = (fleet.clone(), json!([{"name": "http", "port": 80}]));
            async move {
                fleet
                    .service(&fleet.home(number), &service(number), ports)
                    .await
            }
        })
        .await;
        at_once(0..size.all(), |number| {
            let fleet = fleet.clone();
            async move { fleet.workload(number).await }
        })
        .await;
        fleet
    }

    /// The namespace of a service.
    fn home(&self, service: usize) -> String {
        namespace(service % self.size.namespaces)
    }

    pub(crate) fn host(&self, number: usize) -> String {
        format!(
            "{}.{}.svc.cluster.local",
            service(number),
            self.home(number)
        )
    }

    /// A service that three workloads use, beside those that many do.
    pub(crate) fn rare(&self) -> usize {
        self.size.services()
    }

    /// One that nobody uses, to which a rule will lead.
    pub(crate) fn spare(&self) -> usize {
        self.size.services() + 1
    }

    pub(crate) fn use_rare(&self) -> [usize; 3] {
        let all = self.size.all();
        [0, all / 2, all - 1]
    }

    /// The services that a workload uses: those of the whole mesh, as far apart as there are any.
    pub(crate) fn used(&self, number: usize) -> Vec<usize> {
        let (first, services) = (number * 37, self.size.services());
        let used = (0..self.size.dependencies).map(|k| (first + 3 * k) % services);
        let rare = self.use_rare().contains(&number).then(|| self.rare());
        used.chain(rare).collect()
    }

    /// Two that it does not use.
    pub(crate) fn unused(&self, number: usize) -> [usize; 2] {
        [1, 2].map(|after| (number * 37 + after) % self.size.services())
    }

    pub(crate) fn seen(&self, number: usize, service: usize) -> api::Observation {
        let (namespace, name) = self.at(number);
        let mut seen = seen_at(&name, &self.host(service), Some(SystemTime::now()));
        seen.workload.as_mut().unwrap().namespace = namespace;
        seen
    }

    pub(crate) fn at(&self, number: usize) -> (String, String) {
        let (of, index) = (number / self.size.workloads, number % self.size.workloads);
        (namespace(of), format!("w{index:03}"))
    }

    pub(crate) async fn service(&self, namespace: &str, name: &str, ports: Value) {
        let value = json!({"metadata": {"name": name}, "spec": {"ports": ports}});
        let api = Api::<Service>::namespaced(self.client.clone(), namespace);
        create(api, value).await;
    }

    /// A pod as a Deployment's ReplicaSet would make it, injected, and a record of what it uses.
    async fn workload(&self, number: usize) {
        let (namespace, name) = self.at(number);
        let pod = json!({
            "metadata": {
                "name": format!("{name}-abc-1"),
                "generateName": format!("{name}-abc-"),
                "labels": {"app": name, "version": "v1", "pod-template-hash": "abc",
                           "security.istio.io/tlsMode": "istio"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                                     "name": format!("{name}-abc"), "uid": "1"}],
            },
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        create(Api::<Pod>::namespaced(self.client.clone(), &namespace), pod).await;
        let used = self.used(number);
        let dependencies = used.iter().map(|service| {
            json!({"host": self.host(*service), "ports": [80], "protocol": "HTTP", "source": "Fallback",
                   "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": "2026-01-01T00:00:00Z"})
        });
        let status = json!({"status": {
            "phase": "Learning", "dependencyCount": used.len(), "lastLearned": "2026-01-01T00:00:00Z",
            "dependencies": dependencies.collect::<Vec<_>>(), "observedGeneration": 1,
        }});
        let api = Api::<WorkloadDependencies>::namespaced(self.client.clone(), &namespace);
        let record = json!({
            "apiVersion": "lazymesh.dev/v1alpha1", "kind": "WorkloadDependencies",
            "metadata": {"name": format!("deployment-{name}")},
            "spec": {"workloadRef": {"kind": "Deployment", "name": name}},
        });
        create(api.clone(), record).await;
        let name = format!("deployment-{name}");
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// Who calls one service gets to the other.
    pub(crate) async fn lead(&self, from: usize, to: usize) {
        let api = self.objects("VirtualService", "v1", Some(&self.home(from)));
        let route = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "leads"},
            "spec": {"hosts": [self.host(from)],
                     "http": [{"route": [{"destination": {"host": self.host(to)}}]}]},
        });
        create(api, route).await;
    }

    fn objects(&self, kind: &str, version: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("networking.istio.io", version, kind);
        let (client, resource) = (self.client.clone(), ApiResource::from_gvk(&gvk));
        match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    pub(crate) async fn sidecar(&self, number: usize) -> DynamicObject {
        let (namespace, name) = self.at(number);
        let api = self.objects("Sidecar", "v1", Some(&namespace));
        let name = format!("lazymesh-deployment-{name}");
        api.get(&name).await.unwrap()
    }

    /// Whether an object is in one of the lazy namespaces; other tests may have left some elsewhere.
    fn has(&self, of: Option<String>) -> bool {
        let mut all = (0..self.size.namespaces).map(namespace);
        of.is_some_and(|of| all.any(|one| one == of))
    }

    /// Every Sidecar and EnvoyFilter of ours: its revision and how often its spec was written.
    pub(crate) async fn written(&self) -> BTreeMap<String, (String, i64)> {
        let mut all = BTreeMap::new();
        for (kind, version) in [("Sidecar", "v1"), ("EnvoyFilter", "v1alpha3")] {
            let api = self.objects(kind, version, None);
            let ours = ListParams::default().labels("app.kubernetes.io/managed-by=lazymesh");
            let listed = api.list_metadata(&ours).await.unwrap().items;
            for one in listed.into_iter().filter(|one| self.has(one.namespace())) {
                let name = format!("{kind} {}/{}", one.namespace().unwrap(), one.name_any());
                let version = one.resource_version().unwrap();
                all.insert(name, (version, one.metadata.generation.unwrap()));
            }
        }
        all
    }

    /// The revision of every record, and how many dependencies they hold.
    pub(crate) async fn records(&self) -> (BTreeMap<String, String>, usize) {
        let api = Api::<WorkloadDependencies>::all(self.client.clone());
        let mut listed = api.list(&ListParams::default()).await.unwrap().items;
        listed.retain(|one| self.has(one.namespace()));
        let status = listed.iter().filter_map(|one| one.status.as_ref());
        let count = status.map(|status| status.dependencies.len()).sum();
        let versions = listed.into_iter().map(|one| {
            let name = format!("{}/{}", one.namespace().unwrap(), one.name_any());
            (name, one.resource_version().unwrap())
        });
        (versions.collect(), count)
    }

    /// Requests that the API server has answered, but for reads: by verb and resource.
    pub(crate) async fn api_calls(&self) -> BTreeMap<String, f64> {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = self.client.request_text(request).await.unwrap();
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            let Some(line) = line.strip_prefix("apiserver_request_total{") else {
                continue;
            };
            let (labels, count) = line.rsplit_once("} ").unwrap();
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\"")).unwrap();
                rest.split_once('"').unwrap().0.to_owned()
            };
            let name = format!(
                "{} {} {}",
                label("verb"),
                label("resource"),
                label("subresource")
            );
            *calls.entry(name.trim().to_owned()).or_insert(0.0) += count.parse::<f64>().unwrap();
        }
        calls
    }

    /// Takes everything away that a controller, or istiod, would look at.
    pub(crate) async fn end(self) {
        at_once(0..self.size.namespaces, |number| {
            let (fleet, of) = (self.clone(), namespace(number));
            async move {
                let label = json!({"metadata": {"labels": {"lazymesh.dev/mode": "off"}}});
                let all = Api::<Namespace>::all(fleet.client.clone());
                all.patch(&of, &PatchParams::default(), &Patch::Merge(label))
                    .await
                    .unwrap();
                let (how, which) = (
                    DeleteParams::default().grace_period(0),
                    ListParams::default(),
                );
                for (kind, version) in [
                    ("Sidecar", "v1"),
                    ("EnvoyFilter", "v1alpha3"),
                    ("VirtualService", "v1"),
                ] {
                    let api = fleet.objects(kind, version, Some(&of));
                    api.delete_collection(&how, &which).await.unwrap();
                }
                let client = || fleet.client.clone();
                let pods = Api::<Pod>::namespaced(client(), &of);
                pods.delete_collection(&how, &which).await.unwrap();
                let services = Api::<Service>::namespaced(client(), &of);
                services.delete_collection(&how, &which).await.unwrap();
                let records = Api::<WorkloadDependencies>::namespaced(client(), &of);
                records.delete_collection(&how, &which).await.unwrap();
            }
        })
        .await;
    }
}

fn namespace(number: usize) -> String {
    format!("fleet-{number:03}")
}

pub(crate) fn service(number: usize) -> String {
    format!("s{number:04}")
}

pub(crate) async fn at_once<T, F: Future>(
    all: impl IntoIterator<Item = T>,
    act: impl FnMut(T) -> F,
) -> Vec<F::Output> {
    let acts = stream::iter(all).map(act);
    acts.buffer_unordered(AT_ONCE).collect().await
}

async fn create<K>(api: Api<K>, value: Value)
where
    K: Resource + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(value).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// A controller that is a process.
pub(crate) struct Replica {
    process: Child,
    folder: tempfile::TempDir,
    grpc: SocketAddr,
    admin: SocketAddr,
}

impl Replica {
    /// `LAZYMESH_CONTROLLER`: a program other than the tests' own.
    pub(crate) async fn start(fleet: &Fleet, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = std::env::var("CONTROLLER_KUBECONFIG");
        let kubeconfig = own.or_else(|_| std::env::var("KUBECONFIG")).unwrap();
        let program = std::env::var("LAZYMESH_CONTROLLER");
        let program =
            program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_lazyload-controller").to_owned());
        let only: Vec<String> = (0..fleet.size.namespaces).map(namespace).collect();
        let ports = folder.path().join("ports");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(&program)
            .args([
                "--plaintext",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(["--auth", "none", "--kubeconfig", &kubeconfig])
            .args(["--sidecar-namespace", &only.join(",")])
            .args(["--global-proxy-service", &format!("{SYSTEM}/global-proxy")])
            .args(["--fallback-settles", "1s", "--sidecar-writes", "1000"])
            .arg("--port-file")
            .arg(&ports)
            .args(flags)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let said = within(
            Duration::from_secs(20),
            "the controller does not start",
            async || std::fs::read_to_string(&ports).ok(),
        )
        .await;
        let said: Value = serde_json::from_str(&said).unwrap();
        let at = |name: &str| {
            let port = u16::try_from(said[name].as_u64().unwrap()).unwrap();
            SocketAddr::from(([127, 0, 0, 1], port))
        };
        Self {
            process,
            grpc: at("grpc"),
            admin: at("admin"),
            folder,
        }
    }

    pub(crate) async fn report(&self) -> Reporter {
        let dialer = Dialer::new(&format!("http://{}", self.grpc), None, None).unwrap();
        let (batches, outgoing) = mpsc::channel(1024);
        let mut client = DependencyGraphClient::new(dialer.channel());
        let answers = client.report(outgoing).await.unwrap().into_inner();
        Reporter {
            batches,
            answers,
            sequence: 0,
        }
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = get(self.admin, "/metrics").await;
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// What it has written of the mode `sidecar`, whatever became of it.
    pub(crate) async fn writes(&self) -> f64 {
        let text = get(self.admin, "/metrics").await;
        let lines = text
            .lines()
            .filter(|l| l.starts_with("lazymesh_controller_mesh_writes_total"));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Waits until it is settled: it knows of every namespace, and waits for nothing.
    pub(crate) async fn settled(&self, fleet: &Fleet, leads: bool) {
        let what = format!("not settled: {}", self.folder.path().display());
        within(fleet.size.limit(), &what, async || {
            let page = get(self.admin, "/debug/sidecars").await;
            let (_, body) = page.split_once("\r\n\r\n")?;
            let page: Value = serde_json::from_str(body).ok()?;
            let places = page["namespaces"].as_object()?;
            let rests = |place: &Value| {
                let there = place["sidecars"]["wanted"] == place["sidecars"]["there"];
                there && place["waits_for"].as_array().is_some_and(Vec::is_empty)
            };
            let known = places.len() == fleet.size.namespaces && places.values().all(rests);
            (known && page["planning"] == false && page["leads"] == leads).then_some(())
        })
        .await;
    }

    /// Megabytes in memory: now, and at most until now.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let of = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// As Kubernetes ends a pod.
    pub(crate) async fn stop(mut self) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        let limit = Duration::from_secs(30);
        let ended = within(limit, "it does not end", async || {
            self.process.try_wait().unwrap()
        });
        assert!(ended.await.success());
    }

    /// It gives no Lease back.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // Whatever a test that failed leaves behind; one that has ended is not there to be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    asked_every(Duration::from_millis(100), limit, what, ask).await
}

/// For what is timed.
pub(crate) async fn asked_every<T>(
    pause: Duration,
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(pause).await;
        }
    };
    let answer = tokio::time::timeout(limit, asking).await;
    answer.unwrap_or_else(|_| panic!("{what} ({limit:?})"))
}
