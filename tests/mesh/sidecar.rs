//! The mode `sidecar` as a whole, STRICT mTLS everywhere: the real controller writes Sidecars and EnvoyFilters for a real
//! istiod, and what falls back goes to real global proxies, by the manifests that are shipped.

mod burst;
mod conditions;
mod cover;
mod failures;
mod first_calls;
mod latency;
mod names;
mod opting;
mod owners;
mod redirect_only;
mod routing;
mod tcp;
mod unseen;
mod user;
mod wiring;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use mesh_tests::app::{Answer, Outcome, Saw};
use mesh_tests::testbed::{
    Call, Case, Controllers, GlobalProxies, GlobalProxy, Namespace, Pod, Replica, Test, Workload,
    until,
};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    let tests = [
        first_calls::tests(),
        unseen::tests(),
        redirect_only::tests(),
        tcp::tests(),
        names::tests(),
        routing::tests(),
        user::tests(),
        opting::tests(),
        owners::tests(),
        conditions::tests(),
        burst::tests(),
        cover::tests(),
        failures::tests(),
        latency::tests(),
    ]
    .concat();
    // A controller acts on every namespace that opted in, and what can be lazy depends on all services of the mesh.
    tests.into_iter().map(Test::exclusive).collect()
}

/// How long a change may take to come through the controller, istiod and Envoy.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// A service of every [`Shop`] that nobody calls: who knows it has the whole mesh.
pub(crate) const STRANGER: &str = "stranger";

/// A namespace that may opt in, and, in a namespace of their own, a controller and a global proxy.
struct Shop {
    ns: Namespace,
    system: Namespace,
    controllers: Controllers,
    controller: Replica,
    global_proxies: GlobalProxies,
    global_proxy: GlobalProxy,
}

impl Shop {
    /// Opens one that is in mode `sidecar`.
    async fn open(case: &Case) -> Result<Self> {
        Self::open_as(case, Some("sidecar"), "prefer-redirect").await
    }

    /// Opens one.
    async fn open_as(case: &Case, mode: Option<&str>, fallback: &str) -> Result<Self> {
        let system = case.namespace(&[]).await?;
        let ns = case.namespace(&[]).await?;
        label(&ns, mode, fallback).await?;
        ns.strict_mtls().await?;
        ns.service(STRANGER).port("http", 80, 8080).create().await?;
        let controllers = system.controllers().await?;
        let global_proxies = system.global_proxies(&controllers).await?;
        let controller = controllers.start_for(&ns, &global_proxies, &PACE).await?;
        let global_proxy = global_proxies.start(&[]).await?;
        Ok(Self {
            ns,
            system,
            controllers,
            controller,
            global_proxies,
            global_proxy,
        })
    }

    /// Adds a service of one port, with the pods labelled `app` behind it.
    async fn service(
        &self,
        app: &str,
        name: &str,
        (port_name, port, target): (&str, u16, u16),
    ) -> Result<()> {
        let service = self.ns.service(name).port(port_name, port, target);
        service.selector(&[("app", app)]).create().await
    }

    /// Adds services for HTTP/1.1 on port 80.
    async fn web(&self, app: &str, names: &[&str]) -> Result<()> {
        for name in names {
            self.service(app, name, ("http", 80, 8080)).await?;
        }
        Ok(())
    }

    /// The address of a service of the shop.
    async fn address(&self, service: &str) -> Result<Ipv4Addr> {
        let cluster = self.ns.mesh().cluster();
        let address = cluster.resolve(self.ns.name(), service).await;
        address.with_context(|| format!("no service {service}"))
    }

    /// Starts a pod of a workload that has no application, and waits until it is lazy.
    async fn client(&self, name: &str) -> Result<Pod> {
        self.start_lazy(&self.ns.workload(name).no_app()).await
    }

    /// Starts a pod and waits until it is lazy.
    async fn start_lazy(&self, workload: &Workload) -> Result<Pod> {
        let pod = workload.clone().all_stats().start().await?;
        wait_lazy(&pod).await?;
        Ok(pod)
    }

    /// How many requests and tunnels have arrived at the first global proxy.
    async fn arrived(&self) -> Result<f64> {
        self.global_proxy.arrived().await
    }

    /// Waits until so many have.
    async fn wait_arrived(&self, count: f64) -> Result<()> {
        until("calls to have fallen back", LIMIT, || async {
            let arrived = self.arrived().await?;
            ensure!(arrived >= count, "{arrived} of {count} have");
            Ok(())
        })
        .await
    }

    /// A metric of the first global proxy.
    async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        self.global_proxy.metric(name, labels).await
    }

    /// Whom a server sees when the global proxy relays.
    fn relayed(&self) -> String {
        self.global_proxy.pod.spiffe_id()
    }
}

/// Shorter than a cluster needs: istiod gathers changes for 10 ms here, and there are few proxies.
pub(crate) const PACE: [&str; 2] = ["--fallback-settles=1s", "--fallback-lingers=2s"];

/// Gives a namespace its mode, or takes it away, and says what a first call gets.
pub(crate) async fn label(ns: &Namespace, mode: Option<&str>, fallback: &str) -> Result<()> {
    let labels: BTreeMap<_, _> = mode
        .map(|mode| ("lazymesh.dev/mode", mode))
        .into_iter()
        .collect();
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": ns.name(), "labels": labels, "annotations": {"lazymesh.dev/fallback": fallback},
    }});
    ns.mesh().resources().apply("", &object.to_string()).await?;
    Ok(())
}

/// A record that says before the first call what a workload uses.
fn record(workload: &str, host: &str) -> String {
    format!(
        "{{apiVersion: lazymesh.dev/v1alpha1, kind: WorkloadDependencies, metadata: {{name: deployment-{workload}}}, spec: {{
           workloadRef: {{kind: Deployment, name: {workload}}}, pinned: [{{host: {host}}}]}}}}"
    )
}

/// Whether a pod has a cluster of a service of its own namespace.
pub(crate) async fn knows(pod: &Pod, service: &str) -> Result<bool> {
    let word = format!("||{service}.{}.svc.", pod.spec().namespace);
    let clusters = pod.envoy().await?.dynamic_clusters().await?;
    Ok(clusters.iter().any(|cluster| cluster.contains(&word)))
}

/// Waits until a pod has its fallback, and no more of the mesh than it is given.
pub(crate) async fn wait_lazy(pod: &Pod) -> Result<()> {
    until("the sidecar to be lazy", LIMIT, || async {
        let dump = pod.envoy().await?.config_dump().await?.to_string();
        for word in ["\"lazymesh\"", "\"lazymesh-tcp\""] {
            ensure!(dump.contains(word), "no {word} in the config");
        }
        ensure!(!knows(pod, STRANGER).await?, "it has the whole mesh");
        Ok(())
    })
    .await
}

/// Waits until a pod has the whole mesh and no fallback, as plain Istio has it.
pub(crate) async fn wait_plain(pod: &Pod) -> Result<()> {
    until("the sidecar to be as plain Istio has it", LIMIT, || async {
        let dump = pod.envoy().await?.config_dump().await?.to_string();
        for word in ["\"lazymesh\"", "\"lazymesh-tcp\""] {
            ensure!(!dump.contains(word), "{word} is in the config");
        }
        ensure!(knows(pod, STRANGER).await?, "it has not the whole mesh");
        Ok(())
    })
    .await
}

/// The caller a server saw, over whatever HTTP.
pub(crate) fn caller(outcome: &Outcome) -> Result<String> {
    let saw = &outcome.answer()?.saw;
    let caller = saw.caller.clone();
    caller.with_context(|| format!("the server saw no caller: {saw:?}"))
}

/// Waits until calls go straight to the service, by the caller's own identity.
pub(crate) async fn wait_direct(pod: &Pod, call: &Call) -> Result<()> {
    until("calls to go direct", LIMIT, || async {
        let caller = caller(&pod.call(call).await?)?;
        ensure!(caller == pod.spiffe_id(), "the server saw {caller}");
        Ok(())
    })
    .await
}

/// Neither a server nor an application sees anything of the way a call took.
pub(crate) fn ensure_clean(outcome: &Outcome) -> Result<()> {
    for Answer { saw, .. } in &outcome.answers {
        for name in saw.headers.keys() {
            ensure!(!is_ours(name), "the server saw {name}: {:?}", saw.headers);
        }
        ensure_one_certificate(saw)?;
    }
    let ours = outcome.headers.keys().find(|name| is_ours(name));
    ensure!(
        ours.is_none(),
        "the application saw {ours:?}: {:?}",
        outcome.headers
    );
    Ok(())
}

fn is_ours(header: &str) -> bool {
    header.starts_with("x-lazymesh")
        || header == "x-envoy-original-url"
        || header == "x-envoy-internal-redirect"
}

/// The one certificate that the server's own sidecar verified, and none of a hop before.
fn ensure_one_certificate(saw: &Saw) -> Result<()> {
    let said = saw.headers.get("x-forwarded-client-cert");
    let count = said.map_or(0, |said| said.matches("By=").count());
    ensure!(count <= 1, "the server saw {count} certificates: {said:?}");
    Ok(())
}

/// The resources of a kind in a namespace.
pub(crate) async fn objects(ns: &Namespace, kind: &str) -> Result<Vec<DynamicObject>> {
    let (group, version, plural) = match kind {
        "EnvoyFilter" => ("networking.istio.io", "v1alpha3", "envoyfilters"),
        "Sidecar" => ("networking.istio.io", "v1", "sidecars"),
        _ => ("lazymesh.dev", "v1alpha1", "workloaddependencies"),
    };
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let client = ns.mesh().resources().client().clone();
    let api: Api<DynamicObject> = Api::namespaced_with(client, ns.name(), &resource);
    Ok(api.list(&ListParams::default()).await?.items)
}

/// The record of a Deployment.
pub(crate) async fn record_of(ns: &Namespace, workload: &str) -> Result<DynamicObject> {
    let name = format!("deployment-{workload}");
    let mut records = objects(ns, "WorkloadDependencies").await?.into_iter();
    let record = records.find(|one| one.metadata.name.as_ref() == Some(&name));
    record.with_context(|| format!("no record {name}"))
}

/// The status of that.
pub(crate) async fn status_of(ns: &Namespace, workload: &str) -> Result<Value> {
    Ok(record_of(ns, workload).await?.data["status"].take())
}

/// The names of the Sidecars and EnvoyFilters in a namespace that the controller made.
pub(crate) async fn ours(ns: &Namespace) -> Result<Vec<String>> {
    let all = [
        objects(ns, "Sidecar").await?,
        objects(ns, "EnvoyFilter").await?,
    ];
    let ours = all.into_iter().flatten().filter(|object| {
        let labels = object.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("app.kubernetes.io/managed-by"))
            == Some(&"lazymesh".to_owned())
    });
    Ok(ours.filter_map(|object| object.metadata.name).collect())
}

/// Waits until nothing of ours is left in a namespace.
pub(crate) async fn wait_no_trace(ns: &Namespace) -> Result<()> {
    until("what the controller made to be gone", LIMIT, || async {
        let left = ours(ns).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}
