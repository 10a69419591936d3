//! Proxies that cannot be made lazy, or must not be, behind a shim whose default is `on-demand`: their whole config, the
//! same as straight from istiod.

use anyhow::{Result, ensure};
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Replica, Shims, Test, Workload};

use crate::on_demand::ensure_held;
use crate::proxy_status::until_synced;
use crate::same_config::until_same;
use crate::steps::stream_of;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("whole_config::state_of_the_world", state_of_the_world),
        Test::new("whole_config::an_unknown_workload", an_unknown_workload),
        Test::new(
            "whole_config::an_envoy_that_cannot_ask",
            an_envoy_that_cannot_ask,
        ),
        Test::new("whole_config::a_pod_that_opts_out", a_pod_that_opts_out),
        Test::new(
            "whole_config::a_pod_that_opts_in_alone",
            a_pod_that_opts_in_alone,
        ),
        Test::new("whole_config::a_gateway", a_gateway),
    ]
}

/// A namespace with a service `server`, and one shim.
struct Town {
    ns: Namespace,
    shims: Shims,
    shim: Replica,
    server: Pod,
}

impl Town {
    async fn start(case: &Case, mode: &str) -> Result<Self> {
        let ns = case.namespace(&[]).await?;
        ns.strict_mtls().await?;
        let shims = ns.shims().await?;
        let shim = shims.start(&[&format!("--default-mode={mode}")]).await?;
        let server = ns.server("server").await?;
        Ok(Self {
            ns,
            shims,
            shim,
            server,
        })
    }

    /// Two pods of this workload, straight at istiod and behind the shim.
    async fn twins(&self, workload: &Workload) -> Result<(Pod, Pod)> {
        let behind_shim = workload.clone().via(&self.shims);
        tokio::try_join!(workload.start(), behind_shim.start())
    }

    /// What the shim says it does with this pod's stream, and why.
    async fn treatment(&self, pod: &Pod) -> Result<String> {
        let stream = stream_of(&self.shim, pod).await?;
        Ok(stream["treatment"].as_str().unwrap_or_default().to_owned())
    }

    /// Two pods of `workload` have the same config and reach the server, and the shim says why; while an ordinary
    /// sidecar behind the same shim is lazy.
    async fn ensure_whole(&self, workload: &Workload, why: &str) -> Result<()> {
        let (direct, relayed) = self.twins(workload).await?;
        let treatment = self.treatment(&relayed).await?;
        ensure!(treatment == why, "it is treated as {treatment}");
        until_same(
            "both to hold the same config",
            (&direct, &relayed),
            |config| {
                ensure!(config.mentions("outbound|80||server."), "no server in it");
                Ok(())
            },
        )
        .await?;
        until_synced(&relayed, &["Cluster", "Listener", "ClusterLoadAssignment"]).await?;
        for url in ["http1://server/", "tcp://server:9000"] {
            let answer = relayed.get(url).await?;
            ensure!(answer.who.pod == self.server.name());
        }

        let ordinary = self
            .ns
            .workload("ordinary")
            .no_app()
            .via(&self.shims)
            .start()
            .await?;
        ensure_held(&ordinary, "server").await?;
        let treatment = self.treatment(&ordinary).await?;
        ensure!(
            treatment == "on_demand",
            "an ordinary sidecar is treated as {treatment}"
        );
        Ok(())
    }
}

async fn state_of_the_world(case: Case) -> Result<()> {
    let town = Town::start(&case, "on-demand").await?;
    let client = town
        .ns
        .workload("client")
        .no_app()
        .proxy_metadata("ISTIO_DELTA_XDS", "false");
    town.ensure_whole(&client, "state_of_the_world").await
}

/// It refuses the listeners that are made to ask, and is ready and has everything all the same.
async fn an_envoy_that_cannot_ask(case: Case) -> Result<()> {
    let town = Town::start(&case, "on-demand").await?;
    let client = town
        .ns
        .workload("client")
        .no_app()
        .envoy_args("--disable-extensions envoy.filters.http/envoy.filters.http.on_demand");
    town.ensure_whole(&client, "not_understood").await
}

async fn an_unknown_workload(case: Case) -> Result<()> {
    let town = Town::start(&case, "on-demand").await?;
    let client = town.ns.workload("client").no_app().no_owner();
    town.ensure_whole(&client, "unknown_workload").await
}

async fn a_pod_that_opts_out(case: Case) -> Result<()> {
    let town = Town::start(&case, "on-demand").await?;
    let client = town
        .ns
        .workload("client")
        .no_app()
        .label("lazymesh.dev/mode", "off");
    town.ensure_whole(&client, "off").await
}

async fn a_pod_that_opts_in_alone(case: Case) -> Result<()> {
    let town = Town::start(&case, "off").await?;
    let client = town.ns.workload("client").no_app().via(&town.shims);
    let (whole, lazy) = (
        client.clone(),
        client.label("lazymesh.dev/mode", "on-demand"),
    );
    let (whole, lazy) = tokio::try_join!(whole.start(), lazy.start())?;
    ensure_held(&lazy, "server").await?;
    ensure!(
        ensure_held(&whole, "server").await.is_err(),
        "a pod without the label is lazy"
    );
    for (pod, treatment) in [(&whole, "off"), (&lazy, "on_demand")] {
        let said = town.treatment(pod).await?;
        ensure!(said == treatment, "{}: {said}", pod.name());
        let answer = pod.get("http1://server/").await?;
        ensure!(answer.who.pod == town.server.name() && answer.saw.caller == Some(pod.spiffe_id()));
    }
    Ok(())
}

async fn a_gateway(case: Case) -> Result<()> {
    let town = Town::start(&case, "on-demand").await?;
    let ns = &town.ns;
    ns.apply(
        "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: entry}, spec: {selector: {app: entry},
           servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: entry}, spec: {hosts: ['*'], gateways: [entry],
   http: [{route: [{destination: {host: server, port: {number: 80}}}]}]}}",
    )
    .await?;
    ns.service("entry")
        .port("http", 8080, 8080)
        .create()
        .await?;
    let outsider = ns
        .workload("outsider")
        .no_sidecar()
        .no_app()
        .start()
        .await?;
    let (direct, relayed) = town.twins(&ns.workload("entry").no_app().gateway()).await?;
    let treatment = town.treatment(&relayed).await?;
    ensure!(treatment == "not_a_sidecar", "it is treated as {treatment}");
    until_same(
        "both to hold the same config",
        (&direct, &relayed),
        |config| {
            ensure!(
                config.mentions("outbound|80||server.")
                    && !config.section("dynamic_listeners").is_empty()
            );
            Ok(())
        },
    )
    .await?;
    for pod in [&direct, &relayed] {
        let call = Call::new("http1://anything:8080/").to(pod.address());
        let outcome = outsider.call(&call).await?;
        let answer = outcome.answer()?;
        ensure!(answer.who.pod == town.server.name() && answer.saw.caller == Some(pod.spiffe_id()));
    }
    Ok(())
}
