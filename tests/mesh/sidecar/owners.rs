//! Workloads that are not one Deployment behind one Service.

use anyhow::{Result, ensure};
use mesh_tests::testbed::{Call, Case, Test, until};

use super::{LIMIT, Shop, caller, knows, objects, ours, wait_direct};

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("sidecar::owners_of_every_kind", of_every_kind)]
}

async fn of_every_kind(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.web("server", &["one", "two", "three", "four"]).await?;
    // Two workloads behind one service.
    for version in ["v1", "v2"] {
        let workload = shop.ns.workload(&format!("server-{version}"));
        workload
            .label("app", "server")
            .label("version", version)
            .start()
            .await?;
    }
    // A pod made by hand.
    let bare = shop.ns.workload("bare").no_app().no_owner();
    let bare = shop.start_lazy(&bare).await?;
    let outcome = bare.call(&Call::new("http1://one/")).await?;
    ensure!(caller(&outcome)? == bare.spiffe_id());
    wait_direct(&bare, &Call::new("http1://one/")).await?;
    // Two workloads whose pods carry the same labels: no selector tells them apart, so they share.
    let twins = ["twin-a", "twin-b"];
    let mut pods = Vec::new();
    for twin in twins {
        let workload = shop.ns.workload(twin).no_app().label("app", "twin");
        let workload = workload.label("service.istio.io/canonical-name", "twin");
        pods.push(shop.start_lazy(&workload).await?);
    }
    wait_direct(&pods[0], &Call::new("http1://two/")).await?;
    until("the other twin to have it as well", LIMIT, || async {
        ensure!(knows(&pods[1], "two").await?, "it has not");
        Ok(())
    })
    .await?;
    // A workload whose pods are gone keeps what it learned: the next pod starts with it.
    let resting = shop.ns.workload("resting").no_app();
    let pod = shop.start_lazy(&resting).await?;
    wait_direct(&pod, &Call::new("http1://three/")).await?;
    pod.delete().await?;
    let sidecars = objects(&shop.ns, "Sidecar").await?;
    let names: Vec<_> = sidecars
        .iter()
        .filter_map(|one| one.metadata.name.clone())
        .collect();
    ensure!(
        names
            .iter()
            .any(|name| name == "lazymesh-deployment-resting"),
        "{names:?}"
    );
    let arrived = shop.arrived().await?;
    let next = shop.start_lazy(&resting).await?;
    let outcome = next.call(&Call::new("http1://three/")).await?;
    ensure!(caller(&outcome)? == next.spiffe_id());
    ensure!(shop.arrived().await? <= arrived, "its first call fell back");
    // Until a person deletes the record of what is gone for good: its Sidecar goes with it.
    next.delete().await?;
    let record = "{apiVersion: lazymesh.dev/v1alpha1, kind: WorkloadDependencies,
                   metadata: {name: deployment-resting}}";
    shop.ns.delete(record).await?;
    until("its Sidecar to be gone", LIMIT, || async {
        let left = ours(&shop.ns).await?;
        let name = "lazymesh-deployment-resting".to_owned();
        ensure!(!left.contains(&name), "it is there");
        Ok(())
    })
    .await
}
