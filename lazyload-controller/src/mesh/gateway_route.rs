//! Routes of Gateway API that hold for sidecars: those with a Service or a ServiceEntry for a parent.

use std::collections::BTreeSet;

use kube::core::DynamicObject;
use serde::Deserialize;

use super::object::{Name, part};
use super::route::Route;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    parent_refs: Vec<Reference>,
    rules: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    backend_refs: Vec<Reference>,
    filters: Vec<Filter>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Filter {
    request_mirror: Option<Mirror>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mirror {
    backend_ref: Reference,
}

/// A reference of either sort; the filters are a backend's own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Reference {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    filters: Vec<Filter>,
}

pub(super) fn read(object: &DynamicObject, cluster_domain: &str) -> Result<Route, String> {
    let spec: Spec = part(object, "spec")?;
    let home = Name::of(&object.metadata).namespace;
    let mut hosts = Vec::new();
    let mut entries = Vec::new();
    for parent in &spec.parent_refs {
        let namespace = parent.namespace.as_deref().unwrap_or(&home);
        // The defaults are those of a parent: a Gateway.
        match (parent.group.as_deref(), parent.kind.as_deref()) {
            (Some("" | "core"), Some("Service")) => {
                hosts.push(service_host(&parent.name, namespace, cluster_domain));
            }
            (Some("networking.istio.io"), Some("ServiceEntry")) => {
                entries.push(Name::new(namespace, &parent.name));
            }
            _ => {}
        }
    }
    let mirrors = |filters: &'_ [Filter]| -> Vec<String> {
        filters
            .iter()
            .filter_map(|filter| filter.request_mirror.as_ref())
            .filter_map(|mirror| backend(&mirror.backend_ref, &home, cluster_domain))
            .collect()
    };
    let mut destinations = BTreeSet::new();
    for rule in &spec.rules {
        destinations.extend(mirrors(&rule.filters));
        for reference in &rule.backend_refs {
            destinations.extend(backend(reference, &home, cluster_domain));
            destinations.extend(mirrors(&reference.filters));
        }
    }
    Ok(Route {
        mesh: !hosts.is_empty() || !entries.is_empty(),
        namespace: home,
        hosts,
        entries,
        of_gateway_api: true,
        export_to: Vec::new(),
        destinations,
        delegates: BTreeSet::new(),
        asks_who_calls: false,
    })
}

fn service_host(name: &str, namespace: &str, cluster_domain: &str) -> String {
    format!("{name}.{namespace}.svc.{cluster_domain}")
}

/// The host of a backend (istiod's `buildDestination`); `None` for kinds that sidecars are not given.
fn backend(reference: &Reference, home: &str, cluster_domain: &str) -> Option<String> {
    if reference.name.is_empty() {
        return None;
    }
    let namespace = reference.namespace.as_deref().unwrap_or(home);
    let group = reference.group.as_deref().unwrap_or_default();
    match (group, reference.kind.as_deref().unwrap_or("Service")) {
        ("" | "core", "Service") | ("multicluster.x-k8s.io", "ServiceImport") => {
            Some(service_host(&reference.name, namespace, cluster_domain))
        }
        ("networking.istio.io", "Hostname") => Some(reference.name.to_ascii_lowercase()),
        _ => None,
    }
}
