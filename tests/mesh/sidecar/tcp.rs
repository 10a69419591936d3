//! TCP: first by a tunnel to the global proxy, then direct; never in plain text past the mesh.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::testbed::{Call, Case, Test, until};

use super::{LIMIT, Shop, knows};
use crate::fallback::tcp::{MEGABYTE, client_closes_first, server_closes_first};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sidecar::tcp_first_and_later", first_and_later),
        Test::new("sidecar::tcp_each_side_may_close_first", half_close),
        Test::new("sidecar::tcp_never_in_plain_text", never_in_plain_text),
        Test::new("sidecar::tcp_on_a_port_of_http", on_a_port_of_http),
    ]
}

/// Both orders of speaking, many at once, large ones; and none of it is slower once it is learned.
async fn first_and_later(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    for name in ["server", "second"] {
        shop.ns.server(name).await?;
    }
    let client = shop.client("client").await?;
    for url in ["tcp://server:9000", "tcp-server-first://second:9001"] {
        client.get(url).await?;
    }
    shop.wait_arrived(2.0).await?;
    for service in ["server", "second"] {
        until("it to be learned", LIMIT, || async {
            ensure!(knows(&client, service).await?, "{service} is not");
            Ok(())
        })
        .await?;
    }
    let before = shop.arrived().await?;
    let calls = [
        Call::new("tcp://server:9000")
            .count(60)
            .concurrency(20)
            .body_bytes(1000),
        Call::new("tcp://server:9000")
            .count(4)
            .concurrency(4)
            .body_bytes(5 << 20),
        Call::new("tcp-server-first://second:9001")
            .count(10)
            .timeout(Duration::from_secs(5)),
    ];
    until("calls to go direct", LIMIT, || async {
        let before = shop.arrived().await?;
        client.get("tcp://server:9000").await?;
        client.get("tcp-server-first://second:9001").await?;
        ensure!(shop.arrived().await? <= before, "they come by the tunnel");
        Ok(())
    })
    .await?;
    let direct = shop.arrived().await?;
    for call in &calls {
        for outcome in client.calls(call).await? {
            outcome.answer()?;
        }
    }
    ensure!(
        shop.arrived().await? <= direct && direct >= before,
        "what is learned came by the tunnel"
    );
    Ok(())
}

async fn half_close(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    // A service each: the first connection to it is the one in the tunnel.
    for service in ["first", "second"] {
        shop.service("played", service, ("tcp", 9000, 9000)).await?;
    }
    let played = shop.ns.workload("played").no_app().start().await?;
    let listener = played.network().listen(9000).await?;
    let client = shop.client("client").await?;
    let vip = shop.address("first").await?;
    let got = client_closes_first(&client, vip, &listener).await?;
    ensure!(got == MEGABYTE, "the client got {got} bytes");
    let vip = shop.address("second").await?;
    let got = server_closes_first(&client, vip, &listener).await?;
    ensure!(got == MEGABYTE, "the server got {got} bytes");
    shop.wait_arrived(2.0).await
}

/// A server without a sidecar sees who really connects, and takes plain text from anybody.
async fn never_in_plain_text(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    for service in ["server", "second"] {
        shop.service("server", service, ("tcp", 9000, 9000)).await?;
    }
    let server = shop.ns.workload("server").no_sidecar().start().await?;
    let client = shop.client("client").await?;
    client.get("tcp://server:9000").await?;
    let seen = server.seen().await?;
    let proxy = shop.global_proxy.pod.address().to_string();
    ensure!(
        seen.iter().all(|saw| saw.host == proxy),
        "it did not come from the global proxy: {seen:?}"
    );
    // Without a global proxy there is no connection, rather than one past the mesh.
    shop.global_proxy.stop().await?;
    let before = server.seen().await?.len();
    for _ in 0..5 {
        let call = Call::new("tcp://second:9000").timeout(Duration::from_secs(3));
        let outcome = client.call(&call).await?;
        ensure!(!outcome.is_ok(), "it was reached: {outcome:?}");
    }
    ensure!(
        server.seen().await?.len() == before,
        "the server was reached"
    );
    Ok(())
}

/// The listener of another service's HTTP port would take it in plain text, so it is in every sidecar.
async fn on_a_port_of_http(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.service("server", "web", ("http", 9100, 8080)).await?;
    shop.service("server", "queue", ("tcp", 9100, 9000)).await?;
    // STRICT: plain text is refused.
    shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    until("the queue to be given", LIMIT, || async {
        ensure!(knows(&client, "queue").await?, "it is not");
        Ok(())
    })
    .await?;
    ensure!(!knows(&client, "web").await?, "the web is known");
    client.get("tcp://queue:9100").await?;
    client.get("http1://web:9100/").await?;
    client.get("tcp://queue:9100").await?;
    Ok(())
}
