//! What a cluster's name and message tell: whether it can be held, for which service it stands, and
//! whether its endpoints come by EDS.

use crate::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use crate::envoy::google::protobuf::{Any, Duration};
use crate::envoy::service::discovery::v3::Resource;
use crate::wire::{self, Error};
use prost::Message;
use std::fmt;

/// The beginning of the names of clusters towards services: `outbound|PORT|SUBSET|HOST`.
pub const OUTBOUND: &str = "outbound|";

/// A service's port, the unit of admission: all its subsets are given together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// The full name istiod uses.
    pub host: Box<str>,
    /// Service port.
    pub port: u16,
}

impl ServicePort {
    /// For a host and a port.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// The name of its own cluster, the one of no subset.
    pub fn cluster(&self) -> String {
        format!("{OUTBOUND}{}||{}", self.port, self.host)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A name of the form `outbound|PORT|SUBSET|HOST`, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboundName<'a> {
    /// Service port.
    pub port: u16,
    /// Subset of a DestinationRule, mostly empty.
    pub subset: &'a str,
    /// The full name istiod uses.
    pub host: &'a str,
}

impl<'a> OutboundName<'a> {
    /// Takes a name apart; `None` for clusters that are never held (inbound and the special ones).
    pub fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.strip_prefix(OUTBOUND)?.splitn(3, '|');
        let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
        let port = port.parse().ok()?;
        (!host.is_empty()).then_some(Self { port, subset, host })
    }

    /// The unit it is admitted with.
    pub fn service_port(&self) -> ServicePort {
        ServicePort::new(self.host, self.port)
    }
}

/// Whether a cluster of this name may be held back.
pub fn is_holdable(name: &str) -> bool {
    OutboundName::parse(name).is_some()
}

/// The payload of the `Any` in an encoded `Resource` (discovery.proto: Resource.resource = 2,
/// Any.value = 2).
pub fn payload(resource: &[u8]) -> Result<&[u8], Error> {
    let any = wire::last(resource, 2)?.unwrap_or_default();
    Ok(wire::last(any, 2)?.unwrap_or_default())
}

/// The EDS name of an encoded `Resource` holding a cluster; `None` when its endpoints come in
/// another way. Field numbers: envoy/config/cluster/v3/cluster.proto (type = 2 with EDS = 3,
/// eds_cluster_config = 3 with service_name = 2, name = 1).
pub fn eds_name(resource: &[u8]) -> Result<Option<&str>, Error> {
    const EDS: u64 = 3;
    let cluster = payload(resource)?;
    if wire::varint(cluster, 2)? != EDS {
        return Ok(None);
    }
    let config = wire::last(cluster, 3)?.unwrap_or_default();
    match wire::string(config, 2)? {
        "" => wire::string(cluster, 1).map(Some),
        name => Ok(Some(name)),
    }
}

/// An encoded `Resource` holding a cluster of this name that has no endpoints, as istiod's own
/// BlackHoleCluster.
pub fn stand_in(name: &str) -> Vec<u8> {
    let cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: Some(Duration {
            seconds: 1,
            nanos: 0,
        }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        ..Cluster::default()
    };
    let any = Any {
        type_url: crate::ads::CDS.to_owned(),
        value: cluster.encode_to_vec(),
    };
    Resource {
        name: name.to_owned(),
        resource: Some(any),
        ..Resource::default()
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_apart() {
        let name = OutboundName::parse("outbound|80|v1|a.b.svc.cluster.local").unwrap();
        assert_eq!(
            (name.port, name.subset, name.host),
            (80, "v1", "a.b.svc.cluster.local")
        );
        assert_eq!(name.service_port().to_string(), "a.b.svc.cluster.local:80");
        assert_eq!(
            OutboundName::parse("outbound|443||*.example.com")
                .unwrap()
                .host,
            "*.example.com"
        );
    }

    #[test]
    fn special_clusters_are_not_holdable() {
        for name in [
            "inbound|80||",
            "BlackHoleCluster",
            "PassthroughCluster",
            "InboundPassthroughCluster",
            "outbound_.80_._.a.b.svc.cluster.local",
            "outbound|http||a",
            "outbound|80||",
            "outbound|99999||a",
            "xds-grpc",
        ] {
            assert!(!is_holdable(name), "{name}");
        }
    }
}
