//! The user's own Sidecars: they win, or are merged in as what they allow.

#[cfg(test)]
mod tests;

use crate::closure::{EgressHost, subset_of};
use crate::mesh::object::selects;
use crate::mesh::{Name, Sidecar, World};
use crate::selector::Group;

/// What users' Sidecars mean for a group of workloads.
#[derive(Debug)]
pub enum User<'a> {
    /// There is none.
    None,
    /// One selects its pods: of two that do the older would hold, so ours must not be there.
    Wins(&'a Name),
    /// One for the namespace or the mesh says more than which hosts are visible.
    NotUnderstood(&'a Name),
    /// One for the namespace or the mesh says which hosts are visible.
    Merged(Merged<'a>),
}

/// A user's Sidecar for the namespace or the mesh.
#[derive(Clone, Copy, Debug)]
pub struct Merged<'a> {
    /// It.
    pub sidecar: &'a Sidecar,
}

/// What users' Sidecars mean for a group of workloads of a namespace. As istiod has it: one that selects a pod holds
/// before one for the namespace, that before one of the root namespace for the mesh, and the older before the younger.
#[must_use]
pub fn of<'a>(world: &'a World, namespace: &str, group: &Group) -> User<'a> {
    let own = theirs(world, namespace);
    let pods = || {
        let pods = world.pods(namespace).map(|(_, pod)| pod);
        pods.filter(|pod| !pod.ended && selects(&group.selector, &pod.labels))
    };
    let wins = own.iter().find(|(_, sidecar)| {
        let selector = sidecar.selector.as_ref();
        // A group without pods now may have some that carry just these labels.
        selector.is_some_and(|of| {
            selects(of, &group.selector) || pods().any(|pod| selects(of, &pod.labels))
        })
    });
    if let Some((name, _)) = wins {
        return User::Wins(name);
    }
    for_all(world, namespace)
}

/// What users' Sidecars mean for every workload of a namespace that none of them selects.
#[must_use]
pub fn for_all<'a>(world: &'a World, namespace: &str) -> User<'a> {
    let unselective = |namespace: &str| {
        let mut all = theirs(world, namespace).into_iter();
        all.find(|(_, sidecar)| sidecar.selector.is_none())
    };
    let root = || unselective(&world.config().root_namespace);
    match unselective(namespace).or_else(root) {
        None => User::None,
        Some((_, sidecar)) if is_plain(sidecar) => User::Merged(Merged { sidecar }),
        Some((name, _)) => User::NotUnderstood(name),
    }
}

/// Users' Sidecars of a namespace, the oldest first.
fn theirs<'a>(world: &'a World, namespace: &str) -> Vec<(&'a Name, &'a Sidecar)> {
    let all = world.sidecars(namespace);
    let mut theirs: Vec<_> = all.filter(|(_, sidecar)| sidecar.ours.is_none()).collect();
    theirs.sort_by_key(|(name, sidecar)| (sidecar.created, *name));
    theirs
}

/// Whether it has one egress listener at most, the one for all ports, and leaves ingress alone.
fn is_plain(sidecar: &Sidecar) -> bool {
    let plain = |listeners: &[crate::mesh::sidecar::Egress]| match listeners {
        [] => true,
        [only] => !only.port && !only.bind,
        _ => false,
    };
    !sidecar.has_ingress && plain(&sidecar.egress)
}

impl Merged<'_> {
    /// Whether sidecars of a namespace may see a host: as istiod reads `egress.hosts` (`convertIstioListenerToWrapper`).
    #[must_use]
    pub fn allows(&self, namespace: &str, host: &EgressHost) -> bool {
        let Some(listener) = self.sidecar.egress.first() else {
            return true;
        };
        let mut allowed = false;
        for pattern in &listener.hosts {
            let Some((of, name)) = pattern.split_once('/') else {
                continue;
            };
            let (of, excluded) = match of.strip_prefix('~') {
                Some("") => ("*", true),
                Some(of) => (of, true),
                None => (of, false),
            };
            let of = if of == "." { namespace } else { of };
            if (of == "*" || of == host.namespace) && subset_of(&host.host, name) {
                if excluded {
                    return false;
                }
                allowed = true;
            }
        }
        allowed
    }
}
