//! The Kubernetes resource `WorkloadDependencies`: what each workload depends on. Its manifest is generated from here.
//!
//! Who writes it: people its `spec`, the controller its `status`.

// KubeSchema repeats the spec inside a function.
#![allow(unreachable_pub)]

use dependency_graph::{Mode, Workload};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a workload depends on: pinned by people, learned from its sidecars.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "lazymesh.dev",
    version = "v1alpha1",
    kind = "WorkloadDependencies",
    plural = "workloaddependencies",
    singular = "workloaddependencies",
    shortname = "wdep",
    category = "lazymesh",
    namespaced,
    status = "WorkloadDependenciesStatus",
    derive = "PartialEq",
    doc = "What a workload depends on: the hosts its sidecars are given before they ask.",
    validation = Rule::new("self.metadata.name.size() >= 253 || self.metadata.name == self.spec.workloadRef.kind.lowerAscii() + '-' + self.spec.workloadRef.name").message("must be named <kind in lower case>-<name> of spec.workloadRef"),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workloadRef.name"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.workloadRef.kind", priority = "1"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Dependencies", type_ = "integer", json_path = ".status.dependencyCount"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Last learned", type_ = "date", json_path = ".status.lastLearned"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadDependenciesSpec {
    /// The owner of pods that this is about, in the same namespace. The resource is named
    /// <kind in lower case>-<name> after it, such as deployment-reviews.
    #[x_kube(validation = Rule::new("self == oldSelf").message("workloadRef cannot change"))]
    pub workload_ref: WorkloadRef,
    /// Overrides the label lazymesh.dev/mode of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ModeName>,
    /// Hosts that every pod of the workload is given from the start, called or not. They never expire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub pinned: Vec<Pinned>,
    /// How long after its last call a learned dependency is forgotten, such as 720h; 0s is never. Absent, the annotation
    /// lazymesh.dev/expire-after of the namespace says, or the controller's flag. Nothing is forgotten unless Prometheus
    /// answered for all of that time; the condition NoEvidence says when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(h|m|s))+$"), length(max = 32))]
    pub expire_after: Option<String>,
    /// In mode on-demand: how long nothing new must have been learned for the workload to settle, such as 24h; 0s is never.
    /// Absent, the controller's flag says. One that has settled gets a Sidecar as in mode sidecar, so that istiod stops
    /// generating the rest, and what it calls then for the first time falls back. It stays so while it grows. The condition
    /// Settled says whether it has, and if not, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(h|m|s))+$"), length(max = 32))]
    pub settle_after: Option<String>,
}

/// An owner of pods.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRef {
    /// Its kind, such as Deployment.
    #[schemars(regex(pattern = r"^[A-Z][A-Za-z0-9]*$"), length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
        length(max = 253)
    )]
    pub name: String,
}

/// How sidecars are made lazy.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeName {
    /// The shim trims; the sidecar asks for what it lacks.
    OnDemand,
    /// A Sidecar resource trims.
    Sidecar,
    /// Nobody trims.
    Observe,
    /// Plain Istio.
    Off,
}

/// A host that is known from the start.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pinned {
    /// The full name, such as reviews.shop.svc.cluster.local; it may begin with "*.".
    #[schemars(
        regex(
            pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
        ),
        length(max = 253)
    )]
    pub host: String,
    /// Its service ports; none stands for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
}

/// What was learned. Written by the controller only.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadDependenciesStatus {
    /// Learning: what its sidecars ask for is added. Settling: nothing new was learned for spec.settleAfter, and its Sidecar
    /// is on its way, or the condition Settled says why not. Settled: its Sidecar is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// How many dependencies were learned: hosts times ports.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub dependency_count: i32,
    /// When something new was last learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_learned: Option<Time>,
    /// What was learned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<LearnedDependency>,
    /// The time without a gap for which Prometheus told what is called. Written again only every few hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceSpan>,
    /// What was forgotten lately: what is older does not bring it back, a new call does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<ForgottenDependency>,
    /// Capped: whether something was not learned because the workload has as many dependencies as it may have. In mode
    /// sidecar, and of what is to settle, also SidecarWritten, Settled, and what a person should know; docs/operations.md
    /// lists them.
    /// NoEvidence: whether nothing is forgotten because Prometheus does not tell what is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that was last seen when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Where a workload is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Phase {
    /// What its sidecars ask for is added.
    Learning,
    /// Nothing new was learned for long, and its Sidecar is not there yet.
    Settling,
    /// Nothing new was learned for long, and istiod generates what its Sidecar says.
    Settled,
}

/// A host that was called.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedDependency {
    /// The full name istiod uses.
    pub host: String,
    /// The service ports called.
    pub ports: Vec<i32>,
    /// HTTP or TCP.
    #[schemars(regex(pattern = r"^(HTTP|TCP)$"))]
    pub protocol: String,
    /// The first call.
    pub first_seen: Time,
    /// The last call; written again only every few hours.
    pub last_seen: Time,
    /// OnDemand: a sidecar asked for it. Fallback: it came to the global proxy. Telemetry: Prometheus told of it.
    pub source: String,
}

/// A time without a gap.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceSpan {
    /// From when.
    pub since: Time,
    /// Until when.
    pub until: Time,
}

/// A host that is no longer known because it was not called for long.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForgottenDependency {
    /// The full name istiod uses.
    pub host: String,
    /// HTTP or TCP.
    #[schemars(regex(pattern = r"^(HTTP|TCP)$"))]
    pub protocol: String,
    /// When it was forgotten.
    pub at: Time,
}

/// The CustomResourceDefinition as a YAML manifest.
///
/// # Errors
/// When it cannot be written as YAML.
pub fn manifest() -> Result<String, serde_yaml_ng::Error> {
    let yaml = serde_yaml_ng::to_string(&WorkloadDependencies::crd())?;
    // kubectl reads YAML 1.1, to which a bare off is a boolean.
    let yaml = yaml.replace("- off\n", "- 'off'\n");
    Ok(format!(
        "# Generated by `lazyload-controller crd`. Do not edit.\n{yaml}"
    ))
}

/// The resource of a workload of which nothing is known yet.
#[must_use]
pub fn new_record(workload: &Workload) -> WorkloadDependencies {
    let workload_ref = WorkloadRef {
        kind: workload.kind().into(),
        name: workload.name().into(),
    };
    let (mode, pinned, expire_after, settle_after) = (None, Vec::new(), None, None);
    let spec = WorkloadDependenciesSpec {
        workload_ref,
        mode,
        pinned,
        expire_after,
        settle_after,
    };
    let mut resource = WorkloadDependencies::new(&workload.record_name(), spec);
    resource.metadata.namespace = Some(workload.namespace().into());
    resource
}

impl From<ModeName> for Mode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::OnDemand => Self::OnDemand,
            ModeName::Sidecar => Self::Sidecar,
            ModeName::Observe => Self::Observe,
            ModeName::Off => Self::Off,
        }
    }
}
