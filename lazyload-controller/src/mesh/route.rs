//! Rules that send a call elsewhere than to the host it names: VirtualServices and, read by [`super::gateway_route`],
//! routes of Gateway API.

use std::collections::BTreeSet;

use kube::core::DynamicObject;
use serde::Deserialize;

use super::object::{Name, full_name, part};

/// A VirtualService, or a route of Gateway API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// Its namespace: the one by which an egress host selects it.
    pub namespace: String,
    /// The full names, or wildcards, it holds for. None: others delegate to it.
    pub hosts: Vec<String>,
    /// Parents of kind ServiceEntry: it holds for their hosts as well.
    pub entries: Vec<Name>,
    /// Whether wildcards match only as those of Gateway API do: an egress host must cover all of them.
    pub of_gateway_api: bool,
    /// Whether it holds for sidecars, not for gateways only.
    pub mesh: bool,
    /// `exportTo`; empty if it does not say.
    pub export_to: Vec<String>,
    /// The full names of all it may send calls to, mirrors too.
    pub destinations: BTreeSet<String>,
    /// The VirtualServices it delegates to.
    pub delegates: BTreeSet<Name>,
    /// Whether it asks who calls (`sourceLabels`, `sourceNamespace`): relayed by another, a call would go elsewhere.
    pub asks_who_calls: bool,
}

/// The gateway that stands for all sidecars.
const MESH: &str = "mesh";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    hosts: Vec<String>,
    gateways: Vec<String>,
    export_to: Vec<String>,
    http: Vec<Rule>,
    tcp: Vec<Rule>,
    tls: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rule {
    r#match: Vec<Match>,
    route: Vec<Weighted>,
    mirror: Option<Destination>,
    mirrors: Vec<Weighted>,
    delegate: Option<Delegate>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Match {
    source_labels: std::collections::BTreeMap<String, String>,
    source_namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Weighted {
    destination: Option<Destination>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Destination {
    host: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delegate {
    name: String,
    namespace: String,
}

pub(super) fn read(object: &DynamicObject, cluster_domain: &str) -> Result<Route, String> {
    let spec: Spec = part(object, "spec")?;
    let name = Name::of(&object.metadata);
    let full = |host: &str| full_name(host, &name.namespace, cluster_domain);
    let rules = || spec.http.iter().chain(&spec.tcp).chain(&spec.tls);
    let destinations = rules().flat_map(|rule| {
        let weighted = rule.route.iter().chain(&rule.mirrors);
        let weighted = weighted.filter_map(|weighted| weighted.destination.as_ref());
        weighted.chain(&rule.mirror)
    });
    let delegates = spec.http.iter().filter_map(|rule| rule.delegate.as_ref());
    Ok(Route {
        hosts: spec.hosts.iter().map(|host| full(host)).collect(),
        entries: Vec::new(),
        of_gateway_api: false,
        mesh: spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == MESH),
        export_to: spec.export_to.clone(),
        destinations: destinations
            .filter(|destination| !destination.host.is_empty())
            .map(|destination| full(&destination.host))
            .collect(),
        delegates: delegates
            .map(|delegate| {
                let namespace = match delegate.namespace.as_str() {
                    "" => &name.namespace,
                    namespace => namespace,
                };
                Name::new(namespace, &delegate.name)
            })
            .collect(),
        asks_who_calls: rules()
            .flat_map(|rule| &rule.r#match)
            .any(|m| !m.source_labels.is_empty() || !m.source_namespace.is_empty()),
        namespace: name.namespace.clone(),
    })
}
