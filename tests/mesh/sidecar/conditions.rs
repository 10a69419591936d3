//! Conditions of records that ask a person to act: said on the real record for as long as the cause holds, and no call to
//! what is known fails for it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Test, until};

use super::{
    LIMIT, PACE, STRANGER, Shop, caller, knows, label, ours, record, record_of, wait_direct,
    wait_lazy, wait_plain,
};
use crate::steps::Steady;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sidecar::conditions_not_learned", not_learned),
        Test::new("sidecar::conditions_fallback_down", fallback_down),
        Test::new("sidecar::conditions_root_namespace", root_namespace),
    ]
}

/// Calls to the server, by this name of it.
fn calls(server: &str) -> [String; 4] {
    [
        format!("http1://{server}/"),
        format!("http2://{server}:8082/"),
        format!("grpc-chat://{server}:7070"),
        format!("tcp-server-first://{server}:9001"),
    ]
}

async fn steady(pod: &Pod, server: &str) -> Result<Steady> {
    let urls = calls(server);
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    Steady::start(pod, &urls).await
}

/// The conditions of a workload's record, by type: whether they hold, and why.
async fn conditions(ns: &Namespace, workload: &str) -> Result<BTreeMap<String, (bool, String)>> {
    let mut record = record_of(ns, workload).await?;
    let said = record.data["status"]["conditions"].take();
    // The last to go takes the list along.
    let said: Option<Vec<Condition>> = serde_json::from_value(said)?;
    let said = said.into_iter().flatten().map(|one| {
        let holds = one.status == "True";
        (one.type_, (holds, one.reason))
    });
    Ok(said.collect())
}

/// Waits until a record says that its workload has no Sidecar for this reason.
async fn wait_without(ns: &Namespace, workload: &str, why: &str) -> Result<()> {
    until("the record to say why", LIMIT, || async {
        let said = conditions(ns, workload).await?;
        let holds = said.get(why).is_some_and(|(holds, _)| *holds);
        ensure!(holds, "{workload}: no {why} in {said:?}");
        let written = said.get("SidecarWritten");
        ensure!(written == Some(&(false, why.to_owned())), "{said:?}");
        Ok(())
    })
    .await
}

/// Waits until a record says that its workload has its Sidecar, and nothing of why it had none.
async fn wait_written(ns: &Namespace, workload: &str, no_more: &str) -> Result<()> {
    until("the record to say no more of it", LIMIT, || async {
        let said = conditions(ns, workload).await?;
        ensure!(!said.contains_key(no_more), "{workload}: {said:?}");
        let written = said.get("SidecarWritten").is_some_and(|(holds, _)| *holds);
        ensure!(written, "{workload}: {said:?}");
        Ok(())
    })
    .await
}

/// Whether there is a Sidecar of ours for a workload.
async fn has_sidecar(ns: &Namespace, workload: &str) -> Result<bool> {
    let name = format!("lazymesh-deployment-{workload}");
    Ok(ours(ns).await?.contains(&name))
}

/// Older than what counts as one that started together with its namespace's fallback.
const OLD: Duration = Duration::from_secs(11);

async fn wait_old(pod: &Pod) -> Result<()> {
    let client = pod.mesh().resources().client().clone();
    let api: Api<core::Pod> = Api::namespaced(client, &pod.spec().namespace);
    let created = api.get(pod.name()).await?.metadata.creation_timestamp;
    let created = created.context("a pod without an age")?.0;
    until("the pod to be of some age", 2 * OLD, || async {
        let age = Timestamp::now().duration_since(created);
        ensure!(age.unsigned_abs() >= OLD, "it is {age} old");
        Ok(())
    })
    .await
}

/// Workloads that run when their namespace opts in: they keep all they have until something is known, or they restart.
async fn not_learned(case: Case) -> Result<()> {
    let shop = Shop::open_as(&case, None, "prefer-redirect").await?;
    shop.ns.server("server").await?;
    let workload = |name: &str| shop.ns.workload(name).no_app().all_stats();
    let old = workload("restarted").start().await?;
    let pinned = workload("pinned").start().await?;
    let mut all = Vec::new();
    for pod in [&old, &pinned] {
        wait_plain(pod).await?;
        all.push(steady(pod, "server").await?);
    }
    wait_old(&pinned).await?;
    label(&shop.ns, Some("sidecar"), "prefer-redirect").await?;
    for (pod, name) in [(&old, "restarted"), (&pinned, "pinned")] {
        wait_without(&shop.ns, name, "NotLearned").await?;
        ensure!(!has_sidecar(&shop.ns, name).await?, "{name} has a Sidecar");
        ensure!(knows(pod, STRANGER).await?, "{name} lost what it had");
    }
    for steady in &all {
        steady.goes_on().await?;
    }
    // What is known of one makes it lazy as it runs, and of that one only.
    let host = format!("server.{}.svc.cluster.local", shop.ns.name());
    shop.ns.apply(&record("pinned", &host)).await?;
    wait_lazy(&pinned).await?;
    wait_written(&shop.ns, "pinned", "NotLearned").await?;
    wait_without(&shop.ns, "restarted", "NotLearned").await?;
    // A rollout: the new pod starts with the fallback, and the old one ends.
    let new = workload("restarted").start().await?;
    for steady in all {
        steady.goes_on().await?;
        steady.stop().await?;
    }
    old.delete().await?;
    wait_lazy(&new).await?;
    wait_written(&shop.ns, "restarted", "NotLearned").await?;
    let outcome = new.call(&Call::new("http1://server/")).await?;
    let seen = caller(&outcome)?;
    ensure!(seen == new.spiffe_id(), "the server saw {seen}");
    shop.wait_arrived(1.0).await?;
    let arrived = shop.arrived().await?;
    ensure!(
        arrived == 1.0,
        "{arrived} calls fell back, not the new pod's first alone"
    );
    Ok(())
}

/// No global proxy is ready: who has a Sidecar keeps it, who has none keeps all it has.
async fn fallback_down(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    shop.web("server", &["late"]).await?;
    let client = shop.client("client").await?;
    let urls = calls("server");
    for url in &urls {
        client.get(url).await?;
    }
    for url in &urls[..3] {
        wait_direct(&client, &Call::new(url)).await?;
    }
    let steady = steady(&client, "server").await?;
    wait_written(&shop.ns, "client", "FallbackDown").await?;

    shop.global_proxy.pod.set_ready(false).await?;
    let meanwhile = shop.ns.workload("meanwhile").no_app().all_stats();
    let meanwhile = meanwhile.start().await?;
    wait_without(&shop.ns, "meanwhile", "FallbackDown").await?;
    ensure!(
        knows(&meanwhile, STRANGER).await?,
        "it has not the whole mesh"
    );
    let outcome = meanwhile.call(&Call::new("http1://late/")).await?;
    let seen = caller(&outcome)?;
    ensure!(seen == meanwhile.spiffe_id(), "the server saw {seen}");
    wait_written(&shop.ns, "client", "FallbackDown").await?;
    ensure!(has_sidecar(&shop.ns, "client").await?, "its Sidecar went");
    ensure!(
        !has_sidecar(&shop.ns, "meanwhile").await?,
        "it has a Sidecar"
    );
    let outcome = client.call(&Call::new("http1://late/")).await?;
    ensure!(
        outcome.status == Some(503),
        "there is no fallback: {outcome:?}"
    );
    steady.goes_on().await?;

    shop.global_proxy.pod.set_ready(true).await?;
    wait_lazy(&meanwhile).await?;
    wait_written(&shop.ns, "meanwhile", "FallbackDown").await?;
    for pod in [&client, &meanwhile] {
        wait_direct(pod, &Call::new("http1://late/")).await?;
    }
    steady.goes_on().await?;
    steady.stop().await
}

/// What is written in Istio's root namespace holds for every pod of the mesh: nothing is.
async fn root_namespace(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let root = case.root_namespace();
    shop.controller.stop().await?;
    let flags = [PACE[0], PACE[1], "--sidecar-namespace=istio-system"];
    let with_root = shop
        .controllers
        .start_for(&shop.ns, &shop.global_proxies, &flags);
    with_root.await?;
    let lazy = shop.client("client").await?;
    wait_direct(&lazy, &Call::new("http1://server/")).await?;
    // In a namespace that is not lazy: an EnvoyFilter of the root namespace would reach it.
    let elsewhere = case.namespace(&[]).await?;
    let elsewhere = elsewhere.workload("elsewhere").no_app().start().await?;
    let host = format!("server.{}.svc.cluster.local", shop.ns.name());
    root.apply(&record("inside", &host)).await?;
    let inside = root.workload("inside").no_app().all_stats().start().await?;
    let server = format!("server.{}", shop.ns.name());
    let mut all = vec![Steady::start(&lazy, &["http1://server/"]).await?];
    for pod in [&inside, &elsewhere] {
        all.push(steady(pod, &server).await?);
    }

    label(&root, Some("sidecar"), "prefer-redirect").await?;
    wait_without(&root, "inside", "RootNamespace").await?;
    let written = ours(&root).await?;
    ensure!(written.is_empty(), "{written:?} in the root namespace");
    for pod in [&inside, &elsewhere] {
        wait_whole(pod, shop.ns.name()).await?;
    }
    ensure!(
        !knows(&lazy, STRANGER).await?,
        "the lazy one is not any more"
    );
    for steady in &all {
        steady.goes_on().await?;
    }

    label(&root, None, "prefer-redirect").await?;
    until("the record to say no more of it", LIMIT, || async {
        let said = conditions(&root, "inside").await?;
        ensure!(!said.contains_key("RootNamespace"), "{said:?}");
        ensure!(!said.contains_key("SidecarWritten"), "{said:?}");
        Ok(())
    })
    .await?;
    for steady in all {
        steady.goes_on().await?;
        steady.stop().await?;
    }
    Ok(())
}

/// That a pod of another namespace has all of the shop, and no fallback.
async fn wait_whole(pod: &Pod, shop: &str) -> Result<()> {
    until("the sidecar to have the whole mesh", LIMIT, || async {
        let dump = pod.envoy().await?.config_dump().await?.to_string();
        ensure!(!dump.contains("\"lazymesh"), "it has a fallback");
        let stranger = format!("||{STRANGER}.{shop}.svc.");
        ensure!(dump.contains(&stranger), "it has not the whole mesh");
        Ok(())
    })
    .await
}
