//! What is wanted, as the resources that are written. The same spec gives the same bytes: nothing here depends on time.

pub mod envoyfilter;
pub mod sidecar;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::mesh::Name;
use crate::mesh::object::Labels;
use crate::mesh::sidecar::MANAGED_BY;

/// The label on a Sidecar that tells whose it is: the hash of the record's name.
pub const WORKLOAD_LABEL: &str = "lazymesh.dev/workload";
/// The annotation on a Sidecar that tells where its hosts come from.
pub const WHY_ANNOTATION: &str = "lazymesh.dev/why";

fn metadata(name: &Name, more_labels: &[(&str, String)]) -> Value {
    let mut labels = Map::new();
    labels.insert(MANAGED_BY.0.to_owned(), json!(MANAGED_BY.1));
    for (key, value) in more_labels {
        labels.insert((*key).to_owned(), json!(value));
    }
    json!({"name": name.name, "namespace": name.namespace, "labels": labels})
}

fn selector(labels: &Labels) -> Value {
    json!({ "labels": labels })
}
