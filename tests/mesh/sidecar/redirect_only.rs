//! A namespace that lets nothing be carried under another identity.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Test};

use super::{Shop, caller, ensure_clean, wait_direct};

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "sidecar::redirect_only_relays_nothing",
        relays_nothing,
    )]
}

async fn relays_nothing(case: Case) -> Result<()> {
    let shop = Shop::open_as(&case, Some("sidecar"), "redirect-only").await?;
    shop.web("server", &["get", "upload", "socket"]).await?;
    shop.service("server", "unary", ("grpc", 80, 7070)).await?;
    // On a port that nothing in every sidecar has.
    shop.service("server", "tunnelled", ("http2", 8099, 8082))
        .await?;
    shop.ns.server("server").await?;
    // Whoever else came would be refused.
    let principal = format!("cluster.local/ns/{}/sa/client", shop.ns.name());
    shop.ns
        .apply(&format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: server}}, spec: {{
               selector: {{matchLabels: {{app: server}}}}, action: ALLOW,
               rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]}}}}"
        ))
        .await?;
    let client = shop.client("client").await?;
    for call in ["http1://get/", "grpc://unary:80"].map(Call::new) {
        let outcome = client.call(&call).await?;
        ensure!(caller(&outcome)? == client.spiffe_id());
        ensure_clean(&outcome)?;
    }
    // TCP cannot be redirected: it is in every sidecar, and goes direct from the first call on.
    for url in ["tcp://server:9000", "tcp-server-first://server:9001"] {
        client.get(url).await?;
    }
    let upload = Call::new("http1://upload/").method("POST");
    let refused = [
        upload.clone().body_bytes(100_000),
        Call::new("ws://socket/"),
        Call::new("http2://tunnelled:8099/"),
    ];
    for call in refused {
        let outcome = client.call(&call).await?;
        let said = outcome.error.clone().unwrap_or_default();
        ensure!(
            outcome.status == Some(503) && said.contains("redirect-only"),
            "{call:?}: {outcome:?}"
        );
        // What was refused is learned all the same.
        wait_direct(&client, &call).await.context("after that")?;
    }
    let refusals = shop
        .metric("lazymesh_proxy_exchanges_total", "redirect_only")
        .await?;
    ensure!(refusals >= 3.0, "{refusals} refusals were counted");
    let relays = shop.metric("lazymesh_proxy_relays_total", "").await?;
    ensure!(relays == 0.0, "{relays} requests were relayed");
    Ok(())
}
