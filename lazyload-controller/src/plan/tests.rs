mod settled;

use dependency_graph::{Dependency, Pin, Protocol, Record, Source, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::mesh::fixture::{name, pod_of, world};
use crate::mesh::{Kind, Touched};

pub(crate) fn settings() -> Settings {
    Settings {
        global_proxy: name("lazymesh-system/global-proxy"),
        tunnel_port: 15009,
        service_cidrs: Vec::new(),
        always: BTreeSet::new(),
        max_hosts: 1000,
        settle_after: None,
    }
}

pub(crate) fn workload(name: &str) -> Workload {
    Workload::new("shop", "Deployment", name).unwrap()
}

/// A namespace in mode `sidecar` with two Deployments, and services to call.
pub(crate) fn shop() -> World {
    let mut world = world();
    world.lazy_namespace("shop");
    world.put(Kind::Namespace, "bank", json!({}));
    world.put_pod("shop/cart-1", "cart");
    world.put_pod("shop/web-1", "web");
    for (at, address) in [
        ("shop/cart", "10.96.1.1"),
        ("bank/pay", "10.96.2.1"),
        ("bank/rates", "10.96.2.2"),
    ] {
        world.service(at, address, &["http:80"]);
    }
    world
}

/// A graph in which a workload of `shop` has learned hosts, one per second.
pub(crate) fn learned(of: &str, hosts: &[&str]) -> Graph {
    let mut record = Record::default();
    for (second, host) in hosts.iter().enumerate() {
        let dependency = Dependency {
            host: full(host).parse().unwrap(),
            port: 80_u32.try_into().unwrap(),
            protocol: Protocol::Http,
        };
        let seen = Timestamp::from_seconds(second as u64);
        record.learned.see(&dependency, seen, Source::OnDemand);
    }
    let mut graph = Graph::new();
    graph.set_workload(&workload(of), Some(record));
    graph
}

fn full(host: &str) -> String {
    format!("{host}.svc.cluster.local")
}

/// What is wanted of `shop` once its EnvoyFilters are there.
pub(crate) fn plan(world: &World, graph: &Graph) -> Desired {
    plan_by(world, graph, &settings())
}

fn plan_by(world: &World, graph: &Graph, settings: &Settings) -> Desired {
    let mut world = world.clone();
    for (at, filter) in
        plan_namespace(&world, graph, "shop", settings, &Settling::default()).filters
    {
        if world.filter(&at).is_none() {
            let object = crate::render::envoyfilter::render(&at, &filter);
            world.put(Kind::EnvoyFilter, &at.to_string(), object);
        }
    }
    plan_namespace(&world, graph, "shop", settings, &Settling::default())
}

/// The hosts of a Sidecar of `shop`, in short.
pub(crate) fn hosts(desired: &Desired, sidecar: &str) -> Vec<String> {
    let sidecar = &desired.sidecars[&Name::new("shop", sidecar)];
    let hosts = sidecar.hosts.iter();
    hosts
        .map(|host| host.to_string().replace(".svc.cluster.local", ""))
        .collect()
}

pub(crate) fn kinds(desired: &Desired, of: &str) -> Vec<&'static str> {
    let said = desired.conditions.get(&workload(of)).into_iter().flatten();
    said.map(Condition::kind).collect()
}

pub(crate) const CART: &str = "lazymesh-deployment-cart";
pub(crate) const WEB: &str = "lazymesh-deployment-web";
/// A service of TCP like any other.
const ISTIOD: &str = "istio-system/istiod.istio-system";
pub(crate) const BASE: [&str; 1] = ["lazymesh-system/global-proxy.lazymesh-system"];

pub(crate) fn with_base(more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = BASE
        .iter()
        .chain(more)
        .map(|host| (*host).to_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn each_workload_has_the_base_and_what_it_learned() {
    let desired = plan(&shop(), &learned("cart", &["pay.bank", "gone.bank"]));
    assert_eq!(hosts(&desired, CART), with_base(&["bank/pay.bank"]));
    assert_eq!(hosts(&desired, WEB), with_base(&[]));
    assert_eq!(desired.sidecars[&Name::new("shop", CART)].counts, (1, 0, 1));
    assert_eq!(desired.filters.len(), 1);
    let (at, filter) = desired.filters.first_key_value().unwrap();
    assert_eq!(*at, name("shop/lazymesh-fallback"));
    assert_eq!((filter.selector.as_ref(), filter.prefixes.len()), (None, 2));
    assert!(desired.conditions.is_empty());
}

#[test]
fn one_workload_s_mode_is_the_one_that_the_plan_goes_by() {
    let labels = [None, Some("sidecar"), Some("off"), Some("lazy")];
    let own = [None, Some(Mode::Sidecar), Some(Mode::Observe)];
    for namespace in labels {
        for first in labels {
            for second in labels {
                for own in own {
                    let mut world = shop();
                    let said = |mode: Option<&str>| match mode {
                        Some(mode) => json!({"lazymesh.dev/mode": mode}),
                        None => json!({}),
                    };
                    let body = json!({"metadata": {"labels": said(namespace)}});
                    world.put(Kind::Namespace, "shop", body);
                    for (at, label) in [("shop/cart-1", first), ("shop/cart-2", second)] {
                        let mut body = pod_of("cart");
                        if let Some(label) = label {
                            body["metadata"]["labels"]["lazymesh.dev/mode"] = json!(label);
                        }
                        world.put(Kind::Pod, at, body);
                    }
                    let mut graph = Graph::new();
                    let record = Record {
                        mode: own,
                        ..Record::default()
                    };
                    graph.set_workload(&workload("cart"), Some(record));
                    let (settings, settling) = (settings(), Settling::default());
                    let wanted =
                        Desired::default().want(&world, &graph, "shop", &settings, &settling);
                    let wanted = wanted.contains(&workload("cart"));
                    let mode = mode_of(&world, &workload("cart"), own);
                    let case = format!("{namespace:?} {first:?} {second:?} {own:?}");
                    assert_eq!(wanted, mode == Mode::Sidecar, "{case}");
                }
            }
        }
    }
}

#[test]
fn namespaces_that_are_not_in_this_mode_want_nothing() {
    for label in ["on-demand", "observe", "off", "nonsense"] {
        let mut world = shop();
        world.put(
            Kind::Namespace,
            "shop",
            json!({"metadata": {"labels": {"lazymesh.dev/mode": label}}}),
        );
        assert_eq!(
            plan(&world, &learned("cart", &["pay.bank"])),
            Desired::default(),
            "{label}"
        );
    }
    let mut world = shop();
    world.put(
        Kind::Namespace,
        "shop",
        json!({"metadata": {"labels": {"lazymesh.dev/mode": "sidecar"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    assert_eq!(plan(&world, &Graph::new()), Desired::default());
    world.delete(Kind::Namespace, &Name::cluster("shop"));
    assert_eq!(plan(&world, &Graph::new()), Desired::default());
}

#[test]
fn while_all_is_paused_nothing_is_wanted_whatever_is_said() {
    let mut world = shop();
    let mut graph = learned("cart", &["pay.bank"]);
    let mut record = graph
        .workload(&workload("cart"))
        .map(|one| (**one).clone())
        .unwrap();
    record.mode = Some(Mode::Sidecar);
    graph.set_workload(&workload("cart"), Some(record));
    let before = plan(&world, &graph);
    let paused = |says: &str| json!({"metadata": {"labels": {"lazymesh.dev/paused": says}}});
    // Of another namespace it says nothing.
    world.put(Kind::Namespace, "bank", paused("true"));
    world.put(Kind::Namespace, "lazymesh-system", paused("false"));
    assert_eq!(plan(&world, &graph), before);
    let touched = world.put(Kind::Namespace, "lazymesh-system", paused("true"));
    assert_eq!(touched, Touched::Everything);
    assert_eq!(plan(&world, &graph), Desired::default());
    assert_eq!(
        mode_of(&world, &workload("cart"), Some(Mode::Sidecar)),
        Mode::Off
    );
    world.put(Kind::Namespace, "lazymesh-system", json!({}));
    assert_eq!(plan(&world, &graph), before);
}

#[test]
fn a_pod_s_label_and_a_record_override_the_namespace() {
    let mut world = shop();
    let mut off = pod_of("web");
    off["metadata"]["labels"]["lazymesh.dev/mode"] = json!("off");
    world.put(Kind::Pod, "shop/web-1", off.clone());
    let desired = plan(&world, &Graph::new());
    assert_eq!(
        desired
            .sidecars
            .keys()
            .map(|n| n.name.as_str())
            .collect::<Vec<_>>(),
        [CART]
    );
    // The fallback must not reach the other workload: its own form, with other prefixes.
    let (at, filter) = desired.filters.first_key_value().unwrap();
    assert_eq!(*at, name("shop/lazymesh-fallback-deployment-cart"));
    assert_eq!(filter.selector.as_ref().unwrap()["app"], "cart");
    let prefixes: Vec<String> = filter.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(
        prefixes,
        [
            "10.96.0.0/13",
            "10.104.0.0/13",
            "fd00:10:96::/109",
            "fd00:10:96::8:0/109"
        ]
    );
    // Pods that do not agree say nothing.
    world.put_pod("shop/web-2", "web");
    assert_eq!(plan(&world, &Graph::new()).sidecars.len(), 2);
    // A record overrides both.
    let mut graph = Graph::new();
    for (of, mode) in [("web", Mode::Sidecar), ("cart", Mode::Off)] {
        let mode = Some(mode);
        graph.set_workload(
            &workload(of),
            Some(Record {
                mode,
                ..Record::default()
            }),
        );
    }
    world.delete(Kind::Pod, &name("shop/web-2"));
    let desired = plan(&world, &graph);
    assert_eq!(
        desired
            .sidecars
            .keys()
            .map(|n| n.name.as_str())
            .collect::<Vec<_>>(),
        [WEB]
    );
}

#[test]
fn the_global_proxy_s_own_namespace_is_never_lazy() {
    let mut world = shop();
    world.lazy_namespace("lazymesh-system");
    world.put_pod("lazymesh-system/global-proxy-1", "global-proxy");
    let desired = plan_namespace(
        &world,
        &Graph::new(),
        "lazymesh-system",
        &settings(),
        &Settling::default(),
    );
    assert_eq!(desired, Desired::default());
}

#[test]
fn the_root_namespace_is_never_lazy_and_says_so() {
    let mut world = shop();
    world.lazy_namespace("istio-system");
    let mut body = pod_of("jaeger");
    world.put(Kind::Pod, "istio-system/jaeger-1", body.clone());
    let plan = |world: &World, namespace: &str| {
        plan_namespace(
            world,
            &Graph::new(),
            namespace,
            &settings(),
            &Settling::default(),
        )
    };
    let said = |desired: &Desired| {
        assert!(desired.sidecars.is_empty() && desired.filters.is_empty());
        let said = desired.conditions.values().flatten();
        said.map(Condition::kind).collect::<Vec<_>>()
    };
    assert_eq!(said(&plan(&world, "istio-system")), ["RootNamespace"]);
    // Also a single pod of it, by its own label.
    world.put(Kind::Namespace, "istio-system", json!({}));
    body["metadata"]["labels"]["lazymesh.dev/mode"] = json!("sidecar");
    world.put(Kind::Pod, "istio-system/jaeger-1", body);
    assert_eq!(said(&plan(&world, "istio-system")), ["RootNamespace"]);
    // The mesh config says which it is.
    world.put(
        Kind::MeshConfig,
        "istio-system/istio",
        json!({"data": {"mesh": "rootNamespace: shop"}}),
    );
    assert_eq!(said(&plan(&world, "shop")), ["RootNamespace"; 2]);
}

#[test]
fn pods_without_a_sidecar_do_not_count() {
    let mut world = shop();
    let mut bare = pod_of("batch");
    bare["spec"] = json!({"containers": [{"name": "app"}]});
    world.put(Kind::Pod, "shop/batch-1", bare);
    let desired = plan(&world, &Graph::new());
    assert_eq!((desired.sidecars.len(), desired.filters.len()), (2, 1));
    assert!(
        desired
            .filters
            .contains_key(&name("shop/lazymesh-fallback"))
    );
}

#[test]
fn what_is_pinned_is_there_from_the_start() {
    let mut graph = Graph::new();
    let pin = |host: &str| Pin {
        host: full(host).parse().unwrap(),
        ports: BTreeSet::new(),
    };
    let record = Record {
        pinned: BTreeSet::from([pin("*.bank")]),
        ..Record::default()
    };
    graph.set_workload(&workload("cart"), Some(record));
    let desired = plan(&shop(), &graph);
    assert_eq!(
        hosts(&desired, CART),
        with_base(&["bank/pay.bank", "bank/rates.bank"])
    );
    assert_eq!(desired.sidecars[&Name::new("shop", CART)].counts, (0, 1, 1));
}

#[test]
fn what_the_operator_and_the_mesh_config_name_is_in_every_one() {
    let mut world = shop();
    let mesh =
        "extensionProviders: [{name: a, zipkin: {service: bank/rates.bank.svc.cluster.local}}]";
    world.put(
        Kind::MeshConfig,
        "istio-system/istio",
        json!({"data": {"mesh": mesh}}),
    );
    let settings = Settings {
        always: BTreeSet::from([full("*.shop")]),
        ..settings()
    };
    let desired = plan_by(&world, &Graph::new(), &settings);
    for sidecar in [CART, WEB] {
        assert_eq!(
            hosts(&desired, sidecar),
            with_base(&["bank/rates.bank", "shop/cart.shop"])
        );
    }
}

#[test]
fn beyond_the_cap_what_was_learned_last_stays_out() {
    let graph = learned("cart", &["rates.bank", "pay.bank"]);
    let settings = Settings {
        max_hosts: 1,
        ..settings()
    };
    let desired = plan_by(&shop(), &graph, &settings);
    assert_eq!(hosts(&desired, CART), with_base(&["bank/rates.bank"]));
    assert_eq!(kinds(&desired, "cart"), ["SidecarCapped"]);
    assert_eq!(kinds(&desired, "web"), [""; 0]);
}

#[test]
fn without_a_global_proxy_or_istiod_s_attention_nothing_is_written() {
    let mut world = shop();
    world.delete(Kind::Service, &name("lazymesh-system/global-proxy"));
    let desired = plan(&world, &Graph::new());
    assert_eq!((desired.sidecars.len(), desired.filters.len()), (0, 0));
    assert_eq!(kinds(&desired, "cart"), ["NoGlobalProxy"]);
    let mut world = shop();
    let mesh = "discoverySelectors: [{matchLabels: {mesh: 'yes'}}]";
    world.put(
        Kind::MeshConfig,
        "istio-system/istio",
        json!({"data": {"mesh": mesh}}),
    );
    let desired = plan(&world, &Graph::new());
    assert_eq!((desired.sidecars.len(), desired.filters.len()), (0, 0));
    assert_eq!(kinds(&desired, "web"), ["NotDiscovered"]);
}

#[test]
fn without_a_tunnel_port_or_known_addresses_nothing_is_tunnelled_and_tcp_stays() {
    let mut world = shop();
    world.service("bank/db", "10.96.2.3", &["tcp:5432"]);
    assert_eq!(hosts(&plan(&world, &Graph::new()), CART), with_base(&[]));
    let none = Settings {
        tunnel_port: 1,
        ..settings()
    };
    let desired = plan_by(&world, &Graph::new(), &none);
    assert_eq!(hosts(&desired, CART), with_base(&["bank/db.bank", ISTIOD]));
    assert!(
        desired
            .filters
            .values()
            .all(|filter| filter.prefixes.is_empty())
    );
    assert_eq!(desired.always[&Why::AddressOutside], 2);
    // Where Kubernetes does not tell, the operator may.
    world.delete(Kind::ServiceCidr, &Name::cluster("kubernetes"));
    let told = Settings {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        ..settings()
    };
    let desired = plan_by(&world, &Graph::new(), &told);
    assert_eq!(hosts(&desired, CART), with_base(&[]));
}

#[test]
fn the_policy_is_the_namespace_s() {
    let mut world = shop();
    assert_eq!(policy(&world, "shop"), Policy::PreferRedirect);
    world.service("bank/db", "10.96.2.3", &["tcp:5432"]);
    world.put(
        Kind::Namespace,
        "shop",
        json!({"metadata": {"labels": {"lazymesh.dev/mode": "sidecar"}, "annotations": {"lazymesh.dev/fallback": "redirect-only"}}}),
    );
    assert_eq!(policy(&world, "shop"), Policy::RedirectOnly);
    // What is no policy relays nothing.
    world.put(
        Kind::Namespace,
        "typo",
        json!({"metadata": {"annotations": {"lazymesh.dev/fallback": "relay_only"}}}),
    );
    assert_eq!(policy(&world, "typo"), Policy::RedirectOnly);
    assert_eq!(
        hosts(&plan(&world, &Graph::new()), CART),
        with_base(&["bank/db.bank", ISTIOD])
    );
}

#[test]
fn workloads_that_cannot_be_told_apart_share_all() {
    let mut world = shop();
    for app in ["cart", "web"] {
        let mut body = pod_of(app);
        body["metadata"]["labels"]["app"] = json!("same");
        world.put(Kind::Pod, &format!("shop/{app}-1"), body);
    }
    let mut graph = learned("cart", &["pay.bank"]);
    let web = learned("web", &["rates.bank"]);
    let record = web.workload(&workload("web")).unwrap().as_ref().clone();
    graph.set_workload(&workload("web"), Some(record));
    let desired = plan(&world, &graph);
    assert_eq!(desired.sidecars.len(), 1);
    assert_eq!(
        hosts(&desired, CART),
        with_base(&["bank/pay.bank", "bank/rates.bank"])
    );
    for of in ["cart", "web"] {
        assert_eq!(kinds(&desired, of), ["SharedSelector"]);
    }
}

#[test]
fn a_pod_without_labels_gets_none_and_says_so() {
    let mut world = shop();
    let mut body = pod_of("bare");
    body["metadata"]["labels"] = json!({"pod-template-hash": "5d4f"});
    world.put(Kind::Pod, "shop/bare-1", body);
    let desired = plan(&world, &Graph::new());
    assert_eq!(kinds(&desired, "bare"), ["NoSelector"]);
    assert_eq!((desired.sidecars.len(), desired.filters.len()), (2, 2));
}

#[test]
fn a_workload_without_pods_keeps_its_sidecar_while_it_is_known() {
    let mut world = shop();
    let graph = learned("cart", &["pay.bank"]);
    let before = plan(&world, &graph);
    let at = Name::new("shop", CART);
    let object = crate::render::sidecar::render(&at, &before.sidecars[&at]);
    world.put(Kind::Sidecar, &format!("shop/{CART}"), object);
    world.delete(Kind::Pod, &name("shop/cart-1"));
    let after = plan(&world, &graph);
    assert_eq!(after.sidecars[&at], before.sidecars[&at]);
    // Forgotten, or its labels now somebody else's: gone.
    assert!(!plan(&world, &Graph::new()).sidecars.contains_key(&at));
    let mut other = pod_of("other");
    other["metadata"]["labels"]["app"] = json!("cart");
    world.put(Kind::Pod, "shop/other-1", other);
    assert!(!plan(&world, &graph).sidecars.contains_key(&at));
}

#[test]
fn long_names_fit() {
    let long = "a".repeat(240);
    let workload = Workload::new("shop", "Deployment", &long).unwrap();
    let sidecar = sidecar_name("shop", &workload);
    let filter = filter_name("shop", Some(&sidecar));
    assert!(sidecar.name.len() <= 253 && filter.name.len() <= 253);
    let other = Workload::new("shop", "Deployment", &format!("{}b", &long[1..])).unwrap();
    assert_ne!(sidecar, sidecar_name("shop", &other));
}

#[test]
fn conditions_tell_what_to_do() {
    let at = name("shop/theirs");
    for condition in [
        Condition::UserSidecar(at.clone()),
        Condition::UserSidecarNotUnderstood(at.clone()),
        Condition::NoSelector,
        Condition::SharedSelector(BTreeSet::from([workload("cart")])),
        Condition::NameTaken(at.clone()),
        Condition::NotDiscovered,
        Condition::RootNamespace("istio-system".to_owned()),
        Condition::NotLearned(BTreeSet::from([workload("cart")])),
        Condition::NoGlobalProxy(at.clone()),
        Condition::FallbackDown(at),
        Condition::Capped(3),
    ] {
        assert!(condition.to_string().len() > 40, "{condition}");
        assert!(condition.kind().chars().all(char::is_alphanumeric));
    }
}

proptest! {
    /// Whatever was learned is in the Sidecar with all it brings along, and what is not in the mesh is in none.
    #[test]
    fn all_that_was_learned_is_there(hosts in proptest::collection::vec("(pay|rates|gone)\\.bank|cart\\.shop", 0..5)) {
        let world = shop();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let desired = plan(&world, &learned("cart", &hosts));
        let found = &desired.sidecars[&Name::new("shop", CART)].hosts;
        for host in ["pay.bank", "rates.bank", "gone.bank", "cart.shop"] {
            let is_there = found.iter().any(|egress| egress.host == full(host));
            prop_assert_eq!(is_there, hosts.contains(&host) && host != "gone.bank");
        }
        // Nothing else is wanted where nothing changed.
        prop_assert_eq!(plan(&world, &learned("cart", &hosts)), desired);
    }

    /// Growing a Sidecar by what was just learned comes to what planning anew does, rules and aliases included.
    #[test]
    fn growing_by_one_host_is_planning_with_it(
        before in proptest::collection::btree_set("(pay|rates|gone|out|routed)\\.bank|cart\\.shop", 0..4),
        new in "(pay|rates|gone|out|routed)\\.bank|cart\\.shop",
        max_hosts in 0_usize..7,
        user in proptest::option::of(proptest::sample::subsequence(vec!["./*", "bank/*", "~bank/pay.bank.svc.cluster.local", "front/*", "istio-system/*"], 0..=5)),
    ) {
        prop_assume!(!before.contains(&new));
        let mut world = shop();
        let alias = json!({"type": "ExternalName", "externalName": full("rates.bank")});
        world.put(Kind::Service, "bank/out", json!({"spec": alias}));
        world.service("bank/routed", "10.96.2.9", &["http:80"]);
        world.virtual_service(
            "front/routed",
            json!({"hosts": [full("routed.bank")], "http": [{"route": [{"destination": {"host": full("pay.bank")}}]}]}),
        );
        if let Some(allowed) = user {
            let theirs = json!({"spec": {"egress": [{"hosts": allowed}]}});
            world.put(Kind::Sidecar, "istio-system/default", theirs);
        }
        let settings = Settings { max_hosts, ..settings() };
        let mut hosts: Vec<&str> = before.iter().map(String::as_str).collect();
        let at = Name::new("shop", CART);
        let was = plan_by(&world, &learned("cart", &hosts), &settings);
        hosts.push(&new);
        let anew = plan_by(&world, &learned("cart", &hosts), &settings);
        let grown = grow_by(&world, &was.sidecars[&at], &full(&new), max_hosts);
        match grown {
            Some(grown) => prop_assert_eq!(&grown, &anew.sidecars[&at]),
            // Nothing came of it: no such host, or no room.
            None => prop_assert_eq!(&was.sidecars[&at], &anew.sidecars[&at]),
        }
    }
}

#[test]
fn beside_a_user_s_sidecar_grows_what_it_allows_and_beside_one_not_understood_nothing() {
    let mut world = shop();
    let spec = plan(&world, &Graph::new()).sidecars[&Name::new("shop", CART)].clone();
    let mut grows = |allowed: serde_json::Value| {
        let theirs = json!({"spec": {"egress": [allowed]}});
        world.put(Kind::Sidecar, "istio-system/default", theirs);
        grow_by(&world, &spec, &full("pay.bank"), 100)
    };
    assert!(grows(json!({"hosts": ["*/*"]})).is_some());
    assert_eq!(grows(json!({"hosts": ["./*"]})), None);
    let ports = json!({"port": {"number": 80}, "hosts": ["*/*"]});
    assert_eq!(grows(ports), None);
}

#[test]
fn what_every_sidecar_has_takes_no_room_from_what_is_learned() {
    let settings = Settings {
        always: BTreeSet::from([full("*.shop"), full("rates.bank")]),
        max_hosts: 1,
        ..settings()
    };
    let graph = learned("cart", &["rates.bank", "pay.bank"]);
    let desired = plan_by(&shop(), &graph, &settings);
    let all = ["bank/pay.bank", "bank/rates.bank", "shop/cart.shop"];
    assert_eq!(hosts(&desired, CART), with_base(&all));
    assert_eq!(kinds(&desired, "cart"), [""; 0]);
    assert_eq!(desired.sidecars[&Name::new("shop", CART)].counts, (2, 0, 3));
}
