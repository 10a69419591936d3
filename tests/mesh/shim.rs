//! Sidecars whose xDS comes through `xds-shim` that trims nothing.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Case, Test};

use crate::plain::EVERY_PROTOCOL;

pub(crate) fn tests() -> Vec<Test> {
    vec![Test::new(
        "shim::every_protocol_through_a_relay",
        every_protocol,
    )]
}

async fn every_protocol(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.strict_mtls().await?;
    let shims = ns.shims().await?;
    shims.start(&["--default-mode=off"]).await?;
    let server = ns.server("server").await?;
    let client = ns.workload("client").no_app().via(&shims).start().await?;
    let clusters = client.envoy().await?.dynamic_clusters().await?;
    ensure!(
        clusters.iter().any(|c| c.contains("|server.")),
        "it starts with {clusters:?}"
    );
    for (url, tells) in EVERY_PROTOCOL {
        let answer = client.get(url).await.context(url)?;
        ensure!(answer.who.pod == server.name(), "{url}");
        ensure!(
            !tells || answer.saw.caller == Some(client.spiffe_id()),
            "{url}: saw {:?}",
            answer.saw.caller
        );
    }
    Ok(())
}
