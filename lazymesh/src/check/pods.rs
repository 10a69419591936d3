//! Pods: whether they are as their namespace wants them.

use dependency_graph::{Mode, Workload};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;

use super::Finding;
use crate::snapshot::Snapshot;

/// What Istio calls the container of a sidecar.
const SIDECAR: &str = "istio-proxy";
const INJECT: &str = "sidecar.istio.io/inject";
/// Where a pod says what its sidecar is started with.
const CONFIG: &str = "proxy.istio.io/config";

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    if snapshot.is_paused() {
        return found;
    }
    found.extend(unasked(snapshot));
    for pod in snapshot.pods.iter().filter(|pod| is_running(pod)) {
        let namespace = pod.namespace().unwrap_or_default();
        let of_namespace = snapshot.mode_of_namespace(&namespace).unwrap_or(Mode::Off);
        let mode = match pod
            .labels()
            .get(dependency_graph::mode::LABEL)
            .map(|label| label.parse::<Mode>())
        {
            None => of_namespace,
            Some(Ok(mode)) => mode,
            Some(Err(error)) => {
                let hint = "its namespace's label counts: correct that of its pod template";
                found.push(Finding::new(
                    "unknown-mode",
                    named(pod),
                    error.to_string(),
                    hint,
                ));
                of_namespace
            }
        };
        let own = workload(pod).and_then(|workload| snapshot.record(&workload)?.spec.mode);
        let mode = own.map_or(mode, Mode::from);
        if mode != Mode::Off {
            found.extend(of_lazy(snapshot, pod, mode));
        }
    }
    found
}

/// Which workload a pod is of, as Istio has it: that of a ReplicaSet is its Deployment.
fn workload(pod: &Pod) -> Option<Workload> {
    let namespace = pod.namespace()?;
    let owner = pod
        .owner_references()
        .iter()
        .find(|one| one.controller == Some(true))?;
    let hash = pod.labels().get("pod-template-hash");
    let of_deployment = hash.and_then(|hash| owner.name.strip_suffix(&format!("-{hash}")));
    let (kind, name) = match of_deployment {
        Some(name) if owner.kind == "ReplicaSet" => ("Deployment", name),
        _ => (owner.kind.as_str(), owner.name.as_str()),
    };
    Workload::new(&namespace, kind, name).ok()
}

/// Of a pod in a mode other than `off`.
fn of_lazy(snapshot: &Snapshot, pod: &Pod, mode: Mode) -> Option<Finding> {
    let Some(proxy) = containers(pod).find(|one| one.name == SIDECAR) else {
        let hint = "nothing is to be saved there: let Istio inject its namespace and restart it, or leave it";
        let found = || Finding::new("not-injected", named(pod), "it has no sidecar", hint);
        return may_be_injected(pod).then(found);
    };
    // A gateway has none either.
    let is_sidecar = proxy
        .args
        .iter()
        .flatten()
        .nth(1)
        .is_none_or(|role| role == "sidecar");
    if mode != Mode::OnDemand || !is_sidecar {
        return None;
    }
    let config = pod.annotations().get(CONFIG);
    let shim = format!(".{}", snapshot.system_namespace);
    let points = |config: &String| config.contains("discoveryAddress") && config.contains(&shim);
    if !config.is_some_and(points) {
        let hint = "restart it once the webhook or its annotation points it at the shim; until then it is a plain Istio pod";
        let seen = "its sidecar gets its config from istiod";
        return Some(Finding::new("not-behind-shim", named(pod), seen, hint));
    }
    stream(snapshot, pod)
}

/// As Istio has it: the label is the newer of the two.
fn may_be_injected(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
    let says = pod
        .labels()
        .get(INJECT)
        .or_else(|| pod.annotations().get(INJECT));
    !host_network && says.map(String::as_str) != Some("false")
}

/// Who was asked of fewer shims than there are cannot say which pods are behind none.
fn unasked(snapshot: &Snapshot) -> Option<Finding> {
    let (asked, there) = (snapshot.shims_asked, ready_shims(snapshot));
    let of = "xds-shim";
    let seen = format!("{asked} of {there} were asked");
    let hint = "name the others with --shim as well: pods behind them were not looked for";
    (asked > 0 && asked < there).then(|| Finding::new("shims-not-asked", of, seen, hint))
}

fn ready_shims(snapshot: &Snapshot) -> usize {
    of_part(&snapshot.system_pods, "xds-shim")
        .filter(|pod| is_ready(pod))
        .count()
}

/// What the shims that were asked say of a pod that is to be behind one.
fn stream(snapshot: &Snapshot, pod: &Pod) -> Option<Finding> {
    let streams = snapshot.streams.as_ref()?;
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let its = streams
        .iter()
        .find(|one| one.pod() == Some((&namespace, &name)));
    let Some(stream) = its else {
        if snapshot.shims_asked < ready_shims(snapshot) {
            return None;
        }
        let hint = "name all shims with --shim; does its istio-proxy trust the shim's certificate (XDS_ROOT_CA), and does its log say why not?";
        return Some(Finding::new(
            "not-connected",
            named(pod),
            "no shim that was asked has a stream of it",
            hint,
        ));
    };
    let hint = match stream.treatment.as_str() {
        "on_demand" => return None,
        "old_envoy" | "no_on_demand_filter" => {
            "its Envoy cannot ask for what it lacks, so it is given everything: restart it with a newer proxy"
        }
        "state_of_the_world" => {
            "its agent does not speak delta xDS, so it is given everything: take ISTIO_DELTA_XDS=false away"
        }
        _ => "it is given everything; docs/operations.md says when",
    };
    let seen = format!("its shim holds nothing back: {}", stream.treatment);
    Some(Finding::new("not-lazy", named(pod), seen, hint))
}

/// Pods that have a container of this name.
pub(super) fn of_part<'a>(pods: &'a [Pod], part: &'a str) -> impl Iterator<Item = &'a Pod> {
    pods.iter()
        .filter(move |pod| containers(pod).any(|one| one.name == part))
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|one| one.type_ == "Ready");
    pod.metadata.deletion_timestamp.is_none() && ready.any(|one| one.status == "True")
}

/// A native sidecar is an init container.
pub(super) fn has_sidecar(pod: &Pod) -> bool {
    containers(pod).any(|one| one.name == SIDECAR)
}

pub(super) fn named(pod: &Pod) -> String {
    format!(
        "pod {}/{}",
        pod.namespace().unwrap_or_default(),
        pod.name_any()
    )
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    })
}

/// Neither to come, nor done, nor on its way out.
fn is_running(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
}
