//! What stands in a proxy's config for what is held: instead of thousands of virtual hosts and
//! listeners one each, which asks on demand under a name of ours.
//!
//! The names: `lazy|ROUTES|AUTHORITY` is what an HTTP request asks for that no virtual host of the
//! proxy's takes, AUTHORITY being whatever its client wrote. A service has many names, and what is
//! asked for is answered with a copy of its cluster under the name that was asked for.

pub mod domains;
pub mod routes;

use crate::wire::{self, Error};

/// The beginning of a name that stands for a request: `lazy|ROUTES|AUTHORITY`.
const REQUEST: &str = "lazy|";

/// The header that carries the name from where the request comes in to the route that picks the
/// cluster. It is written over whatever an application sent, and removed from what leaves.
pub const HEADER: &str = "x-lazymesh-cluster";

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
}

impl<'a> Name<'a> {
    /// Takes a name apart; `None` for names that are not ours.
    pub fn parse(name: &'a str) -> Option<Self> {
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
/// Field numbers: envoy/config/cluster/v3/cluster.proto (name = 1, alt_stat_name = 28),
/// envoy/service/discovery/v3/discovery.proto (Resource: resource = 2, name = 3).
///
/// # Errors
/// When the bytes are not such a message.
pub fn copy_cluster(resource: &[u8], name: &str) -> Result<Vec<u8>, Error> {
    let changed = wire::edit_each::<Error>(resource, 2, |any| {
        wire::edit_each(any, 2, |cluster| {
            let mut out = cluster.to_vec();
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
    use prost::Message;

    #[test]
    fn names_are_told_from_others() {
        let name = Name::parse("lazy|80|a.b:80").unwrap();
        let Name::Request { routes, authority } = name;
        assert_eq!((routes, authority), ("80", "a.b:80"));
        let Name::Request { authority, .. } = Name::parse("lazy|80|a|b").unwrap();
        assert_eq!(authority, "a|b", "an authority may hold anything");
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
}
