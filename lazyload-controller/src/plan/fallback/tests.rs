use dependency_graph::Graph;
use serde_json::{Value, json};

use crate::mesh::fixture::{name, pod_of};
use crate::mesh::{Kind, Name, Touched, World};
use crate::plan::tests::{CART, kinds, plan, shop};

/// A global proxy with a selector, as it is shipped.
fn with_selector(world: &mut World) {
    let ports = json!([{"name": "http", "port": 80}, {"name": "tcp-tunnel", "port": 15009}]);
    world.put(
        Kind::Service,
        "lazymesh-system/global-proxy",
        json!({"spec": {"clusterIP": "10.96.0.3", "selector": {"app": "global-proxy"}, "ports": ports}}),
    );
}

fn proxy(app: &str, ready: &str) -> Value {
    let mut body = pod_of(app);
    body["status"]["conditions"] =
        json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]);
    body
}

#[test]
fn while_no_global_proxy_is_ready_nothing_new_is_made_lazy() {
    let mut world = shop();
    with_selector(&mut world);
    let at = "lazymesh-system/global-proxy-1";
    let mut leaving = proxy("global-proxy", "True");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut ended = proxy("global-proxy", "True");
    ended["status"]["phase"] = json!("Failed");
    for pod in [
        proxy("other", "True"),
        proxy("global-proxy", "False"),
        pod_of("global-proxy"),
        leaving,
        ended,
    ] {
        world.put(Kind::Pod, at, pod);
        let desired = plan(&world, &Graph::new());
        assert!(desired.sidecars.is_empty());
        // The EnvoyFilter is no harm, and there when it is needed.
        assert_eq!(desired.filters.len(), 1);
        assert_eq!(kinds(&desired, "cart"), ["FallbackDown"]);
    }
    world.put(Kind::Pod, at, proxy("global-proxy", "True"));
    let desired = plan(&world, &Graph::new());
    assert_eq!(
        (desired.sidecars.len(), kinds(&desired, "cart").len()),
        (2, 0)
    );
    // What is there stays.
    let cart = Name::new("shop", CART);
    let object = crate::render::sidecar::render(&cart, &desired.sidecars[&cart]);
    world.put(Kind::Sidecar, &cart.to_string(), object);
    world.delete(Kind::Pod, &name(at));
    let desired = plan(&world, &Graph::new());
    assert!(desired.sidecars.keys().eq([&cart]));
    assert_eq!(kinds(&desired, "cart"), [""; 0]);
    assert_eq!(kinds(&desired, "web"), ["FallbackDown"]);
}

#[test]
fn a_global_proxy_that_comes_or_goes_matters_to_all_and_other_pods_to_none() {
    let mut world = shop();
    let mut touched =
        |at: &str, ready: &str| world.put(Kind::Pod, at, proxy("global-proxy", ready));
    let own = |namespace: &str| Touched::Namespace(namespace.to_owned());
    let at = "lazymesh-system/global-proxy-1";
    assert_eq!(touched(at, "False"), own("lazymesh-system"));
    assert_eq!(touched(at, "True"), Touched::Everything);
    assert_eq!(touched(at, "True"), Touched::Nothing);
    assert_eq!(touched(at, "False"), Touched::Everything);
    assert_eq!(touched("shop/cart-9", "False"), own("shop"));
    assert_eq!(touched("shop/cart-9", "True"), Touched::Nothing);
    touched(at, "True");
    assert_eq!(world.delete(Kind::Pod, &name(at)), Touched::Everything);
    assert_eq!(world.delete(Kind::Pod, &name("shop/cart-9")), own("shop"));
}
