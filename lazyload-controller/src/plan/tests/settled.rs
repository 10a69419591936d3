//! Workloads of mode `on-demand` that have settled are planned with those of mode `sidecar`.

use super::*;
use crate::settle::Wish;

/// The moment at which a wish of a minute is fulfilled for what [`learned`] makes of a few hosts.
const QUIET: u64 = 1000;

fn on_demand(world: &mut World) {
    let body = json!({"metadata": {"labels": {"lazymesh.dev/mode": "on-demand"}}});
    world.put(Kind::Namespace, "shop", body);
}

fn on_demand_shop() -> World {
    let mut world = shop();
    on_demand(&mut world);
    world
}

fn settling(of: &[&str], now: u64) -> Settling {
    let wish = Wish {
        after: Some(Ok(Duration::from_secs(60))),
        begun: false,
    };
    let wishes = of.iter().map(|of| (workload(of), wish.clone()));
    Settling {
        wishes: wishes.collect(),
        now: Timestamp::from_seconds(now),
    }
}

/// As [`plan`], at this moment.
fn plan_settling(world: &World, graph: &Graph, settling: &Settling) -> Desired {
    let mut world = world.clone();
    let first = plan_namespace(&world, graph, "shop", &settings(), settling);
    for (at, filter) in first.filters {
        let object = crate::render::envoyfilter::render(&at, &filter);
        world.put(Kind::EnvoyFilter, &at.to_string(), object);
    }
    plan_namespace(&world, graph, "shop", &settings(), settling)
}

fn both() -> Graph {
    let mut graph = learned("cart", &["pay.bank"]);
    let web = learned("web", &["rates.bank", "cart.shop"]);
    let record = web.workload(&workload("web")).unwrap();
    graph.set_workload(&workload("web"), Some((**record).clone()));
    graph
}

#[test]
fn one_that_has_settled_gets_what_mode_sidecar_gives_but_by_a_filter_of_its_own() {
    let graph = both();
    let desired = plan_settling(&on_demand_shop(), &graph, &settling(&["cart"], QUIET));
    let by_mode = plan(&shop(), &graph);
    let (name, spec) = desired.sidecars.first_key_value().unwrap();
    let expected = &by_mode.sidecars[name];
    assert_eq!(
        (&spec.hosts, &spec.selector, spec.counts),
        (&expected.hosts, &expected.selector, expected.counts)
    );
    assert!(spec.begins_wide && !expected.begins_wide);
    assert_eq!((desired.sidecars.len(), desired.filters.len()), (1, 1));
    let filter = &desired.filters[&spec.filter];
    assert_eq!(filter.selector.as_ref(), Some(&spec.selector));
    let of_mode = by_mode.filters.values().next().unwrap();
    assert_eq!(
        (&filter.cover, &filter.global_proxy),
        (&of_mode.cover, &of_mode.global_proxy)
    );
    assert_eq!(desired.settled, BTreeSet::from([workload("cart")]));
    assert_eq!(kinds(&desired, "cart"), [""; 0]);
}

#[test]
fn nothing_is_wanted_before_and_it_is_said_when_to_look_again() {
    let (world, graph) = (on_demand_shop(), both());
    // cart learned at second 0, web last at second 1.
    let desired = plan_settling(&world, &graph, &settling(&["cart", "web"], 59));
    assert_eq!(desired.settles_at, Some(Timestamp::from_seconds(60)));
    assert!(desired.sidecars.is_empty() && desired.filters.is_empty());
    let desired = plan_settling(&world, &graph, &settling(&["cart", "web"], 60));
    assert_eq!(desired.settles_at, Some(Timestamp::from_seconds(61)));
    assert_eq!(desired.settled, BTreeSet::from([workload("cart")]));
    let desired = plan_settling(&world, &graph, &settling(&["cart", "web"], 61));
    assert_eq!((desired.settles_at, desired.settled.len()), (None, 2));
    // Without a word nothing settles ever.
    let desired = plan_settling(&world, &graph, &settling(&[], 99_999_999));
    assert_eq!(desired, Desired::default());
}

#[test]
fn what_one_workload_has_does_not_change_when_another_settles() {
    let (world, graph) = (on_demand_shop(), both());
    let one = plan_settling(&world, &graph, &settling(&["cart"], QUIET));
    let both = plan_settling(&world, &graph, &settling(&["cart", "web"], QUIET));
    let (name, spec) = one.sidecars.first_key_value().unwrap();
    assert_eq!(both.sidecars[name], *spec);
    assert_eq!(both.filters[&spec.filter], one.filters[&spec.filter]);
    assert_eq!((both.sidecars.len(), both.filters.len()), (2, 2));
    assert!(
        both.filters
            .values()
            .all(|filter| filter.selector.is_some())
    );
}

#[test]
fn a_namespace_with_both_kinds() {
    let mut world = shop();
    let mut body = pod_of("cart");
    body["metadata"]["labels"]["lazymesh.dev/mode"] = json!("on-demand");
    world.put(Kind::Pod, "shop/cart-1", body);
    let graph = both();
    let before = plan_settling(&world, &graph, &settling(&[], QUIET));
    assert_eq!(
        before
            .sidecars
            .keys()
            .map(|name| &*name.name)
            .collect::<Vec<_>>(),
        [WEB]
    );
    let after = plan_settling(&world, &graph, &settling(&["cart", "web"], QUIET));
    // The one in mode sidecar has what it had: its filter was limited to it already.
    let web = Name::new("shop", WEB);
    assert_eq!(after.sidecars[&web], before.sidecars[&web]);
    assert_eq!(after.sidecars.len(), 2);
    assert_eq!(after.settled, BTreeSet::from([workload("cart")]));
    for (name, filter) in &before.filters {
        assert_eq!(after.filters[name], *filter);
    }
}

#[test]
fn other_modes_never_settle() {
    for mode in ["sidecar", "observe", "off"] {
        let mut world = shop();
        let body = json!({"metadata": {"labels": {"lazymesh.dev/mode": mode}}});
        world.put(Kind::Namespace, "shop", body);
        let graph = both();
        let all = settling(&["cart", "web"], QUIET);
        let desired = plan_settling(&world, &graph, &all);
        assert_eq!(desired, plan(&world, &graph), "{mode}");
        assert!(desired.settled.is_empty());
    }
    // Nor does what shares its labels with one that has not: the fallback would reach it.
    let mut world = on_demand_shop();
    let mut body = pod_of("web");
    body["metadata"]["labels"]["app"] = json!("cart");
    world.put(Kind::Pod, "shop/web-1", body);
    let desired = plan_settling(&world, &both(), &settling(&["cart"], QUIET));
    assert_eq!(kinds(&desired, "cart"), ["NoSelector"]);
    assert!(desired.sidecars.is_empty());
}

#[test]
fn what_keeps_it_from_settling_is_said() {
    let (mut world, graph) = (on_demand_shop(), both());
    let all = settling(&["cart", "web", "new"], QUIET);
    let mut with_new = graph.clone();
    with_new.set_workload(&workload("new"), Some(Record::default()));
    let desired = plan_settling(&world, &with_new, &all);
    let lacks = BTreeMap::from([(workload("new"), Lack::NothingLearned)]);
    assert_eq!(desired.unsettled, lacks);
    let theirs = json!({"spec": {"workloadSelector": {"labels": {"app": "cart"}}}});
    world.put(Kind::Sidecar, "shop/theirs", theirs);
    let desired = plan_settling(&world, &graph, &all);
    assert_eq!(kinds(&desired, "cart"), ["UserSidecar"]);
    assert!(desired.settled.contains(&workload("cart")));
    world.delete(Kind::Service, &name("lazymesh-system/global-proxy"));
    let desired = plan_settling(&world, &graph, &all);
    assert!(desired.without_fallback);
    assert_eq!(kinds(&desired, "web"), ["NoGlobalProxy"]);
    // The global proxy's own never does, nor waits for it.
    let none = plan_namespace(&world, &graph, "lazymesh-system", &settings(), &all);
    assert_eq!(none, Desired::default());
}
