//! The mesh that shims report: who uses what, by numbers, so that nothing of it need be kept.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use dependency_graph::{Dependency, Port, Protocol, Workload};
use xds_shim::pending::Edge;

/// Services that the workloads choose from. Far more than one of them uses.
const SERVICES: usize = 5000;
const NAMESPACES: usize = 20;
/// A prime that is no factor of [`SERVICES`]: so many services of one workload are all different.
const STRIDE: usize = 97;

/// So many workloads that each use so many services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) workloads: usize,
    pub(crate) each: usize,
}

impl Size {
    pub(crate) const fn new(workloads: usize, each: usize) -> Self {
        Self { workloads, each }
    }

    pub(crate) fn edges(self) -> usize {
        self.workloads * self.each
    }

    /// An edge that was reported when the graph was loaded. One number after the other names all of them before one
    /// comes again, and each the next workload: as many sidecars ask, not as one does.
    pub(crate) fn known(self, number: usize) -> (usize, usize) {
        let number = number % self.edges();
        (number % self.workloads, number / self.workloads)
    }

    /// An edge that was not.
    pub(crate) fn new_one(self, number: usize) -> (usize, usize) {
        let (workload, further) = (number % self.workloads, number / self.workloads);
        (workload, self.each + further)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.workloads, self.each)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (workloads, each) = text.split_once('x')?;
            Some(Self::new(workloads.parse().ok()?, each.parse().ok()?))
        };
        // More in a namespace, or of a workload, the controller refuses.
        let fits = |size: &Self| {
            (NAMESPACES..=1500 * NAMESPACES).contains(&size.workloads)
                && (1..=500).contains(&size.each)
        };
        parse().filter(fits).ok_or_else(|| {
            format!("{text:?} is not WORKLOADSxDEPENDENCIES, such as 10000x50, 20 to 30,000 and 1 to 500")
        })
    }
}

/// What the workload of one number has as its dependency of another.
///
/// # Errors
/// Never: the names are names.
pub(crate) fn edge((workload, nth): (usize, usize)) -> Result<Edge> {
    let service = (workload * 7 + nth * STRIDE) % SERVICES;
    let namespace = |number: usize| format!("team-{}", number % NAMESPACES);
    let dependency = Dependency {
        host: format!("service-{service}.{}.svc.cluster.local", namespace(service)).parse()?,
        port: Port::try_from(80).context("a port")?,
        protocol: Protocol::Http,
    };
    let name = format!("workload-{workload}");
    let workload = Workload::new(&namespace(workload), "Deployment", &name)?;
    Ok((workload, dependency))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_edge_is_another() {
        let size: Size = "40x50".parse().unwrap();
        let known = (0..size.edges()).map(|number| size.known(number));
        let new = (0..3 * size.workloads).map(|number| size.new_one(number));
        let all: HashSet<Edge> = known.chain(new).map(|one| edge(one).unwrap()).collect();
        assert_eq!(all.len(), size.edges() + 3 * size.workloads);
        assert_eq!(size.known(size.edges() + 1), size.known(1));
    }

    #[test]
    fn what_the_controller_would_refuse_is_no_size() {
        for bad in ["", "200", "19x50", "200x0", "200x501", "40000x50"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
