//! The resources that the mode `sidecar` rests on, written by hand: a Sidecar that grows, and the EnvoyFilters that send
//! the rest to the global proxy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mesh_tests::testbed::Namespace;
use tokio::sync::Mutex;

/// How the caller's Envoy opens a tunnel to the global proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tunnel {
    Http1,
    Http2,
}

/// Everything of the namespace `ns` that the cluster may name it by, as `:authority` has it.
fn cover(ns: &str) -> String {
    format!(r"(?i)[a-z0-9-]+(\.{ns}(\.svc(\.cluster\.local)?)?)?(:[0-9]+)?")
}

/// The EnvoyFilter for the callers labelled `app`; the global proxy is in the same namespace.
pub(crate) fn fallback(ns: &str, app: &str) -> String {
    include_str!("envoy-filter.yaml")
        .replace("${APP}", app)
        .replace("${GLOBAL_PROXY}", ns)
        .replace("${COVER}", &cover(ns))
}

/// What the global proxy itself needs besides its service.
pub(crate) fn global_proxy(ns: &str, tunnel: Tunnel) -> String {
    let upgrade = match tunnel {
        Tunnel::Http1 => "DO_NOT_UPGRADE",
        Tunnel::Http2 => "UPGRADE",
    };
    include_str!("global-proxy.yaml")
        .replace("${GLOBAL_PROXY}", ns)
        .replace("${TUNNEL}", upgrade)
}

/// What the real program's own sidecar needs besides.
pub(crate) const ROUTE: &str = include_str!("global-proxy-route.yaml");

/// `service` of the namespace as Sidecars name it.
pub(crate) fn host(ns: &str, service: &str) -> String {
    format!("{ns}/{service}.{ns}.svc.cluster.local")
}

/// A Sidecar for the pods labelled `app` with these hosts, and with `more` of a spec.
pub(crate) fn sidecar(name: &str, app: &str, hosts: &BTreeSet<String>, more: &str) -> String {
    let hosts = listed(hosts);
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: {name}}}, spec: {{
           workloadSelector: {{labels: {{app: {app}}}}}, {more} egress: [{{hosts: {hosts}}}]}}}}"
    )
}

/// An egress listener that nothing leads to, and that gives a proxy the clusters of these hosts.
fn clusters(hosts: &BTreeSet<String>) -> String {
    let none = BTreeSet::from(["~/*".to_owned()]);
    let hosts = listed(if hosts.is_empty() { &none } else { hosts });
    format!(
        "{{port: {{number: 15999, protocol: HTTP_PROXY, name: lazymesh-clusters}}, bind: 127.0.0.1,
           captureMode: IPTABLES, hosts: {hosts}}}"
    )
}

fn listed(hosts: &BTreeSet<String>) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
    format!("[{}]", hosts.join(", "))
}

/// How a Sidecar grows: clusters, and after so long what leads to them.
const STEP: Duration = Duration::from_millis(130);

#[derive(Debug, Default)]
struct Hosts {
    learned: BTreeSet<String>,
    /// Clusters that come before, or go after, what leads to them.
    clusters: BTreeSet<String>,
}

/// A Sidecar that grows. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Growing {
    ns: Namespace,
    app: String,
    more: String,
    hosts: Arc<Mutex<Hosts>>,
}

impl Growing {
    /// Makes the Sidecar of the pods labelled `app`, in which there is the global proxy alone.
    pub(crate) fn new(ns: &Namespace, app: &str, more: &str) -> Self {
        let hosts = Hosts {
            learned: BTreeSet::from([host(ns.name(), "global-proxy")]),
            ..Hosts::default()
        };
        Self {
            ns: ns.clone(),
            app: app.to_owned(),
            more: more.to_owned(),
            hosts: Arc::new(Mutex::new(hosts)),
        }
    }

    /// Writes it as it is.
    pub(crate) async fn write(&self) -> Result<()> {
        let hosts = self.hosts.lock().await;
        self.apply(&hosts).await
    }

    /// Adds a service, unless it is there, its clusters first.
    pub(crate) async fn add(&self, service: &str) -> Result<()> {
        let host = host(self.ns.name(), service);
        {
            let mut hosts = self.hosts.lock().await;
            if hosts.learned.contains(&host) || !hosts.clusters.insert(host.clone()) {
                return Ok(());
            }
            self.apply(&hosts).await?;
        }
        tokio::time::sleep(STEP).await;
        let mut hosts = self.hosts.lock().await;
        hosts.learned.insert(host);
        self.apply(&hosts).await
    }

    /// Writes it with this service's clusters or without, and with what leads to them or without.
    pub(crate) async fn set(&self, service: &str, cluster: bool, route: bool) -> Result<()> {
        let host = host(self.ns.name(), service);
        let mut hosts = self.hosts.lock().await;
        hosts.clusters.remove(&host);
        hosts.learned.remove(&host);
        if cluster {
            hosts.clusters.insert(host.clone());
        }
        if route {
            hosts.learned.insert(host);
        }
        self.apply(&hosts).await
    }

    /// Deletes it; what it has learned is kept.
    pub(crate) async fn delete(&self) -> Result<()> {
        let named = sidecar(&self.name(), &self.app, &BTreeSet::new(), "");
        self.ns.delete(&named).await
    }

    fn name(&self) -> String {
        format!("lazymesh-{}", self.app)
    }

    async fn apply(&self, hosts: &Hosts) -> Result<()> {
        let yaml = sidecar(&self.name(), &self.app, &hosts.learned, &self.more);
        let clusters = format!("egress: [{}, ", clusters(&hosts.clusters));
        self.ns.apply(&yaml.replace("egress: [", &clusters)).await
    }
}
