//! Pods: whether they are as their namespace wants them.

use dependency_graph::Mode;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;

use super::Finding;
use crate::snapshot::Snapshot;

/// What Istio calls the container of a sidecar.
const SIDECAR: &str = "istio-proxy";
/// Where a pod says what its sidecar is started with.
const CONFIG: &str = "proxy.istio.io/config";

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
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
        if mode != Mode::Off {
            found.extend(of_lazy(snapshot, pod, mode));
        }
    }
    found
}

/// Of a pod in a mode other than `off`.
fn of_lazy(snapshot: &Snapshot, pod: &Pod, mode: Mode) -> Option<Finding> {
    let host_network = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.host_network == Some(true));
    if !has_sidecar(pod) {
        let hint = "nothing is to be saved there: let Istio inject its namespace and restart it, or leave it";
        let wanted = !host_network
            && pod
                .annotations()
                .get("sidecar.istio.io/inject")
                .map(String::as_str)
                != Some("false");
        return wanted.then(|| Finding::new("not-injected", named(pod), "it has no sidecar", hint));
    }
    if mode != Mode::OnDemand {
        return None;
    }
    let config = pod.annotations().get(CONFIG);
    if !config.is_some_and(|config| config.contains("discoveryAddress")) {
        let hint = "restart it once the webhook or its annotation points it at the shim; until then it is a plain Istio pod";
        return Some(Finding::new(
            "not-behind-shim",
            named(pod),
            "its sidecar gets its config from istiod",
            hint,
        ));
    }
    stream(snapshot, pod)
}

/// What the shims that were asked say of a pod that is to be behind one.
fn stream(snapshot: &Snapshot, pod: &Pod) -> Option<Finding> {
    let streams = snapshot.streams.as_ref()?;
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let its = streams
        .iter()
        .find(|one| one.pod() == Some((&namespace, &name)));
    let Some(stream) = its else {
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

/// Neither done nor on its way out.
fn is_running(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}
