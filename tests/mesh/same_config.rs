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
/// its bootstrap, listeners that drain (with the routes written out in them) and secrets are left out: see [`identities`] for the last.
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

    /// The names of the clusters whose names contain `text`. Other tests of the run come and go in other namespaces.
    pub(crate) fn names_with(&self, text: &str) -> BTreeSet<String> {
        let names = self
            .section("dynamic_active_clusters")
            .iter()
            .filter_map(|cluster| cluster["name"].as_str());
        names
            .filter(|name| name.contains(text))
            .map(str::to_owned)
            .collect()
    }

    /// Whether `text` is anywhere in it.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.0
            .values()
            .flatten()
            .any(|resource| resource.to_string().contains(text))
    }

    /// Fails unless every kind of resource is in it, so that a comparison says something, and none is warming.
    pub(crate) fn ensure_complete(&self) -> Result<()> {
        for (_, section, _) in SECTIONS {
            let warming = section.contains("warming");
            ensure!(
                warming == self.section(section).is_empty(),
                "{section}: {:?}",
                self.section(section)
            );
        }
        let warming = self.section("warming_listeners");
        ensure!(warming.is_empty(), "warming: {warming:?}");
        Ok(())
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

/// Who the pod's Envoy says it is and whom it trusts: SPIFFE ids of its certificates, and the serial numbers of its
/// roots. Its own certificate cannot be the same as another pod's.
async fn identities(pod: &Pod) -> Result<BTreeSet<String>> {
    let certs: Value = serde_json::from_str(&pod.envoy().await?.get("/certs").await?)?;
    let mut shown = BTreeSet::new();
    for certificate in certs["certificates"].as_array().into_iter().flatten() {
        for root in certificate["ca_cert"].as_array().into_iter().flatten() {
            shown.insert(format!("trusts {}", root["serial_number"]));
        }
        for own in certificate["cert_chain"].as_array().into_iter().flatten() {
            shown.insert(format!("is {}", own["subject_alt_names"]));
        }
    }
    Ok(shown)
}

/// The names of the secrets Envoy holds.
async fn secrets(pod: &Pod) -> Result<BTreeSet<String>> {
    let dump = pod.envoy().await?.config_dump().await?;
    let configs = dump["configs"].as_array().context("no configs")?;
    let secrets = configs
        .iter()
        .filter_map(|config| config["dynamic_active_secrets"].as_array())
        .flatten();
    Ok(secrets
        .filter_map(|secret| secret["name"].as_str())
        .map(str::to_owned)
        .collect())
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

/// Fails unless both pods have the same secrets, the same identity and the same roots.
pub(crate) async fn ensure_same_identity(one: &Pod, other: &Pod) -> Result<()> {
    let (own, others) = (secrets(one).await?, secrets(other).await?);
    ensure!(
        own.len() >= 2 && own == others,
        "secrets: {own:?} and {others:?}"
    );
    let (own, others) = (identities(one).await?, identities(other).await?);
    ensure!(
        own.iter().any(|line| line.contains(&one.spiffe_id())),
        "{own:?}"
    );
    ensure!(own.iter().any(|line| line.starts_with("trusts")), "{own:?}");
    ensure!(own == others, "{own:?} and {others:?}");
    Ok(())
}
