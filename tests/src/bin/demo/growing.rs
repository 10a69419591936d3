//! Act two: a sidecar in mode `sidecar`. Nothing is between it and the control plane; the controller gives its workload a
//! Sidecar that grows by what is called, and first calls fall back to the global proxy.

use crate::calls::{Targets, Times};
use crate::mesh::{self, GLOBAL_PROXY, SYSTEM};
use crate::network::Pod;
use crate::parts::Parts;
use crate::process::Process;
use crate::report::{Costs, Growing};
use crate::sidecar::{Place, Sidecar};
use crate::story::Stage;
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use mesh_tests::embedded::Proxy;
use mesh_tests::embedded::resources::{CDS, Change};
use mesh_tests::embedded::shape::outbound_cluster;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long something may take that a step of the Sidecar leads to.
const LIMIT: Duration = Duration::from_secs(20);
/// Hosts of the grown Sidecar that are shown.
const SHOWN: usize = 4;

/// The global proxy behind its own sidecar.
#[derive(Debug)]
struct GlobalProxy {
    place: Place,
    sidecar: Sidecar,
    process: Process,
}

/// All of it, up to the figures.
///
/// # Errors
/// When a part fails, the sidecar is not trimmed, or a call goes another way than it should.
pub(crate) async fn tell(
    stage: &mut Stage<'_>,
    parts: &Parts,
    plain: &Costs,
    targets: &Targets,
    place: &Place,
) -> Result<Growing> {
    stage
        .screen
        .step("Act two: no shim. A lazy sidecar by a Sidecar resource that grows");
    let namespace = &place.identity.namespace;
    stage.screen.line(&format!(
        "namespace {namespace} is labelled lazymesh.dev/mode: sidecar; what it does not know falls back to the global proxy"
    ));
    let proxy = start_global_proxy(stage, parts).await?;
    // There is none before the global proxy is ready.
    let file = sidecar_file(parts, namespace).await?;
    taken_in(stage, place).await?;
    let sidecar = stage.start_plain(place).await?;
    let costs = stage.show(&sidecar).await?;
    costs.expect_lazy(plain)?;

    let first = first_calls(stage, &sidecar, place, targets, &proxy).await?;
    grown(stage, &file, &sidecar, targets).await?;
    let later = later_calls(stage, &sidecar, place, targets).await?;
    sidecar.stop().await?;
    proxy.process.stop().await?;
    proxy.sidecar.stop().await?;
    Ok(Growing {
        costs,
        first_call_ms: first.medians(),
        later_call_ms: later.medians(),
    })
}

/// The first Sidecar of the workload, once it is written.
async fn sidecar_file(parts: &Parts, namespace: &str) -> Result<PathBuf> {
    let folder = mesh::folder(&parts.store);
    let what = format!("a Sidecar of {namespace} in {}", folder.display());
    until(&what, LIMIT, async || {
        let mut found = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let start = format!("{namespace}.sidecar-");
        Ok(found.find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&start)
        }))
    })
    .await
}

/// The control plane has taken in the Sidecar: a proxy that starts is trimmed from its start.
async fn taken_in(stage: &Stage<'_>, place: &Place) -> Result<()> {
    let labels = place.identity.labels().into_iter();
    let proxy = Proxy {
        labels: labels
            .map(|(label, value)| (label.to_owned(), value.to_owned()))
            .collect(),
        ..Proxy::in_namespace(&place.identity.namespace)
    };
    let all = stage.plane.shape().services.len();
    until(
        "the control plane to take in the Sidecar",
        LIMIT,
        async || {
            let snapshot = stage.plane.snapshot_for(&proxy);
            let clusters = snapshot.table(CDS).map_or(0, |clusters| clusters.len());
            Ok((clusters < all).then_some(()))
        },
    )
    .await
}

async fn start_global_proxy(stage: &mut Stage<'_>, parts: &Parts) -> Result<GlobalProxy> {
    const INDEX: u8 = 4;
    let address = Pod::address(INDEX);
    let service = mesh::global_proxy(address);
    stage.plane.change(Change::PutService(service));
    let place = stage.place(INDEX, SYSTEM, GLOBAL_PROXY).await?;
    let sidecar = stage.start_plain(&place).await?;
    let process = parts.global_proxy(&place).await?;
    mesh::put_pod(&parts.store, &place.identity)?;
    stage.screen.line(&format!(
        "the global proxy runs behind a sidecar of its own, which has all {} clusters",
        sidecar.cluster_names().await?.len()
    ));
    Ok(GlobalProxy {
        place,
        sidecar,
        process,
    })
}

/// HTTP calls are redirected: the caller's own Envoy makes them. TCP calls are carried by the global proxy.
async fn first_calls(
    stage: &mut Stage<'_>,
    sidecar: &Sidecar,
    place: &Place,
    targets: &Targets,
    proxy: &GlobalProxy,
) -> Result<Times> {
    stage
        .screen
        .step("First calls: the caller's sidecar knows none of these services");
    let has = sidecar.cluster_names().await?;
    let known = clusters(targets).find(|cluster| has.contains(cluster));
    ensure!(known.is_none(), "the sidecar has {known:?} before any call");
    let own = place.identity.spiffe();
    let http = targets.call_http(&place.client).await;
    let http = http.context("the first HTTP calls")?;
    expect_callers(&http, &own).context("first HTTP calls are to be redirected")?;
    stage.screen.line(&format!(
        "HTTP: held by the global proxy and redirected, {:.0} ms; servers saw {own}",
        http.medians().http
    ));
    let tcp = targets.call_tcp(&place.client).await;
    let tcp = tcp.context("the first TCP calls")?;
    let theirs = proxy.place.identity.spiffe();
    expect_callers(&tcp, &theirs).context("first TCP calls are to be tunnelled")?;
    stage.screen.line(&format!(
        "TCP:  carried through a tunnel, {:.1} ms; servers saw {theirs}",
        tcp.medians().tcp
    ));
    let first = http.and(tcp);
    stage.screen.good(&format!(
        "{} of {} first calls answered by the right service (medians above)",
        first.count(),
        first.count()
    ));
    Ok(first)
}

/// What the Sidecar has become, once the caller's Envoy has all of it.
async fn grown(
    stage: &mut Stage<'_>,
    file: &Path,
    sidecar: &Sidecar,
    targets: &Targets,
) -> Result<()> {
    stage.screen.step("The Sidecar as it grew");
    let what = "the caller's own Envoy to have every service that was called";
    until(what, LIMIT, async || {
        let (clusters_now, listeners) = (
            sidecar.cluster_names().await?,
            sidecar.listener_names().await?,
        );
        let missing = clusters(targets)
            .filter(|name| !clusters_now.contains(name))
            .chain(
                targets
                    .tcp_listeners()
                    .filter(|name| !listeners.contains(name)),
            )
            .next();
        ensure!(missing.is_none(), "it lacks {missing:?}");
        Ok(Some(()))
    })
    .await?;
    let hosts = given(file)?;
    let called = hosts.iter().filter(|host| !host.contains(SYSTEM));
    for host in called.take(SHOWN) {
        stage.screen.line(&format!("- {host}"));
    }
    stage.screen.line(&format!(
        "and {} more hosts, in {}",
        hosts.len().saturating_sub(SHOWN),
        file.display()
    ));
    Ok(())
}

async fn later_calls(
    stage: &mut Stage<'_>,
    sidecar: &Sidecar,
    place: &Place,
    targets: &Targets,
) -> Result<Times> {
    let later = targets.call(&place.client).await.context("later calls")?;
    let own = place.identity.spiffe();
    expect_callers(&later, &own).context("later calls are to go direct")?;
    let times = later.medians();
    stage.screen.good(&format!(
        "later calls go direct, HTTP {:.1} ms, TCP {:.1} ms; servers saw {own}",
        times.http, times.tcp
    ));
    stage.screen.line(&format!(
        "the sidecar now has {} clusters",
        sidecar.cluster_names().await?.len()
    ));
    Ok(later)
}

fn expect_callers(times: &Times, expected: &str) -> Result<()> {
    let only = BTreeSet::from([expected.to_owned()]);
    ensure!(
        times.callers == only,
        "servers saw {:?}, not {expected} alone",
        times.callers
    );
    Ok(())
}

fn clusters(targets: &Targets) -> impl Iterator<Item = String> {
    let names = targets.names();
    names.map(|(host, port)| outbound_cluster(&host, port))
}

/// The hosts that a Sidecar in a file lets its proxies call.
fn given(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let object: Value = serde_yaml_ng::from_str(&text)?;
    let listeners = object["spec"]["egress"].as_array();
    let all = listeners.into_iter().flatten();
    let for_all_ports = all.filter(|listener| listener["port"].is_null());
    let hosts = for_all_ports.flat_map(|listener| listener["hosts"].as_array());
    let hosts = hosts.flatten().filter_map(Value::as_str);
    Ok(hosts.map(str::to_owned).collect())
}
