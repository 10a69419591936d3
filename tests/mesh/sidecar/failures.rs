//! Whatever of ours breaks, or istiod: calls to what is learned go on, and what was to be learned is learned later.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Pod, Test, until};

use super::{LIMIT, PACE, Shop, caller, ours, wait_direct, wait_lazy};
use crate::steps::Steady;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "sidecar::failures_break_no_learned_call",
            break_no_learned_call,
        ),
        Test::new(
            "sidecar::failures_of_every_global_proxy_at_once",
            of_every_global_proxy_at_once,
        ),
    ]
}

const LEARNED: [&str; 4] = [
    "http1://server/",
    "http2://server:8082/",
    "grpc-chat://server:7070",
    "tcp-server-first://server:9001",
];

async fn break_no_learned_call(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let second = shop.global_proxies.start(&[]).await?;
    let new = ["one", "two", "three", "four", "five"];
    shop.web("server", &new).await?;
    shop.ns.server("server").await?;
    let client = shop.client("client").await?;
    let steady = learn(&client).await?;

    // A replica that is stopped as an update does: not even a first call fails.
    let third = shop.global_proxies.start(&[]).await?;
    second.stop().await?;
    first_call(&shop, &client, "one")
        .await
        .context("a global proxy was stopped")?;
    steady.goes_on().await?;

    third.pod.crash().await?;
    until("first calls to succeed", LIMIT, || {
        first_call(&shop, &client, "two")
    })
    .await
    .context("a global proxy was killed")?;
    steady.goes_on().await?;

    // Without a controller what can be asked of nobody is relayed, and learned when it is back.
    shop.controller.kill().await?;
    let call = Call::new("http1://three/");
    let seen = caller(&client.call(&call).await?)?;
    ensure!(seen == shop.relayed(), "the server saw {seen}");
    steady.goes_on().await?;
    shop.controller.start().await?;
    wait_direct(&client, &call)
        .await
        .context("the controller is back")?;
    steady.goes_on().await?;

    case.mesh.restart_istiod().await?;
    steady.goes_on().await?;
    first_call(&shop, &client, "four")
        .await
        .context("istiod was restarted")?;
    wait_direct(&client, &Call::new("http1://four/")).await?;
    steady.stop().await?;

    // Another replica takes over from a leader that goes.
    let follower = shop
        .controllers
        .start_for(&shop.ns, &shop.global_proxies, &PACE);
    follower.await?;
    shop.controller.stop().await?;
    wait_direct(&client, &Call::new("http1://five/"))
        .await
        .context("another leads")
}

/// Learns what is [`LEARNED`], and goes on calling it.
async fn learn(client: &Pod) -> Result<Steady> {
    for url in LEARNED {
        client.get(url).await?;
    }
    for url in &LEARNED[..3] {
        wait_direct(client, &Call::new(*url)).await?;
    }
    Steady::start(client, &LEARNED).await
}

/// Killed just when a workload has been cut down to what is known of it, which is nothing.
async fn of_every_global_proxy_at_once(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let second = shop.global_proxies.start(&[]).await?;
    let new = ["one", "two", "three"];
    shop.web("server", &new).await?;
    shop.service("server", "queue", ("tcp", 9100, 9000)).await?;
    shop.ns.server("server").await?;
    let client = shop.client("client").await?;
    let steady = learn(&client).await?;

    let fresh = shop.ns.workload("fresh").no_app().all_stats();
    let killed = async {
        until("its first Sidecar", LIMIT, || async {
            let written = ours(&shop.ns).await?;
            let name = "lazymesh-deployment-fresh".to_owned();
            ensure!(written.contains(&name), "{written:?}");
            Ok(())
        })
        .await?;
        tokio::try_join!(shop.global_proxy.pod.crash(), second.pod.crash())
    };
    let (fresh, _) = tokio::try_join!(fresh.start(), killed)?;
    wait_lazy(&fresh).await?;
    steady.goes_on().await?;
    // Nobody answers for them, and nobody takes them past the mesh.
    for (pod, name) in [(&client, "client"), (&fresh, "fresh")] {
        for service in new {
            let call = Call::new(format!("http1://{service}/"));
            let outcome = pod.call(&call).await?;
            let refused = outcome.status == Some(503) && outcome.answers.is_empty();
            ensure!(refused, "{name} calls {service}: {outcome:?}");
        }
        let outcome = pod.call(&Call::new("tcp://queue:9100")).await?;
        ensure!(!outcome.is_ok(), "{name} reached the queue: {outcome:?}");
    }
    steady.goes_on().await?;

    shop.global_proxies.start(&[]).await?;
    for (pod, name) in [(&client, "client"), (&fresh, "fresh")] {
        for service in new {
            let call = Call::new(format!("http1://{service}/"));
            wait_direct(pod, &call)
                .await
                .with_context(|| format!("{name} calls {service}"))?;
        }
        until("the queue to be reached", LIMIT, || async {
            pod.get("tcp://queue:9100").await
        })
        .await?;
    }
    for url in LEARNED {
        fresh.get(url).await?;
    }
    steady.goes_on().await?;
    steady.stop().await
}

/// A call that is answered, by whatever way.
async fn first_call(shop: &Shop, client: &Pod, service: &str) -> Result<()> {
    let outcome = client
        .call(&Call::new(format!("http1://{service}/")))
        .await?;
    let seen = caller(&outcome)?;
    let known = [client.spiffe_id(), shop.relayed()];
    ensure!(known.contains(&seen), "the server saw {seen}");
    Ok(())
}
