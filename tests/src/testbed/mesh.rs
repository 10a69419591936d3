//! The mesh as a whole: started once per run, shared by its tests.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use serde::Deserialize as _;
use serde_json::json;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::cluster::Cluster;
use super::control_plane::{Istiod, IstiodOptions, Kubernetes, Places};
use super::namespace::Namespace;
use super::network::{self, ISTIOD};
use super::part::sum_of;
use super::pki::TestRoot;
use super::process;
use super::resources::Resources;
use super::tools::Tools;
use super::wait;
use crate::running::Running;
use crate::sandbox::Sandbox;

const ISTIO_NAMESPACE: &str = "istio-system";
const ISTIO_ROOT_FILE: &str = "istio-root-cert.pem";

/// istiod's ClusterIP and ports.
const ISTIOD_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const ISTIOD_PORTS: [u16; 3] = [15010, 15012, 15014];

/// How a mesh is started.
#[derive(Clone, Debug, Default)]
pub struct MeshOptions {
    /// istiod's settings.
    pub istiod: IstiodOptions,
}

/// A running mesh. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tools: Tools,
    places: Places,
    root: TestRoot,
    options: MeshOptions,
    resources: Resources,
    cluster: Cluster,
    istio_root: String,
    istiod: Mutex<Istiod>,
    /// One `istioctl` at a time: istiod leaves one of several that ask it at once without an answer.
    one_istioctl: Mutex<()>,
    next_pod: AtomicU16,
    next_part: AtomicU16,
    next_namespace: AtomicU32,
    hosts: PathBuf,
    _kubernetes: Kubernetes,
}

impl Mesh {
    /// Starts a mesh in the sandbox. `logs` is the folder its programs write their logs to.
    ///
    /// # Errors
    /// When a part does not start, naming its log.
    pub async fn start(
        sandbox: &Sandbox,
        tools: &Tools,
        logs: PathBuf,
        options: MeshOptions,
    ) -> Result<Self> {
        let begin = Instant::now();
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let places = Places {
            work: sandbox.dir().to_owned(),
            logs,
        };
        let tools = tools_for_everyone(tools, &places).await?;
        add_host(&sandbox.hosts(), ISTIOD_VIP, "istiod.istio-system.svc")?;
        let root = TestRoot::create(&places.work.join("pki"))?;
        network::set_up().await?;
        let (kubernetes, client) = Kubernetes::start(&tools, &places, &root).await?;
        tracing::info!(after = ?begin.elapsed(), "the API server is ready");
        let resources = Resources::new(client);
        install(&tools, &resources).await?;
        tracing::info!(after = ?begin.elapsed(), "CRDs are in");
        let istiod = Istiod::start(&tools, &places, &options.istiod).await?;
        let cluster = Cluster::default();
        create_istiod_service(&resources, &cluster).await?;
        let istio_root = istio_root(&resources).await?;
        std::fs::write(places.work.join(ISTIO_ROOT_FILE), &istio_root)?;
        tracing::info!(after = ?begin.elapsed(), "istiod is ready");
        Ok(Self(Arc::new(Inner {
            tools,
            places,
            root,
            options,
            resources,
            cluster,
            istio_root,
            istiod: Mutex::new(istiod),
            one_istioctl: Mutex::default(),
            next_pod: AtomicU16::new(1),
            next_part: AtomicU16::new(1),
            next_namespace: AtomicU32::new(1),
            hosts: sandbox.hosts(),
            _kubernetes: kubernetes,
        })))
    }

    /// Makes a namespace of its own for a test; its name starts with `prefix`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, prefix: &str, labels: &[(&str, &str)]) -> Result<Namespace> {
        let number = self.0.next_namespace.fetch_add(1, Ordering::Relaxed);
        Namespace::create(self, format!("{prefix}-{number}"), labels).await
    }

    /// Istio's own namespace, which is the mesh's root namespace as well.
    pub(super) fn istio_namespace(&self) -> Namespace {
        Namespace::of_istio(self, ISTIO_NAMESPACE)
    }

    /// istiod, to be stopped and started by a test. Other tests of the run notice.
    pub async fn restart_istiod(&self) -> Result<()> {
        self.restart_istiod_with(&self.0.options.istiod).await
    }

    /// The same with other settings, which last until the next restart.
    pub async fn restart_istiod_with(&self, options: &IstiodOptions) -> Result<()> {
        let mut istiod = self.0.istiod.lock().await;
        istiod.stop().await?;
        *istiod = Istiod::start(&self.0.tools, &self.0.places, options).await?;
        Ok(())
    }

    /// istiod's process.
    pub async fn istiod(&self) -> Running {
        self.0.istiod.lock().await.running()
    }

    /// Where istiod takes streams in plain text, of whoever comes.
    pub fn plaintext_discovery(&self) -> SocketAddr {
        SocketAddr::from((ISTIOD, ISTIOD_PORTS[0]))
    }

    /// The sum of one of istiod's metrics over all label sets that contain `labels`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn istiod_metric(&self, name: &str, labels: &str) -> Result<f64> {
        let answer = super::http::get(&format!("http://{ISTIOD}:15014/metrics")).await?;
        Ok(sum_of(&answer.body, name, labels))
    }

    /// Stops istiod for tests that need the API server only; `restart_istiod` starts it again.
    ///
    /// # Errors
    /// When it did not end in time.
    pub async fn stop_istiod(&self) -> Result<()> {
        self.0.istiod.lock().await.stop().await
    }

    /// Runs `istioctl` against this mesh and gives back its output; one at a time.
    ///
    /// # Errors
    /// When it fails, with its standard error.
    pub async fn istioctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.0.tools.istioctl);
        command
            .args(args)
            .env("KUBECONFIG", self.0.places.kubeconfig())
            .env("HOME", &self.0.places.work);
        let _turn = self.0.one_istioctl.lock().await;
        process::output(&mut command, "").await
    }

    /// The certificate that vouches for our own parts, a PEM file.
    pub fn root_certificate(&self) -> PathBuf {
        self.0.root.certificate()
    }

    /// Issues certificates for our own parts.
    pub fn root(&self) -> &TestRoot {
        &self.0.root
    }

    /// The programs of the mesh.
    pub fn tools(&self) -> &Tools {
        &self.0.tools
    }

    /// Where the files of the run lie.
    pub fn places(&self) -> &Places {
        &self.0.places
    }

    /// The API server.
    pub fn resources(&self) -> &Resources {
        &self.0.resources
    }

    /// Services and their endpoints.
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// The root certificate of istiod's CA, PEM.
    pub fn istio_root(&self) -> &str {
        &self.0.istio_root
    }

    /// The same, a PEM file.
    pub fn istio_root_file(&self) -> PathBuf {
        self.0.places.work.join(ISTIO_ROOT_FILE)
    }

    /// Makes `host` resolve in all pods and for our own parts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add_host(&self, address: Ipv4Addr, host: &str) -> Result<()> {
        add_host(&self.0.hosts, address, host)
    }

    pub(super) fn next_part_index(&self) -> Result<u16> {
        let index = self.0.next_part.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(index < u16::MAX - 512, "too many replicas in one run");
        Ok(index)
    }

    pub(super) fn next_pod_index(&self) -> Result<u16> {
        let index = self.0.next_pod.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(index < u16::MAX - 512, "too many pods in one run");
        Ok(index)
    }
}

/// Proxies run as a user who may not look into root's folders: shows them the files they need under `/run`.
async fn tools_for_everyone(tools: &Tools, places: &Places) -> Result<Tools> {
    let mut shown = tools.clone();
    let dir = places.work.join("tools");
    std::fs::create_dir_all(&dir)?;
    for (name, tool) in [
        ("envoy", &mut shown.envoy),
        ("pilot-agent", &mut shown.pilot_agent),
        ("envoy_bootstrap.json", &mut shown.envoy_bootstrap),
    ] {
        let target = dir.join(name);
        std::fs::write(&target, "")?;
        process::output(
            Command::new("mount").arg("--bind").arg(&*tool).arg(&target),
            "",
        )
        .await?;
        *tool = target;
    }
    Ok(shown)
}

/// CRDs and namespaces.
async fn install(tools: &Tools, resources: &Resources) -> Result<()> {
    let mut documents = Vec::new();
    for file in [&tools.istio_crds, &tools.gateway_api_crds] {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value = serde_json::Value::deserialize(document)?;
            if !value.is_null() {
                documents.push(value.to_string());
            }
        }
    }
    documents.push(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ISTIO_NAMESPACE}})
            .to_string(),
    );
    try_join_all(
        documents
            .iter()
            .map(|document| resources.apply("", document)),
    )
    .await?;
    wait::until_true(
        "Istio's CRDs to be served",
        Duration::from_secs(20),
        || async {
            Ok(resources
                .client()
                .list_api_group_resources("networking.istio.io/v1")
                .await?
                .resources
                .len()
                >= 8)
        },
    )
    .await
}

async fn create_istiod_service(resources: &Resources, cluster: &Cluster) -> Result<()> {
    let ports: Vec<_> = ISTIOD_PORTS
        .map(|port| json!({"name": format!("tls-{port}"), "port": port, "targetPort": port}))
        .to_vec();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "istiod", "namespace": ISTIO_NAMESPACE},
        "spec": {"clusterIP": ISTIOD_VIP, "ports": ports},
    });
    let applied = resources
        .apply(ISTIO_NAMESPACE, &service.to_string())
        .await?;
    cluster.applied(resources, &applied).await?;
    cluster
        .set_endpoints(resources, (ISTIO_NAMESPACE, "istiod"), &[network::ISTIOD])
        .await
}

/// One line, in one write: others may be reading.
fn add_host(hosts: &Path, address: Ipv4Addr, host: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(hosts)?;
    file.write_all(format!("{address} {host} {host}.cluster.local\n").as_bytes())?;
    Ok(())
}

/// istiod writes its root certificate into every namespace; it is the same in all.
async fn istio_root(resources: &Resources) -> Result<String> {
    let api: Api<ConfigMap> = Api::namespaced(resources.client().clone(), ISTIO_NAMESPACE);
    wait::until(
        "istiod's root certificate",
        Duration::from_secs(20),
        || async {
            let map = api.get("istio-ca-root-cert").await?;
            map.data
                .and_then(|mut data| data.remove("root-cert.pem"))
                .context("a ConfigMap without root-cert.pem")
        },
    )
    .await
}
