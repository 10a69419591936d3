//! What stands in a proxy's config for what is held: instead of thousands of virtual hosts and
//! listeners one each, which asks on demand under a name of ours.
//!
//! The names: `lazy|ROUTES|AUTHORITY` is what an HTTP request asks for that no virtual host of the
//! proxy's takes, AUTHORITY being whatever its client wrote. A service has many names, and what is
//! asked for is answered with a copy of its cluster under the name that was asked for. What a connection
//! asks for is in [`tcp`].

pub mod domains;
pub mod routes;
pub mod tcp;

use crate::envoy::config::core::v3::Metadata;
use crate::envoy::google::protobuf::{Struct, UInt32Value, Value, value};
use crate::wire::{self, Edit, Error};
use prost::Message;

/// The beginning of a name that stands for a request: `lazy|ROUTES|AUTHORITY`.
const REQUEST: &str = "lazy|";

/// The header that carries the name from where the request comes in to the route that picks the
/// cluster. It is written over whatever an application sent, and removed from what leaves.
pub const HEADER: &str = "x-lazymesh-cluster";

/// Where in a copy's metadata the operation is of which a server is told: namespace and key.
pub const OPERATION: (&str, &str) = ("lazymesh", "operation");

/// A name of ours, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// A request that no virtual host of the proxy's takes.
    Request {
        /// The route configuration it came to.
        routes: &'a str,
        /// Its `:authority`, as its client wrote it.
        authority: &'a str,
    },
    /// A connection whose listener is held.
    Connection(tcp::Asked),
}

impl<'a> Name<'a> {
    /// Takes a name apart; `None` for names that are not ours.
    pub fn parse(name: &'a str) -> Option<Self> {
        if let Some(asked) = tcp::Asked::parse(name) {
            return Some(Self::Connection(asked));
        }
        // Names of route configurations are istiod's: `80`, `http_proxy`, `host:port`, never with a bar.
        let (routes, authority) = name.strip_prefix(REQUEST)?.split_once('|')?;
        (!routes.is_empty()).then_some(Self::Request { routes, authority })
    }
}

/// What the header is set to, in Envoy's format language; `None` where the route configuration's name
/// does not fit into a name of ours.
pub fn header_value(routes: &str) -> Option<String> {
    let fits = !routes.is_empty() && !routes.contains('|');
    fits.then(|| format!("{REQUEST}{}|%REQ(:authority)%", routes.replace('%', "%%")))
}

/// A copy of a cluster, in its encoded `Resource`, under another name. Nothing is decoded: of a field
/// that occurs twice the last one counts (FACTS, trap 16). Statistics stay under the real name.
///
/// Field numbers: envoy/config/cluster/v3/cluster.proto (name = 1, type = 2, eds_cluster_config = 3 with
/// service_name = 2, alt_stat_name = 28),
/// envoy/service/discovery/v3/discovery.proto (Resource: resource = 2, name = 3).
///
/// # Errors
/// When the bytes are not such a message.
pub fn copy_cluster(resource: &[u8], name: &str) -> Result<Vec<u8>, Error> {
    copy_changed(resource, name, |cluster| Ok(cluster.to_vec()))
}

/// The same for a request, which tells its server of this operation; empty: of none.
///
/// Cluster: metadata = 25, a core.v3.Metadata, of which a second one in the bytes adds to the first.
///
/// # Errors
/// When the bytes are not such a message.
pub fn copy_for_request(resource: &[u8], name: &str, operation: &str) -> Result<Vec<u8>, Error> {
    if operation.is_empty() {
        return copy_cluster(resource, name);
    }
    let (namespace, key) = OPERATION;
    let value = Value {
        kind: Some(value::Kind::StringValue(operation.to_owned())),
    };
    let said = Struct {
        fields: [(key.to_owned(), value)].into(),
    };
    let metadata = Metadata {
        filter_metadata: [(namespace.to_owned(), said)].into(),
        ..Default::default()
    };
    let metadata = metadata.encode_to_vec();
    copy_changed(resource, name, |cluster| {
        let mut out = cluster.to_vec();
        wire::put_bytes(&mut out, 25, &metadata);
        Ok(out)
    })
}

/// The same for a request that is nobody's: without retries, since it came by a route that has some, and
/// the one for such requests has none.
///
/// Cluster: circuit_breakers = 10 with thresholds = 1 with max_retries = 5; what is not set there has a
/// bound of Envoy's own, so the others of the first are set to what istiod sets.
///
/// # Errors
/// When the bytes are not such a message.
pub fn copy_for_nobody(resource: &[u8], name: &str) -> Result<Vec<u8>, Error> {
    copy_changed(resource, name, |cluster| {
        let mut breakers = Vec::new();
        for given in wire::each(cluster, 10) {
            breakers.extend_from_slice(given?);
        }
        if wire::each(&breakers, 1).next().is_none() {
            wire::put_bytes(&mut breakers, 1, &unbounded());
        }
        let changed = wire::edit_each::<Error>(&breakers, 1, |thresholds| {
            let kept = wire::edit::<Error>(thresholds, |field| {
                Ok(if field.number == 5 {
                    Edit::Drop
                } else {
                    Edit::Keep
                })
            })?;
            let mut out = kept.unwrap_or_else(|| thresholds.to_vec());
            // A UInt32Value of 0.
            wire::put_bytes(&mut out, 5, &[]);
            Ok(Some(out))
        })?;
        let rest = wire::edit::<Error>(cluster, |field| {
            Ok(if field.number == 10 {
                Edit::Drop
            } else {
                Edit::Keep
            })
        })?;
        let mut out = rest.unwrap_or_else(|| cluster.to_vec());
        wire::put_bytes(&mut out, 10, changed.as_deref().unwrap_or(&breakers));
        Ok(out)
    })
}

/// Thresholds: max_connections = 2, max_pending_requests = 3, max_requests = 4.
fn unbounded() -> Vec<u8> {
    let most = UInt32Value { value: u32::MAX }.encode_to_vec();
    let mut out = Vec::new();
    for number in 2..=4 {
        wire::put_bytes(&mut out, number, &most);
    }
    out
}

fn copy_changed(
    resource: &[u8],
    name: &str,
    change: impl Fn(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let changed = wire::edit_each::<Error>(resource, 2, |any| {
        wire::edit_each(any, 2, |cluster| {
            let mut out = change(cluster)?;
            const EDS: u64 = 3;
            let eds = wire::last(cluster, 3)?.unwrap_or_default();
            if wire::varint(cluster, 2)? == EDS && wire::string(eds, 2)?.is_empty() {
                // Its endpoints go by the name, then; a message that occurs twice is one.
                let mut named = Vec::new();
                wire::put_string(&mut named, 2, wire::string(cluster, 1)?);
                wire::put_bytes(&mut out, 3, &named);
            }
            if wire::string(cluster, 28)?.is_empty() {
                wire::put_string(&mut out, 28, wire::string(cluster, 1)?);
            }
            wire::put_bytes(&mut out, 1, name.as_bytes());
            Ok(Some(out))
        })
    })?;
    let mut out = changed.unwrap_or_else(|| resource.to_vec());
    wire::put_bytes(&mut out, 3, name.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::google::protobuf::Any;
    use crate::envoy::service::discovery::v3::Resource;

    #[test]
    fn names_are_told_from_others() {
        let name = Name::parse("lazy|80|a.b:80").unwrap();
        let request = |routes, authority| Name::Request { routes, authority };
        assert_eq!(name, request("80", "a.b:80"));
        // An authority may hold anything.
        assert_eq!(Name::parse("lazy|80|a|b"), Some(request("80", "a|b")));
        let connection = Name::parse("lazytcp|80|10.0.0.1");
        assert!(matches!(connection, Some(Name::Connection(_))));
        assert!(Name::parse("lazy|80|").is_some());
        for other in [
            "lazy",
            "lazy|",
            "lazy|80",
            "lazy||a",
            "outbound|80||a",
            "Lazy|80|a",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_header_is_what_a_name_is_parsed_from() {
        assert_eq!(header_value("80").unwrap(), "lazy|80|%REQ(:authority)%");
        assert_eq!(header_value("a%b").unwrap(), "lazy|a%%b|%REQ(:authority)%");
        assert_eq!((header_value(""), header_value("a|b")), (None, None));
    }

    #[test]
    fn a_copy_differs_in_its_name() {
        let cluster = Cluster {
            name: "outbound|80||a".into(),
            ..Default::default()
        };
        let of = |cluster: &Cluster| Resource {
            name: cluster.name.clone(),
            resource: Some(Any {
                type_url: crate::ads::CDS.into(),
                value: cluster.encode_to_vec(),
            }),
            ..Default::default()
        };
        let copy = |cluster: &Cluster| {
            let raw = copy_cluster(&of(cluster).encode_to_vec(), "lazy|80|a").unwrap();
            let copy = Resource::decode(raw.as_slice()).unwrap();
            assert_eq!(copy.name, "lazy|80|a");
            Cluster::decode(copy.resource.unwrap().value.as_slice()).unwrap()
        };
        let expected = Cluster {
            name: "lazy|80|a".into(),
            alt_stat_name: "outbound|80||a".into(),
            ..Default::default()
        };
        assert_eq!(copy(&cluster), expected);
        let named = Cluster {
            alt_stat_name: "own".into(),
            ..cluster
        };
        assert_eq!(copy(&named).alt_stat_name, "own");
        assert!(copy_cluster(&[0xff], "x").is_err());
    }

    #[test]
    fn a_copy_for_nobody_does_not_retry() {
        use crate::envoy::config::cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds};
        let most = Some(UInt32Value { value: u32::MAX });
        let bounds = Thresholds {
            max_connections: most,
            max_pending_requests: most,
            max_requests: most,
            max_retries: most,
            ..Default::default()
        };
        let none = Thresholds {
            max_retries: Some(UInt32Value { value: 0 }),
            ..bounds
        };
        for given in [None, Some(bounds)] {
            let breakers = given.map(|b| CircuitBreakers {
                thresholds: vec![b],
                ..Default::default()
            });
            let cluster = Cluster {
                name: "a".into(),
                circuit_breakers: breakers,
                ..Default::default()
            };
            let any = Any {
                value: cluster.encode_to_vec(),
                ..Default::default()
            };
            let resource = Resource {
                resource: Some(any),
                ..Default::default()
            };
            let copy = copy_for_nobody(&resource.encode_to_vec(), "x").unwrap();
            let copy = Resource::decode(copy.as_slice()).unwrap();
            let copy = Cluster::decode(copy.resource.unwrap().value.as_slice()).unwrap();
            assert_eq!(copy.circuit_breakers.unwrap().thresholds, [none]);
        }
    }

    proptest::proptest! {
        /// What Envoy writes by our header is taken apart into what went in, whatever a client wrote.
        #[test]
        fn a_name_comes_back(routes in "[^|]{1,20}", authority in ".*") {
            let value = header_value(&routes).unwrap();
            let written = value.replace("%%", "%").replace("%REQ(:authority)%", &authority);
            let name = Name::Request { routes: &routes, authority: &authority };
            // Where the route configuration's name is in Envoy's format language itself, it is written otherwise.
            if !routes.contains("%") {
                proptest::prop_assert_eq!(Name::parse(&written), Some(name));
            }
        }

        #[test]
        fn any_name_is_taken_apart_or_not(name in "(lazy|lazytcp|lazyin|outbound)?[|]?.*") {
            if let Some(Name::Request { routes, authority }) = Name::parse(&name) {
                proptest::prop_assert_eq!(format!("lazy|{routes}|{authority}"), name);
            }
        }
    }
}
