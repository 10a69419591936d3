//! Opting in and out, under traffic of every protocol to what is known to be used: no call fails, and nothing is left.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use mesh_tests::testbed::{Call, Case, Pod, Test, Traffic};

use super::{LIMIT, Shop, label, ours, record, wait_lazy, wait_no_trace, wait_plain};
use crate::plain::EVERY_PROTOCOL;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "sidecar::opting_in_and_out_under_traffic",
        in_and_out_under_traffic,
    )]
}

async fn in_and_out_under_traffic(case: Case) -> Result<()> {
    let shop = Shop::open_as(&case, None, "prefer-redirect").await?;
    shop.ns.server("server").await?;
    let host = format!("server.{}.svc.cluster.local", shop.ns.name());
    shop.ns.apply(&record("client", &host)).await?;
    let client = shop.ns.workload("client").no_app().all_stats();
    let client = client.start().await?;
    wait_plain(&client).await?;
    let mut traffic = Vec::new();
    for (url, _) in EVERY_PROTOCOL {
        let call = Call::new(url).rate(10.0).concurrency(4);
        traffic.push(client.traffic(&call).await?);
        if url.starts_with("http") || url.starts_with("tcp:") {
            traffic.push(client.traffic(&call.reuse()).await?);
        }
    }
    let steps = async |down: bool| {
        label(&shop.ns, Some("sidecar"), "prefer-redirect").await?;
        wait_lazy(&client).await?;
        wait_for_calls(&traffic).await?;
        if down {
            shop.controller.kill().await?;
        }
        label(&shop.ns, None, "prefer-redirect").await?;
        if down {
            // Nobody acts on it meanwhile, and calls go on.
            wait_for_calls(&traffic).await?;
            ensure!(!ours(&shop.ns).await?.is_empty(), "who took it away?");
            shop.controller.start().await?;
        }
        wait_no_trace(&shop.ns).await?;
        wait_plain(&client).await?;
        wait_for_calls(&traffic).await
    };
    steps(false).await.context("with the controller")?;
    steps(true)
        .await
        .context("with the controller down meanwhile")?;
    for traffic in traffic {
        traffic.stop().await?.expect_no_failure()?;
    }
    let arrived = shop.arrived().await?;
    ensure!(
        arrived == 0.0,
        "{arrived} calls to what is pinned fell back"
    );
    by_the_pod_s_own_label(&shop, &client).await
}

/// A pod that says `off` itself is not touched, in a namespace that opted in.
async fn by_the_pod_s_own_label(shop: &Shop, client: &Pod) -> Result<()> {
    label(&shop.ns, Some("sidecar"), "prefer-redirect").await?;
    let off = shop.ns.workload("off").no_app();
    let off = off.label("lazymesh.dev/mode", "off").start().await?;
    wait_lazy(client).await?;
    wait_plain(&off).await
}

async fn wait_for_calls(traffic: &[Traffic]) -> Result<()> {
    try_join_all(traffic.iter().map(|traffic| traffic.wait_for(10, LIMIT))).await?;
    Ok(())
}
