//! Opting in and out, under traffic of every protocol to what is known to be used: no call fails, and nothing is left.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Test, Traffic};

use super::{
    LIMIT, PACE, STRANGER, Shop, label, objects, ours, record, wait_lazy, wait_no_trace, wait_plain,
};
use crate::command;
use crate::plain::EVERY_PROTOCOL;
use crate::steps::Steady;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "sidecar::opting_in_and_out_under_traffic",
            in_and_out_under_traffic,
        ),
        Test::new(
            "sidecar::opting_out_in_every_way_while_nobody_looks",
            out_in_every_way_while_nobody_looks,
        ),
    ]
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
    pause_and_resume(&shop, &client, &traffic).await?;
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

async fn pause_and_resume(shop: &Shop, client: &Pod, traffic: &[Traffic]) -> Result<()> {
    label(&shop.ns, Some("sidecar"), "prefer-redirect").await?;
    wait_lazy(client).await?;
    let say = async |what: &str| {
        let system = format!("--system-namespace={}", shop.system.name());
        command::done(shop.ns.mesh(), &[what, &system]).await
    };
    say("pause").await?;
    wait_no_trace(&shop.ns).await?;
    wait_plain(client).await?;
    wait_for_calls(traffic).await?;
    say("resume").await?;
    wait_lazy(client).await?;
    wait_for_calls(traffic).await
}

/// A pod that says `off` itself is not touched, in a namespace that opted in.
async fn by_the_pod_s_own_label(shop: &Shop, client: &Pod) -> Result<()> {
    label(&shop.ns, Some("sidecar"), "prefer-redirect").await?;
    let off = shop.ns.workload("off").no_app();
    let off = off.label("lazymesh.dev/mode", "off").start().await?;
    wait_lazy(client).await?;
    wait_plain(&off).await
}

/// The controller is down while three namespaces change: one takes its label off, one changes its mode, and in one that
/// stays a record says `off`.
async fn out_in_every_way_while_nobody_looks(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let server = format!("server.{}", shop.ns.name());
    let mut namespaces = vec![shop.ns.clone()];
    for _ in 0..2 {
        let more = case.namespace(&[]).await?;
        label(&more, Some("sidecar"), "prefer-redirect").await?;
        let stranger = more.service(STRANGER).port("http", 80, 8080);
        stranger.create().await?;
        namespaces.push(more);
    }
    let [unlabelled, changed, stays] = &namespaces[..] else {
        unreachable!("there are three");
    };
    shop.controller.stop().await?;
    let more = format!("--sidecar-namespace={},{}", changed.name(), stays.name());
    let flags = [PACE[0], PACE[1], &more];
    let controller = shop
        .controllers
        .start_for(&shop.ns, &shop.global_proxies, &flags)
        .await?;
    let mut pods = Vec::new();
    for (ns, name) in [
        (unlabelled, "client"),
        (changed, "client"),
        (stays, "client"),
        (stays, "left"),
    ] {
        let host = format!("{server}.svc.cluster.local");
        ns.apply(&record(name, &host)).await?;
        pods.push(ns.workload(name).no_app().all_stats().start().await?);
    }
    let mut all = Vec::new();
    for pod in &pods {
        wait_lazy(pod).await?;
        let urls = [
            format!("http1://{server}/"),
            format!("grpc-chat://{server}:7070"),
            format!("tcp-server-first://{server}:9001"),
        ];
        all.push(Steady::start(pod, &[&urls[0], &urls[1], &urls[2]]).await?);
    }
    let of_client = "lazymesh-deployment-client";
    let before = version(stays, of_client).await?;

    controller.kill().await?;
    label(unlabelled, None, "prefer-redirect").await?;
    label(changed, Some("observe"), "prefer-redirect").await?;
    let off = "{apiVersion: lazymesh.dev/v1alpha1, kind: WorkloadDependencies, metadata: {name: deployment-left},
                spec: {workloadRef: {kind: Deployment, name: left}, mode: \"off\"}}";
    stays.apply(off).await?;
    for steady in &all {
        steady.goes_on().await?;
    }
    for (pod, ns) in pods.iter().zip([unlabelled, changed, stays, stays]) {
        let name = format!("lazymesh-deployment-{}", pod.spec().workload);
        ensure!(ours(ns).await?.contains(&name), "who took {name} away?");
    }
    controller.start().await?;
    for ns in [unlabelled, changed] {
        wait_no_trace(ns).await?;
    }
    for pod in [&pods[0], &pods[1], &pods[3]] {
        wait_plain(pod).await?;
    }
    wait_lazy(&pods[2]).await?;
    ensure!(
        version(stays, of_client).await? == before,
        "the Sidecar of the workload that stays was written"
    );
    for steady in all {
        steady.goes_on().await?;
        steady.stop().await?;
    }
    let arrived = shop.arrived().await?;
    ensure!(
        arrived == 0.0,
        "{arrived} calls to what is pinned fell back"
    );
    Ok(())
}

/// The version of a Sidecar, which each write changes.
async fn version(ns: &Namespace, name: &str) -> Result<Option<String>> {
    let mut all = objects(ns, "Sidecar").await?.into_iter();
    let found = all.find(|one| one.metadata.name.as_deref() == Some(name));
    let found = found.with_context(|| format!("no Sidecar {name}"))?;
    Ok(found.metadata.resource_version)
}

async fn wait_for_calls(traffic: &[Traffic]) -> Result<()> {
    try_join_all(traffic.iter().map(|traffic| traffic.wait_for(10, LIMIT))).await?;
    Ok(())
}
