//! Shims and istiod that go and come back, under traffic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join, try_join};
use mesh_tests::testbed::{Call, Case, Pod, Replica, Test, until};

use crate::steps::{
    LEARNED, NOWHERE, SOON, Shop, Steady, answers_at_once, fails_at_once, has_streams,
};

/// How a replica goes.
#[derive(Clone, Copy)]
enum Way {
    Stopped,
    Killed,
}

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("restarts::a_stopped_shim_comes_back", |case| {
            a_shim_comes_back(case, Way::Stopped)
        }),
        Test::new("restarts::a_killed_shim_comes_back", |case| {
            a_shim_comes_back(case, Way::Killed)
        }),
        Test::new(
            "restarts::first_calls_while_one_of_two_is_stopped",
            |case| first_calls_while_one_of_two_goes(case, Way::Stopped),
        ),
        Test::new("restarts::first_calls_while_one_of_two_is_killed", |case| {
            first_calls_while_one_of_two_goes(case, Way::Killed)
        }),
        Test::new(
            "restarts::every_replica_is_replaced_under_traffic",
            every_replica_is_replaced,
        ),
        Test::new("restarts::istiod_comes_back", istiod_comes_back).exclusive(),
        Test::new(
            "restarts::what_was_asked_for_while_no_shim_was_there_comes_later",
            what_was_asked_for_while_no_shim_was_there_comes_later,
        ),
    ]
}

async fn goes(shim: &Replica, way: Way) -> Result<()> {
    match way {
        Way::Stopped => shim.stop().await,
        Way::Killed => shim.kill().await,
    }
}

/// Nothing learned before is held, an unknown name still fails at once, and there is more to learn.
async fn nothing_is_stranded(client: &Pod, new: &str) -> Result<()> {
    for round in ["first", "second"] {
        for url in LEARNED {
            answers_at_once(client, url)
                .await
                .with_context(|| format!("{round} call afterwards"))?;
        }
        fails_at_once(client, NOWHERE)
            .await
            .with_context(|| format!("{round} call afterwards"))?;
        for url in [format!("http1://{new}/"), format!("tcp://{new}:9000")] {
            answers_at_once(client, &url).await?;
        }
    }
    Ok(())
}

async fn a_shim_comes_back(case: Case, way: Way) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.more_services(&["new"]).await?;
    let client = shop.with_learned().await?;
    let traffic = Steady::start(&client, &LEARNED).await?;
    goes(&shop.shim, way).await?;
    traffic.goes_on().await?;
    shop.shim.start().await?;
    has_streams(&shop.shim, 1.0).await?;
    traffic.goes_on().await?;
    traffic.stop().await?;
    nothing_is_stranded(&client, "new").await
}

async fn istiod_comes_back(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.more_services(&["new"]).await?;
    let client = shop.with_learned().await?;
    let traffic = Steady::start(&client, &LEARNED).await?;
    let ended = shop
        .shim
        .metric("lazymesh_shim_streams_ended_total", "")
        .await?;
    case.mesh.restart_istiod().await?;
    traffic.goes_on().await?;
    until("the old stream to end", SOON, || async {
        let now = shop
            .shim
            .metric("lazymesh_shim_streams_ended_total", "")
            .await?;
        ensure!(now > ended, "{now} streams have ended");
        Ok(())
    })
    .await?;
    has_streams(&shop.shim, 1.0).await?;
    // A stream is open before istiod has answered on it: a first call has then to wait for that.
    client.get("http1://new/").await?;
    client.get("tcp://new:9000").await?;
    traffic.goes_on().await?;
    traffic.stop().await?;
    nothing_is_stranded(&client, "new").await
}

async fn first_calls_while_one_of_two_goes(case: Case, way: Way) -> Result<()> {
    const NEW: [&str; 8] = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"];
    let shop = Shop::open(&case).await?;
    shop.more_services(&NEW).await?;
    let client = shop.with_learned().await?;
    // The client is at the first replica; whoever comes later may be at either.
    let other = shop.shims.start(&["--default-mode=on-demand"]).await?;
    let traffic = Steady::start(&client, &LEARNED).await?;
    let first_calls = async {
        for name in NEW {
            client.get(&format!("http1://{name}/")).await?;
            client
                .get(&format!("tcp-server-first://{name}:9001"))
                .await?;
        }
        anyhow::Ok(())
    };
    try_join(goes(&shop.shim, way), first_calls).await?;
    has_streams(&other, 1.0).await?;
    traffic.goes_on().await?;
    traffic.stop().await?;
    for name in NEW {
        nothing_is_stranded(&client, name).await?;
    }
    Ok(())
}

async fn every_replica_is_replaced(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.more_services(&["new-0", "new-1"]).await?;
    let other = shop.shims.start(&["--default-mode=on-demand"]).await?;
    let client = shop.with_learned().await?;
    let traffic = Steady::start(&client, &LEARNED).await?;
    for (shim, new) in [(&shop.shim, "new-0"), (&other, "new-1")] {
        shim.stop().await?;
        client.get(&format!("http1://{new}/")).await?;
        client.get(&format!("tcp://{new}:9000")).await?;
        shim.start().await?;
    }
    traffic.goes_on().await?;
    traffic.stop().await?;
    nothing_is_stranded(&client, "new-0").await?;
    nothing_is_stranded(&client, "new-1").await
}

/// Envoy asks for a name once on a stream: the one it asked for in vain must come when
/// somebody is there to give it, and not be waited for again.
async fn what_was_asked_for_while_no_shim_was_there_comes_later(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.more_services(&["new"]).await?;
    let client = shop.with_learned().await?;
    shop.shim.kill().await?;
    let urls = ["http1://new/", "tcp://new:9000", "http1://new/again"];
    let short = |url| Call::new(url).timeout(Duration::from_secs(1));
    for url in urls {
        let outcome = client.call(&short(url)).await?;
        ensure!(!outcome.is_ok(), "{url} was answered with no shim there");
    }
    let (held, started) = join(client.get("http1://new/held"), shop.shim.start()).await;
    started?;
    // Whether this one is in time depends on when Envoy dials; the later ones must not.
    drop(held);
    has_streams(&shop.shim, 1.0).await?;
    for url in urls {
        client.get(url).await?;
    }
    nothing_is_stranded(&client, "new").await
}
