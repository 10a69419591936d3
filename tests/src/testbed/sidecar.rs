//! The sidecar of a pod: a real pilot-agent that starts a real Envoy, with the environment Istio's injector gives it.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::control_plane::Places;
use super::network::{PROXY_UID, PodNetwork};
use super::process::Process;
use super::resources::Resources;
use super::tools::Tools;

/// Where istiod, and its certificate authority, are found.
pub(super) const ISTIOD_ADDRESS: &str = "istiod.istio-system.svc:15012";

/// What the agent starts as Envoy, in its folder.
const ENVOY: &str = "envoy";

/// What kind of proxy istiod is told it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyType {
    /// Beside an application, with interception.
    Sidecar,
    /// A gateway, without.
    Router,
}

impl ProxyType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        }
    }
}

/// How a pod's sidecar is started.
#[derive(Clone, Debug)]
pub struct SidecarOptions {
    /// Sidecar or gateway.
    pub proxy_type: ProxyType,
    /// Its `discoveryAddress`.
    pub discovery_address: String,
    /// The root that vouches for the discovery address (`XDS_ROOT_CA`); none means Istio's own.
    pub discovery_root: Option<PathBuf>,
    /// `proxyMetadata` and other environment of the agent, on top of what the injector sets.
    pub env: BTreeMap<String, String>,
    /// Whether istiod and the shim are told which workload the pod is of (`ISTIO_META_OWNER`,
    /// `ISTIO_META_WORKLOAD_NAME`).
    pub owner: bool,
    /// Envoy's worker threads.
    pub concurrency: u8,
    /// Whether Envoy keeps all statistics, and not only those that Istio's bootstrap lets through. Costs memory.
    pub all_stats: bool,
    /// How long it may take to become ready.
    pub ready_limit: Duration,
    /// More arguments of Envoy, such as `--disable-extensions CATEGORY/NAME`.
    pub envoy_args: String,
}

impl Default for SidecarOptions {
    fn default() -> Self {
        Self {
            proxy_type: ProxyType::Sidecar,
            discovery_address: ISTIOD_ADDRESS.to_owned(),
            discovery_root: None,
            env: BTreeMap::new(),
            owner: true,
            concurrency: 2,
            all_stats: false,
            ready_limit: Duration::from_secs(30),
            envoy_args: String::new(),
        }
    }
}

/// The pod a sidecar belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The Deployment's name.
    pub workload: &'a str,
    /// The pod's service account.
    pub service_account: &'a str,
    /// The pod's labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Starts the agent. It is not ready yet when this returns: see [`wait_ready`].
///
/// # Errors
/// When the API server issues no token, or a file or process cannot be made.
pub(super) async fn start(
    (tools, places, resources): (&Tools, &Places, &Resources),
    owner: Owner<'_>,
    network: &PodNetwork,
    options: &SidecarOptions,
    istio_root: &str,
) -> Result<Process> {
    let dir = places.work.join("pods").join(&network.name);
    let token = token(resources, owner).await?;
    lay_out(&dir, tools, &token, istio_root)
        .and_then(|()| write_envoy(&dir, tools, &options.envoy_args))
        .with_context(|| dir.display().to_string())?;
    let mut command = network.proxy_command(&tools.pilot_agent);
    command
        .args(["proxy", options.proxy_type.as_str()])
        .args([
            "--domain",
            &format!("{}.svc.cluster.local", owner.namespace),
        ])
        .args([
            "--proxyLogLevel=warning",
            "--proxyComponentLogLevel=misc:error",
        ])
        .args(["--concurrency", &options.concurrency.to_string()])
        .arg(format!("--meshConfig={}", places.mesh_config().display()))
        .current_dir(&dir)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(environment(owner, network.address, options));
    Process::spawn(
        "pilot-agent",
        command,
        &places.log(&format!("{}.{}-proxy", owner.pod, owner.namespace)),
    )
}

/// Waits for what a kubelet's readiness probe waits for: Envoy live, its clusters and listeners in, its workers started.
///
/// # Errors
/// When it is not ready in time.
pub(super) async fn wait_ready(
    agent: &mut Process,
    address: Ipv4Addr,
    limit: Duration,
) -> Result<()> {
    let url = format!("http://{address}:15020/healthz/ready");
    let ready = || async {
        let answer = super::http::get(&url).await?;
        anyhow::ensure!(
            answer.status == 200,
            "{}: {}",
            answer.status,
            answer.body.trim()
        );
        Ok(())
    };
    agent
        .wait_for("the sidecar to be ready", limit, ready)
        .await
}

async fn token(resources: &Resources, owner: Owner<'_>) -> Result<String> {
    let api: Api<ServiceAccount> = Api::namespaced(resources.client().clone(), owner.namespace);
    let spec = TokenRequestSpec {
        audiences: Some(vec!["istio-ca".to_owned()]),
        expiration_seconds: Some(12 * 3600),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest {
        spec: Some(spec),
        ..TokenRequest::default()
    };
    let issued = api
        .create_token_request(owner.service_account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("a token for {}/{}", owner.namespace, owner.service_account))?;
    issued
        .status
        .and_then(|status| status.token)
        .context("a token request without an answer")
}

/// The folder that is the container's file system as far as the agent's relative paths reach.
fn lay_out(dir: &Path, tools: &Tools, token: &str, istio_root: &str) -> Result<()> {
    for folder in [
        "var/run/secrets/tokens",
        "var/run/secrets/istio",
        "etc/istio/pod",
        "etc/istio/proxy",
        "var/lib/istio/envoy",
    ] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    std::fs::write(dir.join("var/run/secrets/tokens/istio-token"), token)?;
    std::fs::write(dir.join("var/run/secrets/istio/root-cert.pem"), istio_root)?;
    symlink(
        &tools.envoy_bootstrap,
        dir.join("var/lib/istio/envoy/envoy_bootstrap_tmpl.json"),
    )?;
    hand_over(dir)
}

/// What the agent starts as Envoy. It has no way of its own to hand arguments on.
fn write_envoy(dir: &Path, tools: &Tools, args: &str) -> Result<()> {
    let script = format!("#!/bin/sh\nexec {} \"$@\" {args}\n", tools.envoy.display());
    let path = dir.join(ENVOY);
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(())
}

/// The proxy's user owns its folder.
fn hand_over(path: &Path) -> Result<()> {
    if path.is_symlink() {
        return Ok(());
    }
    chown(path, Some(PROXY_UID), Some(PROXY_UID))?;
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            hand_over(&entry?.path())?;
        }
    }
    Ok(())
}

/// As `injection-template.yaml` of Istio's chart has it.
fn environment(
    owner: Owner<'_>,
    address: Ipv4Addr,
    options: &SidecarOptions,
) -> BTreeMap<String, String> {
    let mut proxy_config = json!({
        "discoveryAddress": options.discovery_address,
        "binaryPath": format!("./{ENVOY}"),
        "configPath": "./etc/istio/proxy",
        "concurrency": options.concurrency,
        "proxyMetadata": options.env,
    });
    if options.all_stats {
        proxy_config["proxyStatsMatcher"] = json!({"inclusionRegexps": [".*"]});
    }
    let mut env: BTreeMap<String, String> = [
        ("PILOT_CERT_PROVIDER", "istiod"),
        ("CA_ADDR", ISTIOD_ADDRESS),
        ("TRUST_DOMAIN", "cluster.local"),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        ("ISTIO_META_MESH_ID", "cluster.local"),
        ("ISTIO_META_NODE_NAME", "node-1"),
        ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        ("ISTIO_META_APP_CONTAINERS", "app"),
        // Else it asks the clouds' metadata addresses first, which takes seconds where nobody answers.
        ("CLOUD_PLATFORM", "none"),
        ("POD_NAME", owner.pod),
        ("POD_NAMESPACE", owner.namespace),
        ("SERVICE_ACCOUNT", owner.service_account),
        ("HOST_IP", "10.20.0.1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    env.insert("INSTANCE_IP".into(), address.to_string());
    env.insert("PROXY_CONFIG".into(), proxy_config.to_string());
    // The injector mounts them as a file, etc/istio/pod/labels; the environment says the same.
    env.insert(
        "ISTIO_METAJSON_LABELS".into(),
        json!(owner.labels).to_string(),
    );
    if options.owner {
        let Owner {
            namespace,
            workload,
            ..
        } = owner;
        env.insert("ISTIO_META_WORKLOAD_NAME".into(), workload.to_owned());
        env.insert(
            "ISTIO_META_OWNER".into(),
            format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{workload}"),
        );
    }
    if let Some(root) = &options.discovery_root {
        env.insert("XDS_ROOT_CA".into(), root.display().to_string());
    }
    env.extend(options.env.clone());
    env
}
