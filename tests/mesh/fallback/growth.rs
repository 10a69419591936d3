//! A Sidecar that comes and grows under a running proxy: what its calls notice of that.

use std::net::Ipv4Addr;
use std::time::Duration;

use ::http::Response;
use anyhow::{Result, ensure};
use futures::future::try_join_all;
use mesh_tests::testbed::{Call, Case, IstiodOptions, Pod, Test, Traffic, until};

use super::wiring::{self, Tunnel};
use super::{LIMIT, Shop, ensure_unknown};
use crate::plain::EVERY_PROTOCOL;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "fallback::growth_no_first_call_finds_half_a_service",
            no_half_a_service,
        )
        .exclusive(),
        Test::new(
            "fallback::growth_clusters_first_and_last",
            changes_under_traffic,
        ),
        Test::new(
            "fallback::growth_a_running_workload_opts_in_and_out",
            opts_in_and_out,
        ),
    ]
}

const SERVICES: usize = 30;

/// istiod sends a service's cluster, endpoints and routes in several messages: no redirected call may come in between.
async fn no_half_a_service(case: Case) -> Result<()> {
    let usual = IstiodOptions {
        debounce: Duration::from_millis(100),
        env: Vec::new(),
    };
    case.mesh.restart_istiod_with(&usual).await?;
    let result = many_first_calls(&case).await;
    case.mesh.restart_istiod().await?;
    result
}

async fn many_first_calls(case: &Case) -> Result<()> {
    let shop = Shop::growing(case).await?;
    for index in 0..SERVICES {
        let service = shop
            .ns
            .service(&format!("server{index}"))
            .selector(&[("app", "server")]);
        service.port("http", 80, 8080).create().await?;
    }
    let server = shop.ns.workload("server").start().await?;
    let client = shop.client().await?;
    let mut latencies = Vec::new();
    for index in 0..SERVICES {
        let call = Call::new(format!("http1://server{index}/"));
        let outcome = client.call(&call).await?;
        let caller = &outcome.answer()?.saw.caller;
        ensure!(*caller == Some(client.spiffe_id()), "{caller:?}");
        latencies.push(outcome.latency_ms);
    }
    latencies.sort_by(f64::total_cmp);
    let arrived = shop.global_proxy.arrived();
    tracing::info!(
        "{SERVICES} first calls: median {:.0} ms, longest {:.0} ms, {} redirects",
        latencies[SERVICES / 2],
        latencies[SERVICES - 1],
        arrived.len()
    );
    ensure!(server.seen().await?.len() == SERVICES);
    Ok(())
}

/// With a Sidecar that has all a running workload uses, nobody notices that it comes and goes.
async fn opts_in_and_out(case: Case) -> Result<()> {
    let shop = Shop::open(&case, "", Tunnel::Http2, |_, arrived| async move {
        anyhow::bail!("{} is learned", arrived.authority)
    })
    .await?;
    for name in ["server", "other"] {
        shop.ns.server(name).await?;
    }
    shop.sidecar.add("server").await?;
    shop.sidecar.delete().await?;
    let client = shop.ns.workload("client").no_app().all_stats();
    let client = client.start().await?;
    wait_known(&client, "other").await?;
    let mut traffic = Vec::new();
    for (url, _) in EVERY_PROTOCOL {
        let call = Call::new(url).rate(20.0).concurrency(4);
        traffic.push(client.traffic(&call).await?);
        if url.starts_with("http") || url.starts_with("tcp:") {
            traffic.push(client.traffic(&call.reuse()).await?);
        }
    }
    let filter = wiring::fallback(shop.ns.name(), "client");
    for _ in 0..3 {
        shop.ns.apply(&filter).await?;
        super::wait_fallback(&client).await?;
        wait_for_calls(&traffic).await?;
        shop.sidecar.write().await?;
        until("the Sidecar", LIMIT, || ensure_unknown(&client, "other")).await?;
        wait_for_calls(&traffic).await?;
        shop.sidecar.delete().await?;
        wait_known(&client, "other").await?;
        shop.ns.delete(&filter).await?;
        wait_for_calls(&traffic).await?;
    }
    for traffic in traffic {
        traffic.stop().await?.expect_no_failure()?;
    }
    ensure!(shop.global_proxy.arrived().is_empty() && shop.global_proxy.opened().is_empty());
    Ok(())
}

async fn wait_known(client: &Pod, service: &str) -> Result<()> {
    until("the service to be known", LIMIT, || async {
        let unknown = ensure_unknown(client, service).await;
        ensure!(unknown.is_err(), "{service} is not there yet");
        Ok(())
    })
    .await
}

/// istiod sends a route or listener before Envoy is done with the cluster it leads to, and takes a cluster away before
/// what leads to it: in between, calls fail. Hosts of an egress listener of the protocol HTTP_PROXY give a proxy their
/// clusters and nothing that leads to them: with that as a step in between, no call fails.
async fn changes_under_traffic(case: Case) -> Result<()> {
    let shop = Shop::open(&case, "", Tunnel::Http2, |_, _| async move {
        Ok(Response::new("relayed".into()))
    })
    .await?;
    shop.ns.server("server").await?;
    let client = shop.client().await?;
    let mut traffic = Vec::new();
    for url in ["http1://server/", "http2://server/", "tcp://server:9000"] {
        let call = Call::new(url).rate(100.0).concurrency(8);
        traffic.push(client.traffic(&call.clone().reuse()).await?);
        traffic.push(client.traffic(&call).await?);
    }
    let mut failed = [0; 4];
    let mut before = 0;
    for _ in 0..ROUNDS {
        let steps: [&[(bool, bool)]; 4] = [
            &[(true, true)],
            &[(false, false)],
            &[(true, false), (true, true)],
            &[(true, false), (false, false)],
        ];
        for (failed, steps) in failed.iter_mut().zip(steps) {
            for &(cluster, route) in steps {
                shop.sidecar.set("server", cluster, route).await?;
                wait_state(&client, (cluster, route)).await?;
            }
            wait_for_calls(&traffic).await?;
            let now = without_cluster(&client).await?;
            *failed += now - before;
            before = now;
        }
    }
    let (mut calls, mut failures) = (0, 0);
    for traffic in traffic {
        let summary = traffic.stop().await?;
        calls += summary.outcomes.len();
        failures += summary.failures().len() as u64;
    }
    let proxy = client.network().connect(Ipv4Addr::LOCALHOST, 15999).await;
    ensure!(
        proxy.is_err(),
        "the listener for clusters takes connections"
    );
    let [grown, trimmed, grown_in_steps, trimmed_in_steps] = failed;
    tracing::info!(
        "{calls} calls, {ROUNDS} rounds: at once, {grown} failed by growing and {trimmed} by trimming; \
         in steps, {grown_in_steps} and {trimmed_in_steps}"
    );
    ensure!(grown + trimmed > 0, "one step is enough");
    ensure!(grown_in_steps == 0 && trimmed_in_steps == 0, "{failed:?}");
    ensure!(
        failures == grown + trimmed,
        "{failures} calls failed, not all for want of a cluster: {failed:?}"
    );
    Ok(())
}

const ROUNDS: usize = 3;

/// Waits until the client has the server's cluster, and something that leads to it, or not.
async fn wait_state(client: &Pod, wanted: (bool, bool)) -> Result<()> {
    until("the Sidecar", LIMIT, || async {
        let envoy = client.envoy().await?;
        let cluster = ensure_unknown(client, "server").await.is_err();
        let dump = envoy
            .get("/config_dump?resource=dynamic_route_configs")
            .await?;
        let dump: serde_json::Value = serde_json::from_str(&dump)?;
        let configs = dump["configs"].as_array().into_iter().flatten();
        let route = configs
            .map(|config| &config["route_config"])
            .any(|routes| routes["name"] == "80" && routes.to_string().contains("||server."));
        let is = (cluster, route);
        ensure!(is == wanted, "(cluster, route) is {is:?}, not {wanted:?}");
        Ok(())
    })
    .await
}

/// How many requests and connections failed so far since their cluster was not there.
async fn without_cluster(client: &Pod) -> Result<u64> {
    let envoy = client.envoy().await?;
    let stats = envoy
        .stats("^http.*no_cluster$|^tcp.*downstream_cx_no_route$")
        .await?;
    Ok(stats.iter().map(|(_, value)| value).sum())
}

async fn wait_for_calls(traffic: &[Traffic]) -> Result<()> {
    try_join_all(traffic.iter().map(|traffic| traffic.wait_for(20, LIMIT))).await?;
    Ok(())
}
