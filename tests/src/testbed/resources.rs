//! Any Kubernetes or Istio resource, from YAML: server-side apply and delete through the dynamic API.

use std::collections::HashMap;

use anyhow::{Context, Result};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind};
use parking_lot::Mutex;
use serde::Deserialize;

const FIELD_MANAGER: &str = "testbed";

/// Applies and deletes; remembers what the API server said about each kind.
pub struct Resources {
    client: Client,
    kinds: Mutex<HashMap<GroupVersionKind, (ApiResource, ApiCapabilities)>>,
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resources").finish_non_exhaustive()
    }
}

impl Resources {
    /// Wraps an administrator's client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: Mutex::default(),
        }
    }

    /// The client itself, for what has a typed API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Applies every document of `yaml`; those of a namespaced kind that name no namespace go to `namespace`. Gives
    /// back what the API server made of them.
    ///
    /// # Errors
    /// When a document is not a resource or the API server (or istiod's validation) refuses it.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> Result<Vec<DynamicObject>> {
        let mut applied = Vec::new();
        for object in parse(yaml)? {
            let api = self.api(namespace, &object).await?;
            let name = object
                .metadata
                .name
                .as_deref()
                .context("a resource without a name")?;
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let what = format!(
                "{} {name}",
                object.types.as_ref().map_or("?", |types| &types.kind)
            );
            applied.push(
                api.patch(name, &params, &Patch::Apply(&object))
                    .await
                    .context(what)?,
            );
        }
        Ok(applied)
    }

    /// Deletes every resource that `yaml` names, at once and for good. One that is not there is fine.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, namespace: &str, yaml: &str) -> Result<Vec<DynamicObject>> {
        let objects = parse(yaml)?;
        for object in &objects {
            let api = self.api(namespace, object).await?;
            let name = object
                .metadata
                .name
                .as_deref()
                .context("a resource without a name")?;
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            match api.delete(name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).with_context(|| format!("deleting {name}")),
            }
        }
        Ok(objects)
    }

    async fn api(&self, namespace: &str, object: &DynamicObject) -> Result<Api<DynamicObject>> {
        let types = object
            .types
            .as_ref()
            .context("a resource without apiVersion and kind")?;
        let kind = GroupVersionKind::try_from(types)?;
        let known = self.kinds.lock().get(&kind).cloned();
        let (resource, capabilities) = match known {
            Some(known) => known,
            None => {
                let found = pinned_kind(&self.client, &kind)
                    .await
                    .with_context(|| format!("{kind:?}"))?;
                self.kinds.lock().insert(kind, found.clone());
                found
            }
        };
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => {
                let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
        })
    }
}

pub(super) fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let value = serde_json::Value::deserialize(document).context("not YAML")?;
        if !value.is_null() {
            objects.push(serde_json::from_value(value).context("not a Kubernetes resource")?);
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_stream_of_documents_may_have_empty_ones() {
        let yaml = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n";
        let names: Vec<_> = parse(yaml)
            .unwrap()
            .into_iter()
            .map(|object| object.metadata.name.unwrap())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_is_no_resource_is_refused() {
        assert!(parse("just: [a, list").is_err());
        assert!(parse("- 1\n- 2\n").is_err());
    }
}
