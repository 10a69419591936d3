//! The user's own Sidecar always wins, is never written to, and gives way to ours again when it goes.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Pod, Test, until};

use super::{LIMIT, STRANGER, Shop, knows, objects, ours, wait_direct, wait_lazy};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sidecar::user_s_own_for_a_workload", for_a_workload),
        Test::new("sidecar::user_s_own_for_the_namespace", for_the_namespace),
    ]
}

async fn for_a_workload(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.web("server", &["server", "other"]).await?;
    shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    wait_direct(&client, &Call::new("http1://server/")).await?;
    let theirs = format!(
        "{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: theirs}}, spec: {{
           workloadSelector: {{labels: {{app: client}}}}, egress: [{{hosts: [\"./other.{}.svc.cluster.local\"]}}]}}}}",
        shop.ns.name()
    );
    shop.ns.apply(&theirs).await?;
    let written = spec(&shop, "theirs").await?;
    until("the user's Sidecar to hold", LIMIT, || async {
        let names = ours(&shop.ns).await?;
        let left = names.iter().find(|name| name.contains("client"));
        ensure!(left.is_none(), "{left:?} is still there");
        ensure!(
            knows(&client, "other").await?,
            "the user's host is not known"
        );
        for service in ["server", STRANGER] {
            ensure!(!knows(&client, service).await?, "{service} is known");
        }
        ensure!(!falls_back(&client).await?, "it falls back");
        Ok(())
    })
    .await?;
    client.get("http1://other/").await?;
    until("the record to say so", LIMIT, || async {
        let records = objects(&shop.ns, "WorkloadDependencies").await?;
        let text = serde_json::to_string(&records)?;
        ensure!(text.contains("\"UserSidecar\""), "{text}");
        Ok(())
    })
    .await?;
    ensure!(
        spec(&shop, "theirs").await? == written,
        "the user's Sidecar was written to"
    );
    // What was learned before is not forgotten.
    shop.ns.delete(&theirs).await?;
    wait_lazy(&client).await?;
    until("what was learned", LIMIT, || async {
        ensure!(knows(&client, "server").await?, "it is not known");
        Ok(())
    })
    .await?;
    wait_direct(&client, &Call::new("http1://server/")).await
}

/// One without a selector says what may be seen: what it does not allow stays unknown.
async fn for_the_namespace(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.web("server", &["server", "other"]).await?;
    shop.ns.workload("server").start().await?;
    let theirs = format!(
        "{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: default}}, spec: {{
           outboundTrafficPolicy: {{mode: REGISTRY_ONLY}},
           egress: [{{hosts: [\"./server.{}.svc.cluster.local\", \"istio-system/*\"]}}]}}}}",
        shop.ns.name()
    );
    shop.ns.apply(&theirs).await?;
    let written = spec(&shop, "default").await?;
    let client = shop.client("client").await?;
    until("what was not called to be left out", LIMIT, || async {
        ensure!(!knows(&client, "server").await?, "it is known");
        Ok(())
    })
    .await?;
    wait_direct(&client, &Call::new("http1://server/")).await?;
    for round in ["first", "second"] {
        let outcome = client.call(&Call::new("http1://other/")).await?;
        ensure!(
            outcome.status == Some(502) && outcome.answers.is_empty(),
            "the {round} call to what is not allowed: {outcome:?}"
        );
    }
    ensure!(
        !knows(&client, "other").await?,
        "what is not allowed was given"
    );
    ensure!(
        spec(&shop, "default").await? == written,
        "the user's Sidecar was written to"
    );
    Ok(())
}

/// A Sidecar's spec and version.
async fn spec(shop: &Shop, name: &str) -> Result<(serde_json::Value, Option<String>)> {
    let all = objects(&shop.ns, "Sidecar").await?;
    let mut all = all.into_iter();
    let found = all.find(|object| object.metadata.name.as_deref() == Some(name));
    let found = found.with_context(|| format!("no Sidecar {name}"))?;
    Ok((found.data["spec"].clone(), found.metadata.resource_version))
}

async fn falls_back(pod: &Pod) -> Result<bool> {
    let dump = pod.envoy().await?.config_dump().await?.to_string();
    Ok(dump.contains("\"lazymesh-tcp\""))
}
