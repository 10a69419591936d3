//! What a VirtualService and a DestinationRule say holds from the first call on.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Pod, Test, until};
use std::collections::BTreeSet;
use std::time::Duration;

use crate::on_demand::{Shop, ensure_held};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("routing::subsets_by_header", subsets_by_header),
        Test::new("routing::weights_over_subsets_and_services", weights),
        Test::new(
            "routing::a_mirror_of_the_first_call_arrives",
            a_mirror_arrives,
        ),
        Test::new("routing::retries_of_the_first_call", retries),
        Test::new("routing::a_tcp_route_leads_elsewhere", a_tcp_route),
    ]
}

const LIMIT: Duration = Duration::from_secs(10);

const SUBSETS: &str = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: server}, \
    spec: {host: server, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}";

fn virtual_service(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}}}, spec: {spec}}}"
    )
}

async fn two_versions(shop: &Shop) -> Result<[Pod; 2]> {
    shop.ns.service("server").usual_ports().create().await?;
    let start = |version| shop.ns.workload("server").label("version", version);
    let (one, two) = (start("v1"), start("v2"));
    let pods = tokio::try_join!(one.start(), two.start())?;
    shop.ns.apply(SUBSETS).await?;
    Ok(pods.into())
}

async fn subsets_by_header(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    two_versions(&shop).await?;
    let spec = "{hosts: [server], http: [{match: [{headers: {x-version: {exact: v2}}}], \
        route: [{destination: {host: server, subset: v2}}]}, {route: [{destination: {host: server, subset: v1}}]}]}";
    shop.ns.apply(&virtual_service("server", spec)).await?;
    wait_for_route(&shop, "x-version").await?;
    for version in ["v2", "v1"] {
        let client = shop.client(&format!("client-{version}")).await?;
        ensure_held(&client, "server").await?;
        let call = Call::new("http1://server/").header("x-version", version);
        for _ in 0..4 {
            let answer = client.call(&call).await?.answer()?.clone();
            ensure!(
                answer.who.version.as_deref() == Some(version),
                "{:?} answered",
                answer.who
            );
        }
    }
    Ok(())
}

/// A plain sidecar has the route: lazy ones that start from now on have it too.
async fn wait_for_route(shop: &Shop, word: &str) -> Result<()> {
    let plain = shop.ns.workload("plain").no_app().start().await?;
    until("the route", LIMIT, || async {
        let dump = plain.envoy().await?.config_dump().await?.to_string();
        ensure!(dump.contains(word), "no {word} in the config");
        Ok(())
    })
    .await
}

async fn weights(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    two_versions(&shop).await?;
    shop.ns.server("other").await?;
    let spec = "{hosts: [server], http: [{name: thirds, route: [\
        {destination: {host: server, subset: v1}, weight: 33}, \
        {destination: {host: server, subset: v2}, weight: 33}, \
        {destination: {host: other}, weight: 34}]}]}";
    shop.ns.apply(&virtual_service("server", spec)).await?;
    wait_for_route(&shop, "thirds").await?;
    let client = shop.client("client").await?;
    let mut answered = BTreeSet::new();
    for outcome in client
        .calls(&Call::new("http1://server/").count(60))
        .await?
    {
        let who = outcome.answer()?.who.clone();
        answered.insert(format!(
            "{}/{}",
            who.workload,
            who.version.unwrap_or_default()
        ));
    }
    ensure!(answered.len() == 3, "only {answered:?} answered 60 calls");
    Ok(())
}

async fn a_mirror_arrives(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let shadow = shop.ns.server("shadow").await?;
    let spec = "{hosts: [server], http: [{name: shadowed, mirror: {host: shadow}, route: [{destination: {host: server}}]}]}";
    shop.ns.apply(&virtual_service("server", spec)).await?;
    wait_for_route(&shop, "shadowed").await?;
    let client = shop.client("client").await?;
    ensure_held(&client, "server").await?;
    client.get("http1://server/the-very-first").await?;
    until("the mirror", LIMIT, || async {
        let seen = shadow.seen().await?;
        let mirrored = seen
            .iter()
            .find(|s| s.path == "/the-very-first")
            .context("nothing came")?;
        ensure!(
            mirrored.caller == Some(client.spiffe_id()),
            "it saw {:?}",
            mirrored.caller
        );
        Ok(())
    })
    .await
}

async fn retries(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let server = shop.ns.server("server").await?;
    let spec = "{hosts: [server], http: [{name: patient, retries: {attempts: 4, retryOn: 5xx}, route: [{destination: {host: server}}]}]}";
    shop.ns.apply(&virtual_service("server", spec)).await?;
    wait_for_route(&shop, "patient").await?;
    let client = shop.client("client").await?;
    ensure_held(&client, "server").await?;
    client.get("http1://server/?fail=2&fail_key=first").await?;
    let tries = server
        .seen()
        .await?
        .iter()
        .filter(|s| s.path.contains("fail_key=first"))
        .count();
    ensure!(tries == 3, "the server saw {tries} tries");
    Ok(())
}

async fn a_tcp_route(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let other = shop.ns.server("other").await?;
    let spec = "{hosts: [server], tcp: [{match: [{port: 9000}], route: [{destination: {host: other, port: {number: 9000}}}]}]}";
    shop.ns.apply(&virtual_service("server", spec)).await?;
    wait_for_route(&shop, "outbound|9000||other").await?;
    let client = shop.client("client").await?;
    ensure_held(&client, "other").await?;
    let answer = client.get("tcp://server:9000").await?;
    ensure!(
        answer.who.pod == other.name(),
        "{} answered",
        answer.who.pod
    );
    Ok(())
}
