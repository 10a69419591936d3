//! Plain Istio, without any part of ours: what lazy sidecars are measured against, and proof that the testbed is a mesh.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Case, Test};

pub(crate) fn tests() -> Vec<Test> {
    vec![Test::new(
        "plain::http_between_two_pods",
        http_between_two_pods,
    )]
}

async fn http_between_two_pods(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.strict_mtls().await?;
    let server = ns.server("server").await?;
    let client = ns.workload("client").no_app().start().await?;
    let answer = client.get("http1://server/hello").await?;
    ensure!(answer.who.pod == server.name());
    let caller = answer.saw.caller.context("the server saw no caller")?;
    ensure!(caller == client.spiffe_id(), "the server saw {caller}");
    Ok(())
}
