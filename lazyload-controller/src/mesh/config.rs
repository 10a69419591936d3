//! Istio's mesh config and Kubernetes' service address ranges: the few fields that matter here.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use super::object::{Labels, Name, part, selects};

/// What of Istio's mesh config decides about Sidecars.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshConfig {
    /// The ConfigMap it came from; absent while Istio's defaults are assumed.
    pub name: Option<Name>,
    /// Where mesh-wide resources are.
    pub root_namespace: String,
    /// The trust domain of the mesh's identities and its other names.
    pub trust_domains: BTreeSet<String>,
    /// Who sees a service that does not say.
    pub default_service_export_to: Vec<String>,
    /// Who sees a VirtualService that does not say.
    pub default_route_export_to: Vec<String>,
    /// Namespaces that match any of these are istiod's; all are if there are none.
    pub discovery_selectors: Vec<Selector>,
    /// Services that proxies call for the mesh: tracing, access logs, authorization and the like.
    /// Each is a host, or `namespace/host`.
    pub providers: BTreeSet<String>,
}

/// A label selector.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    match_labels: Labels,
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
struct Expression {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Selector {
    /// Whether labels match.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let holds = |expression: &Expression| {
            let value = labels.get(&expression.key);
            let among = value.is_some_and(|value| expression.values.contains(value));
            match expression.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                // Kubernetes has no other operator; what cannot be understood selects nothing.
                _ => false,
            }
        };
        selects(&self.match_labels, labels) && self.match_expressions.iter().all(holds)
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            name: None,
            root_namespace: "istio-system".to_owned(),
            trust_domains: BTreeSet::from(["cluster.local".to_owned()]),
            default_service_export_to: vec!["*".to_owned()],
            default_route_export_to: vec!["*".to_owned()],
            discovery_selectors: Vec::new(),
            providers: BTreeSet::new(),
        }
    }
}

impl MeshConfig {
    /// Whether istiod looks at a namespace with these labels.
    #[must_use]
    pub fn discovers(&self, labels: &Labels) -> bool {
        self.discovery_selectors.is_empty()
            || self
                .discovery_selectors
                .iter()
                .any(|selector| selector.matches(labels))
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    root_namespace: Option<String>,
    trust_domain: Option<String>,
    trust_domain_aliases: Vec<String>,
    default_service_export_to: Option<Vec<String>>,
    default_virtual_service_export_to: Option<Vec<String>>,
    discovery_selectors: Vec<Selector>,
    extension_providers: Vec<BTreeMap<String, Value>>,
    outbound_traffic_policy: OutboundTrafficPolicy,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OutboundTrafficPolicy {
    egress_proxy: EgressProxy,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EgressProxy {
    host: Option<String>,
}

/// Reads the key `mesh` of the ConfigMap.
pub(super) fn read(name: &Name, object: &DynamicObject) -> Result<MeshConfig, String> {
    let data: BTreeMap<String, String> = part(object, "data")?;
    let Some(mesh) = data.get("mesh") else {
        return Err("it has no key \"mesh\"".to_owned());
    };
    let raw: Option<Raw> = serde_yaml_ng::from_str(mesh).map_err(|error| error.to_string())?;
    let raw = raw.unwrap_or_default();
    let default = MeshConfig::default();
    let mut trust_domains: BTreeSet<String> = raw.trust_domain_aliases.into_iter().collect();
    trust_domains.insert(raw.trust_domain.unwrap_or_else(|| "cluster.local".into()));
    let mut providers: BTreeSet<String> = raw
        .extension_providers
        .iter()
        .flat_map(|provider| provider.values())
        .filter_map(|provider| provider.get("service")?.as_str())
        .map(str::to_ascii_lowercase)
        .collect();
    providers.extend(raw.outbound_traffic_policy.egress_proxy.host);
    Ok(MeshConfig {
        name: Some(name.clone()),
        root_namespace: raw
            .root_namespace
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or(default.root_namespace),
        trust_domains,
        default_service_export_to: raw
            .default_service_export_to
            .unwrap_or(default.default_service_export_to),
        default_route_export_to: raw
            .default_virtual_service_export_to
            .unwrap_or(default.default_route_export_to),
        discovery_selectors: raw.discovery_selectors,
        providers,
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CidrSpec {
    cidrs: Vec<IpNet>,
}

pub(super) fn read_cidrs(object: &DynamicObject) -> Result<Vec<IpNet>, String> {
    let spec: CidrSpec = part(object, "spec")?;
    Ok(spec.cidrs.iter().map(IpNet::trunc).collect())
}
