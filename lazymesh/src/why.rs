//! `lazymesh why`: what would become of a call now.

use dependency_graph::fallback::{POLICY_ANNOTATION, Policy, annotated};
use dependency_graph::{Mode, Workload};
use serde::Serialize;
use workload_dependencies::{Phase, WorkloadDependencies};

use crate::args::Format;
use crate::snapshot::Snapshot;
use crate::view;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As in plain Istio: nothing is kept from its sidecar.
    Plain,
    /// Its sidecar has it from the start.
    Known,
    /// The first call is held in the caller's own sidecar for milliseconds.
    Held,
    /// The first call goes to the global proxy.
    FallsBack,
    /// Not said: it is no Service, and ServiceEntries are not looked at.
    Unknown,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// In short.
    pub verdict: Verdict,
    /// The full name that was asked about.
    pub host: String,
    /// In force.
    pub mode: &'static str,
    /// Why, one thing after the other.
    pub because: Vec<String>,
}

/// How a workload knows of a host.
enum Knows {
    Pinned(String),
    Learned {
        since: String,
        last: String,
        source: String,
    },
    /// Another port of it.
    OtherPort(Vec<i32>),
    No,
}

/// Explains a call of a pod that starts now, behind a shim if its mode wants one. `is_service`: whether there is a Service of this
/// host.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    source: &Workload,
    host: &str,
    port: Option<u16>,
    is_service: bool,
) -> Answer {
    let record = snapshot.record(source);
    let namespace = source.namespace();
    let mode = snapshot.mode_in(namespace, record);
    let mut because = vec![of_mode(snapshot, record, namespace, mode)];
    let verdict = match mode {
        Mode::Off | Mode::Observe => {
            because.push("so its sidecar has the whole mesh, as plain Istio gives it".into());
            Verdict::Plain
        }
        Mode::OnDemand | Mode::Sidecar => {
            let knows = record.map_or(Knows::No, |record| knows(record, mode, host, port));
            let is_new = matches!(knows, Knows::No);
            let verdict = lazy(snapshot, record, mode, namespace, knows, &mut because);
            if is_new && !is_service && verdict != Verdict::Plain {
                because.push("but it is no Service: that holds if a ServiceEntry has it, which was not looked for; a name that is nobody's goes where plain Istio sends it".into());
                Verdict::Unknown
            } else {
                verdict
            }
        }
    };
    if record.is_none() {
        because.push(
            "there is no record of it: nothing was learned or pinned, or there is no such workload"
                .into(),
        );
    }
    if let Some(record) = record {
        let problems = view::problems(record).into_iter();
        because.extend(problems.map(|one| format!("{}: {}", one.condition, one.message)));
    }
    Answer {
        verdict,
        host: host.to_owned(),
        mode: mode.as_str(),
        because,
    }
}

fn of_mode(
    snapshot: &Snapshot,
    record: Option<&WorkloadDependencies>,
    namespace: &str,
    mode: Mode,
) -> String {
    if snapshot.is_paused() {
        return "all of Lazymesh is paused".into();
    }
    let own = record.is_some_and(|record| record.spec.mode.is_some());
    if own {
        return format!("its record says mode {mode}");
    }
    match snapshot.mode_of_namespace(namespace) {
        Some(_) => format!(
            "the namespace {namespace} is labelled {}={mode}",
            dependency_graph::mode::LABEL
        ),
        None => {
            format!("neither its record nor the namespace {namespace} says a mode, which is {mode}")
        }
    }
}

fn lazy(
    snapshot: &Snapshot,
    record: Option<&WorkloadDependencies>,
    mode: Mode,
    namespace: &str,
    knows: Knows,
    because: &mut Vec<String>,
) -> Verdict {
    let written = record.is_some_and(|record| view::holds(record, "SidecarWritten"));
    if mode == Mode::Sidecar && !written {
        because.push("it has no Sidecar of Lazymesh's, so its sidecar has all that istiod gives it otherwise".into());
        return Verdict::Plain;
    }
    match knows {
        Knows::Pinned(pin) => {
            because.push(format!(
                "{pin} is pinned in its record: each pod has it from the start"
            ));
            return Verdict::Known;
        }
        Knows::Learned {
            since,
            last,
            source,
        } => {
            because.push(format!(
                "it was learned on {since} ({source}; last seen {last}): each pod has it from the start"
            ));
            return Verdict::Known;
        }
        Knows::OtherPort(ports) => {
            because.push(format!("of this host only the ports {ports:?} are known"))
        }
        Knows::No => because.push("it is not known to call this host".into()),
    }
    let settled = record.and_then(|record| record.status.as_ref()?.phase) == Some(Phase::Settled);
    if mode == Mode::OnDemand && !settled {
        because.push(
            "a first call is held in its own sidecar until the shim has given the service, some milliseconds; it goes direct then, and is learned".into(),
        );
        return Verdict::Held;
    }
    if settled {
        because.push("it has settled: istiod generates what its Sidecar says and no more".into());
    }
    because.push(falls_back(snapshot, namespace));
    Verdict::FallsBack
}

fn falls_back(snapshot: &Snapshot, namespace: &str) -> String {
    let annotations = snapshot
        .namespaces
        .get(namespace)
        .and_then(|one| one.metadata.annotations.as_ref());
    let (policy, _) = annotated(
        annotations
            .and_then(|all| all.get(POLICY_ANNOTATION))
            .map(String::as_str),
    );
    let then = match policy {
        Policy::PreferRedirect => {
            "redirected, so that its own sidecar goes there some 0.3 s later; carried under the global proxy's identity where that cannot be"
        }
        Policy::RedirectOnly => {
            "redirected, so that its own sidecar goes there some 0.3 s later; refused where that cannot be"
        }
        Policy::RelayOnly => "carried under the global proxy's identity",
    };
    format!(
        "a first call goes to the global proxy ({POLICY_ANNOTATION}: {policy}): it is {then}; it is learned"
    )
}

fn knows(record: &WorkloadDependencies, mode: Mode, host: &str, port: Option<u16>) -> Knows {
    // A shim looks for the name as it is; a Sidecar takes all that fall under one.
    let covers = |known: &str| known == host || mode == Mode::Sidecar && covers(known, host);
    let has = |ports: &[i32]| port.is_none_or(|port| ports.contains(&i32::from(port)));
    let mut others = Vec::new();
    for pin in record.spec.pinned.iter().filter(|pin| covers(&pin.host)) {
        if pin.ports.is_empty() || has(&pin.ports) {
            return Knows::Pinned(pin.host.clone());
        }
        others.extend(&pin.ports);
    }
    let learned = record.status.iter().flat_map(|status| &status.dependencies);
    for one in learned.filter(|one| covers(&one.host)) {
        if has(&one.ports) {
            return Knows::Learned {
                since: one.first_seen.0.to_string(),
                last: one.last_seen.0.to_string(),
                source: one.source.clone(),
            };
        }
        others.extend(&one.ports);
    }
    if others.is_empty() {
        Knows::No
    } else {
        Knows::OtherPort(others)
    }
}

/// Whether a name of a record, which may begin with `*.`, takes a host.
fn covers(known: &str, host: &str) -> bool {
    match known.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => known == host,
    }
}

/// As text.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn show(answer: &Answer, format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return Ok(serde_json::to_string_pretty(answer)? + "\n");
    }
    let short = match answer.verdict {
        Verdict::Plain => "plain: as without Lazymesh",
        Verdict::Known => "known: direct, at once",
        Verdict::Held => "held: the first call waits for milliseconds, then direct",
        Verdict::FallsBack => "falls back: the first call goes to the global proxy",
        Verdict::Unknown => "unknown: no Service has this name",
    };
    let because: String = answer
        .because
        .iter()
        .map(|why| format!("\n- {why}"))
        .collect();
    Ok(format!("{}: {short}{because}\n", answer.host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{namespace, read, record, with_condition};
    use serde_json::json;

    const HOST: &str = "b.shop.svc.cluster.local";

    fn snapshot(mode: &str, records: Vec<WorkloadDependencies>) -> Snapshot {
        let mut snapshot = Snapshot {
            records,
            ..Snapshot::default()
        };
        namespace(&mut snapshot, "shop", mode);
        snapshot
    }

    fn verdict(snapshot: &Snapshot, host: &str, port: Option<u16>) -> Verdict {
        let web = Workload::new("shop", "Deployment", "web").unwrap();
        let is_service = host.ends_with(".svc.cluster.local");
        let answer = explain(snapshot, &web, host, port, is_service);
        assert!(answer.because.len() > 1, "{answer:?}");
        answer.verdict
    }

    #[test]
    fn without_a_lazy_mode_it_is_plain_istio() {
        for mode in ["off", "observe", "nonsense"] {
            assert_eq!(verdict(&snapshot(mode, vec![]), HOST, None), Verdict::Plain);
        }
    }

    #[test]
    fn on_demand_what_is_known_is_there_and_the_rest_is_held() {
        let learned = || record("shop", "web", &[(HOST, &[80])]);
        let snapshot = snapshot("on-demand", vec![learned()]);
        assert_eq!(verdict(&snapshot, HOST, None), Verdict::Known);
        assert_eq!(verdict(&snapshot, HOST, Some(80)), Verdict::Known);
        assert_eq!(verdict(&snapshot, HOST, Some(81)), Verdict::Held);
        assert_eq!(
            verdict(&snapshot, "c.shop.svc.cluster.local", None),
            Verdict::Held
        );
    }

    #[test]
    fn a_pin_with_a_wildcard_is_for_sidecars() {
        let mut pinned = with_condition(
            record("shop", "web", &[]),
            "SidecarWritten",
            true,
            "Written",
        );
        pinned.spec.pinned = read(json!([{"host": "*.example.com", "ports": [443]}]));
        let of = |mode: &str| snapshot(mode, vec![pinned.clone()]);
        let known =
            |mode: &str, host: &str, port| verdict(&of(mode), host, Some(port)) == Verdict::Known;
        assert!(known("sidecar", "api.example.com", 443));
        assert!(!known("sidecar", "api.example.com", 80) && !known("sidecar", "example.com", 443));
        assert!(!known("on-demand", "api.example.com", 443));
        assert!(known("on-demand", "*.example.com", 443));
    }

    #[test]
    fn of_what_is_no_service_nothing_is_said_for_sure() {
        assert_eq!(
            verdict(&snapshot("on-demand", vec![]), "example.com", None),
            Verdict::Unknown
        );
        assert_eq!(
            verdict(&snapshot("off", vec![]), "example.com", None),
            Verdict::Plain
        );
        let learned = record("shop", "web", &[("example.com", &[443])]);
        assert_eq!(
            verdict(&snapshot("on-demand", vec![learned]), "example.com", None),
            Verdict::Known
        );
    }

    #[test]
    fn while_all_is_paused_it_is_plain_istio() {
        let mut paused = snapshot("on-demand", vec![record("shop", "web", &[])]);
        paused.system_namespace = "lazymesh-system".into();
        let own = read(json!({"metadata": {"labels": {"lazymesh.dev/paused": "true"}}}));
        paused.namespaces.insert("lazymesh-system".into(), own);
        assert_eq!(verdict(&paused, HOST, None), Verdict::Plain);
    }

    #[test]
    fn mode_sidecar_falls_back_where_there_is_a_sidecar() {
        let unwritten = record("shop", "web", &[]);
        assert_eq!(
            verdict(&snapshot("sidecar", vec![unwritten.clone()]), HOST, None),
            Verdict::Plain
        );
        let written = with_condition(unwritten, "SidecarWritten", true, "Written");
        assert_eq!(
            verdict(&snapshot("sidecar", vec![written]), HOST, None),
            Verdict::FallsBack
        );
    }

    #[test]
    fn what_has_settled_falls_back() {
        let mut settled = record("shop", "web", &[(HOST, &[80])]);
        settled.status.get_or_insert_default().phase = Some(Phase::Settled);
        let snapshot = snapshot("on-demand", vec![settled]);
        assert_eq!(verdict(&snapshot, HOST, None), Verdict::Known);
        assert_eq!(
            verdict(&snapshot, "c.d.svc.cluster.local", None),
            Verdict::FallsBack
        );
    }

    #[test]
    fn a_records_mode_comes_first() {
        let mut off = record("shop", "web", &[]);
        off.spec.mode = Some(workload_dependencies::ModeName::Off);
        assert_eq!(
            verdict(&snapshot("on-demand", vec![off]), HOST, None),
            Verdict::Plain
        );
    }

    #[test]
    fn the_answer_begins_with_the_verdict() {
        let web = Workload::new("shop", "Deployment", "web").unwrap();
        let answer = explain(&snapshot("on-demand", vec![]), &web, HOST, None, true);
        let text = show(&answer, Format::Table).unwrap();
        assert!(
            text.starts_with("b.shop.svc.cluster.local: held: "),
            "{text}"
        );
        let json: serde_json::Value =
            serde_json::from_str(&show(&answer, Format::Json).unwrap()).unwrap();
        assert_eq!(json["verdict"], "held");
    }
}
