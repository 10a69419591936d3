//! `global-proxy` in the mesh: the real binary in pods with real sidecars, by the manifests that are shipped.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;

use super::controller::Controllers;
use super::namespace::Namespace;
use super::part::sum_of;
use super::pod::{Pod, Program};
use super::resources::parse;

const PROGRAM: &str = "global-proxy";
/// Where the manifests have it.
const HOME: &str = "lazymesh-system";
const WORKLOAD: &str = include_str!("../../../manifests/global-proxy/workload.yaml");
const MANIFESTS: [&str; 3] = [
    WORKLOAD,
    include_str!("../../../manifests/global-proxy/service.yaml"),
    include_str!("../../../manifests/global-proxy/mesh.yaml"),
];
/// The audience of the tokens that global proxies show to controllers.
const AUDIENCE: &str = "lazymesh.dev";
const ADMIN_PORT: u16 = 15023;
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// The global proxies of a test: the manifests, applied to a namespace of its own. That namespace must not be lazy.
#[derive(Clone, Debug)]
pub struct GlobalProxies {
    namespace: Namespace,
    labels: BTreeMap<String, String>,
    args: Vec<String>,
}

impl GlobalProxies {
    pub(super) async fn create(namespace: &Namespace, controllers: &Controllers) -> Result<Self> {
        for manifest in MANIFESTS {
            namespace
                .apply(&manifest.replace(HOME, namespace.name()))
                .await?;
        }
        let mesh = namespace.mesh();
        let token = namespace.token(PROGRAM, AUDIENCE).await?;
        let (labels, args) = template(namespace.name())?;
        // Where a kubelet would have mounted them.
        let mounted = [
            (
                "--controller=",
                format!("https://{}", controllers.address()),
            ),
            (
                "--controller-ca=",
                mesh.root_certificate().display().to_string(),
            ),
            ("--controller-token=", token.display().to_string()),
        ];
        let here = |arg: String| {
            let found = mounted.iter().find(|(flag, _)| arg.starts_with(flag));
            found.map_or(arg, |(flag, value)| format!("{flag}{value}"))
        };
        Ok(Self {
            namespace: namespace.clone(),
            labels,
            args: args.into_iter().map(here).collect(),
        })
    }

    /// The Service, as the controller's flag names it: `NAMESPACE/global-proxy`.
    pub fn service(&self) -> String {
        format!("{}/{PROGRAM}", self.namespace.name())
    }

    /// Starts a replica with further flags; comes back when it is ready and in the service.
    ///
    /// # Errors
    /// When a part does not start, naming its log.
    pub async fn start(&self, args: &[&str]) -> Result<GlobalProxy> {
        let more = args.iter().map(|&arg| arg.to_owned());
        let program = Program {
            name: PROGRAM,
            args: self.args.iter().cloned().chain(more).collect(),
            admin: ADMIN_PORT,
        };
        let mut workload = self.namespace.workload(PROGRAM).program(program);
        for (name, value) in &self.labels {
            workload = workload.label(name, value);
        }
        let pod = workload.start().await?;
        Ok(GlobalProxy { pod })
    }
}

/// The labels and flags of the manifests' pods.
fn template(namespace: &str) -> Result<(BTreeMap<String, String>, Vec<String>)> {
    let objects = parse(&WORKLOAD.replace(HOME, namespace))?;
    let deployment = objects
        .into_iter()
        .find_map(|object| object.try_parse::<Deployment>().ok());
    let template = deployment.map(|deployment| deployment.spec.template);
    let template = template.context("no Deployment among the manifests")?;
    let labels = template.metadata.and_then(|metadata| metadata.labels);
    let mut containers = template
        .spec
        .map(|spec| spec.containers)
        .into_iter()
        .flatten();
    let args = containers.next().and_then(|container| container.args);
    Ok((
        labels.context("a pod template without labels")?,
        args.context("a container without args")?,
    ))
}

/// One replica: a pod.
#[derive(Clone, Debug)]
pub struct GlobalProxy {
    /// Its pod.
    pub pod: Pod,
}

impl GlobalProxy {
    /// As a rolling update does: out of the service, SIGTERM; comes back when the pod is gone. For good.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&self) -> Result<()> {
        self.pod.set_ready(false).await?;
        self.pod.stop_app(STOP_LIMIT).await?;
        self.pod.delete().await
    }

    /// GETs a page of its admin port.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        self.pod.admin(ADMIN_PORT, path).await
    }

    /// How many requests and tunnels have arrived. A request counts once it is over, so that who waited for its answer may
    /// be there first; a tunnel that is open counts.
    ///
    /// # Errors
    /// When its admin port does not answer.
    pub async fn arrived(&self) -> Result<f64> {
        let metrics = self.admin("/metrics").await?;
        let counted = [
            "lazymesh_proxy_exchanges_total",
            "lazymesh_proxy_tunnels_total",
            "lazymesh_proxy_tunnels",
        ];
        Ok(counted.map(|name| sum_of(&metrics, name, "")).iter().sum())
    }

    /// The sum of a metric over all label sets that contain `labels` (such as `way="relay"`; empty for all).
    ///
    /// # Errors
    /// When its admin port does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        Ok(sum_of(&self.admin("/metrics").await?, name, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_understood() {
        let (labels, args) = template("elsewhere").unwrap();
        assert_eq!(labels["app"], PROGRAM);
        assert!(
            args.iter()
                .any(|arg| arg == "--controller=https://lazyload-controller.elsewhere.svc:15020")
        );
    }

    /// By this label the controller knows what it may delete.
    #[test]
    fn nothing_of_it_is_the_controllers() {
        for object in MANIFESTS.iter().flat_map(|yaml| parse(yaml).unwrap()) {
            let labels = object.metadata.labels.unwrap_or_default();
            assert!(!labels.contains_key("app.kubernetes.io/managed-by"));
            assert_eq!(object.metadata.namespace.as_deref(), Some(HOME));
        }
    }
}
