//! Sidecars whose xDS comes through `xds-shim`.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Case, Namespace, Pod, Shims, Test};

use crate::plain::EVERY_PROTOCOL;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("shim::every_protocol_through_a_relay", |case| {
            every_protocol(case, "off")
        }),
        Test::new("shim::every_protocol_on_demand", |case| {
            every_protocol(case, "on-demand")
        }),
    ]
}

/// A namespace with STRICT mTLS, one shim in the given mode, and a server behind it.
async fn shop(case: &Case, mode: &str) -> Result<(Namespace, Shims, Pod)> {
    let ns = case.namespace(&[]).await?;
    ns.strict_mtls().await?;
    let shims = ns.shims().await?;
    shims.start(&[&format!("--default-mode={mode}")]).await?;
    let server = ns.server("server").await?;
    Ok((ns, shims, server))
}

async fn every_protocol(case: Case, mode: &'static str) -> Result<()> {
    let (ns, shims, server) = shop(&case, mode).await?;
    let client = ns.workload("client").no_app().via(&shims).start().await?;
    let clusters = client.envoy().await?.dynamic_clusters().await?;
    let holds_server = !clusters.iter().any(|cluster| cluster.contains("|server."));
    ensure!(
        holds_server == (mode == "on-demand"),
        "it starts with {clusters:?}"
    );
    for round in ["first", "second"] {
        for (url, tells) in EVERY_PROTOCOL {
            let answer = client
                .get(url)
                .await
                .with_context(|| format!("{round} call"))?;
            ensure!(
                answer.who.pod == server.name(),
                "{url}: {} answered",
                answer.who.pod
            );
            ensure!(
                !tells || answer.saw.caller == Some(client.spiffe_id()),
                "{url}: saw {:?}",
                answer.saw.caller
            );
        }
    }
    Ok(())
}
