//! The programs a mesh is made of, as `tests/testbed/setup` leaves them, and our own from the build.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where each program and file lies.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The `envoy` binary.
    pub envoy: PathBuf,
    /// The `etcd` binary.
    pub etcd: PathBuf,
    /// The `prometheus` binary.
    pub prometheus: PathBuf,
    /// What makes a past for it: `promtool`.
    pub promtool: PathBuf,
    /// The `kube-apiserver` binary.
    pub kube_apiserver: PathBuf,
    /// istiod.
    pub pilot_discovery: PathBuf,
    /// What runs beside Envoy in a sidecar.
    pub pilot_agent: PathBuf,
    /// `istioctl`.
    pub istioctl: PathBuf,
    /// Istio's CRDs, one YAML stream.
    pub istio_crds: PathBuf,
    /// The Gateway API's CRDs, one YAML stream.
    pub gateway_api_crds: PathBuf,
    /// The bootstrap template pilot-agent fills in for Envoy.
    pub envoy_bootstrap: PathBuf,
}

impl Tools {
    /// Runs `tests/testbed/setup mesh` (milliseconds when all is there, minutes the first time, with its progress on
    /// standard error) and takes down where things are. Needs the network only when something is missing: call it
    /// before [`crate::sandbox::enter`].
    ///
    /// # Errors
    /// When the script fails; it has said why on standard error.
    pub fn locate() -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed/setup");
        let output = Command::new(&script)
            .arg("mesh")
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run {}", script.display()))?;
        if !output.status.success() {
            bail!("{} mesh failed: its error is above", script.display());
        }
        let stdout =
            String::from_utf8(output.stdout).context("setup printed something that is not text")?;
        let places: HashMap<_, _> = stdout
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let place = |name: &str| {
            places
                .get(name)
                .map(PathBuf::from)
                .with_context(|| format!("setup did not name {name}"))
        };
        Ok(Self {
            envoy: place("ENVOY")?,
            etcd: place("ETCD")?,
            prometheus: place("PROMETHEUS")?,
            promtool: place("PROMTOOL")?,
            kube_apiserver: place("KUBE_APISERVER")?,
            pilot_discovery: place("PILOT_DISCOVERY")?,
            pilot_agent: place("PILOT_AGENT")?,
            istioctl: place("ISTIOCTL")?,
            istio_crds: place("ISTIO_CRDS")?,
            gateway_api_crds: place("GATEWAY_API_CRDS")?,
            envoy_bootstrap: place("ENVOY_BOOTSTRAP")?,
        })
    }
}

/// The folder cargo put this build's programs into (`target/debug`, say).
///
/// # Errors
/// When the running program does not lie in such a folder.
pub fn build_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let dir = own.parent().context("a program without a folder")?;
    Ok(if dir.ends_with("deps") {
        dir.parent().context("deps without a folder")?
    } else {
        dir
    }
    .to_owned())
}

/// A program of this workspace, built beforehand: the one beside the tests, or what the environment names, for benches
/// (`LAZYMESH_XDS_SHIM` for `xds-shim`).
///
/// # Errors
/// When it is not there, naming what to build.
pub fn own_program(name: &str) -> Result<PathBuf> {
    let variable = format!("LAZYMESH_{}", name.to_uppercase().replace('-', "_"));
    let path = match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => build_dir()?.join(name),
    };
    if !path.is_file() {
        bail!(
            "{} is not built (hint: cargo build --bin {name})",
            path.display()
        );
    }
    Ok(path)
}
