use std::collections::BTreeSet;

use dependency_graph::cover::Cover;
use serde_json::Value;

use super::*;
use crate::closure::EgressHost;
use crate::mesh::fixture::name;
use crate::plan::tests::workload;
use crate::plan::{FilterSpec, SidecarSpec};

fn sidecar_spec() -> SidecarSpec {
    SidecarSpec {
        workloads: BTreeSet::from([workload("cart")]),
        selector: [("app".to_owned(), "cart".to_owned())].into(),
        hosts: [
            EgressHost::new("shop", "reviews.shop.svc.cluster.local"),
            EgressHost::new(
                "lazymesh-system",
                "global-proxy.lazymesh-system.svc.cluster.local",
            ),
            EgressHost::new("bank", "*.example.com"),
        ]
        .into(),
        counts: (1, 0, 2),
        outbound_traffic_policy: None,
        inbound_connection_pool: None,
        filter: name("shop/lazymesh-fallback"),
        begins_wide: false,
    }
}

fn filter_spec() -> FilterSpec {
    let cidrs = ["10.96.0.0/16", "fd00:10:96::/108"].map(|cidr| cidr.parse().unwrap());
    FilterSpec {
        selector: None,
        cover: Cover::of(["bank", "shop"], ["db"], "cluster.local", &cidrs),
        prefixes: cidrs.into(),
        global_proxy: (
            "global-proxy.lazymesh-system.svc.cluster.local".to_owned(),
            80,
            15009,
        ),
    }
}

/// What is written is what the file says. To change it on purpose, take the text that the test prints.
fn is_golden(object: &Value, golden: &str) {
    let yaml = serde_yaml_ng::to_string(object).unwrap();
    assert_eq!(yaml, golden, "\n{yaml}");
}

#[test]
fn a_sidecar() {
    let object = sidecar::render(&name("shop/lazymesh-deployment-cart"), &sidecar_spec());
    is_golden(&object, include_str!("golden/sidecar.yaml"));
}

#[test]
fn a_sidecar_beside_a_user_s() {
    let spec = SidecarSpec {
        outbound_traffic_policy: Some(json!({"mode": "REGISTRY_ONLY"})),
        inbound_connection_pool: Some(json!({"tcp": {"maxConnections": 1}})),
        ..sidecar_spec()
    };
    let object = sidecar::render(&name("shop/lazymesh-deployment-cart"), &spec);
    is_golden(&object, include_str!("golden/sidecar-merged.yaml"));
}

#[test]
fn a_fallback_for_a_namespace() {
    let object = envoyfilter::render(&name("shop/lazymesh-fallback"), &filter_spec());
    is_golden(&object, include_str!("golden/fallback.yaml"));
}

#[test]
fn a_fallback_for_a_workload_without_tunnels() {
    let spec = FilterSpec {
        selector: Some([("app".to_owned(), "cart".to_owned())].into()),
        prefixes: Vec::new(),
        ..filter_spec()
    };
    let object = envoyfilter::render(&name("shop/lazymesh-fallback-deployment-cart"), &spec);
    is_golden(&object, include_str!("golden/fallback-selected.yaml"));
}

#[test]
fn nothing_ties_what_is_written_to_a_revision_of_istio() {
    for object in [
        sidecar::render(&name("shop/a"), &sidecar_spec()),
        envoyfilter::render(&name("shop/a"), &filter_spec()),
    ] {
        let labels = object["metadata"]["labels"].as_object().unwrap();
        assert!(labels.keys().all(|key| key != "istio.io/rev"));
        assert_eq!(labels[MANAGED_BY.0], MANAGED_BY.1);
    }
}

#[test]
fn a_long_cover_is_a_route_for_each_of_its_expressions() {
    let names: Vec<String> = (0..3000).map(|n| format!("namespace-{n}")).collect();
    let cover = Cover::of(names.iter().map(String::as_str), [], "cluster.local", &[]);
    let parts = cover.authority_regexes().len();
    assert!(parts > 1);
    let object = envoyfilter::render(
        &name("shop/a"),
        &FilterSpec {
            cover,
            ..filter_spec()
        },
    );
    let patches = object["spec"]["configPatches"].as_array().unwrap();
    let routes = patches
        .iter()
        .filter(|patch| patch["applyTo"] == "HTTP_ROUTE");
    assert_eq!(routes.count(), 3 * parts);
}
