//! Short ways for tests to write a mesh.

// A literal reads better than a reference to one.
#![allow(clippy::needless_pass_by_value)]

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{Kind, Name, Touched, World};

/// `namespace/name`.
pub(crate) fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name::new(namespace, name)
}

pub(crate) fn object(at: &str, mut body: Value) -> DynamicObject {
    let (namespace, name) = at.split_once('/').unwrap_or(("", at));
    let metadata = body
        .as_object_mut()
        .unwrap()
        .entry("metadata")
        .or_insert_with(|| json!({}));
    metadata["name"] = json!(name);
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    serde_json::from_value(body).unwrap()
}

/// A mesh with the namespaces that every mesh of ours has.
pub(crate) fn world() -> World {
    let mut world = World::new("cluster.local")
        .looking_for_ready_pods("lazymesh-system")
        .in_namespace("lazymesh-system");
    for namespace in ["istio-system", "lazymesh-system"] {
        world.put(Kind::Namespace, namespace, json!({}));
    }
    world.put(
        Kind::ServiceCidr,
        "kubernetes",
        json!({"spec": {"cidrs": ["10.96.0.0/12", "fd00:10:96::/108"]}}),
    );
    world.service("istio-system/istiod", "10.96.0.2", &["tcp:15012"]);
    world.service(
        "lazymesh-system/global-proxy",
        "10.96.0.3",
        &["http:80", "tcp-tunnel:15009"],
    );
    world
}

impl World {
    pub(crate) fn put(&mut self, kind: Kind, at: &str, body: Value) -> Touched {
        self.apply(kind, &object(at, body)).unwrap()
    }

    /// A namespace in mode `sidecar`.
    pub(crate) fn lazy_namespace(&mut self, name: &str) {
        self.put(
            Kind::Namespace,
            name,
            json!({"metadata": {"labels": {"lazymesh.dev/mode": "sidecar"}}}),
        );
    }

    /// A Kubernetes service with an address and ports, each `name:number`. The address `None` makes it headless.
    pub(crate) fn service(&mut self, at: &str, address: &str, ports: &[&str]) -> Touched {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| {
                let (name, number) = port.split_once(':').unwrap();
                json!({"name": name, "port": number.parse::<u16>().unwrap()})
            })
            .collect();
        let spec = json!({"clusterIP": address, "ports": ports});
        self.put(Kind::Service, at, json!({"spec": spec}))
    }

    pub(crate) fn put_entry(&mut self, at: &str, spec: Value) -> Touched {
        self.put(Kind::ServiceEntry, at, json!({"spec": spec}))
    }

    pub(crate) fn virtual_service(&mut self, at: &str, spec: Value) -> Touched {
        self.put(Kind::VirtualService, at, json!({"spec": spec}))
    }

    /// An injected pod of the Deployment that its label `app` names, running as the service account of that name.
    pub(crate) fn put_pod(&mut self, at: &str, app: &str) -> Touched {
        self.put(Kind::Pod, at, pod_of(app))
    }
}

/// See [`World::put_pod`]. It is younger than whatever tests make at their beginning.
pub(crate) fn pod_of(app: &str) -> Value {
    json!({
        "metadata": {
            "generateName": format!("{app}-5d4f-"),
            "creationTimestamp": "1970-01-02T00:00:00Z",
            "labels": {"app": app, "pod-template-hash": "5d4f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "1",
                                 "name": format!("{app}-5d4f"), "controller": true}],
        },
        "spec": {"serviceAccountName": app, "containers": [{"name": "app"}, {"name": "istio-proxy"}]},
        "status": {"phase": "Running"},
    })
}
