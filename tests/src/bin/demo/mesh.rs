//! What Kubernetes would hold of the mesh, as YAML documents in the controller's folder: namespaces, services, the pod
//! whose Sidecar grows, and what the global proxy is installed with.

use crate::bootstrap::Identity;
use anyhow::{Context, Result};
use mesh_tests::embedded::{MeshShape, Port, Protocol, Service};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Where the controller looks for the mesh's objects, below its folder, and writes its own.
const MESH: &str = "mesh";
/// Where services' addresses are from.
const SERVICE_CIDR: &str = "10.96.0.0/12";
/// The global proxy's namespace, and its name there: its own Service's, its account's and its pods' `app`.
pub(crate) const SYSTEM: &str = "lazymesh-system";
pub(crate) const GLOBAL_PROXY: &str = "global-proxy";
/// Beyond those of the other services.
const GLOBAL_PROXY_IP: Ipv4Addr = Ipv4Addr::new(10, 111, 0, 1);
/// What the global proxy is installed with.
const MANIFESTS: [(&str, &str); 2] = [
    (
        "global-proxy-service.yaml",
        include_str!("../../../../manifests/global-proxy/service.yaml"),
    ),
    (
        "global-proxy-mesh.yaml",
        include_str!("../../../../manifests/global-proxy/mesh.yaml"),
    ),
];

/// The folder with the mesh's objects.
pub(crate) fn folder(store: &Path) -> PathBuf {
    store.join(MESH)
}

/// Writes all of it into the controller's folder. `modes`: namespaces that have the label.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(
    store: &Path,
    shape: &MeshShape,
    modes: &[(&str, &str)],
    pod: &Identity,
) -> Result<()> {
    let mesh = folder(store);
    std::fs::create_dir_all(&mesh).with_context(|| mesh.display().to_string())?;
    for (namespace, mode) in modes {
        let document = namespace_document(namespace, Some(mode));
        put(
            &store.join(format!("namespace-{namespace}.yaml")),
            &documents([document])?,
        )?;
    }
    let labelled: BTreeSet<&str> = modes.iter().map(|(namespace, _)| *namespace).collect();
    let services = shape.services.values();
    let mut namespaces: BTreeSet<&str> = services.map(|one| one.namespace.as_str()).collect();
    namespaces.insert(SYSTEM);
    let others = namespaces.difference(&labelled);
    put(
        &mesh.join("namespaces.yaml"),
        &documents(others.map(|name| namespace_document(name, None)))?,
    )?;
    let services = shape.services.values().map(service_document);
    put(&mesh.join("services.yaml"), &documents(services)?)?;
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [SERVICE_CIDR]},
    });
    put(&mesh.join("service-cidr.yaml"), &documents([cidr])?)?;
    put_pod(store, pod)?;
    for (name, text) in MANIFESTS {
        put(&mesh.join(name), text)?;
    }
    Ok(())
}

fn put(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// Writes a ready pod into the controller's folder.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn put_pod(store: &Path, pod: &Identity) -> Result<()> {
    let file = format!("pod-{}.yaml", pod.namespace);
    put(&folder(store).join(file), &documents([pod_document(pod)])?)
}

/// The global proxy as the control plane has it, with one pod.
pub(crate) fn global_proxy(pod: Ipv4Addr) -> Service {
    let port = |number, target, protocol| Port {
        number,
        target,
        protocol,
    };
    Service {
        name: GLOBAL_PROXY.to_owned(),
        namespace: SYSTEM.to_owned(),
        cluster_ip: GLOBAL_PROXY_IP,
        ports: vec![
            port(80, 15080, Protocol::Http),
            port(15009, 15081, Protocol::Tcp),
        ],
        endpoints: vec![pod],
        account: Some(GLOBAL_PROXY.to_owned()),
    }
}

fn documents(all: impl IntoIterator<Item = Value>) -> Result<String> {
    let mut text = String::new();
    for document in all {
        write!(text, "---\n{}", serde_yaml_ng::to_string(&document)?)?;
    }
    Ok(text)
}

fn namespace_document(name: &str, mode: Option<&str>) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(mode) = mode {
        metadata["labels"] = json!({dependency_graph::mode::LABEL: mode});
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
}

fn service_document(service: &Service) -> Value {
    let port = |port: &Port| {
        let protocol = match port.protocol {
            Protocol::Http => "http",
            Protocol::Tcp => "tcp",
        };
        let name = format!("{protocol}-{}", port.number);
        json!({"name": name, "port": port.number, "targetPort": port.target})
    };
    let ports: Vec<Value> = service.ports.iter().map(port).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace},
        "spec": {"clusterIP": service.cluster_ip.to_string(), "ports": ports},
    })
}

/// A pod of a Deployment, as the injector leaves it.
fn pod_document(pod: &Identity) -> Value {
    const HASH: &str = "5d9c7b8f6";
    let Identity {
        namespace,
        workload,
        ..
    } = pod;
    let mut labels = json!(pod.labels());
    labels["pod-template-hash"] = json!(HASH);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.pod(),
            "namespace": namespace,
            "generateName": format!("{workload}-{HASH}-"),
            "labels": labels,
            "annotations": {"sidecar.istio.io/status": "{}"},
            "ownerReferences": [{
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": format!("{workload}-{HASH}"),
                "uid": HASH,
                "controller": true,
            }],
        },
        "spec": {"serviceAccountName": workload, "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
