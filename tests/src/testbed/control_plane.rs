//! etcd, kube-apiserver and istiod, started in the sandbox's root namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::process::Command;

use super::network::{ISTIOD, SERVICE_CIDR};
use super::pki::TestRoot;
use super::process::Process;
use super::tools::Tools;
use crate::running::Running;

const START_LIMIT: Duration = Duration::from_secs(60);
const ETCD: &str = "http://127.0.0.1:12379";
/// Read by every pilot-agent as well.
const MESH_CONFIG: &str = "\
# Upstream Envoy lacks Istio's own telemetry filters.
defaultProviders: {}
enablePrometheusMerge: false
trustDomain: cluster.local
rootNamespace: istio-system
";

/// Where the files of a run lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// In memory, gone with the run.
    pub work: PathBuf,
    /// Kept when something failed.
    pub logs: PathBuf,
}

impl Places {
    /// The log file of `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.work.join("kubeconfig")
    }

    /// The mesh config.
    pub fn mesh_config(&self) -> PathBuf {
        self.work.join("mesh.yaml")
    }
}

/// The API server and its store.
#[derive(Debug)]
pub(super) struct Kubernetes {
    _etcd: Process,
    _api_server: Process,
}

impl Kubernetes {
    /// Starts both; comes back with an administrator's client when the API server says it is ready.
    ///
    /// # Errors
    /// When one does not start, naming its log.
    pub(super) async fn start(
        tools: &Tools,
        places: &Places,
        root: &TestRoot,
    ) -> Result<(Self, Client)> {
        let etcd = start_etcd(tools, places)?;
        let token = write_kubeconfig(places, root)?;
        let mut api_server = start_api_server(tools, places, root, &token)?;
        let client = client(&places.kubeconfig()).await?;
        let ready = || async {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(client.request_text(request).await?)
        };
        api_server
            .wait_for("the API server", START_LIMIT, ready)
            .await?;
        Ok((
            Self {
                _etcd: etcd,
                _api_server: api_server,
            },
            client,
        ))
    }
}

fn start_etcd(tools: &Tools, places: &Places) -> Result<Process> {
    let mut command = Command::new(&tools.etcd);
    command
        .arg("--data-dir")
        .arg(places.work.join("etcd"))
        .args([
            "--listen-client-urls",
            ETCD,
            "--advertise-client-urls",
            ETCD,
        ])
        .args(["--listen-peer-urls", "http://127.0.0.1:12380"])
        // Its data is in memory and dies with the run.
        .arg("--unsafe-no-fsync");
    Process::spawn("etcd", command, &places.log("etcd"))
}

fn start_api_server(
    tools: &Tools,
    places: &Places,
    root: &TestRoot,
    token_file: &Path,
) -> Result<Process> {
    let tls = root.issue(
        "kube-apiserver",
        &["kubernetes.default.svc", "localhost"],
        &[[127, 0, 0, 1].into()],
    )?;
    let (private, public) = root.bare_key("service-account")?;
    let mut command = Command::new(&tools.kube_apiserver);
    command
        .arg(format!("--etcd-servers={ETCD}"))
        .args([
            "--bind-address=127.0.0.1",
            "--advertise-address=10.20.0.1",
            "--secure-port=16443",
            "--authorization-mode=RBAC",
        ])
        .arg(format!("--tls-cert-file={}", tls.certificate.display()))
        .arg(format!("--tls-private-key-file={}", tls.key.display()))
        .arg(format!("--service-account-key-file={}", public.display()))
        .arg(format!(
            "--service-account-signing-key-file={}",
            private.display()
        ))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--service-cluster-ip-range={SERVICE_CIDR}"))
        .arg(format!("--token-auth-file={}", token_file.display()))
        // The test library makes what the controllers behind these would make, and many clients talk at once.
        .args([
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
        ])
        .args([
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
            "--enable-priority-and-fairness=false",
        ]);
    Process::spawn("kube-apiserver", command, &places.log("kube-apiserver"))
}

/// Writes the kubeconfig and the API server's file of static tokens, whose path it gives back.
fn write_kubeconfig(places: &Places, root: &TestRoot) -> Result<PathBuf> {
    let token_file = places.work.join("tokens.csv");
    std::fs::write(
        &token_file,
        "testbed-admin,admin,admin,\"system:masters\"\n",
    )?;
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {
            "server": "https://127.0.0.1:16443", "certificate-authority": root.certificate(),
        }}],
        "users": [{"name": "admin", "user": {"token": "testbed-admin"}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "admin"}}],
        "current-context": "testbed",
    });
    std::fs::write(
        places.kubeconfig(),
        serde_json::to_string_pretty(&kubeconfig)?,
    )?;
    Ok(token_file)
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// How istiod is run.
#[derive(Clone, Debug)]
pub struct IstiodOptions {
    /// How long istiod gathers changes before it pushes (its own default is 100 ms).
    pub debounce: Duration,
    /// More environment.
    pub env: Vec<(String, String)>,
}

impl Default for IstiodOptions {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(10),
            env: Vec::new(),
        }
    }
}

/// A running istiod.
#[derive(Debug)]
pub(super) struct Istiod {
    process: Process,
}

impl Istiod {
    /// Starts istiod; comes back when it says it is ready.
    ///
    /// # Errors
    /// When it does not start, naming its log.
    pub(super) async fn start(
        tools: &Tools,
        places: &Places,
        options: &IstiodOptions,
    ) -> Result<Self> {
        std::fs::write(places.mesh_config(), MESH_CONFIG)?;
        let debounce = format!("{}ms", options.debounce.as_millis());
        let mut command = Command::new(&tools.pilot_discovery);
        command
            .arg("discovery")
            .arg(format!("--kubeconfig={}", places.kubeconfig().display()))
            .arg(format!("--meshConfig={}", places.mesh_config().display()))
            .arg("--networksConfig=/nonexistent")
            .args([
                "--httpAddr=:8080".to_owned(),
                format!("--httpsAddr={ISTIOD}:15017"),
            ])
            .args([
                format!("--grpcAddr={ISTIOD}:15010"),
                format!("--secureGRPCAddr={ISTIOD}:15012"),
            ])
            .args([
                format!("--monitoringAddr={ISTIOD}:15014"),
                "--ctrlz_port=0".to_owned(),
            ])
            .args([
                "--kubernetesApiQPS=1000",
                "--kubernetesApiBurst=2000",
                "--keepaliveMaxServerConnectionAge=30m",
            ])
            .current_dir(&places.work)
            .envs([
                ("POD_NAMESPACE", "istio-system"),
                ("POD_NAME", "istiod-0"),
                ("CLUSTER_ID", "Kubernetes"),
            ])
            .envs([
                ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
                ("PILOT_ENABLE_ALPN_FILTER", "false"),
            ])
            .env("PILOT_DEBOUNCE_AFTER", &debounce)
            .env("PILOT_MAX_REQUESTS_PER_SECOND", "1000")
            .envs(options.env.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn("istiod", command, &places.log("istiod"))?;
        let ready = || async {
            let status = super::http::get(&format!("http://{ISTIOD}:8080/ready"))
                .await?
                .status;
            anyhow::ensure!(status == 200, "status {status}");
            Ok(())
        };
        process
            .wait_for("istiod to be ready", START_LIMIT, ready)
            .await?;
        Ok(Self { process })
    }

    /// What the kernel says of it.
    pub(super) fn running(&self) -> Running {
        self.process.running()
    }

    /// Ends it, by SIGTERM.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.process
            .terminate(Duration::from_secs(20))
            .await
            .context("istiod")?;
        Ok(())
    }
}
