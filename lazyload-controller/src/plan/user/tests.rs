use dependency_graph::Graph;
use serde_json::{Value, json};

use crate::mesh::fixture::name;
use crate::mesh::{Kind, Name, World};
use crate::plan::tests::{BASE, CART, WEB, hosts, kinds, learned, plan, shop, with_base, workload};

/// A user's Sidecar.
fn user_sidecar(world: &mut World, at: &str, spec: &Value) {
    world.put(Kind::Sidecar, at, json!({"spec": spec}));
}

#[test]
fn a_user_s_sidecar_that_selects_a_pod_wins() {
    let mut world = shop();
    user_sidecar(
        &mut world,
        "shop/theirs",
        &json!({"workloadSelector": {"labels": {"app": "cart"}}, "egress": [{"hosts": ["./*"]}]}),
    );
    let desired = plan(&world, &learned("cart", &["pay.bank"]));
    assert_eq!(
        desired
            .sidecars
            .keys()
            .map(|n| n.name.as_str())
            .collect::<Vec<_>>(),
        [WEB]
    );
    assert_eq!(kinds(&desired, "cart"), ["UserSidecar"]);
    let said = desired.conditions[&workload("cart")].first().unwrap();
    assert!(said.to_string().contains("shop/theirs"));
    // And gets no fallback of ours.
    let filters: Vec<&str> = desired
        .filters
        .keys()
        .map(|name| name.name.as_str())
        .collect();
    assert_eq!(filters, ["lazymesh-fallback-deployment-web"]);
    // An empty selector selects all.
    user_sidecar(&mut world, "shop/theirs", &json!({"workloadSelector": {}}));
    assert_eq!(plan(&world, &Graph::new()).sidecars.len(), 0);
    // In the root namespace it selects pods there.
    world.delete(Kind::Sidecar, &name("shop/theirs"));
    user_sidecar(
        &mut world,
        "istio-system/theirs",
        &json!({"workloadSelector": {}}),
    );
    assert_eq!(plan(&world, &Graph::new()).sidecars.len(), 2);
}

#[test]
fn a_user_s_sidecar_for_the_namespace_is_merged_as_what_it_allows() {
    let mut world = shop();
    let graph = learned("cart", &["pay.bank", "cart.shop", "rates.bank"]);
    user_sidecar(
        &mut world,
        "shop/default",
        &json!({"egress": [{"hosts": ["./*", "bank/pay.bank.svc.cluster.local", "no-slash"]}],
               "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
               "inboundConnectionPool": {"tcp": {"maxConnections": 1}}}),
    );
    let desired = plan(&world, &graph);
    let proxy = BASE[0];
    assert_eq!(
        hosts(&desired, CART),
        ["bank/pay.bank", proxy, "shop/cart.shop"]
    );
    let sidecar = &desired.sidecars[&Name::new("shop", CART)];
    assert_eq!(
        sidecar.outbound_traffic_policy,
        Some(json!({"mode": "REGISTRY_ONLY"}))
    );
    assert!(sidecar.inbound_connection_pool.is_some());
    for (allowed, expected) in [
        (
            json!(["*/*"]),
            with_base(&["bank/pay.bank", "bank/rates.bank", "shop/cart.shop"]),
        ),
        (json!(["*/*", "~bank/*"]), with_base(&["shop/cart.shop"])),
        (
            json!(["*/*", "~/pay.bank.svc.cluster.local"]),
            with_base(&["bank/rates.bank", "shop/cart.shop"]),
        ),
        (
            json!(["*/*.bank.svc.cluster.local"]),
            vec![
                "bank/pay.bank".into(),
                "bank/rates.bank".into(),
                proxy.into(),
            ],
        ),
        (json!(["~/*"]), vec![proxy.into()]),
        (json!([]), vec![proxy.into()]),
    ] {
        user_sidecar(
            &mut world,
            "shop/default",
            &json!({"egress": [{"hosts": allowed}]}),
        );
        assert_eq!(hosts(&plan(&world, &graph), CART), expected, "{allowed}");
    }
    // Without listeners it allows all.
    user_sidecar(&mut world, "shop/default", &json!({}));
    assert_eq!(hosts(&plan(&world, &graph), CART).len(), 4);
}

#[test]
fn a_user_s_sidecar_with_listeners_of_its_own_is_not_touched() {
    for spec in [
        json!({"egress": [{"port": {"number": 80}, "hosts": ["*/*"]}]}),
        json!({"egress": [{"bind": "127.0.0.1", "hosts": ["*/*"]}]}),
        json!({"egress": [{"hosts": ["*/*"]}, {"hosts": ["*/*"]}]}),
        json!({"ingress": [{"port": {"number": 80}}]}),
    ] {
        let mut world = shop();
        user_sidecar(&mut world, "shop/default", &spec);
        let desired = plan(&world, &Graph::new());
        assert_eq!((desired.sidecars.len(), desired.filters.len()), (0, 0));
        assert_eq!(kinds(&desired, "cart"), ["UserSidecar"]);
    }
}

#[test]
fn the_mesh_wide_sidecar_counts_where_a_namespace_has_none() {
    let mut world = shop();
    let graph = learned("cart", &["pay.bank", "cart.shop"]);
    user_sidecar(
        &mut world,
        "istio-system/default",
        &json!({"egress": [{"hosts": ["./*"]}]}),
    );
    assert_eq!(
        hosts(&plan(&world, &graph), CART),
        [BASE[0], "shop/cart.shop"]
    );
    user_sidecar(
        &mut world,
        "shop/default",
        &json!({"egress": [{"hosts": ["*/*"]}]}),
    );
    assert_eq!(hosts(&plan(&world, &graph), CART).len(), 3);
}

#[test]
fn of_two_for_the_namespace_the_older_counts() {
    let mut world = shop();
    let graph = learned("cart", &["pay.bank", "cart.shop"]);
    for (at, created, hosts) in [
        ("shop/a", "2026-01-02T00:00:00Z", "bank/*"),
        ("shop/b", "2026-01-01T00:00:00Z", "./*"),
    ] {
        world.put(
            Kind::Sidecar,
            at,
            json!({"metadata": {"creationTimestamp": created}, "spec": {"egress": [{"hosts": [hosts]}]}}),
        );
    }
    assert_eq!(
        hosts(&plan(&world, &graph), CART),
        [BASE[0], "shop/cart.shop"]
    );
}

#[test]
fn what_has_our_name_and_is_not_ours_is_left_alone() {
    let mut world = shop();
    user_sidecar(
        &mut world,
        &format!("shop/{CART}"),
        &json!({"workloadSelector": {"labels": {"app": "nobody"}}}),
    );
    let desired = plan(&world, &Graph::new());
    assert_eq!(desired.sidecars.len(), 1);
    assert_eq!(kinds(&desired, "cart"), ["NameTaken"]);
    let mut world = shop();
    world.put(
        Kind::EnvoyFilter,
        "shop/lazymesh-fallback",
        json!({"spec": {}}),
    );
    let desired = plan(&world, &Graph::new());
    assert_eq!((desired.sidecars.len(), desired.filters.len()), (0, 0));
    assert_eq!(kinds(&desired, "web"), ["NameTaken"]);
}
