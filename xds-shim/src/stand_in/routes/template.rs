//! What plain virtual hosts have in common.

use crate::cluster::OutboundName;
use crate::references::{self, Found};
use crate::wire::{self, Edit, Error};

/// The common form of plain virtual hosts.
#[derive(Debug)]
pub(super) struct Template {
    /// The records of a virtual host without its name and its domains, and without the cluster and the
    /// decorator in its routes.
    pub(super) common: Vec<u8>,
    /// How many virtual hosts have it.
    pub(super) members: usize,
}

impl Template {
    pub(super) fn new(common: Vec<u8>) -> Self {
        Self { common, members: 0 }
    }
}

/// A virtual host, taken apart into what is its own and what others may have in common with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form<'a> {
    pub(super) cluster: &'a str,
    /// What a server is told of it in `x-envoy-decorator-operation`.
    pub(super) operation: &'a str,
    pub(super) common: Vec<u8>,
}

/// Takes a virtual host apart; `None` if it is more than a way to one cluster. Whether what it has in common with others names
/// clusters too, [`is_plain`] tells.
///
/// VirtualHost: name = 1, domains = 2, routes = 3. Route: route = 2, decorator = 5.
pub(super) fn form(host: &[u8]) -> Result<Option<Form<'_>>, Error> {
    let mut cluster: Option<&str> = None;
    let mut operation: Option<&str> = None;
    let mut one = true;
    let common = wire::edit::<Error>(host, |field| {
        Ok(match (field.number, field.bytes()) {
            (1 | 2, _) => Edit::Drop,
            (3, Some(route)) => {
                let taken = take_route(route)?;
                one &= match (&cluster, taken.cluster) {
                    (_, None) => false,
                    (None, new) => {
                        cluster = new;
                        true
                    }
                    (Some(known), Some(new)) => *known == new,
                };
                one &= *operation.get_or_insert(taken.operation) == taken.operation;
                Edit::Replace(taken.rest)
            }
            _ => Edit::Keep,
        })
    })?;
    let (Some(cluster), Some(common), true) = (cluster, common, one) else {
        return Ok(None);
    };
    let operation = operation.unwrap_or_default();
    Ok(OutboundName::parse(cluster).map(|_| Form {
        cluster,
        operation,
        common,
    }))
}

/// Whether a common form names no clusters: a mirror, say, is not plain.
pub(super) fn is_plain(common: &[u8]) -> bool {
    let mut found = Found::default();
    references::anywhere(common, &mut found);
    found == Found::default()
}

struct TakenRoute<'a> {
    cluster: Option<&'a str>,
    operation: &'a str,
    rest: Vec<u8>,
}

/// A route without the cluster it goes to and without its decorator, which names the service.
fn take_route(route: &[u8]) -> Result<TakenRoute<'_>, Error> {
    let mut cluster = None;
    let mut operation = "";
    let rest = wire::edit::<Error>(route, |field| {
        Ok(match (field.number, field.bytes()) {
            (2, Some(action)) => {
                // RouteAction: cluster = 1, cluster_header = 2, weighted_clusters = 3,
                // cluster_specifier_plugin = 37, inline = 39; of a choice the last one counts.
                let others = [2, 3, 37, 39];
                let mut other = false;
                let rest = wire::edit::<Error>(action, |field| {
                    other |= others.contains(&field.number);
                    Ok(match (field.number, field.str()) {
                        (1, Ok(Some(name))) => {
                            cluster = Some(name);
                            Edit::Drop
                        }
                        _ => Edit::Keep,
                    })
                })?;
                if other {
                    cluster = None;
                }
                rest.map_or(Edit::Keep, Edit::Replace)
            }
            // Decorator: operation = 1. One that says more stays, and is in no common form.
            (5, Some(decorator)) if only_operation(decorator)? => {
                operation = wire::string(decorator, 1)?;
                Edit::Drop
            }
            _ => Edit::Keep,
        })
    })?;
    Ok(TakenRoute {
        cluster,
        operation,
        rest: rest.unwrap_or_else(|| route.to_vec()),
    })
}

fn only_operation(decorator: &[u8]) -> Result<bool, Error> {
    wire::fields(decorator).try_fold(true, |only, field| Ok(only && field?.number == 1))
}

/// The cluster of a virtual host that does nothing but route everything there.
///
/// Route: match = 1 with prefix = 1.
pub(super) fn only_cluster(host: &[u8]) -> Result<Option<&str>, Error> {
    let mut routes = wire::each(host, 3);
    let (Some(route), None) = (routes.next(), routes.next()) else {
        return Ok(None);
    };
    let route = route?;
    let matches = wire::last(route, 1)?.unwrap_or_default();
    let action = wire::last(route, 2)?.unwrap_or_default();
    let mut all = true;
    for field in wire::fields(matches) {
        all &= field?.number == 1;
    }
    for field in wire::fields(action) {
        all &= ![2, 3, 37, 39].contains(&field?.number);
    }
    let cluster = wire::string(action, 1)?;
    let everything = all && wire::string(matches, 1)? == "/";
    Ok((everything && !cluster.is_empty()).then_some(cluster))
}

/// The cluster that a virtual host's route of this name goes to. Route: name = 14.
pub(super) fn cluster_by<'a>(host: &'a [u8], name: &str) -> Result<Option<&'a str>, Error> {
    for route in wire::each(host, 3) {
        let route = route?;
        if wire::string(route, 14)? == name {
            let action = wire::last(route, 2)?.unwrap_or_default();
            let cluster = wire::string(action, 1)?;
            return Ok((!cluster.is_empty()).then_some(cluster));
        }
    }
    Ok(None)
}
