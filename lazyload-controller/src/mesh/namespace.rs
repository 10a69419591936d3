//! A namespace: its labels and annotations.

use kube::core::DynamicObject;

use super::object::{Labels, labels};

/// A namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
    /// Those of its annotations that begin with `lazymesh.dev/`.
    pub annotations: Labels,
    /// Whether it is being deleted: nothing can be made in it any more.
    pub terminating: bool,
}

pub(super) fn read(object: &DynamicObject) -> Namespace {
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    Namespace {
        labels: labels(object),
        annotations: annotations
            .into_iter()
            .filter(|(key, _)| key.starts_with("lazymesh.dev/"))
            .collect(),
        terminating: object.metadata.deletion_timestamp.is_some(),
    }
}
