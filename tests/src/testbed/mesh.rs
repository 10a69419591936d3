//! The mesh as a whole: started once per run, shared by its tests.

use std::path::PathBuf;
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
use super::network;
use super::pki::TestRoot;
use super::process;
use super::resources::Resources;
use super::tools::Tools;
use super::wait;
use crate::sandbox::Sandbox;

/// Our own parts' namespace.
pub const OWN_NAMESPACE: &str = "lazymesh-system";
const ISTIO_NAMESPACE: &str = "istio-system";

/// The services of the mesh's own parts: namespace, name, ClusterIP, ports.
const PARTS: [(&str, &str, &str, &[u16]); 3] = [
    (
        ISTIO_NAMESPACE,
        "istiod",
        "10.96.0.10",
        &[15010, 15012, 15014],
    ),
    (OWN_NAMESPACE, "xds-shim", "10.96.0.11", &[15012]),
    (OWN_NAMESPACE, "lazyload-controller", "10.96.0.12", &[15020]),
];

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
    next_pod: AtomicU16,
    next_namespace: AtomicU32,
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
        write_hosts(sandbox)?;
        let root = TestRoot::create(&places.work.join("pki"))?;
        network::set_up().await?;
        let (kubernetes, client) = Kubernetes::start(&tools, &places, &root).await?;
        tracing::info!(after = ?begin.elapsed(), "the API server is ready");
        let resources = Resources::new(client);
        install(&tools, &resources).await?;
        tracing::info!(after = ?begin.elapsed(), "CRDs are in");
        let istiod = Istiod::start(&tools, &places, &options.istiod).await?;
        let cluster = Cluster::default();
        create_parts(&resources, &cluster).await?;
        let istio_root = istio_root(&resources).await?;
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
            next_pod: AtomicU16::new(1),
            next_namespace: AtomicU32::new(1),
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

    /// istiod, to be stopped and started by a test. Other tests of the run notice.
    pub async fn restart_istiod(&self) -> Result<()> {
        let mut istiod = self.0.istiod.lock().await;
        istiod.stop().await?;
        *istiod = Istiod::start(&self.0.tools, &self.0.places, &self.0.options.istiod).await?;
        Ok(())
    }

    /// Runs `istioctl` against this mesh and gives back its output.
    ///
    /// # Errors
    /// When it fails, with its standard error.
    pub async fn istioctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.0.tools.istioctl);
        command
            .args(args)
            .env("KUBECONFIG", self.0.places.kubeconfig())
            .env("HOME", &self.0.places.work);
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

fn write_hosts(sandbox: &Sandbox) -> Result<()> {
    use std::io::Write as _;
    let mut hosts = std::fs::OpenOptions::new()
        .append(true)
        .open(sandbox.hosts())?;
    for (namespace, name, address, _) in PARTS {
        writeln!(
            hosts,
            "{address} {name}.{namespace}.svc {name}.{namespace}.svc.cluster.local"
        )?;
    }
    Ok(())
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
    for name in [ISTIO_NAMESPACE, OWN_NAMESPACE] {
        documents.push(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
                .to_string(),
        );
    }
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

async fn create_parts(resources: &Resources, cluster: &Cluster) -> Result<()> {
    for (namespace, name, address, ports) in PARTS {
        let ports: Vec<_> = ports
            .iter()
            .map(|port| json!({"name": format!("tls-{port}"), "port": port, "targetPort": port}))
            .collect();
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": address, "ports": ports},
        });
        let applied = resources.apply(namespace, &service.to_string()).await?;
        cluster.applied(resources, &applied).await?;
    }
    cluster
        .set_endpoints(resources, (ISTIO_NAMESPACE, "istiod"), &[network::ISTIOD])
        .await
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
