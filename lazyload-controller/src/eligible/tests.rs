use serde_json::json;

use super::*;
use crate::mesh::fixture::world;

const GLOBAL_PROXY: &str = "global-proxy.lazymesh-system.svc.cluster.local";

/// Why each service of `shop` and `bank` stays, seen from `front`.
fn kept(world: &World, policy: Policy) -> BTreeMap<String, Why> {
    seen_from(world, "front", policy)
}

fn seen_from(world: &World, namespace: &str, policy: Policy) -> BTreeMap<String, Why> {
    let cidrs = world.service_cidrs();
    let reach = Reach {
        namespace: "lazymesh-system",
        host: GLOBAL_PROXY,
        http_ports: &BTreeSet::from([80]),
        cidrs: &cidrs,
    };
    always(world, namespace, policy, &reach)
        .into_iter()
        .filter(|(host, _)| !host.contains(".istio-system.") && host != GLOBAL_PROXY)
        .map(|(host, why)| (host.replace(".svc.cluster.local", ""), why))
        .collect()
}

fn only(host: &str, why: Why) -> BTreeMap<String, Why> {
    BTreeMap::from([(host.to_owned(), why)])
}

const PREFER: Policy = Policy::PreferRedirect;

#[test]
fn plain_services_are_left_out_and_the_mesh_itself_never() {
    let mut world = world();
    world.service("istio-system/zipkin", "10.96.0.3", &["http:9411"]);
    world.service("istio-system/istiod-canary", "10.96.0.4", &["tcp:15012"]);
    world.service("lazymesh-system/xds-shim", "10.96.0.5", &["tcp:15012"]);
    world.service("shop/web", "10.96.1.1", &["http:80", "grpc:9090"]);
    world.service("shop/db", "10.96.1.2", &["tcp:5432"]);
    world.service("shop/auto", "10.96.1.3", &["x:7000"]);
    world.service("shop/six", "fd00:10:96::7", &["http:80"]);
    assert_eq!(kept(&world, PREFER), BTreeMap::new());
    let cidrs = world.service_cidrs();
    let reach = Reach {
        namespace: "lazymesh-system",
        host: GLOBAL_PROXY,
        http_ports: &BTreeSet::from([80]),
        cidrs: &cidrs,
    };
    let all = always(&world, "front", PREFER, &reach);
    // No sidecar's own config leads to a control plane; and what else is beside the global proxy is like any other.
    let hosts = ["zipkin.istio-system.svc.cluster.local", GLOBAL_PROXY];
    let expected = hosts.map(|host| (host.to_owned(), Why::Mesh));
    assert_eq!(all, BTreeMap::from(expected));
}

#[test]
fn tcp_on_a_port_where_others_carry_http_stays() {
    let mut world = world();
    world.service("shop/db", "10.96.1.2", &["tcp:9090"]);
    world.service("shop/sniffed", "10.96.1.4", &["x:9091"]);
    world.service("shop/on-80", "10.96.1.5", &["tcp:80"]);
    let on_80 = only("on-80.shop", Why::PortConflict);
    assert_eq!(kept(&world, PREFER), on_80);
    world.service("bank/web", "10.96.1.3", &["grpc:9090", "http:9091"]);
    assert_eq!(
        kept(&world, PREFER),
        BTreeMap::from(
            ["db.shop", "sniffed.shop", "on-80.shop"].map(|h| (h.into(), Why::PortConflict))
        )
    );
    // Seen by nobody else, it is no conflict to them.
    world.put(
        Kind::Service,
        "bank/web",
        json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "."}}, "spec": {"ports": [{"name": "http", "port": 9090}]}}),
    );
    assert_eq!(kept(&world, PREFER), on_80);
}

#[test]
fn a_listener_on_every_address_is_a_conflict_for_all_on_its_port() {
    let mut world = world();
    world.service("shop/web", "10.96.1.1", &["http:443"]);
    world.service("shop/db", "10.96.1.2", &["tls:443"]);
    world.service("shop/other", "10.96.1.3", &["tls:444"]);
    let tls = json!([{"number": 443, "protocol": "TLS"}]);
    world.put_entry(
        "bank/e",
        json!({"hosts": ["api.test"], "ports": tls, "addresses": ["240.0.0.1"]}),
    );
    // The one that says HTTP has its port's listener; the other has one of its own address, and takes that.
    assert_eq!(
        kept(&world, PREFER),
        BTreeMap::from([
            ("api.test".into(), Why::ServiceEntry),
            ("db.shop".into(), Why::PortConflict)
        ])
    );
    world.put_entry("bank/e", json!({"hosts": ["api.test"], "ports": tls}));
    let found = kept(&world, PREFER);
    assert_eq!(found.get("web.shop"), Some(&Why::PortConflict));
    assert_eq!(found.get("db.shop"), Some(&Why::PortConflict));
    assert_eq!(found.get("other.shop"), None);
}

#[test]
fn what_has_an_address_elsewhere_stays_unless_a_shared_listener_is_certain() {
    let mut world = world();
    world.service("shop/web", "192.168.1.1", &["http:80"]);
    world.service("shop/api", "192.168.1.2", &["http:8080"]);
    world.service("shop/db", "192.168.1.3", &["tcp:5432"]);
    assert_eq!(
        kept(&world, PREFER),
        BTreeMap::from(["api.shop", "db.shop"].map(|host| (host.into(), Why::AddressOutside)))
    );
    // No range is known at all.
    world.delete(Kind::ServiceCidr, &crate::mesh::Name::cluster("kubernetes"));
    world.service("shop/in", "10.96.1.1", &["tcp:5432"]);
    assert_eq!(kept(&world, PREFER).len(), 3);
}

#[test]
fn headless_services_stay_unless_http_on_a_certain_port_elsewhere() {
    let mut world = world();
    world.service("shop/web", "None", &["http:80"]);
    world.service("shop/api", "None", &["http:8080"]);
    world.service("shop/db", "None", &["tcp:5432"]);
    assert_eq!(
        kept(&world, PREFER),
        BTreeMap::from(["api.shop", "db.shop"].map(|host| (host.into(), Why::Headless)))
    );
    assert_eq!(seen_from(&world, "shop", PREFER).len(), 3);
}

#[test]
fn under_redirect_only_all_tcp_stays() {
    let mut world = world();
    world.service("shop/web", "10.96.1.1", &["http:80", "http:8080"]);
    world.service("shop/db", "10.96.1.2", &["tcp:5432"]);
    world.service("shop/auto", "10.96.1.3", &["x:7000"]);
    assert_eq!(kept(&world, Policy::RelayOnly), BTreeMap::new());
    assert_eq!(
        kept(&world, Policy::RedirectOnly),
        BTreeMap::from(["db.shop", "auto.shop"].map(|host| (host.into(), Why::RedirectOnly)))
    );
}

#[test]
fn what_the_global_proxy_would_see_otherwise_stays_unless_it_never_relays() {
    let mut world = world();
    let spec = json!({"clusterIP": "10.96.1.1", "ports": [{"name": "http", "port": 80}]});
    world.put(
        Kind::Service,
        "shop/web",
        json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "front"}}, "spec": spec}),
    );
    assert_eq!(
        kept(&world, PREFER),
        only("web.shop", Why::HiddenFromGlobalProxy)
    );
    assert_eq!(kept(&world, Policy::RedirectOnly), BTreeMap::new());
    world.put(Kind::Service, "shop/web", json!({"spec": spec}));
    for rule in [
        json!({"hosts": ["web"], "http": [{"match": [{"sourceLabels": {"app": "a"}}]}]}),
        json!({"hosts": ["*.shop.svc.cluster.local"], "http": [{"match": [{"sourceNamespace": "front"}]}]}),
        json!({"hosts": ["web"], "exportTo": ["front"]}),
        json!({"hosts": ["web"], "http": [{"delegate": {"name": "part"}}]}),
    ] {
        world.virtual_service(
            "shop/part",
            json!({"http": [{"match": [{"sourceNamespace": "x"}]}]}),
        );
        world.virtual_service("shop/rule", rule.clone());
        assert_eq!(
            kept(&world, PREFER),
            only("web.shop", Why::AsksWhoCalls),
            "{rule}"
        );
        assert_eq!(kept(&world, Policy::RedirectOnly), BTreeMap::new());
    }
    // A rule that does not hold for callers of this namespace does not matter to them.
    world.virtual_service("shop/rule", json!({"hosts": ["web"], "exportTo": ["."]}));
    assert_eq!(kept(&world, PREFER), BTreeMap::new());
}

#[test]
fn rules_about_names_that_no_service_has_stay() {
    let mut world = world();
    world.service("shop/web", "10.96.1.1", &["http:80"]);
    world.virtual_service(
        "shop/rule",
        json!({"hosts": ["web", "made-up.test", "*.nowhere.test"]}),
    );
    world.virtual_service("shop/below", json!({"hosts": ["*.shop.svc.cluster.local"]}));
    world.virtual_service(
        "shop/not-ours",
        json!({"hosts": ["more.test"], "gateways": ["in"]}),
    );
    world.virtual_service(
        "bank/private",
        json!({"hosts": ["private.test"], "exportTo": ["."]}),
    );
    assert_eq!(
        kept(&world, PREFER),
        BTreeMap::from(
            ["made-up.test", "*.nowhere.test"].map(|h| (h.into(), Why::RuleWithoutService))
        )
    );
}

#[test]
fn other_names_of_services_stay_only_if_they_carry_more_than_http() {
    let mut world = world();
    world.service("bank/pay", "10.96.2.1", &["http:80"]);
    let alias = |target: &str, ports| json!({"spec": {"type": "ExternalName", "externalName": target, "ports": ports}});
    let pay = "pay.bank.svc.cluster.local";
    let tcp = json!([{"name": "tcp", "port": 5432}]);
    world.put(Kind::Service, "shop/a", alias(pay, json!([])));
    world.put(Kind::Service, "shop/b", alias(pay, tcp.clone()));
    world.put(Kind::Service, "shop/c", alias("example.com", tcp));
    assert_eq!(kept(&world, PREFER), only("b.shop", Why::Alias));
}

#[test]
fn reasons_are_said_apart() {
    let said: BTreeSet<&str> = Why::ALL.iter().map(|why| why.as_str()).collect();
    assert_eq!(said.len(), Why::ALL.len());
}
