//! What `istioctl proxy-status` says of a pod: asked of istiod over xDS, as istioctl does in a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Pod, Test, until};
use serde_json::Value;

use crate::on_demand::{Shop, ensure_held};

/// How long istiod and a proxy may take to agree.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("proxy_status::on_demand_is_synced", on_demand_is_synced),
        Test::new(
            "proxy_status::on_demand_shows_a_refusal",
            on_demand_shows_a_refusal,
        )
        // istiod forgets a refusal with the next push that is taken, and other tests cause pushes.
        .exclusive(),
    ]
}

/// The status of each type a pod is subscribed to, by its short name: `Cluster` to `SYNCED` or `ERROR`, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyncStatus {
    types: BTreeMap<String, String>,
    /// What the proxy said when it refused.
    pub(crate) errors: Vec<String>,
}

impl SyncStatus {
    /// Asks istiod about this pod.
    ///
    /// # Errors
    /// When istioctl fails, or istiod does not know exactly one connection of this pod's.
    pub(crate) async fn of(pod: &Pod) -> Result<Self> {
        let mesh = pod.mesh();
        // istioctl shows the token of this service account; kube-controller-manager would have made it.
        let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}";
        mesh.resources().apply("istio-system", account).await?;
        let namespace = format!("--namespace={}", pod.spec().namespace);
        let istiod = "--xds-address=istiod.istio-system.svc:15012";
        let args = ["proxy-status", istiod, &namespace, "--output=json"];
        let json = mesh.istioctl(&args).await?;
        let answer: Value = serde_json::from_str(&json).with_context(|| json.clone())?;
        let id = format!("{}.{}", pod.name(), pod.spec().namespace);
        let proxies: Vec<_> = answer["resources"]
            .as_array()
            .context("no resources")?
            .iter()
            .filter(|proxy| proxy["node"]["id"].as_str().is_some_and(|node| node == id))
            .collect();
        ensure!(
            proxies.len() == 1,
            "istiod knows {} connections of {id}",
            proxies.len()
        );
        let configs = proxies[0]["genericXdsConfigs"]
            .as_array()
            .context("no types")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let short = |config: &Value| {
            text(&config["typeUrl"])
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        Ok(Self {
            types: configs
                .iter()
                .map(|config| (short(config), text(&config["configStatus"])))
                .collect(),
            errors: configs
                .iter()
                .filter_map(|config| config["errorState"]["details"].as_str())
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Fails unless all of `types` are there and everything that is there is in sync.
    pub(crate) fn ensure_synced(&self, types: &[&str]) -> Result<()> {
        for wanted in types {
            ensure!(
                self.types.contains_key(*wanted),
                "not subscribed to {wanted}: {self:?}"
            );
        }
        ensure!(
            self.types.values().all(|status| status == "SYNCED"),
            "{self:?}"
        );
        ensure!(self.errors.is_empty(), "{self:?}");
        Ok(())
    }

    /// Fails unless a response of this type was refused with these words.
    pub(crate) fn ensure_refused(&self, name: &str, words: &str) -> Result<()> {
        let status = self.types.get(name).map(String::as_str);
        ensure!(status == Some("ERROR"), "{self:?}");
        ensure!(
            self.errors.iter().any(|error| error.contains(words)),
            "{self:?}"
        );
        Ok(())
    }
}

/// The types whose status `istioctl proxy-status` used to show.
pub(crate) const USUAL_TYPES: [&str; 4] = [
    "Cluster",
    "Listener",
    "ClusterLoadAssignment",
    "RouteConfiguration",
];

/// Waits until all is `SYNCED`, of the usual types at least.
pub(crate) async fn until_synced(pod: &Pod, types: &[&str]) -> Result<()> {
    until("proxy-status to be SYNCED", LIMIT, || async {
        SyncStatus::of(pod).await?.ensure_synced(types)
    })
    .await
}

/// Waits until proxy-status tells that the pod refused a response.
pub(crate) async fn until_refused(pod: &Pod, name: &str, words: &str) -> Result<()> {
    until("proxy-status to show the refusal", LIMIT, || async {
        SyncStatus::of(pod).await?.ensure_refused(name, words)
    })
    .await
}

/// A cluster of the server's that istiod takes and Envoy refuses, in the given words.
pub(crate) const BROKEN_CLUSTER: &str = "{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: broken-cluster}, spec: {
       configPatches: [{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND, cluster: {portNumber: 80}},
         patch: {operation: MERGE, value: {lb_policy: CLUSTER_PROVIDED}}}]}}";
/// What Envoy says to [`BROKEN_CLUSTER`].
pub(crate) const CLUSTER_REFUSAL: &str = "cluster provided LB";

async fn on_demand_is_synced(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let client = shop.client("client").await?;
    ensure_held(&client, "server").await?;
    until_synced(&client, &["Cluster", "Listener", "RouteConfiguration"]).await?;
    client.get("http1://server/").await?;
    client.get("tcp://server:9000").await?;
    until_synced(&client, &USUAL_TYPES).await
}

async fn on_demand_shows_a_refusal(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let client = shop.client("client").await?;
    client.get("http1://server/").await?;
    until_synced(&client, &USUAL_TYPES).await?;

    shop.ns.apply(BROKEN_CLUSTER).await?;
    until_refused(&client, "Cluster", CLUSTER_REFUSAL).await?;
    // What it had before goes on.
    client.get("http1://server/").await?;

    shop.ns.delete(BROKEN_CLUSTER).await?;
    until_synced(&client, &USUAL_TYPES).await?;
    let calls = client.calls(&Call::new("http1://server/").count(5)).await?;
    for call in calls {
        call.answer()?;
    }
    Ok(())
}
