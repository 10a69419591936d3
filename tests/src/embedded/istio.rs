//! Istio's resources as far as Lazymesh writes them and its global proxy needs them: Sidecar, EnvoyFilter and
//! DestinationRule, read from YAML.
//!
//! Strict: a field that is not acted on is an error, so that nothing Lazymesh writes is silently left out here.

mod filter;
mod patch;
mod rule;
mod sidecar;

pub(super) use filter::{Filter, Patch};
pub use rule::PortSettings;
pub(super) use sidecar::Sidecar;

use super::proxy::Proxy;
use rule::Rule;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A document that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {namespace}/{name}: {reason}")]
pub struct Error {
    kind: String,
    namespace: String,
    name: String,
    reason: String,
}

/// Where an object is from: of two that hold for a proxy, the older one comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    created: String,
    name: String,
    namespace: String,
}

/// All resources of a mesh that shape what its proxies get.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Documents {
    sidecars: BTreeMap<Key, Sidecar>,
    filters: BTreeMap<Key, Filter>,
    rules: BTreeMap<Key, Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    creation_timestamp: String,
}

/// `workloadSelector`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Selector {
    labels: BTreeMap<String, String>,
}

impl Documents {
    /// Reads the documents of some YAML. What is no config of Istio's is left alone.
    ///
    /// # Errors
    /// The first document that is not understood.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut all = Self::default();
        for document in texts
            .into_iter()
            .flat_map(serde_yaml_ng::Deserializer::from_str)
        {
            let object = Option::<Object>::deserialize(document);
            let object = object.map_err(|error| Object::default().fault(error.to_string()))?;
            if let Some(object) = object {
                all.add(&object)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, object: &Object) -> Result<(), Error> {
        if !object.api_version.starts_with("networking.istio.io/") {
            return Ok(());
        }
        let key = Key {
            created: object.metadata.creation_timestamp.clone(),
            name: object.metadata.name.clone(),
            namespace: object.metadata.namespace.clone(),
        };
        match object.kind.as_str() {
            "Sidecar" => {
                let sidecar = Sidecar::read(object.part()?);
                let sidecar = sidecar.map_err(|reason| object.fault(reason))?;
                self.sidecars.insert(key, sidecar);
            }
            "EnvoyFilter" => {
                let filter = Filter::read(object.part()?);
                let filter = filter.map_err(|reason| object.fault(reason))?;
                self.filters.insert(key, filter);
            }
            "DestinationRule" => {
                self.rules.insert(key, object.part()?);
            }
            _ => return Err(object.fault("this control plane does not know it".to_owned())),
        }
        Ok(())
    }

    /// Adds those of another.
    pub(super) fn extend(&mut self, other: Self) {
        self.sidecars.extend(other.sidecars);
        self.filters.extend(other.filters);
        self.rules.extend(other.rules);
    }

    /// The Sidecar that holds for a proxy: one that selects it before one of its namespace, the oldest of each.
    pub(super) fn sidecar(&self, proxy: &Proxy) -> Option<&Sidecar> {
        let here = |key: &&Key| key.namespace == proxy.namespace;
        let mut found = None;
        for (_, sidecar) in self.sidecars.iter().filter(|(key, _)| here(key)) {
            match &sidecar.selector {
                Some(selector) if proxy.is_selected(selector) => return Some(sidecar),
                None => found = found.or(Some(sidecar)),
                Some(_) => {}
            }
        }
        found
    }

    /// The EnvoyFilters that hold for a proxy, in the order they are applied.
    pub(super) fn filters(&self, proxy: &Proxy) -> Vec<&Filter> {
        let here = |key: &Key, filter: &Filter| {
            let selected = filter.selector.as_ref();
            key.namespace == proxy.namespace
                && selected.is_none_or(|selector| proxy.is_selected(selector))
        };
        let found = self
            .filters
            .iter()
            .filter(|(key, filter)| here(key, filter));
        let mut found: Vec<&Filter> = found.map(|(_, filter)| filter).collect();
        found.sort_by_key(|filter| filter.priority);
        found
    }

    /// What callers of a host's port are told about it.
    pub(super) fn settings(&self, host: &str, port: u16) -> Option<PortSettings> {
        let mut rules = self.rules.values().filter(|rule| rule.host == host);
        rules.find_map(|rule| rule.settings(port))
    }

    /// Whether callers are told the same as in `other`.
    pub(super) fn same_rules(&self, other: &Self) -> bool {
        self.rules == other.rules
    }

    /// The namespaces whose proxies may get something else than in `other`, rules aside.
    pub(super) fn changed(&self, other: &Self) -> BTreeSet<String> {
        fn differing<T: PartialEq>(
            one: &BTreeMap<Key, T>,
            other: &BTreeMap<Key, T>,
        ) -> Vec<String> {
            let missing = |a: &BTreeMap<Key, T>, b: &BTreeMap<Key, T>| {
                let only = a.iter().filter(|(key, value)| b.get(key) != Some(value));
                only.map(|(key, _)| key.namespace.clone())
                    .collect::<Vec<_>>()
            };
            [missing(one, other), missing(other, one)].concat()
        }
        let sidecars = differing(&self.sidecars, &other.sidecars);
        let filters = differing(&self.filters, &other.filters);
        sidecars.into_iter().chain(filters).collect()
    }
}

impl Object {
    fn part<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_value(self.spec.clone()).map_err(|error| self.fault(error.to_string()))
    }

    fn fault(&self, reason: String) -> Error {
        Error {
            kind: self.kind.clone(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests;
