use serde_json::json;

use super::*;
use crate::mesh::Kind;
use crate::mesh::fixture::{pod_of, world};

fn shop() -> World {
    let mut world = world();
    world.put_pod("shop/cart-1", "cart");
    world.put_pod("shop/web-1", "web");
    let mut same_account = pod_of("web-canary");
    same_account["spec"]["serviceAccountName"] = json!("web");
    world.put(Kind::Pod, "shop/web-canary-1", same_account);
    world
}

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[test]
fn a_pod_tells_its_workload_if_its_account_fits() {
    let world = shop();
    let name = |identity, pod| caller(&world, identity, pod).map(|w| w.to_string());
    assert_eq!(name(CART, Some("cart-1")).as_deref(), Ok("shop/cart"));
    assert_eq!(
        name(WEB, Some("web-canary-1")).as_deref(),
        Ok("shop/web-canary")
    );
    assert!(matches!(
        name(CART, Some("web-1")),
        Err(Unknown::Account { .. })
    ));
    assert!(matches!(
        name(CART, Some("cart-9")),
        Err(Unknown::Pod { .. })
    ));
    // Of another namespace, whatever its name.
    let bank = "spiffe://cluster.local/ns/bank/sa/cart";
    assert!(matches!(
        name(bank, Some("cart-1")),
        Err(Unknown::Pod { .. })
    ));
}

#[test]
fn without_a_pod_an_account_of_one_workload_is_enough() {
    let mut world = shop();
    for pod in [None, Some("")] {
        assert_eq!(caller(&world, CART, pod).unwrap().to_string(), "shop/cart");
        let error = caller(&world, WEB, pod).unwrap_err();
        assert_eq!(error, Unknown::Ambiguous("shop/web".into()));
    }
    let none = "spiffe://cluster.local/ns/shop/sa/none";
    assert!(caller(&world, none, None).is_err());
    world.delete(Kind::Pod, &crate::mesh::Name::new("shop", "web-canary-1"));
    assert_eq!(caller(&world, WEB, None).unwrap().to_string(), "shop/web");
}

#[test]
fn other_identities_are_nobody() {
    let world = shop();
    let long = format!("spiffe://cluster.local/ns/shop/sa/{}", "a".repeat(3000));
    for bad in [
        "",
        "cart",
        "spiffe://",
        "spiffe://elsewhere/ns/shop/sa/cart",
        "spiffe://cluster.local/ns/shop/sa/",
        "spiffe://cluster.local/ns//sa/cart",
        "spiffe://cluster.local/sa/cart/ns/shop",
        "spiffe://cluster.local/ns/shop/sa/cart/more",
        "https://cluster.local/ns/shop/sa/cart",
        &long,
    ] {
        let error = caller(&world, bad, Some("cart-1")).unwrap_err();
        assert!(matches!(error, Unknown::Identity(_)), "{bad}");
        assert!(error.to_string().len() < 600);
    }
}

#[test]
fn other_names_of_the_trust_domain_are_this_mesh_too() {
    let mut world = shop();
    world.put(
        Kind::MeshConfig,
        "istio-system/istio",
        json!({"data": {"mesh": "trustDomain: new\ntrustDomainAliases: [cluster.local]\n"}}),
    );
    assert!(caller(&world, CART, Some("cart-1")).is_ok());
    let new = "spiffe://new/ns/shop/sa/cart";
    assert!(caller(&world, new, Some("cart-1")).is_ok());
}
