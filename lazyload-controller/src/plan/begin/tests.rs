use dependency_graph::{Graph, Mode, Pin, Record};
use serde_json::json;

use crate::mesh::fixture::pod_of;
use crate::mesh::{Kind, Name, World};
use crate::plan::tests::{CART, WEB, kinds, learned, settings, shop, workload};
use crate::plan::{Desired, plan_namespace};
use crate::settle::Settling;

/// The namespace's fallback was made then.
const FALLBACK: &str = "2026-01-01T12:00:00Z";

fn plan(world: &World, graph: &Graph) -> Desired {
    plan_namespace(world, graph, "shop", &settings(), &Settling::default())
}

fn has(desired: &Desired, sidecar: &str) -> bool {
    desired.sidecars.contains_key(&Name::new("shop", sidecar))
}

fn put_pod(world: &mut World, at: &str, app: &str, created: &str) {
    let mut body = pod_of(app);
    body["metadata"]["creationTimestamp"] = json!(created);
    world.put(Kind::Pod, at, body);
}

fn put_fallback(world: &mut World, at: &str) {
    let body = json!({
        "metadata": {"labels": {"app.kubernetes.io/managed-by": "lazymesh"}, "creationTimestamp": FALLBACK},
        "spec": {},
    });
    world.put(Kind::EnvoyFilter, at, body);
}

/// Where cart ran before the namespace got its fallback, and web started with it.
fn running() -> World {
    let mut world = shop();
    put_pod(&mut world, "shop/cart-1", "cart", "2026-01-01T11:59:49Z");
    put_pod(&mut world, "shop/web-1", "web", "2026-01-01T11:59:50Z");
    put_fallback(&mut world, "shop/lazymesh-fallback");
    world
}

fn graph_of(record: Record) -> Graph {
    let mut graph = Graph::new();
    graph.set_workload(&workload("cart"), Some(record));
    graph
}

#[test]
fn what_runs_and_is_not_known_is_left_as_it_is_and_what_starts_with_the_fallback_is_lazy_at_once() {
    let desired = plan(&running(), &Graph::new());
    assert!(!has(&desired, CART) && has(&desired, WEB));
    assert_eq!(kinds(&desired, "cart"), ["NotLearned"]);
    assert_eq!(kinds(&desired, "web"), [""; 0]);
    // The fallback is the whole namespace's all the same.
    let filters: Vec<&str> = desired.filters.keys().map(|at| at.name.as_str()).collect();
    assert_eq!(filters, ["lazymesh-fallback"]);
}

#[test]
fn what_is_known_is_lazy_while_it_runs() {
    let world = running();
    let pin = Pin {
        host: "*.bank.svc.cluster.local".parse().unwrap(),
        ports: [].into(),
    };
    let pinned = graph_of(Record {
        pinned: [pin].into(),
        ..Record::default()
    });
    let wanted = graph_of(Record {
        mode: Some(Mode::Sidecar),
        ..Record::default()
    });
    for graph in [learned("cart", &["pay.bank"]), pinned, wanted] {
        assert!(has(&plan(&world, &graph), CART));
    }
    // A record that says none of that is no reason.
    assert!(!has(&plan(&world, &graph_of(Record::default())), CART));
}

#[test]
fn it_is_lazy_when_all_its_pods_were_restarted() {
    let mut world = running();
    put_pod(&mut world, "shop/cart-2", "cart", "2026-01-01T13:00:00Z");
    assert!(!has(&plan(&world, &Graph::new()), CART));
    // One that ended, or has no sidecar, loses nothing.
    let mut ended = pod_of("cart");
    ended["metadata"]["creationTimestamp"] = json!("2026-01-01T11:00:00Z");
    ended["status"]["phase"] = json!("Succeeded");
    world.put(Kind::Pod, "shop/cart-1", ended.clone());
    assert!(has(&plan(&world, &Graph::new()), CART));
    ended["status"]["phase"] = json!("Running");
    ended["spec"]["containers"] = json!([{"name": "app"}]);
    world.put(Kind::Pod, "shop/cart-1", ended);
    assert!(has(&plan(&world, &Graph::new()), CART));
}

#[test]
fn a_sidecar_that_is_there_stays_whatever_is_known() {
    let mut world = running();
    let known = plan(&world, &learned("cart", &["pay.bank"]));
    let at = Name::new("shop", CART);
    let object = crate::render::sidecar::render(&at, &known.sidecars[&at]);
    world.put(Kind::Sidecar, &at.to_string(), object);
    let desired = plan(&world, &Graph::new());
    assert!(has(&desired, CART));
    assert_eq!(kinds(&desired, "cart"), [""; 0]);
}

#[test]
fn it_is_judged_when_the_fallback_is_there() {
    let mut world = running();
    let filter = Name::new("shop", "lazymesh-fallback");
    world.delete(Kind::EnvoyFilter, &filter);
    let desired = plan(&world, &learned("cart", &["pay.bank"]));
    assert!(desired.filters.contains_key(&filter) && has(&desired, CART));
    assert!(!has(&desired, WEB) && desired.conditions.is_empty());
    assert_eq!(desired.waiting, [(workload("web"), filter)].into());
}

#[test]
fn of_those_that_share_a_sidecar_all_must_be_known_or_start_with_it() {
    let mut world = running();
    for (app, created) in [("cart", "2026-01-01T11:00:00Z"), ("web", FALLBACK)] {
        let mut body = pod_of(app);
        body["metadata"]["labels"]["app"] = json!("same");
        body["metadata"]["creationTimestamp"] = json!(created);
        world.put(Kind::Pod, &format!("shop/{app}-1"), body);
    }
    let desired = plan(&world, &Graph::new());
    assert!(desired.sidecars.is_empty());
    for of in ["cart", "web"] {
        assert_eq!(kinds(&desired, of), ["SharedSelector", "NotLearned"]);
        let said = desired.conditions[&workload(of)]
            .last()
            .unwrap()
            .to_string();
        assert!(said.ends_with("deployment-cart"), "{said}");
    }
    assert_eq!(
        plan(&world, &learned("cart", &["pay.bank"])).sidecars.len(),
        1
    );
}

#[test]
fn held_there_is_the_fallback_only() {
    let mut desired = plan(&running(), &Graph::new());
    desired.hold();
    assert!(desired.sidecars.is_empty() && desired.conditions.is_empty());
    assert_eq!(desired.filters.len(), 1);
    assert!(desired.waiting.contains_key(&workload("web")));
}
