//! `lazymesh check`: what goes wrong, and what to do about it.

use dependency_graph::{Mode, Timestamp};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use serde::Serialize;
use workload_dependencies::Phase;

use crate::args::Format;
use crate::snapshot::Snapshot;
use crate::view;

mod conditions;
mod pods;

/// Seconds that clocks may differ.
const SKEW: i64 = 60;

/// Something that is wrong.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Finding {
    /// What it is, in a word that scripts may look for.
    pub problem: &'static str,
    /// Of what: a namespace, a pod, a workload.
    pub of: String,
    /// What is seen.
    pub seen: String,
    /// What to do.
    pub hint: String,
}

impl Finding {
    fn new(
        problem: &'static str,
        of: impl Into<String>,
        seen: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            problem,
            of: of.into(),
            seen: seen.into(),
            hint: hint.into(),
        }
    }
}

/// All there are, by what they are and of what.
#[must_use]
pub fn findings(snapshot: &Snapshot, now: Timestamp) -> Vec<Finding> {
    let unread = snapshot.unread.iter().map(|(what, why)| {
        let hint = "use an account that may read it: what it would show was not looked for";
        Finding::new("unread", *what, why.clone(), hint)
    });
    let mut all: Vec<Finding> = unread.collect();
    all.extend(snapshot.is_paused().then(|| {
        let of = format!("namespace {}", snapshot.system_namespace);
        Finding::new(
            "paused",
            of,
            "all is in mode off",
            "`lazymesh resume` ends it",
        )
    }));
    all.extend(namespaces(snapshot));
    all.extend(parts(snapshot));
    all.extend(lease(snapshot, now));
    all.extend(pods::findings(snapshot));
    all.extend(conditions::findings(snapshot));
    all.sort();
    all
}

/// Labels and annotations of namespaces that say nothing.
fn namespaces(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    snapshot.namespaces.iter().filter_map(|(name, namespace)| {
        let labels = namespace.metadata.labels.as_ref()?;
        let error = labels
            .get(dependency_graph::mode::LABEL)?
            .parse::<Mode>()
            .err()?;
        let of = format!("namespace {name}");
        Some(Finding::new(
            "unknown-mode",
            of,
            error.to_string(),
            "it counts as off: label it with one of these",
        ))
    })
}

/// Whether something is to be done in a mode.
fn is_used(snapshot: &Snapshot, mode: Mode) -> bool {
    let mut namespaces = snapshot.namespaces.keys();
    namespaces.any(|name| snapshot.mode_of_namespace(name) == Some(mode))
        || snapshot
            .records
            .iter()
            .any(|record| snapshot.mode_of(record) == mode)
}

fn falls_back(snapshot: &Snapshot) -> bool {
    let settles = |phase: Option<Phase>| matches!(phase, Some(Phase::Settling | Phase::Settled));
    let mut records = snapshot.records.iter();
    is_used(snapshot, Mode::Sidecar)
        || records.any(|record| settles(record.status.as_ref().and_then(|status| status.phase)))
}

/// The parts of Lazymesh that what is opted in needs.
fn parts(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    if snapshot.unread.iter().any(|(what, _)| *what == "pods") {
        return found;
    }
    let needed = [
        (
            "lazyload-controller",
            [Mode::OnDemand, Mode::Sidecar, Mode::Observe]
                .iter()
                .any(|mode| is_used(snapshot, *mode)),
            "nothing is learned, and no Sidecar grows: look at its pods and their log",
        ),
        (
            "xds-shim",
            is_used(snapshot, Mode::OnDemand),
            "running pods keep what they have, a first call waits and fails, and new pods find nobody: look at its pods and their log",
        ),
        (
            "global-proxy",
            falls_back(snapshot),
            "calls to what is not learned fail: look at its pods and their log",
        ),
    ];
    for (part, needed, hint) in needed {
        let its = || pods::of_part(&snapshot.system_pods, part);
        let ready = its().filter(|pod| pods::is_ready(pod)).count();
        if needed && ready == 0 {
            let seen = format!("no pod of it is ready ({} there)", its().count());
            found.push(Finding::new("part-down", part, seen, hint));
        }
    }
    for pod in
        pods::of_part(&snapshot.system_pods, "global-proxy").filter(|pod| !pods::has_sidecar(pod))
    {
        let hint = "it needs Istio's sidecar: label its namespace or pod template for injection, and restart it";
        found.push(Finding::new(
            "no-sidecar",
            pods::named(pod),
            "the global proxy has no istio-proxy",
            hint,
        ));
    }
    found
}

/// Whether a controller leads.
fn lease(snapshot: &Snapshot, now: Timestamp) -> Option<Finding> {
    let unread = snapshot
        .unread
        .iter()
        .any(|(what, _)| what.contains("Lease"));
    if unread || !falls_back(snapshot) {
        return None;
    }
    let Some(lease) = &snapshot.lease else {
        let hint = "no controller writes Sidecars: look at its log; is it run with --sidecars off?";
        return Some(Finding::new(
            "no-leader",
            "lazyload-controller",
            "there is no Lease",
            hint,
        ));
    };
    let spec: &LeaseSpec = lease.spec.as_ref()?;
    let renewed = spec.renew_time.as_ref()?.0.as_second();
    let holds = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let since = i64::try_from(now.seconds())
        .unwrap_or(i64::MAX)
        .saturating_sub(renewed);
    if since < -SKEW {
        let seen = format!("its Lease was renewed {} s in the future", -since);
        return Some(Finding::new(
            "clock",
            "lazyload-controller",
            seen,
            "set its node's clock, or this machine's: ages of what is learned are wrong",
        ));
    }
    (since > holds + SKEW).then(|| {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let seen = format!("{holder:?} renewed its Lease {since} s ago");
        Finding::new(
            "no-leader",
            "lazyload-controller",
            seen,
            "no controller writes Sidecars: look at its pods and their log",
        )
    })
}

/// As text.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn show(findings: &[Finding], format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return Ok(serde_json::to_string_pretty(findings)? + "\n");
    }
    if findings.is_empty() {
        return Ok("nothing found\n".into());
    }
    let text: String = findings
        .iter()
        .map(|one| {
            format!(
                "{}: {}: {}\n  {}\n",
                one.problem, one.of, one.seen, one.hint
            )
        })
        .collect();
    Ok(text)
}

/// Whom a record is about, for people.
fn workload(record: &workload_dependencies::WorkloadDependencies) -> String {
    let (namespace, kind, name) = view::about(record);
    format!("{kind} {namespace}/{name}")
}

#[cfg(test)]
mod tests;
