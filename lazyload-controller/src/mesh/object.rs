//! What all objects have in common, and how their fields are read.

use std::collections::BTreeMap;
use std::fmt;

use dependency_graph::Timestamp;
use kube::core::{DynamicObject, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The longest list of a field that is read, such as the hosts of one ServiceEntry.
const LONGEST_REASON: usize = 300;

/// A namespace and a name. The namespace is empty for what has none.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

impl Name {
    /// A namespace and a name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// A name without a namespace.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        Self::new("", name)
    }

    /// The name in an object's metadata.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Labels, sorted.
pub type Labels = BTreeMap<String, String>;

/// Whether all of `selector` is among `labels`. An empty selector selects all.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn labels(object: &DynamicObject) -> Labels {
    object.metadata.labels.clone().unwrap_or_default()
}

pub(super) fn annotation<'a>(object: &'a DynamicObject, key: &str) -> Option<&'a str> {
    let all = object.metadata.annotations.as_ref()?;
    all.get(key).map(String::as_str)
}

/// When it was made, to the second.
pub(super) fn created(object: &DynamicObject) -> Timestamp {
    let seconds = object
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.as_second());
    Timestamp::from_seconds(
        seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .unwrap_or_default(),
    )
}

/// One part of an object, such as its `spec`, read; what is absent reads as if it were empty.
///
/// # Errors
/// When a field has another type than it should.
pub(super) fn part<T: DeserializeOwned>(object: &DynamicObject, field: &str) -> Result<T, String> {
    let value = object.data.get(field).cloned().unwrap_or(Value::Null);
    let value = match without_nulls(value) {
        Value::Null => Value::Object(serde_json::Map::new()),
        value => value,
    };
    read(value).map_err(|fault| format!("{field}: {fault}"))
}

/// Reads a value; what it says of a fault is bounded.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value)
        .map_err(|error| error.to_string().chars().take(LONGEST_REASON).collect())
}

/// A field that is null is one that is absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The comma-separated names of an annotation.
pub(super) fn list(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A name without dots is one of the own namespace (Istio's `ResolveShortnameToFQDN`).
pub(super) fn full_name(host: &str, namespace: &str, cluster_domain: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host == "*" || host.contains('.') || host.contains(':') {
        return host;
    }
    format!("{host}.{namespace}.svc.{cluster_domain}")
}
