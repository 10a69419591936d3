//! `xds-shim` in the mesh: replicas of the real binary between sidecars and istiod.

use anyhow::Result;

use super::controller::Controllers;
use super::namespace::Namespace;
use super::part::{Parts, Replica};
use super::sidecar::ISTIOD_ADDRESS;

const PROGRAM: &str = "xds-shim";
const PORT: u16 = 15012;
/// The audience of the tokens that shims show to controllers.
const AUDIENCE: &str = "lazymesh.dev";

/// The shims of a test: a service `xds-shim` in its namespace, to which [`super::Workload::via`] points sidecars.
#[derive(Clone, Debug)]
pub struct Shims {
    parts: Parts,
    args: Vec<String>,
}

impl Shims {
    pub(super) async fn create(namespace: &Namespace) -> Result<Self> {
        let parts = Parts::create(namespace, PROGRAM, PORT).await?;
        let mesh = namespace.mesh();
        let args = vec![
            format!("--upstream={ISTIOD_ADDRESS}"),
            format!("--upstream-ca={}", mesh.istio_root_file().display()),
        ];
        Ok(Self { parts, args })
    }

    /// Replicas started from now on talk to these controllers.
    ///
    /// # Errors
    /// When the API server issues no token.
    pub async fn use_controllers(&mut self, controllers: &Controllers) -> Result<()> {
        let mesh = self.parts.namespace().mesh();
        self.args.extend([
            format!("--controller=https://{}", controllers.address()),
            format!("--controller-ca={}", mesh.root_certificate().display()),
            format!(
                "--controller-token={}",
                self.parts.token(AUDIENCE).await?.display()
            ),
        ]);
        Ok(())
    }

    /// Starts a replica with further flags, such as `--default-mode=on-demand`; comes back when it is ready and in
    /// the service.
    ///
    /// # Errors
    /// When it does not become ready, naming its log.
    pub async fn start(&self, args: &[&str]) -> Result<Replica> {
        let mut all = self.args.clone();
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        self.parts.start(all).await
    }

    /// The service's `discoveryAddress`.
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
