//! Whether two Envoys hold the same config: what istiod gave each of them, without what must differ (when it came, and
//! the bootstrap). No tests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::testbed::{Pod, until};
use serde_json::Value;

/// How long two Envoys may take to come to the same config.
const LIMIT: Duration = Duration::from_secs(30);

/// What istiod gave an Envoy: each section of its config dump (`dynamic_active_clusters`, ...), and in it each resource
/// as Envoy shows it, in an order of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GivenConfig(BTreeMap<String, Vec<Value>>);

/// Sections that come from istiod, and where in an entry its resource is. Clusters and endpoints that Envoy made from
/// its bootstrap, listeners that drain (with the routes written out in them) and secrets are left out.
const SECTIONS: [(&str, &str, &str); 7] = [
    ("ClustersConfigDump", "dynamic_active_clusters", "/cluster"),
    ("ClustersConfigDump", "dynamic_warming_clusters", "/cluster"),
    (
        "ListenersConfigDump",
        "dynamic_listeners",
        "/active_state/listener",
    ),
    (
        "ListenersConfigDump",
        "dynamic_listeners",
        "/warming_state/listener",
    ),
    ("RoutesConfigDump", "dynamic_route_configs", "/route_config"),
    (
        "EndpointsConfigDump",
        "dynamic_endpoint_configs",
        "/endpoint_config",
    ),
    ("EcdsConfigDump", "ecds_filters", "/ecds_filter"),
];

impl GivenConfig {
    /// What `pod` holds now.
    pub(crate) async fn of(pod: &Pod) -> Result<Self> {
        let dump = pod.envoy().await?.config_dump().await?;
        let mut given = BTreeMap::new();
        for (kind, section, resource) in SECTIONS {
            let entries = dump["configs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|config| {
                    config["@type"]
                        .as_str()
                        .is_some_and(|name| name.ends_with(kind))
                })
                .filter_map(|config| config[section].as_array())
                .flatten();
            let mut resources: Vec<_> = entries
                .filter_map(|entry| entry.pointer(resource))
                .map(ordered)
                .collect();
            resources.sort_by_cached_key(Value::to_string);
            let key = if resource.starts_with("/warming") {
                "warming_listeners"
            } else {
                section
            };
            given.insert(key.to_owned(), resources);
        }
        Ok(Self(given))
    }

    /// The resources of a section.
    pub(crate) fn section(&self, name: &str) -> &[Value] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether `text` is anywhere in it.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.0
            .values()
            .flatten()
            .any(|resource| resource.to_string().contains(text))
    }

    fn ensure_equal(&self, other: &Self) -> Result<()> {
        for (section, ours) in &self.0 {
            let theirs = other.section(section);
            if let Some(resource) = ours.iter().find(|resource| !theirs.contains(resource)) {
                bail!("{section}: only the first has {resource}");
            }
            if let Some(resource) = theirs.iter().find(|resource| !ours.contains(resource)) {
                bail!("{section}: only the second has {resource}");
            }
            ensure!(
                ours.len() == theirs.len(),
                "{section}: {} and {}",
                ours.len(),
                theirs.len()
            );
        }
        Ok(())
    }
}

/// The order of endpoints tells in which order they came; everything else keeps its order, and loses its times.
fn ordered(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let timeless = fields
                .iter()
                .filter(|(name, _)| *name != "last_updated" && *name != "version_info");
            let sorted = timeless.map(|(name, field)| {
                let mut field = ordered(field);
                if let (true, Some(list)) = (
                    matches!(name.as_str(), "lb_endpoints" | "endpoints"),
                    field.as_array_mut(),
                ) {
                    list.sort_by_cached_key(Value::to_string);
                }
                (name.clone(), field)
            });
            sorted.collect()
        }
        Value::Array(items) => items.iter().map(ordered).collect(),
        other => other.clone(),
    }
}

/// The hosts each cluster has at this moment, as `/clusters` tells: address, port and health.
async fn hosts(pod: &Pod) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let clusters = pod.envoy().await?.clusters().await?;
    let statuses = clusters["cluster_statuses"]
        .as_array()
        .context("no cluster_statuses")?;
    let hosts = statuses.iter().filter_map(|cluster| {
        let name = cluster["name"]
            .as_str()
            .filter(|name| name.starts_with("outbound|"))?;
        let hosts = cluster["host_statuses"].as_array().into_iter().flatten();
        let shown = hosts.map(|host| {
            format!(
                "{} {} {}",
                host["address"], host["health_status"], host["weight"]
            )
        });
        Some((name.to_owned(), shown.collect()))
    });
    Ok(hosts.collect())
}

/// Waits until both pods hold the same config, of which `as_wanted` is true; gives it back.
///
/// # Errors
/// Some difference between the two, or what `as_wanted` says, when that does not end.
pub(crate) async fn until_same(
    what: &str,
    (one, other): (&Pod, &Pod),
    as_wanted: impl Fn(&GivenConfig) -> Result<()>,
) -> Result<GivenConfig> {
    until(what, LIMIT, || async {
        let ours = GivenConfig::of(one).await?;
        ours.ensure_equal(&GivenConfig::of(other).await?)?;
        as_wanted(&ours)?;
        let (own_hosts, other_hosts) = (hosts(one).await?, hosts(other).await?);
        ensure!(
            !own_hosts.is_empty() && own_hosts == other_hosts,
            "hosts: {own_hosts:?} and {other_hosts:?}"
        );
        Ok(ours)
    })
    .await
}
