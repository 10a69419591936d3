//! The command `lazymesh`, on what a workload has learned.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Case, until};
use serde_json::Value;
use std::process::Output;

use super::Labelled;
use crate::command;
use crate::steps::{SOON, Steady};

/// The exit code when `check` found something.
const FOUND: i32 = 3;

pub(super) async fn it_sees_and_says(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let client = mesh.client().await?;
    client.get("http1://server/").await?;
    mesh.is_recorded(&[mesh.edge(80, "HTTP")]).await?;

    let rows = json(&mesh, &["status"]).await?;
    let row = rows
        .as_array()
        .and_then(|rows| rows.first())
        .context("no row")?;
    ensure!(
        row["name"] == "client" && row["mode"] == "on-demand" && row["learned"] == 1,
        "{row}"
    );
    let sidecars = &row["sidecars"];
    ensure!(sidecars["lazy"] == 1 && sidecars["given"] == 1, "{row}");
    ensure!(sidecars["held"].as_u64() > Some(3), "{row}");
    let edges = json(&mesh, &["graph"]).await?;
    ensure!(
        edges[0]["source"] == "OnDemand" && edges[0]["ports"][0] == 80,
        "{edges}"
    );

    let verdict = async |of: &str| {
        let answer = json(&mesh, &["why", "client", of]).await?;
        anyhow::Ok(answer["verdict"].as_str().unwrap_or_default().to_owned())
    };
    ensure!(verdict("server").await? == "known" && verdict("server:9000").await? == "held");
    forgets(&mesh).await?;
    ensure!(verdict("server").await? == "held");
    let fresh = mesh.client().await?;
    mesh.holds_exactly(&fresh, &[]).await?;
    // A call made after that is learned as any other.
    fresh.get("http1://server/").await?;
    mesh.is_recorded(&[mesh.edge(80, "HTTP")]).await?;

    done(&mesh, &["pin", "client", "server:9001"]).await?;
    until("the running pod to have it", SOON, || {
        mesh.holds_exactly(&fresh, &[80, 9001])
    })
    .await?;
    ensure!(verdict("server:9001").await? == "known");
    done(&mesh, &["unpin", "client", "server"]).await?;
    ensure!(mesh.record().await?.data["spec"]["pinned"].is_null());
    it_fails_clearly(&mesh).await
}

/// Every sidecar has all at once and no call fails, whatever says that it is lazy; and it ends as it began.
pub(super) async fn a_pause(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let client = mesh.client().await?;
    let own = mesh
        .ns
        .workload("own")
        .label("lazymesh.dev/mode", "on-demand");
    let own = own.no_app().via(&mesh.shims).start().await?;
    let traffic = Steady::start(&client, &["http1://server/", "tcp://server:9000"]).await?;
    mesh.is_recorded(&[mesh.edge(80, "HTTP"), mesh.edge(9000, "TCP")])
        .await?;
    let system = format!("--system-namespace={}", mesh.ns.name());
    done(&mesh, &["pause", &system]).await?;
    for pod in [&client, &own] {
        let all = [80, 7070, 8082, 9000, 9001];
        until("it to have everything", 2 * SOON, || {
            mesh.holds_exactly(pod, &all)
        })
        .await?;
    }
    traffic.goes_on().await?;
    let status = done(&mesh, &["status", &system]).await?;
    ensure!(status.starts_with("PAUSED"), "{status}");
    // Who comes to know of it later as well.
    mesh.controller.kill().await?;
    mesh.controller.start().await?;
    mesh.shim.kill().await?;
    mesh.shim.start().await?;
    let fresh = mesh.client().await?;
    let all = [80, 7070, 8082, 9000, 9001];
    until("it to have everything", 2 * SOON, || {
        mesh.holds_exactly(&fresh, &all)
    })
    .await?;
    traffic.goes_on().await?;
    done(&mesh, &["resume", &system]).await?;
    until("new pods to be lean again", 2 * SOON, || async {
        let fresh = mesh.client().await?;
        mesh.holds_exactly(&fresh, &[80, 9000]).await
    })
    .await?;
    traffic.goes_on().await?;
    traffic.stop().await
}

async fn forgets(mesh: &Labelled) -> Result<()> {
    done(mesh, &["forget", "client", "server"]).await?;
    let again = done(mesh, &["forget", "client", "server"]).await?;
    ensure!(again.contains("nothing to change"), "{again}");
    ensure!(mesh.learned().await?.is_empty());
    // Until the shim has heard of it, a new pod would be given it.
    until("the shim to have forgotten it", SOON, || async {
        let graph = mesh.shim.admin("/debug/graph").await?;
        ensure!(!graph.contains(&mesh.edge(80, "HTTP")), "{graph}");
        ensure!(!graph.contains("server."), "{graph}");
        Ok(())
    })
    .await
}

/// What is wrong is said, with what to do, and an exit code that a script can tell.
async fn it_fails_clearly(mesh: &Labelled) -> Result<()> {
    // There are no Pods of Lazymesh's own on this cluster.
    let found = run(mesh, &["check", "-A", "-o", "json"]).await?;
    ensure!(found.status.code() == Some(FOUND), "{found:?}");
    let found: Value = serde_json::from_slice(&found.stdout)?;
    let words = found.as_array().into_iter().flatten();
    let words: Vec<_> = words.map(|one| &one["problem"]).collect();
    ensure!(words.iter().any(|word| *word == "part-down"), "{words:?}");

    let nowhere = run(mesh, &["status", "-n", "nowhere"]).await?;
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    ensure!(
        nowhere.status.code() == Some(1) && said.contains("nowhere"),
        "{said}"
    );
    let wrong = run(mesh, &["why", "client"]).await?;
    ensure!(wrong.status.code() == Some(2));
    let wrong = run(mesh, &["why", "-n", mesh.ns.name(), "client", "a b"]).await?;
    ensure!(wrong.status.code() == Some(1));
    Ok(())
}

async fn json(mesh: &Labelled, args: &[&str]) -> Result<Value> {
    let shim = format!("--shim={}", mesh.shim.admin_url());
    let text = done(mesh, &[args, &["-o", "json", &shim]].concat()).await?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// What it prints of this namespace, when it succeeds.
async fn done(mesh: &Labelled, args: &[&str]) -> Result<String> {
    command::done(mesh.ns.mesh(), &[args, &["-n", mesh.ns.name()]].concat()).await
}

async fn run(mesh: &Labelled, args: &[&str]) -> Result<Output> {
    command::run(mesh.ns.mesh(), args).await
}
