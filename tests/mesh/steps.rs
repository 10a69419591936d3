//! What the tests of several topics do: a namespace with lazy sidecars, calls that must not wait, steady traffic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use mesh_tests::app::Outcome;
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Replica, Shims, Traffic, until};
use serde_json::Value;

/// A call that was not held: far less than the 5 s that Envoy holds one, far more than a busy machine needs.
pub(crate) const NO_HOLD: Duration = Duration::from_secs(1);
/// How long a change may take to reach a sidecar.
pub(crate) const SOON: Duration = Duration::from_secs(15);
/// A route of the service `server` leads there, to a service that does not exist.
pub(crate) const NOWHERE: &str = "http1://server/nowhere";
/// Calls to `server` that a client of [`Shop::with_learned`] has learned.
pub(crate) const LEARNED: [&str; 3] = [
    "http1://server/",
    "grpc-chat://server:7070",
    "tcp-server-first://server:9001",
];

/// A namespace with STRICT mTLS, a server, and an on-demand shim in front of istiod.
pub(crate) struct Shop {
    pub(crate) ns: Namespace,
    pub(crate) shims: Shims,
    pub(crate) shim: Replica,
    pub(crate) server: Pod,
}

impl Shop {
    pub(crate) async fn open(case: &Case) -> Result<Self> {
        let ns = case.namespace(&[]).await?;
        ns.strict_mtls().await?;
        let shims = ns.shims().await?;
        let shim = shims.start(&["--default-mode=on-demand"]).await?;
        let server = ns.server("server").await?;
        Ok(Self {
            ns,
            shims,
            shim,
            server,
        })
    }

    /// Adds services with the server's pods behind them.
    pub(crate) async fn more_services(&self, names: &[&str]) -> Result<()> {
        let create = |name: &&str| {
            let service = self.ns.service(name).usual_ports();
            async move { service.selector(&[("app", "server")]).create().await }
        };
        try_join_all(names.iter().map(create)).await?;
        Ok(())
    }

    /// A lazy client that has not called anything.
    pub(crate) async fn client(&self) -> Result<Pod> {
        let client = self.ns.workload("client").no_app().via(&self.shims);
        let client = client.start().await?;
        let clusters = client.envoy().await?.dynamic_clusters().await?;
        ensure!(
            !clusters.iter().any(|name| name.contains(self.ns.name())),
            "it starts with {clusters:?}"
        );
        Ok(client)
    }

    /// A lazy client that has called what [`LEARNED`] says, and a name that istiod does not know.
    pub(crate) async fn with_learned(&self) -> Result<Pod> {
        self.route_to_nowhere().await?;
        let client = self.client().await?;
        for url in LEARNED {
            client.get(url).await?;
        }
        fails_at_once(&client, NOWHERE).await?;
        Ok(client)
    }

    pub(crate) async fn route_to_nowhere(&self) -> Result<()> {
        self.ns
            .apply(
                "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: server}, spec: {
                   hosts: [server], http: [
                     {match: [{uri: {prefix: /nowhere}}], route: [{destination: {host: nowhere, port: {number: 80}}}]},
                     {route: [{destination: {host: server}}]}]}}",
            )
            .await
    }
}

/// A call that succeeds without having been held.
pub(crate) async fn answers_at_once(pod: &Pod, url: &str) -> Result<Outcome> {
    let outcome = pod.call(&Call::new(url)).await?;
    outcome.answer().context(url.to_owned())?;
    not_held(url, &outcome)?;
    Ok(outcome)
}

/// A call that is answered with 503 without having been held.
pub(crate) async fn fails_at_once(pod: &Pod, url: &str) -> Result<()> {
    let outcome = pod.call(&Call::new(url)).await?;
    ensure!(outcome.status == Some(503), "{url}: {outcome:?}");
    not_held(url, &outcome)
}

fn not_held(url: &str, outcome: &Outcome) -> Result<()> {
    let took = Duration::from_secs_f64(outcome.latency_ms / 1000.0);
    ensure!(took < NO_HOLD, "{url} took {took:?}");
    Ok(())
}

/// Waits until this many proxies have a stream at the replica.
pub(crate) async fn has_streams(shim: &Replica, count: f64) -> Result<()> {
    // Envoy waits longer and longer between its attempts.
    until("proxies to connect", Duration::from_secs(40), || async {
        let open = shim.metric("lazymesh_shim_streams", "").await?;
        ensure!(open >= count, "{open} streams");
        Ok(())
    })
    .await
}

/// Calls of several protocols that go on.
pub(crate) struct Steady(Vec<(String, Traffic)>);

impl Steady {
    /// Starts calls to these URLs.
    pub(crate) async fn start(pod: &Pod, urls: &[&str]) -> Result<Self> {
        let mut steady = Self(Vec::new());
        for url in urls {
            let call = Call::new(*url).rate(20.0).concurrency(4);
            let traffic = pod.traffic(&call).await?;
            steady.0.push(((*url).to_owned(), traffic));
        }
        steady.goes_on().await?;
        Ok(steady)
    }

    /// Waits for some more calls of each.
    pub(crate) async fn goes_on(&self) -> Result<()> {
        for (url, traffic) in &self.0 {
            traffic
                .wait_for(10, SOON)
                .await
                .with_context(|| url.clone())?;
        }
        Ok(())
    }

    /// Stops it; not one call may have failed or been held.
    pub(crate) async fn stop(self) -> Result<()> {
        for (url, traffic) in self.0 {
            let summary = traffic.stop().await?;
            summary.expect_no_failure().context(url.clone())?;
            for outcome in &summary.outcomes {
                not_held(&url, outcome)?;
            }
        }
        Ok(())
    }
}

/// What a shim says of its streams.
pub(crate) async fn streams(shim: &Replica) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&shim.admin("/debug/streams").await?)?)
}

/// What it says of a pod's.
pub(crate) async fn stream_of(shim: &Replica, pod: &Pod) -> Result<Value> {
    let id = format!("~{}.{}~", pod.name(), pod.spec().namespace);
    let all = streams(shim).await?;
    let is_its = |stream: &&Value| {
        let proxy = stream["proxy"].as_str();
        proxy.is_some_and(|proxy| proxy.contains(&id))
    };
    let found = all.iter().find(is_its).cloned();
    found.with_context(|| format!("the shim has no stream of {}: {all:?}", pod.name()))
}
