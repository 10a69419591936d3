//! How people name workloads and services.

use std::collections::BTreeSet;
use std::str::FromStr;

use dependency_graph::{Host, Workload, workload};
use thiserror::Error;

/// A text that names no service.
#[derive(Debug, Error)]
pub enum Error {
    /// Its host is none.
    #[error(transparent)]
    Host(#[from] dependency_graph::host::Error),
    /// Its port is none.
    #[error("{0:?} is no port from 1 to 65535")]
    Port(String),
}

/// A workload of a namespace: `NAME` is a Deployment's, `KIND/NAME` another kind's. The kind's capitals may be left out for those of Kubernetes.
///
/// # Errors
/// When it is nothing Kubernetes would take.
pub fn workload(namespace: &str, text: &str) -> Result<Workload, workload::Error> {
    const KINDS: [&str; 7] = [
        "CronJob",
        "DaemonSet",
        "Deployment",
        "Job",
        "Pod",
        "ReplicaSet",
        "StatefulSet",
    ];
    let (kind, name) = text.split_once('/').unwrap_or(("Deployment", text));
    let known = KINDS.iter().find(|known| known.eq_ignore_ascii_case(kind));
    Workload::new(namespace, known.unwrap_or(&kind), name)
}

/// A service as an application calls it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Called {
    /// In lower case, without a dot at its end.
    pub name: String,
    /// Those that are named: `reviews:9080,9443`.
    pub ports: Vec<u16>,
}

impl FromStr for Called {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, ports) = match text.rsplit_once(':') {
            Some((name, ports)) => (name, ports.split(',').map(port).collect::<Result<_, _>>()?),
            None => (text, Vec::new()),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name.parse::<Host>()?;
        Ok(Self { name, ports })
    }
}

fn port(text: &str) -> Result<u16, Error> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| Error::Port(text.to_owned()))
}

impl Called {
    /// Which namespace and Service of Kubernetes it may mean, called in a namespace: the way a pod's resolver would look for them, the first that
    /// there is being meant.
    #[must_use]
    pub fn services(&self, namespace: &str) -> Vec<(String, String)> {
        let parts: Vec<&str> = self.name.split('.').collect();
        match parts.as_slice() {
            [service] => vec![(namespace.to_owned(), (*service).to_owned())],
            [service, of] => vec![((*of).to_owned(), (*service).to_owned())],
            [service, of, "svc", ..] => vec![((*of).to_owned(), (*service).to_owned())],
            _ => Vec::new(),
        }
    }

    /// Every full name that it may stand for, called in a namespace.
    #[must_use]
    pub fn readings(&self, namespace: &str, cluster_domain: &str) -> Vec<String> {
        let services = self.services(namespace).into_iter();
        let services = services
            .map(|(namespace, service)| format!("{service}.{namespace}.svc.{cluster_domain}"));
        services.chain([self.name.clone()]).collect()
    }

    /// The full name that istiod uses. `there`: those of [`Self::services`] that there are.
    #[must_use]
    pub fn host(
        &self,
        namespace: &str,
        cluster_domain: &str,
        there: &BTreeSet<(String, String)>,
    ) -> String {
        let mut services = self.services(namespace).into_iter();
        let found = services.find(|one| there.contains(one));
        let is_of_cluster = self.name.ends_with(".svc") || !self.name.contains('.');
        match (found, self.services(namespace).into_iter().next()) {
            (Some((namespace, service)), _) => {
                format!("{service}.{namespace}.svc.{cluster_domain}")
            }
            // It cannot mean anything else.
            (None, Some((namespace, service))) if is_of_cluster => {
                format!("{service}.{namespace}.svc.{cluster_domain}")
            }
            _ => self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_deployments_unless_they_say_otherwise() {
        let named = |text: &str| {
            workload("shop", text).map(|one| (one.kind().to_owned(), one.record_name()))
        };
        assert_eq!(
            named("web"),
            Ok(("Deployment".into(), "deployment-web".into()))
        );
        assert_eq!(
            named("statefulset/db"),
            Ok(("StatefulSet".into(), "statefulset-db".into()))
        );
        assert_eq!(
            named("Rollout/web"),
            Ok(("Rollout".into(), "rollout-web".into()))
        );
        assert!(named("web/").is_err());
        assert!(
            named("rollout/web").is_err(),
            "of a kind that is not known the capitals are not"
        );
    }

    #[test]
    fn services_are_found_as_a_pod_finds_them() {
        let there = BTreeSet::from([
            ("shop".to_owned(), "reviews".to_owned()),
            ("com".to_owned(), "own".to_owned()),
        ]);
        for (text, host) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.shop", "reviews.shop.svc.cluster.local"),
            ("reviews.shop.svc", "reviews.shop.svc.cluster.local"),
            (
                "reviews.shop.svc.cluster.local",
                "reviews.shop.svc.cluster.local",
            ),
            ("Reviews.Shop.:80", "reviews.shop.svc.cluster.local"),
            ("new", "new.shop.svc.cluster.local"),
            ("new.shop.svc", "new.shop.svc.cluster.local"),
            ("own.com", "own.com.svc.cluster.local"),
            ("example.com", "example.com"),
            ("api.example.com", "api.example.com"),
        ] {
            let called: Called = text.parse().unwrap();
            assert_eq!(called.host("shop", "cluster.local", &there), host, "{text}");
        }
    }

    #[test]
    fn what_is_gone_is_found_by_every_reading() {
        let called: Called = "reviews.shop".parse().unwrap();
        let both = ["reviews.shop.svc.cluster.local", "reviews.shop"];
        assert_eq!(called.readings("shop", "cluster.local"), both);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "a b",
            "reviews:",
            "reviews:0",
            "reviews:x",
            "reviews:80,70000",
            ":80",
        ] {
            assert!(bad.parse::<Called>().is_err(), "{bad}");
        }
        let called: Called = "reviews:9080,9443".parse().unwrap();
        assert_eq!(called.ports, [9080, 9443]);
    }
}
