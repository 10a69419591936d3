//! What a record becomes when a person says something of it.

use std::fmt;

use dependency_graph::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;
use workload_dependencies::{
    ForgottenDependency, Pinned, WorkloadDependenciesSpec, WorkloadDependenciesStatus,
};

/// A host that a person names, with its service ports if not all of them are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pin {
    /// The full name.
    pub host: String,
    /// None stands for all of them.
    pub ports: Vec<u16>,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        for (n, port) in self.ports.iter().enumerate() {
            write!(f, "{}{port}", if n == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

/// Pins a host, or more ports of one that is pinned; whether that changes anything.
pub fn pin(spec: &mut WorkloadDependenciesSpec, pin: &Pin) -> bool {
    let ports = || pin.ports.iter().map(|port| i32::from(*port));
    let there = spec.pinned.iter_mut().find(|one| one.host == pin.host);
    let Some(there) = there else {
        spec.pinned.push(Pinned {
            host: pin.host.clone(),
            ports: ports().collect(),
        });
        return true;
    };
    if there.ports.is_empty() {
        return false;
    }
    let before = there.ports.clone();
    there.ports.extend(ports());
    there.ports.sort_unstable();
    there.ports.dedup();
    if pin.ports.is_empty() {
        there.ports.clear();
    }
    there.ports != before
}

/// Takes the pin of one of these hosts back, or ports of it; whether there was one. A pin of all ports is taken back whole only.
pub fn unpin(spec: &mut WorkloadDependenciesSpec, hosts: &[String], ports: &[u16]) -> bool {
    let before = spec.pinned.clone();
    let is_named = |port: &i32| ports.iter().any(|named| i32::from(*named) == *port);
    spec.pinned.retain_mut(|one| {
        if !hosts.contains(&one.host) {
            return true;
        }
        if ports.is_empty() {
            return false;
        }
        let all = one.ports.is_empty();
        one.ports.retain(|port| !is_named(port));
        all || !one.ports.is_empty()
    });
    spec.pinned != before
}

/// As many are remembered as forgotten; nothing but expiry takes them away.
const MOST_FORGOTTEN: usize = 1000;

/// Takes these hosts, or all hosts, out of what was learned; whether one was there. What was reported before `now` does not
/// bring it back, a new call does.
pub fn forget(
    status: &mut WorkloadDependenciesStatus,
    hosts: Option<&[String]>,
    now: Timestamp,
) -> bool {
    let goes = |learned: &String| hosts.is_none_or(|hosts| hosts.contains(learned));
    let at = time(now);
    let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut status.dependencies)
        .into_iter()
        .partition(|learned| goes(&learned.host));
    status.dependencies = kept;
    for learned in &gone {
        status
            .forgotten
            .retain(|one| (&one.host, &one.protocol) != (&learned.host, &learned.protocol));
        status.forgotten.push(ForgottenDependency {
            host: learned.host.clone(),
            protocol: learned.protocol.clone(),
            at: at.clone(),
        });
    }
    let surplus = status.forgotten.len().saturating_sub(MOST_FORGOTTEN);
    status.forgotten.drain(..surplus);
    let count: usize = status.dependencies.iter().map(|one| one.ports.len()).sum();
    status.dependency_count = i32::try_from(count).unwrap_or(i32::MAX);
    !gone.is_empty()
}

fn time(timestamp: Timestamp) -> Time {
    let seconds = i64::try_from(timestamp.seconds()).unwrap_or(i64::MAX);
    Time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::record;

    fn host(host: &str, ports: &[u16]) -> Pin {
        Pin {
            host: host.into(),
            ports: ports.to_vec(),
        }
    }

    #[test]
    fn pins_come_and_go_with_their_ports() {
        let mut spec = record("shop", "web", &[]).spec;
        assert!(pin(&mut spec, &host("a.b", &[80])));
        assert!(!pin(&mut spec, &host("a.b", &[80])));
        assert!(pin(&mut spec, &host("a.b", &[443])));
        assert_eq!(spec.pinned[0].ports, [80, 443]);
        let of = ["x.y".to_owned(), "a.b".to_owned()];
        assert!(unpin(&mut spec, &of, &[80]));
        assert!(!unpin(&mut spec, &of, &[80]));
        assert!(pin(&mut spec, &host("a.b", &[])));
        assert_eq!(spec.pinned[0].ports, [0i32; 0], "all of them");
        assert!(!pin(&mut spec, &host("a.b", &[80])));
        assert!(!unpin(&mut spec, &of, &[80]), "all but one cannot be said");
        assert!(unpin(&mut spec, &of, &[]));
        assert!(spec.pinned.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_remembered_as_forgotten() {
        let mut status = record("shop", "web", &[("a.b", &[80, 81]), ("c.d", &[80])])
            .status
            .unwrap();
        let now = Timestamp::from_seconds(7);
        assert!(!forget(&mut status, Some(&["x.y".to_owned()]), now));
        assert!(forget(&mut status, Some(&["a.b".to_owned()]), now));
        assert_eq!((status.dependencies.len(), status.dependency_count), (1, 1));
        assert_eq!(status.forgotten.len(), 1);
        assert_eq!(status.forgotten[0].host, "a.b");
        assert!(forget(&mut status, None, now));
        assert!(!forget(&mut status, None, now));
        assert_eq!((status.forgotten.len(), status.dependency_count), (2, 0));
    }

    #[test]
    fn a_pin_is_said_as_it_is_given() {
        assert_eq!(host("a.b", &[]).to_string(), "a.b");
        assert_eq!(host("a.b", &[80, 443]).to_string(), "a.b:80,443");
    }
}
