//! Who a proxy is, as its node says: what decides which Sidecar and which EnvoyFilters hold for it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use xds_shim::envoy::config::core::v3::Node;
use xds_shim::envoy::google::protobuf::value::Kind;

/// A proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proxy {
    /// The namespace of its pod.
    pub namespace: String,
    /// The labels of its pod.
    pub labels: BTreeMap<String, String>,
    /// The address of its pod, by which istiod knows what it serves.
    pub address: Option<Ipv4Addr>,
}

impl Proxy {
    /// One of which nothing but its namespace matters.
    pub fn in_namespace(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..Self::default()
        }
    }

    /// Reads a sidecar's node: its id is `sidecar~IP~POD.NAMESPACE~DOMAIN`, and the labels are in its metadata.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let mut parts = node.id.split('~').skip(1);
        let address = parts.next()?.parse().ok();
        let (_, namespace) = parts.next()?.rsplit_once('.')?;
        let metadata = node.metadata.as_ref();
        let labels = metadata.and_then(|all| all.fields.get("LABELS")?.kind.as_ref());
        let labels = match labels {
            Some(Kind::StructValue(labels)) => labels.fields.iter(),
            _ => Default::default(),
        };
        let text = |kind: &Kind| match kind {
            Kind::StringValue(text) => Some(text.clone()),
            _ => None,
        };
        Some(Self {
            namespace: namespace.to_owned(),
            labels: labels
                .filter_map(|(key, value)| Some((key.clone(), text(value.kind.as_ref()?)?)))
                .collect(),
            address,
        })
    }

    /// Whether all of a selector is among its labels.
    pub(super) fn is_selected(&self, selector: &BTreeMap<String, String>) -> bool {
        selector
            .iter()
            .all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::wire::{fields, object, text};

    fn proxy(id: &str) -> Option<Proxy> {
        Proxy::of(&Node {
            id: id.to_owned(),
            metadata: Some(fields([(
                "LABELS",
                object(fields([
                    ("app", text("client")),
                    ("no-text", object(fields([]))),
                ])),
            )])),
            ..Default::default()
        })
    }

    #[test]
    fn the_namespace_is_behind_the_last_dot_of_the_pod() {
        let proxy = proxy("sidecar~10.0.0.1~a.b.shop~shop.svc.cluster.local").unwrap();
        assert_eq!(proxy.namespace, "shop");
        assert_eq!(proxy.address, Some(Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn a_node_that_is_no_sidecar_s_is_nobody() {
        assert_eq!(proxy("sidecar~10.0.0.1"), None);
        assert_eq!(proxy("sidecar~10.0.0.1~pod~x"), None);
    }

    #[test]
    fn labels_select() {
        let proxy = proxy("sidecar~10.0.0.1~a.shop~").unwrap();
        let selected = |key: &str, value: &str| {
            proxy.is_selected(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        assert!(selected("app", "client") && !selected("app", "other") && !selected("x", ""));
        assert!(proxy.is_selected(&BTreeMap::new()));
    }
}
