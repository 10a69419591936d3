//! A pod: what it takes to know its workload, and whether it has a sidecar.

use dependency_graph::{Timestamp, Workload};
use kube::core::DynamicObject;
use serde::Deserialize;

use super::object::{Labels, annotation, created, labels, part};

/// A pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// The service account it runs as; never empty.
    pub service_account: String,
    /// Its owner as Istio's injector has it; absent when that is nothing that can be a workload.
    pub workload: Option<Workload>,
    /// Whether it has a sidecar.
    pub injected: bool,
    /// Whether it has ended, well or not.
    pub ended: bool,
    /// Whether it serves. It is looked at only where [`World::looking_for_ready_pods`] says.
    ///
    /// [`World::looking_for_ready_pods`]: super::World::looking_for_ready_pods
    pub ready: bool,
    /// When it was made.
    pub created: Timestamp,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Spec {
    service_account_name: String,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    args: Vec<String>,
}

impl Container {
    /// Whether it is a sidecar's: gateways, waypoints and ztunnel have a container of that name as well, and tell
    /// `proxy` what they are.
    fn is_sidecar(&self) -> bool {
        let after = self.args.iter().skip_while(|arg| *arg != "proxy").nth(1);
        after.is_none_or(|role| role.starts_with('-') || role == "sidecar")
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

/// The label that istiod gives the pods of a Gateway.
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
/// The name of the sidecar's container.
const PROXY: &str = "istio-proxy";

pub(super) fn read(object: &DynamicObject) -> Result<Pod, String> {
    let spec: Spec = part(object, "spec")?;
    let status: Status = part(object, "status")?;
    let labels = labels(object);
    let mut containers = spec.containers.iter().chain(&spec.init_containers);
    // Whoever injects by other means sets the label by which istiod gives the pod's peers mutual TLS.
    let said = annotation(object, "sidecar.istio.io/status").is_some()
        || labels.get("security.istio.io/tlsMode").map(String::as_str) == Some("istio");
    let injected = !labels.contains_key(GATEWAY)
        && containers
            .find(|container| container.name == PROXY)
            .map_or(said, Container::is_sidecar);
    let ended = matches!(status.phase.as_str(), "Succeeded" | "Failed");
    let is_ready = |said: &Condition| said.r#type == "Ready" && said.status == "True";
    Ok(Pod {
        workload: owner(object, &labels),
        injected,
        service_account: match spec.service_account_name {
            name if name.is_empty() => "default".to_owned(),
            name => name,
        },
        ended,
        ready: !ended
            && object.metadata.deletion_timestamp.is_none()
            && status.conditions.iter().any(is_ready),
        created: created(object),
        labels,
    })
}

/// The owner as Istio's injector finds it (`pkg/kube/util.go`, GetDeployMetaFromPod), and with it the shim, which reads
/// what the injector wrote. Only one step up is looked at, so names tell a ReplicaSet's Deployment and a Job's CronJob.
fn owner(object: &DynamicObject, labels: &Labels) -> Option<Workload> {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref()?;
    let pod = || Workload::new(namespace, "Pod", metadata.name.as_deref()?).ok();
    if metadata.generate_name.as_deref().is_none_or(str::is_empty) {
        return pod();
    }
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return pod();
    };
    let (kind, name) = match owner.kind.as_str() {
        "ReplicaSet" => {
            let of = |label: &str, kind: &'static str| {
                let hash = labels.get(label).filter(|hash| !hash.is_empty())?;
                owner.name.ends_with(hash.as_str()).then(|| {
                    let dashed = format!("-{hash}");
                    let name = owner.name.strip_suffix(&dashed).unwrap_or(&owner.name);
                    (kind, name)
                })
            };
            of("pod-template-hash", "Deployment")
                .or_else(|| of("rollouts-pod-template-hash", "Rollout"))
                .unwrap_or(("ReplicaSet", &owner.name))
        }
        "ReplicationController" => match labels.get("deploymentconfig") {
            Some(name) if !name.is_empty() => ("DeploymentConfig", name.as_str()),
            _ => ("ReplicationController", owner.name.as_str()),
        },
        "Job" => match cron_job(&owner.name) {
            Some(name) => ("CronJob", name),
            None => ("Job", owner.name.as_str()),
        },
        kind => (kind, owner.name.as_str()),
    };
    if name.is_empty() {
        return pod();
    }
    Workload::new(namespace, &kind_as_told(kind), name).ok()
}

/// The CronJob whose Job this is: its name, a dash and 8 to 10 digits.
fn cron_job(job: &str) -> Option<&str> {
    let (name, digits) = job.rsplit_once('-')?;
    let is_time = (8..=10).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

/// The injector tells kinds in lower case; the shim gives back the capitals of those it knows, and one capital to others
/// (`xds-shim/src/node.rs`). A workload must be the same one to both.
fn kind_as_told(kind: &str) -> String {
    match kind.to_ascii_lowercase().as_str() {
        "statefulset" => "StatefulSet".into(),
        "daemonset" => "DaemonSet".into(),
        "replicaset" => "ReplicaSet".into(),
        "replicationcontroller" => "ReplicationController".into(),
        "cronjob" => "CronJob".into(),
        other => {
            let (head, tail) = other.split_at_checked(1).unwrap_or((other, ""));
            head.to_ascii_uppercase() + tail
        }
    }
}
