//! `lazyload-controller` in the mesh: replicas of the real binary, with the API server as their store.

use anyhow::Result;
use tokio::process::Command;

use super::global_proxy::GlobalProxies;
use super::mesh::Mesh;
use super::namespace::Namespace;
use super::part::{Parts, Replica};
use super::{process, tools};

const PROGRAM: &str = "lazyload-controller";
const PORT: u16 = 15020;

/// The controllers of a test: a service `lazyload-controller` in its namespace.
#[derive(Clone, Debug)]
pub struct Controllers {
    parts: Parts,
}

impl Controllers {
    pub(super) async fn create(namespace: &Namespace) -> Result<Self> {
        install_crds(namespace.mesh()).await?;
        Ok(Self {
            parts: Parts::create(namespace, PROGRAM, PORT).await?,
        })
    }

    /// Starts a replica with further flags; comes back when it is ready and in the service. The shims of the
    /// namespace may report to it. It does not act on the mode `sidecar`.
    ///
    /// # Errors
    /// When it does not become ready, naming its log.
    pub async fn start(&self, args: &[&str]) -> Result<Replica> {
        self.start_all(&[&["--sidecars=off"], args].concat()).await
    }

    /// The same for a replica that acts on the mode `sidecar` in one namespace, with the global proxies given as what
    /// calls fall back to.
    ///
    /// # Errors
    /// When it does not become ready, naming its log.
    pub async fn start_for(
        &self,
        lazy: &Namespace,
        global_proxies: &GlobalProxies,
        args: &[&str],
    ) -> Result<Replica> {
        let own = self.parts.namespace().name();
        let flags = [
            "--sidecars=on".to_owned(),
            format!("--namespace={own}"),
            format!("--sidecar-namespace={}", lazy.name()),
            format!("--global-proxy-service={}", global_proxies.service()),
        ];
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        self.start_all(&[&flags, args].concat()).await
    }

    async fn start_all(&self, args: &[&str]) -> Result<Replica> {
        let namespace = self.parts.namespace();
        let mut all = vec![
            "--store=kubernetes".to_owned(),
            format!(
                "--kubeconfig={}",
                namespace.mesh().places().kubeconfig().display()
            ),
            format!("--allow-service-account={}/xds-shim", namespace.name()),
            format!("--allow-global-proxy={}/global-proxy", namespace.name()),
        ];
        // It would act on the namespaces of other tests as well.
        if !args.iter().any(|arg| arg.starts_with("--sidecars")) {
            all.push("--sidecars=off".to_owned());
        }
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        self.parts.start(all).await
    }

    /// Where its graph API is: `lazyload-controller.NAMESPACE.svc:15020`.
    pub fn address(&self) -> String {
        self.parts.address()
    }

    /// Makes the service lead to exactly these replicas.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn lead_to(&self, replicas: &[&Replica]) -> Result<()> {
        self.parts.lead_to(replicas).await
    }
}

/// The resource as the binary itself prints it. Applying it twice changes nothing.
async fn install_crds(mesh: &Mesh) -> Result<()> {
    let yaml = process::output(Command::new(tools::own_program(PROGRAM)?).arg("crd"), "").await?;
    mesh.resources().apply("", &yaml).await?;
    Ok(())
}
