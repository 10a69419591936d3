//! Who a proxy says it is: what the shim reads from `Node`, the first message of a stream.
//!
//! It decides about that proxy's own config only. What istiod gives is bound to the token on the
//! stream, which istiod checks against the same node.

use crate::envoy::config::core::v3 as core;
use crate::envoy::google::protobuf::{Struct, value::Kind};
use dependency_graph::Workload;
use prost::Message;

/// The label on a pod template that overrides its namespace's mode.
pub const MODE_LABEL: &str = "lazymesh.dev/mode";

/// What the shim knows of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// `Node.id`: `TYPE~IP~POD.NAMESPACE~DOMAIN`.
    pub id: String,
    /// The first part of the id: `sidecar`, `router`, `waypoint`, `ztunnel`.
    pub role: String,
    /// Metadata `NAMESPACE`, or the namespace in the id.
    pub namespace: Option<String>,
    /// The owner of the pod, from metadata `OWNER`; `None` when it does not tell.
    pub workload: Option<Workload>,
    /// Envoy's version as it reports it: major, minor, patch.
    pub envoy: Option<(u32, u32, u32)>,
    /// Whether Envoy lists the on-demand filter among its extensions; `None` when it lists none.
    pub has_on_demand: Option<bool>,
    /// The pod's own label [`MODE_LABEL`].
    pub mode_label: Option<String>,
}

impl Proxy {
    /// Reads an encoded `Node`. What cannot be read is left out: such a proxy is not made lazy.
    pub fn decode(node: &[u8]) -> Self {
        let Ok(node) = core::Node::decode(node) else {
            return Self::default();
        };
        let metadata = node.metadata.as_ref();
        let mut parts = node.id.split('~');
        let role = parts.next().unwrap_or_default().to_owned();
        let in_id = parts
            .nth(1)
            .and_then(|pod| pod.rsplit_once('.'))
            .map(|(_, ns)| ns.to_owned());
        let namespace = metadata
            .and_then(|m| string(m, "NAMESPACE"))
            .map(str::to_owned)
            .or(in_id);
        let owner = metadata.and_then(|m| string(m, "OWNER"));
        Self {
            role,
            workload: owner
                .and_then(workload_of_owner)
                .filter(|w| Some(w.namespace()) == namespace.as_deref()),
            namespace,
            envoy: version(&node),
            has_on_demand: has_on_demand(&node),
            mode_label: metadata
                .and_then(|m| structure(m, "LABELS"))
                .and_then(|labels| string(labels, MODE_LABEL))
                .map(str::to_owned),
            id: node.id,
        }
    }
}

fn string<'a>(fields: &'a Struct, key: &str) -> Option<&'a str> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(value) => Some(value),
        _ => None,
    }
}

fn structure<'a>(fields: &'a Struct, key: &str) -> Option<&'a Struct> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::StructValue(value) => Some(value),
        _ => None,
    }
}

fn version(node: &core::Node) -> Option<(u32, u32, u32)> {
    match node.user_agent_version_type.as_ref()? {
        core::node::UserAgentVersionType::UserAgentBuildVersion(build) => build
            .version
            .as_ref()
            .map(|v| (v.major_number, v.minor_number, v.patch)),
        core::node::UserAgentVersionType::UserAgentVersion(_) => None,
    }
}

fn has_on_demand(node: &core::Node) -> Option<bool> {
    (!node.extensions.is_empty()).then(|| {
        node.extensions
            .iter()
            .any(|e| e.name == crate::listener::ON_DEMAND_FILTER)
    })
}

/// The workload in `OWNER`, as Istio's injector writes it:
/// `kubernetes://apis/apps/v1/namespaces/shop/deployments/cart` (pkg/kube/inject/webhook.go).
fn workload_of_owner(owner: &str) -> Option<Workload> {
    let path = owner.strip_prefix("kubernetes://")?;
    let mut parts = path.rsplit('/');
    let (name, plural, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next()? != "namespaces" {
        return None;
    }
    Workload::new(namespace, &kind_of(plural), name).ok()
}

/// The kind that a plural of the Kubernetes API stands for. Of kinds we do not know (an Argo
/// `rollouts`) the guess need not be right, only always the same.
fn kind_of(plural: &str) -> String {
    match plural {
        "statefulsets" => "StatefulSet".into(),
        "daemonsets" => "DaemonSet".into(),
        "replicasets" => "ReplicaSet".into(),
        "replicationcontrollers" => "ReplicationController".into(),
        "cronjobs" => "CronJob".into(),
        other => {
            let singular = other.strip_suffix('s').unwrap_or(other);
            let (head, tail) = singular.split_at_checked(1).unwrap_or((singular, ""));
            head.to_ascii_uppercase() + tail
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::google::protobuf::Value;
    use std::collections::HashMap;

    fn text(value: &str) -> Value {
        Value {
            kind: Some(Kind::StringValue(value.into())),
        }
    }

    fn node(id: &str, metadata: &[(&str, Value)]) -> core::Node {
        let fields: HashMap<_, _> = metadata
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect();
        core::Node {
            id: id.into(),
            metadata: Some(Struct { fields }),
            ..Default::default()
        }
    }

    const ID: &str = "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local";

    #[test]
    fn reads_what_the_injector_writes() {
        let labels = Struct {
            fields: [(MODE_LABEL.to_owned(), text("off"))].into(),
        };
        let mut node = node(
            ID,
            &[
                ("NAMESPACE", text("shop")),
                (
                    "OWNER",
                    text("kubernetes://apis/apps/v1/namespaces/shop/deployments/cart"),
                ),
                (
                    "LABELS",
                    Value {
                        kind: Some(Kind::StructValue(labels)),
                    },
                ),
            ],
        );
        node.user_agent_version_type = Some(
            core::node::UserAgentVersionType::UserAgentBuildVersion(core::BuildVersion {
                version: Some(crate::envoy::r#type::v3::SemanticVersion {
                    major_number: 1,
                    minor_number: 40,
                    patch: 0,
                }),
                metadata: None,
            }),
        );
        let proxy = Proxy::decode(&node.encode_to_vec());
        assert_eq!(proxy.role, "sidecar");
        assert_eq!(proxy.namespace.as_deref(), Some("shop"));
        assert_eq!(
            proxy.workload,
            Some(Workload::new("shop", "Deployment", "cart").unwrap())
        );
        assert_eq!(proxy.envoy, Some((1, 40, 0)));
        assert_eq!(proxy.mode_label.as_deref(), Some("off"));
        assert_eq!(proxy.has_on_demand, None);
    }

    #[test]
    fn core_groups_and_unknown_kinds_are_workloads_too() {
        let workload = |owner| workload_of_owner(owner).map(|w| w.to_string());
        assert_eq!(
            workload("kubernetes://apis/v1/namespaces/shop/pods/one").as_deref(),
            Some("shop/one")
        );
        assert!(
            workload("kubernetes://apis/argoproj.io/v1alpha1/namespaces/a/widgets/b").is_some()
        );
        for bad in [
            "",
            "kubernetes://",
            "shop/cart",
            "kubernetes://apis/v1/nodes/one",
            "x://a/namespaces/b/pods/c",
        ] {
            assert_eq!(workload(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_owner_in_another_namespace_is_not_believed() {
        let owner = (
            "OWNER",
            text("kubernetes://apis/apps/v1/namespaces/bank/deployments/vault"),
        );
        let proxy = Proxy::decode(&node(ID, &[owner]).encode_to_vec());
        assert_eq!(
            (proxy.workload, proxy.namespace.as_deref()),
            (None, Some("shop"))
        );
    }

    #[test]
    fn nonsense_is_nobody() {
        assert_eq!(Proxy::decode(&[0xff, 0xff]), Proxy::default());
        assert_eq!(
            Proxy::decode(&core::Node::default().encode_to_vec()).workload,
            None
        );
    }
}
