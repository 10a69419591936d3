//! The command line, and what must hold of it as a whole.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mesh_runtime::telemetry;

use crate::auth::ServiceAccount;
use crate::limits::Limits;

pub mod sidecars;

#[cfg(test)]
mod tests;

/// Keeps Lazymesh's dependency graph, and gives it to shims.
///
/// Shims report what their sidecars ask for (Report), and are told what every workload is known to use (Watch). The
/// graph is kept in WorkloadDependencies resources, or in a folder of the same as YAML files. Any number of replicas
/// may run on Kubernetes; one of them, the holder of a Lease, writes the Sidecars of namespaces in mode sidecar. On a
/// folder only one may run.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lazyload-controller",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Something else than to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// Something else than to serve.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the CustomResourceDefinition of WorkloadDependencies, and end
    Crd,
    /// Delete the Sidecars and EnvoyFilters of mode sidecar in all namespaces, and end. For when no controller runs any more:
    /// one that does takes them away when namespaces are opted out
    CleanUp(crate::clean_up::Args),
}

/// How to serve.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Where the graph is kept: "kubernetes", "file:DIR" (a folder of YAML documents), or "memory" (nowhere)
    #[arg(
        long,
        env = "LAZYMESH_STORE",
        default_value = "kubernetes",
        value_name = "STORE"
    )]
    pub store: StoreKind,
    /// How to reach Kubernetes; without it the pod's own service account, or ~/.kube/config
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the graph API listens
    #[arg(
        long,
        env = "LAZYMESH_LISTEN",
        default_value = "0.0.0.0:15020",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// The certificate chain of the graph API, PEM; followed when it changes
    #[arg(
        long,
        env = "LAZYMESH_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The key of the certificate, PEM
    #[arg(
        long,
        env = "LAZYMESH_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// Serve without TLS; only on a loopback address
    #[arg(long, env = "LAZYMESH_PLAINTEXT", conflicts_with = "tls_cert")]
    pub plaintext: bool,
    /// How callers are checked: "token-review" (Kubernetes vouches for their service account token, made for the
    /// audience lazymesh.dev), "token-file=FILE" (they know what is in the file), or "none" (only on a loopback
    /// address). Default: token-review with --store kubernetes, else there is none and it must be given
    #[arg(long, env = "LAZYMESH_AUTH", value_name = "HOW")]
    pub auth: Option<AuthKind>,
    /// A service account that may report and watch, for token-review; may be given several times
    #[arg(
        long = "allow-service-account",
        env = "LAZYMESH_ALLOW_SERVICE_ACCOUNT",
        value_name = "NAMESPACE/NAME",
        value_delimiter = ',',
        default_value = "lazymesh-system/xds-shim"
    )]
    pub allowed: Vec<ServiceAccount>,
    /// A service account that may tell of calls that fell back, and watch, for token-review; may be given several times
    #[arg(
        long = "allow-global-proxy",
        env = "LAZYMESH_ALLOW_GLOBAL_PROXY",
        value_name = "NAMESPACE/NAME",
        value_delimiter = ',',
        default_value = "lazymesh-system/global-proxy"
    )]
    pub global_proxies: Vec<ServiceAccount>,
    /// How many dependencies one workload may learn; more are refused, which the condition Capped then says
    #[arg(
        long,
        env = "LAZYMESH_MAX_DEPENDENCIES",
        default_value_t = 1000,
        value_name = "NUMBER"
    )]
    pub max_dependencies: usize,
    /// How many workloads of one namespace may have a record
    #[arg(
        long,
        env = "LAZYMESH_MAX_WORKLOADS",
        default_value_t = 2000,
        value_name = "NUMBER"
    )]
    pub max_workloads: usize,
    /// How old a written last call must be before a later one is written over it
    #[arg(long, env = "LAZYMESH_REFRESH_AFTER", default_value = "6h", value_name = "DURATION", value_parser = duration)]
    pub refresh_after: Duration,
    /// How long reports are gathered before they are written
    #[arg(long, env = "LAZYMESH_WRITE_WINDOW", default_value = "20ms", value_name = "DURATION", value_parser = duration)]
    pub write_window: Duration,
    /// How old a stream may get before it is ended and its caller must show its token again; some end up to a fifth
    /// earlier
    #[arg(long, env = "LAZYMESH_MAX_STREAM_AGE", default_value = "1h", value_name = "DURATION", value_parser = positive)]
    pub max_stream_age: Duration,
    /// Where health, metrics and debug pages are served
    #[arg(
        long,
        env = "LAZYMESH_ADMIN_LISTEN",
        default_value = "127.0.0.1:15021",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// How long open streams are given at shutdown
    #[arg(long, env = "LAZYMESH_DRAIN", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub drain: Duration,
    /// Write the ports that were bound to this file, as {"grpc": PORT, "admin": PORT}
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// The mode `sidecar`.
    #[command(flatten)]
    pub sidecars: sidecars::SidecarArgs,
    /// What is asked of Prometheus.
    #[command(flatten)]
    pub prometheus: crate::prometheus::Args,
    /// What is learned from the past, and when it is forgotten.
    #[command(flatten)]
    pub history: crate::history::Args,
    /// Logs.
    #[command(flatten)]
    pub telemetry: telemetry::Args,
}

/// Where the graph is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreKind {
    /// In resources of a cluster.
    Kubernetes,
    /// In a folder.
    File(PathBuf),
    /// In memory only.
    Memory,
}

impl FromStr for StoreKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("file:")) {
            ("kubernetes", _) => Ok(Self::Kubernetes),
            ("memory", _) => Ok(Self::Memory),
            (_, Some(folder)) if !folder.is_empty() => Ok(Self::File(folder.into())),
            _ => Err("neither kubernetes, file:DIR nor memory"),
        }
    }
}

/// How callers are checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuthKind {
    /// By Kubernetes.
    TokenReview,
    /// By a file.
    TokenFile(PathBuf),
    /// Not at all.
    None,
}

impl FromStr for AuthKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("token-file=")) {
            ("token-review", _) => Ok(Self::TokenReview),
            ("none", _) => Ok(Self::None),
            (_, Some(file)) if !file.is_empty() => Ok(Self::TokenFile(file.into())),
            _ => Err("neither token-review, token-file=FILE nor none"),
        }
    }
}

impl Serve {
    /// How callers are checked, once it is sure that the flags go together.
    ///
    /// # Errors
    /// A line that says which do not.
    pub fn checked_auth(&self) -> Result<AuthKind, String> {
        let loopback = self.listen.ip().is_loopback();
        let hint = SocketAddr::from((IpAddr::V4(Ipv4Addr::LOCALHOST), self.listen.port()));
        if self.plaintext && !loopback {
            let listen = self.listen;
            return Err(format!(
                "--plaintext needs a loopback address, not --listen {listen} (hint: {hint})"
            ));
        }
        if !self.plaintext && self.tls_cert.is_none() {
            return Err(
                "--tls-cert and --tls-key are missing (or --plaintext, on a loopback address)"
                    .into(),
            );
        }
        let kubernetes = self.store == StoreKind::Kubernetes;
        match (&self.auth, kubernetes) {
            (None, true) => Ok(AuthKind::TokenReview),
            (None, false) => Err("--auth is missing: without --store kubernetes it is token-file=FILE, or none on a loopback address".into()),
            (Some(AuthKind::None), _) if !loopback => {
                let listen = self.listen;
                Err(format!("--auth none needs a loopback address, not --listen {listen} (hint: {hint})"))
            }
            (Some(AuthKind::TokenReview), false) => {
                Err("--auth token-review needs --store kubernetes".into())
            }
            (Some(auth), _) => Ok(auth.clone()),
        }
    }

    /// Whether what is asked of Prometheus can be made use of.
    ///
    /// # Errors
    /// A line that says what does not go together.
    pub fn check_prometheus(&self) -> Result<(), String> {
        let seen = self.sidecars.enabled(&self.store)?;
        if self.prometheus.url.is_some() && !seen && self.store == StoreKind::Kubernetes {
            let why =
                "--prometheus needs the mesh to be watched and a leader (hint: not --sidecars off)";
            return Err(why.into());
        }
        Ok(())
    }

    /// The limits the flags set.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            dependencies: self.max_dependencies,
            workloads: self.max_workloads,
            refresh_after: self.refresh_after,
            ..Limits::default()
        }
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error} (hint: such as 6h or 20ms)"))
}

pub(crate) fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".into()),
        duration => Ok(duration),
    }
}
