use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::mesh::Kind;
use crate::mesh::fixture::{pod_of, world};

fn workload(name: &str) -> Workload {
    Workload::new("shop", "Deployment", name).unwrap()
}

fn all(names: &[&str]) -> BTreeSet<Workload> {
    names.iter().map(|name| workload(name)).collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// A pod of a Deployment with these labels beside the hash.
fn pod(world: &mut World, at: &str, app: &str, labels: Value) {
    let mut body = pod_of(app);
    body["metadata"]["labels"] = labels;
    body["metadata"]["labels"]["pod-template-hash"] = json!("5d4f");
    world.put(Kind::Pod, at, body);
}

#[test]
fn labels_that_all_pods_share_and_that_last() {
    let mut world = world();
    pod(
        &mut world,
        "shop/cart-1",
        "cart",
        json!({"app": "cart", "version": "v1", "batch.kubernetes.io/job-name": "a",
               "security.istio.io/tlsMode": "istio", "istio.io/rev": "a", "lazymesh.dev/mode": "sidecar"}),
    );
    pod(
        &mut world,
        "shop/cart-2",
        "cart",
        json!({"app": "cart", "version": "v2", "team": "a"}),
    );
    let groups = groups(&world, "shop", &all(&["cart"]));
    assert_eq!(groups.selected.len(), 1);
    assert_eq!(groups.selected[0].selector, labels(&[("app", "cart")]));
    assert!(groups.without.is_empty());
}

#[test]
fn pods_without_a_service_and_two_workloads_of_one_service_are_told_apart() {
    let mut world = world();
    // One Service may select both by `app`: their own labels still differ.
    pod(
        &mut world,
        "shop/a-1",
        "a",
        json!({"app": "x", "version": "v1"}),
    );
    pod(
        &mut world,
        "shop/b-1",
        "b",
        json!({"app": "x", "version": "v2"}),
    );
    let groups = groups(&world, "shop", &all(&["a", "b"]));
    let found: Vec<_> = groups.selected.iter().map(|g| g.selector.clone()).collect();
    assert_eq!(
        found,
        [
            labels(&[("app", "x"), ("version", "v1")]),
            labels(&[("app", "x"), ("version", "v2")])
        ]
    );
}

#[test]
fn workloads_that_labels_do_not_tell_apart_share() {
    let mut world = world();
    pod(&mut world, "shop/a-1", "a", json!({"app": "x"}));
    pod(&mut world, "shop/b-1", "b", json!({"app": "x"}));
    // Reached only once the first two have given up nothing: it has a label more.
    pod(
        &mut world,
        "shop/c-1",
        "c",
        json!({"app": "x", "more": "1"}),
    );
    pod(&mut world, "shop/d-1", "d", json!({"app": "y"}));
    let groups = groups(&world, "shop", &all(&["a", "b", "c", "d"]));
    assert_eq!(groups.selected.len(), 2);
    assert_eq!(groups.selected[0].workloads, all(&["a", "b", "c"]));
    assert_eq!(groups.selected[0].selector, labels(&[("app", "x")]));
    assert_eq!(groups.selected[1].workloads, all(&["d"]));
}

#[test]
fn what_cannot_be_selected_alone_is_not() {
    let mut world = world();
    pod(&mut world, "shop/none-1", "none", json!({}));
    // Its labels reach pods of a workload that is not to be made lazy.
    pod(&mut world, "shop/a-1", "a", json!({"app": "x"}));
    pod(
        &mut world,
        "shop/off-1",
        "off",
        json!({"app": "x", "more": "1"}),
    );
    let wanted = all(&["none", "a", "gone"]);
    let groups = groups(&world, "shop", &wanted);
    assert_eq!(groups.selected, []);
    assert_eq!(groups.without, all(&["none", "a"]));
}

#[test]
fn pods_that_ended_and_workloads_without_pods_do_not_count() {
    let mut world = world();
    let mut ended = pod_of("a");
    ended["metadata"]["labels"] = json!({"other": "1"});
    ended["status"]["phase"] = json!("Failed");
    world.put(Kind::Pod, "shop/a-0", ended);
    pod(&mut world, "shop/a-1", "a", json!({"app": "a"}));
    let groups = groups(&world, "shop", &all(&["a", "gone"]));
    assert_eq!(groups.selected[0].selector, labels(&[("app", "a")]));
    assert!(groups.without.is_empty());
}

#[test]
fn a_workload_that_is_reached_later_brings_its_group() {
    let mut world = world();
    // By name first: it seems to stand alone until the second, with fewer labels, reaches it.
    pod(
        &mut world,
        "shop/a-1",
        "a",
        json!({"app": "x", "more": "1"}),
    );
    pod(
        &mut world,
        "shop/b-1",
        "b",
        json!({"app": "x", "more": "1", "most": "1"}),
    );
    pod(&mut world, "shop/c-1", "c", json!({"app": "x"}));
    let groups = groups(&world, "shop", &all(&["a", "b", "c"]));
    assert_eq!(groups.selected.len(), 1);
    assert_eq!(groups.selected[0].workloads, all(&["a", "b", "c"]));
    assert_eq!(groups.selected[0].selector, labels(&[("app", "x")]));
}

proptest! {
    /// Every pod of a workload in a group is selected by that group and no other, and no other pod is.
    #[test]
    fn a_pod_is_selected_by_its_group_only(
        pods in proptest::collection::vec((0_usize..5, proptest::collection::btree_map("[kl]", "[12]", 0..3)), 0..10),
        wanted in proptest::sample::subsequence(vec!["a", "b", "c", "d", "e"], 0..=5),
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let mut world = world();
        for (number, (of, labels)) in pods.iter().enumerate() {
            pod(&mut world, &format!("shop/p-{number}"), names[*of], json!(labels));
        }
        let wanted = all(&wanted);
        let groups = groups(&world, "shop", &wanted);
        let mut seen: BTreeSet<Workload> = groups.without.clone();
        for group in &groups.selected {
            for workload in &group.workloads {
                prop_assert!(wanted.contains(workload) && seen.insert(workload.clone()));
            }
            for (_, pod) in world.pods("shop") {
                let owned = pod.workload.as_ref().is_some_and(|of| group.workloads.contains(of));
                prop_assert_eq!(owned, selects(&group.selector, &pod.labels));
            }
        }
        let with_pods: BTreeSet<Workload> = world.pods("shop").filter_map(|(_, pod)| pod.workload.clone()).collect();
        prop_assert_eq!(seen, wanted.intersection(&with_pods).cloned().collect());
    }
}
