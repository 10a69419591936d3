//! The mode `sidecar` without Kubernetes: the mesh, and what is written for it, in a folder of YAML.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/harness.rs"]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::*;

const SIDECAR: &str = "shop.sidecar-lazymesh-deployment-cart.yaml";
const FILTER: &str = "shop.envoyfilter-lazymesh-fallback.yaml";
const HOST: &str = "reviews.shop.svc.cluster.local";

/// The mesh: two services, the global proxy, and a pod of the workload `cart`.
const MESH: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: lazymesh-system}}
---
apiVersion: v1
kind: Service
metadata: {name: global-proxy, namespace: lazymesh-system}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}, {name: tcp-tunnel, port: 15009}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.0.4, ports: [{name: http, port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16]}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-1-a
  namespace: shop
  generateName: cart-1-
  labels: {app: cart, pod-template-hash: "1"}
  annotations: {sidecar.istio.io/status: "{}"}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-1, uid: x, controller: true}]
spec: {serviceAccountName: cart, containers: [{name: app}]}
"#;

fn mode(folder: &Path, mode: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{lazymesh.dev/mode: '{mode}'}}}}\n"
    );
    fs::write(folder.join("namespace-shop.yaml"), text).unwrap();
}

fn prepare() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mesh = folder.path().join("mesh");
    fs::create_dir(&mesh).unwrap();
    fs::write(mesh.join("all.yaml"), MESH).unwrap();
    mode(folder.path(), "sidecar");
    (folder, mesh)
}

async fn controller(folder: &Path) -> Controller {
    let store = format!("file:{}", folder.display());
    let flags = ["--store", &store, "--auth", "none"];
    // As there is no istiod that things must settle for.
    let pace = [
        "--fallback-settles",
        "0s",
        "--fallback-lingers",
        "0s",
        "--sidecar-step",
        "10ms",
    ];
    Controller::start(&[&flags[..], &pace].concat()).await
}

/// The hosts that the Sidecar lets its proxies call; `None` while there is no Sidecar.
fn given(mesh: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(mesh.join(SIDECAR)).ok()?;
    let object: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
    let hosts = object["spec"]["egress"][1]["hosts"].as_array().unwrap();
    Some(
        hosts
            .iter()
            .map(|host| host.as_str().unwrap().to_owned())
            .collect(),
    )
}

async fn until(condition: impl Fn() -> bool) {
    in_time(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_is_made_and_grows_and_goes() {
    let (folder, mesh) = prepare();
    let controller = controller(folder.path()).await;
    until(|| given(&mesh).is_some()).await;
    assert!(mesh.join(FILTER).exists());
    let own = format!("shop/{HOST}");
    assert!(!given(&mesh).unwrap().contains(&own));

    let mut reporter = controller.report().await;
    reporter.send_and_wait(vec![seen("cart", HOST)]).await;
    until(|| given(&mesh).unwrap().contains(&own)).await;
    assert_eq!(given(&mesh).unwrap().len(), 2, "the global proxy, and that");

    mode(folder.path(), "off");
    until(|| given(&mesh).is_none() && !mesh.join(FILTER).exists()).await;
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_what_is_there() {
    let (folder, mesh) = prepare();
    let first = controller(folder.path()).await;
    let mut reporter = first.report().await;
    reporter.send_and_wait(vec![seen("cart", HOST)]).await;
    let whole = || {
        given(&mesh).is_some_and(|hosts| hosts.len() == 2)
            // Nothing is announced any more: the last step is done.
            && fs::read_to_string(mesh.join(SIDECAR)).unwrap().contains("~/*")
    };
    until(whole).await;
    drop(reporter);
    first.stop().await;
    let before = uid(&mesh);

    let second = controller(folder.path()).await;
    let mut reporter = second.report().await;
    let more = "ratings.shop.svc.cluster.local";
    reporter.send_and_wait(vec![seen("cart", more)]).await;
    until(|| given(&mesh).unwrap().len() == 3).await;
    assert_eq!(uid(&mesh), before, "the same object, grown");
    second.stop().await;
}

fn uid(mesh: &Path) -> String {
    let text = fs::read_to_string(mesh.join(SIDECAR)).unwrap();
    let object: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}
