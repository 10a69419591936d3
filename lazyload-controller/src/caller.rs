//! Who called: the workload behind a verified identity and the name of a pod.
//!
//! The identity comes from the caller's certificate. The pod's name comes from the caller's Envoy, and is worth as much
//! as that certificate: it is believed only if that pod runs as that service account.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use dependency_graph::Workload;
use thiserror::Error;

use crate::mesh::World;

/// The longest identity looked at; SPIFFE allows 2048 bytes.
const MAX_IDENTITY: usize = 2048;

/// Why a caller is not known.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Unknown {
    /// The identity is none of this mesh's.
    #[error(
        "identity {0:?} is no spiffe://<trust domain>/ns/<namespace>/sa/<service account> of this mesh"
    )]
    Identity(String),
    /// No such pod; it may be that it is so new that it was not yet seen.
    #[error("no pod {namespace}/{pod} is known")]
    Pod {
        /// The namespace of the identity.
        namespace: String,
        /// The pod named.
        pod: String,
    },
    /// The pod runs as somebody else.
    #[error("pod {namespace}/{pod} does not run as service account {account}")]
    Account {
        /// The namespace of the identity.
        namespace: String,
        /// The pod named.
        pod: String,
        /// The service account of the identity.
        account: String,
    },
    /// The pod's owner is nothing that can be a workload.
    #[error("the owner of {0} cannot be a workload")]
    Owner(String),
    /// No pod was named, and the service account is that of several workloads, or of none.
    #[error("service account {0} does not tell the workload, and no pod was named")]
    Ambiguous(String),
}

/// The workload of a caller. `identity`: the URI of its certificate. `pod`: its pod's name, if it was told.
///
/// # Errors
/// When it is not known; only [`Unknown::Pod`] may be different a moment later.
pub fn caller(world: &World, identity: &str, pod: Option<&str>) -> Result<Workload, Unknown> {
    let (namespace, account) = parse(world, identity).ok_or_else(|| {
        let start: String = identity.chars().take(256).collect();
        Unknown::Identity(start)
    })?;
    let Some(pod) = pod.filter(|name| !name.is_empty()) else {
        return only_workload_of(world, namespace, account);
    };
    let cut = || pod.chars().take(253).collect::<String>();
    let Some(found) = world.pod(namespace, pod) else {
        return Err(Unknown::Pod {
            namespace: namespace.to_owned(),
            pod: cut(),
        });
    };
    if found.service_account != account {
        return Err(Unknown::Account {
            namespace: namespace.to_owned(),
            pod: cut(),
            account: account.to_owned(),
        });
    }
    let workload = found.workload.clone();
    workload.ok_or_else(|| Unknown::Owner(format!("{namespace}/{pod}")))
}

/// The namespace of an identity of this mesh, whatever its pod.
#[must_use]
pub fn namespace_of<'a>(world: &World, identity: &'a str) -> Option<&'a str> {
    parse(world, identity).map(|(namespace, _)| namespace)
}

/// Namespace and service account of an identity of this mesh.
fn parse<'a>(world: &World, identity: &'a str) -> Option<(&'a str, &'a str)> {
    if identity.len() > MAX_IDENTITY {
        return None;
    }
    let mut parts = identity.strip_prefix("spiffe://")?.split('/');
    let (domain, ns, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let (sa, account) = (parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && ns == "ns" && sa == "sa";
    let named = !namespace.is_empty() && !account.is_empty();
    let ours = world.config().trust_domains.contains(domain);
    (whole && named && ours).then_some((namespace, account))
}

fn only_workload_of(world: &World, namespace: &str, account: &str) -> Result<Workload, Unknown> {
    let of_account: BTreeSet<Option<&Workload>> = world
        .pods(namespace)
        .filter(|(_, pod)| pod.injected && !pod.ended && pod.service_account == account)
        .map(|(_, pod)| pod.workload.as_ref())
        .collect();
    match of_account.iter().collect::<Vec<_>>()[..] {
        [Some(workload)] => Ok((*workload).clone()),
        _ => Err(Unknown::Ambiguous(format!("{namespace}/{account}"))),
    }
}
