//! A Sidecar: which services a proxy gets, and which of them only as clusters.

use super::Selector;
use crate::embedded::shape::Service;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A Sidecar's egress listeners, as far as they differ in what they bring.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::embedded) struct Sidecar {
    /// The labels of the pods it is for; without, it is for its namespace.
    pub(in crate::embedded) selector: Option<BTreeMap<String, String>>,
    /// Of the listener for all ports: clusters, listeners and routes.
    pub(in crate::embedded) given: Scope,
    /// Of a proxy's listener on a port of its own. Nothing is captured for that port, so what comes with it is never
    /// reached, and left out here; the clusters of its hosts come all the same.
    pub(in crate::embedded) announced: Scope,
}

/// Some of the mesh's services.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::embedded) struct Scope {
    /// `namespace/host`.
    hosts: BTreeSet<String>,
    /// A namespace, or `*` for any, and how the hosts end.
    wildcards: BTreeSet<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    workload_selector: Option<Selector>,
    /// Every address outside of services is a server of the demo's own: what is done with others does not show.
    #[serde(rename = "outboundTrafficPolicy")]
    _outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    #[serde(default)]
    egress: Vec<Egress>,
}

/// Of the global proxy's own Sidecar.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboundTrafficPolicy {
    #[serde(rename = "mode")]
    _mode: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Egress {
    hosts: Vec<String>,
    port: Option<Port>,
    bind: Option<String>,
    capture_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    #[allow(dead_code)] // it must be there, and nothing is sent to it
    number: u16,
    protocol: String,
    #[allow(dead_code)] // a name for people
    name: String,
}

impl Sidecar {
    pub(super) fn read(spec: Spec) -> Result<Self, String> {
        let mut sidecar = Self {
            selector: spec.workload_selector.map(|selector| selector.labels),
            given: Scope::default(),
            announced: Scope::default(),
        };
        for listener in spec.egress {
            let captured = listener.capture_mode.as_deref();
            let scope = match (&listener.port, listener.bind.as_deref(), captured) {
                (None, None, None) => &mut sidecar.given,
                (Some(port), Some("127.0.0.1"), Some("IPTABLES"))
                    if port.protocol == "HTTP_PROXY" =>
                {
                    &mut sidecar.announced
                }
                _ => return Err("only a listener for all ports, and a proxy's one on loopback that is not bound, are understood".to_owned()),
            };
            for host in listener.hosts {
                scope.add(host)?;
            }
        }
        Ok(sidecar)
    }
}

impl Scope {
    fn add(&mut self, host: String) -> Result<(), String> {
        match host.split_once('/') {
            Some(("~", "*")) => {}
            Some((namespace, name)) if namespace != "." => match name.strip_prefix('*') {
                Some(end) => _ = self.wildcards.insert((namespace.into(), end.into())),
                None => _ = self.hosts.insert(host),
            },
            _ => return Err(format!("{host}: not of the form namespace/host")),
        }
        Ok(())
    }

    /// Whether a service is among them.
    pub(in crate::embedded) fn has(&self, service: &Service) -> bool {
        let (namespace, host) = (&service.namespace, service.host());
        let wild = |(of, end): &(String, String)| {
            (of == "*" || of == namespace) && host.ends_with(end.as_str())
        };
        self.hosts.contains(&format!("{namespace}/{host}")) || self.wildcards.iter().any(wild)
    }
}
