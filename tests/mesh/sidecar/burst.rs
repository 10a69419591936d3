//! Many first calls at once: all are answered, by the caller's own identity, and share what is written for them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::{ready, try_join_all};
use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, ApiResource, DynamicObject, WatchEvent, WatchParams};
use kube::core::GroupVersionKind;
use mesh_tests::app::Answer;
use mesh_tests::testbed::{Call, Case, IstiodOptions, Namespace, Pod, Test, until};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{LIMIT, PACE, Shop, wait_direct};

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("sidecar::burst_of_first_calls", of_first_calls)]
}

/// First calls in each of the two waves.
const WAVE: usize = 20;
/// Between two writes of one Sidecar. The controller's default of 130 ms is enough for an istiod that has the time to push
/// 100 ms after a change. On a busy machine it is later: two steps fall into one push, and a call may meet a cluster that is
/// not warm, which is a 503 (docs/operations.md, `--sidecar-step`). So there are further rounds, of which one must have none.
const STEP: Duration = Duration::from_millis(400);
const ROUNDS: usize = 3;

/// With istiod gathering changes for as long as it does by default.
async fn of_first_calls(case: Case) -> Result<()> {
    let usual = IstiodOptions {
        debounce: Duration::from_millis(100),
        env: Vec::new(),
    };
    case.mesh.restart_istiod_with(&usual).await?;
    let result = burst(&case).await;
    case.mesh.restart_istiod().await?;
    result
}

async fn burst(case: &Case) -> Result<()> {
    let shop = Shop::open(case).await?;
    shop.controller.stop().await?;
    let step = format!("--sidecar-step={}ms", STEP.as_millis());
    let flags = [PACE[0], PACE[1], &step];
    let patient = shop
        .controllers
        .start_for(&shop.ns, &shop.global_proxies, &flags);
    patient.await?;
    let server = shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    let mut late = 0;
    for number in 0..ROUNDS {
        late = round(&shop, [&server, &client], number).await?;
        if late == 0 {
            return Ok(());
        }
        tracing::warn!("round {number}: {late} calls met a cluster that was not warm");
    }
    anyhow::bail!("{late} calls got 503 in the last of {ROUNDS} rounds, as in those before")
}

/// Two waves to services of their own; how many calls came before their cluster was warm.
async fn round(shop: &Shop, [server, client]: [&Pod; 2], number: usize) -> Result<usize> {
    let names: Vec<String> = (0..2 * WAVE)
        .map(|of| format!("svc{of}-{number}"))
        .collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    shop.web("server", &all).await?;
    let before = server.seen().await?.len();
    let mut addresses = Vec::new();
    for name in &names {
        addresses.push(shop.address(name).await?);
    }
    let calls: Vec<(&String, Ipv4Addr)> = names.iter().zip(addresses).collect();
    let (first, second) = calls.split_at(WAVE);
    let (first, second) = (open(client, first).await?, open(client, second).await?);
    let history = History::follow(&shop.ns, "lazymesh-deployment-client").await?;
    let versions = history.versions();
    ensure!(
        versions[0].announced.is_empty(),
        "it is still being written"
    );

    let began = Instant::now();
    let second = async {
        // While the first wave is on its way: what is announced is not given yet.
        until("something to be announced", LIMIT, || async {
            let versions = history.versions();
            let announces = versions.iter().any(|one| !one.announced.is_empty());
            ensure!(announces, "nothing is");
            Ok(())
        })
        .await?;
        answered(second).await
    };
    let (first, second) = tokio::try_join!(answered(first), second)?;
    let took = began.elapsed();
    let answered: Vec<_> = first.iter().chain(&second).flatten().collect();
    for (name, seen) in &answered {
        ensure!(*seen == client.spiffe_id(), "{name}: the server saw {seen}");
    }
    let came = server.seen().await?.len() - before;
    ensure!(
        came == answered.len(),
        "{came} calls came for {}",
        answered.len()
    );
    let versions = until("all to be given", LIMIT, || async {
        let versions = history.versions();
        let last = versions.last().context("no Sidecar")?;
        for name in &names {
            let host = format!("{name}.{}.svc.cluster.local", shop.ns.name());
            let given = last.given.iter().any(|one| one.ends_with(&host));
            ensure!(given, "{host} is not given");
        }
        ensure!(last.announced.is_empty(), "something is still announced");
        Ok(versions)
    })
    .await?;
    in_two_steps(&versions)?;
    let writes = versions.len() - 1;
    tracing::info!("{} first calls in {took:?}: {writes} writes", 2 * WAVE);
    let steps = took.as_millis().div_ceil(STEP.as_millis());
    ensure!(
        writes as u128 <= steps + 1,
        "{writes} writes within {took:?}: more than one in each step"
    );
    ensure!(
        versions
            .windows(2)
            .any(|pair| gives(pair) && announces(pair)),
        "no write gave what was announced and announced what came meanwhile"
    );
    // Whatever became of the first calls, none is stranded.
    for name in &names {
        wait_direct(client, &Call::new(format!("http1://{name}/"))).await?;
    }
    Ok(2 * WAVE - answered.len())
}

fn gives(pair: &[Version]) -> bool {
    pair[1].given.difference(&pair[0].given).next().is_some()
}

fn announces(pair: &[Version]) -> bool {
    let mut new = pair[1].announced.difference(&pair[0].announced);
    new.next().is_some()
}

/// Nothing is given that the version before did not announce, and nothing is taken back.
fn in_two_steps(versions: &[Version]) -> Result<()> {
    for pair in versions.windows(2) {
        let mut new = pair[1].given.difference(&pair[0].given);
        let unannounced = new.find(|host| !pair[0].announced.contains(*host));
        ensure!(unannounced.is_none(), "{unannounced:?} came at once");
        ensure!(
            pair[0].given.is_subset(&pair[1].given),
            "something was taken"
        );
        let mut before = pair[0].announced.iter();
        let lost = before
            .find(|host| !pair[1].announced.contains(*host) && !pair[1].given.contains(*host));
        ensure!(lost.is_none(), "{lost:?} was announced and not given");
    }
    Ok(())
}

/// Connections to services, so that the calls begin together.
async fn open(pod: &Pod, calls: &[(&String, Ipv4Addr)]) -> Result<Vec<(String, TcpStream)>> {
    let opened = calls.iter().map(|(name, to)| async move {
        let stream = pod.network().connect(*to, 80).await?;
        anyhow::Ok(((*name).clone(), stream))
    });
    try_join_all(opened).await
}

/// Calls on these connections at once; whom the server saw, by service. None for one whose cluster was not warm: Envoy's own
/// 503, without a body.
async fn answered(calls: Vec<(String, TcpStream)>) -> Result<Vec<Option<(String, String)>>> {
    let calls = calls.into_iter().map(|(name, mut stream)| async move {
        let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        if head.starts_with("HTTP/1.1 503 ") && body.is_empty() {
            return Ok(None);
        }
        ensure!(head.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
        ensure!(!head.contains("x-lazymesh"), "{name}: {head}");
        let body: Answer = serde_json::from_str(body).with_context(|| answer.clone())?;
        let seen = body.saw.caller.with_context(|| answer.clone())?;
        Ok(Some((name, seen)))
    });
    try_join_all(calls).await
}

/// A Sidecar of ours at one time.
#[derive(Clone, Debug)]
struct Version {
    given: BTreeSet<String>,
    announced: BTreeSet<String>,
}

impl Version {
    fn of(object: &DynamicObject) -> Self {
        let (mut given, mut announced) = (BTreeSet::new(), BTreeSet::new());
        let listeners = object.data["spec"]["egress"].as_array();
        for listener in listeners.into_iter().flatten() {
            let hosts = if listener["port"].is_null() {
                &mut given
            } else {
                &mut announced
            };
            let said = listener["hosts"].as_array().into_iter().flatten();
            let said = said.filter_map(|host| host.as_str());
            hosts.extend(said.filter(|host| *host != "~/*").map(str::to_owned));
        }
        Self { given, announced }
    }
}

/// All that was ever written into one Sidecar: the API server tells each change.
struct History {
    versions: Arc<Mutex<Vec<Version>>>,
    watch: JoinHandle<kube::Result<()>>,
}

impl History {
    /// From what the Sidecar is now.
    async fn follow(ns: &Namespace, name: &str) -> Result<Self> {
        let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "Sidecar");
        let resource = ApiResource::from_gvk_with_plural(&kind, "sidecars");
        let client = ns.mesh().resources().client().clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, ns.name(), &resource);
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        let now = api.get(name).await?;
        let versions = Arc::new(Mutex::new(vec![Version::of(&now)]));
        let since = now.metadata.resource_version.unwrap_or_default();
        let filed = versions.clone();
        let events = api.watch(&params, &since).await?.boxed();
        let watch = tokio::spawn(events.try_for_each(move |event| {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    filed.lock().push(Version::of(&object));
                }
                other => tracing::warn!(?other, "not a version"),
            }
            ready(Ok(()))
        }));
        Ok(Self { versions, watch })
    }

    fn versions(&self) -> Vec<Version> {
        self.versions.lock().clone()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
