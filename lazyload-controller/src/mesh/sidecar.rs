//! Sidecar and EnvoyFilter resources, ours and others'.

use dependency_graph::Timestamp;
use kube::core::{DynamicObject, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::object::{Labels, created, labels, part};

/// The label on everything Lazymesh makes, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "lazymesh");
/// How the name of everything begins that the controller makes in users' namespaces.
pub const PREFIX: &str = "lazymesh-";

/// Whether a Sidecar or an EnvoyFilter is ours: by its label and by its name, for who copies one of ours under a name of
/// their own copies the label too.
#[must_use]
pub fn is_ours(metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    let label = labels.and_then(|labels| labels.get(MANAGED_BY.0));
    let name = metadata.name.as_deref();
    label.map(String::as_str) == Some(MANAGED_BY.1)
        && name.is_some_and(|name| name.starts_with(PREFIX))
}

/// A Sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// What there is of it, if it is ours.
    pub ours: Option<Made>,
    /// When it was made. Of two that select a pod the older one holds.
    pub created: Timestamp,
    /// The labels of the pods it is for; without, it is for its namespace.
    pub selector: Option<Labels>,
    /// Its egress listeners; of one of ours only `ours` has them.
    pub egress: Vec<Egress>,
    /// Whether it says which ports the workload serves.
    pub has_ingress: bool,
    /// `outboundTrafficPolicy`, as it stands.
    pub outbound_traffic_policy: Option<Value>,
    /// `inboundConnectionPool`, as it stands.
    pub inbound_connection_pool: Option<Value>,
}

/// An egress listener of a Sidecar.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Egress {
    /// `namespace/host`, either possibly a wildcard.
    pub hosts: Vec<String>,
    /// Whether it is for one port only, so that it is not the one for all.
    #[serde(deserialize_with = "is_there")]
    pub port: bool,
    /// Whether it is bound to an address of its own.
    #[serde(deserialize_with = "is_there")]
    pub bind: bool,
}

/// An EnvoyFilter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// What there is of it, if it is ours.
    pub ours: Option<Made>,
}

/// An object of ours as it is in the cluster.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its uid: what is deleted must be this very object.
    pub uid: String,
    /// Its revision: what is changed must be as it was known when that was decided.
    pub revision: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// Its labels.
    pub labels: Labels,
    /// Its `spec`, as it stands.
    pub spec: Value,
}

/// The revision does not count: it changes with what is nothing to us.
impl PartialEq for Made {
    fn eq(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.created == other.created
            && self.labels == other.labels
            && self.spec == other.spec
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    workload_selector: Option<Selector>,
    egress: Vec<Egress>,
    ingress: Vec<Value>,
    outbound_traffic_policy: Option<Value>,
    inbound_connection_pool: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Selector {
    labels: Labels,
}

fn is_there<'de, D: serde::Deserializer<'de>>(field: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(field)?;
    Ok(!value.is_null() && value.as_str() != Some(""))
}

pub(super) fn read(object: &DynamicObject) -> Result<Sidecar, String> {
    let spec: Spec = part(object, "spec")?;
    let ours = made(object);
    Ok(Sidecar {
        created: created(object),
        selector: spec.workload_selector.map(|selector| selector.labels),
        egress: if ours.is_some() {
            Vec::new()
        } else {
            spec.egress
        },
        ours,
        has_ingress: !spec.ingress.is_empty(),
        outbound_traffic_policy: spec.outbound_traffic_policy,
        inbound_connection_pool: spec.inbound_connection_pool,
    })
}

pub(super) fn read_filter(object: &DynamicObject) -> Filter {
    Filter { ours: made(object) }
}

fn made(object: &DynamicObject) -> Option<Made> {
    if !is_ours(&object.metadata) {
        return None;
    }
    Some(Made {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        revision: object.metadata.resource_version.clone(),
        created: created(object),
        spec: object.data.get("spec").cloned().unwrap_or(Value::Null),
        labels: labels(object),
    })
}
