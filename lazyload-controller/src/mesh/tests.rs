use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::subsequence;
use serde_json::{Value, json};

use super::fixture::{name, object, pod_of, world};
use super::service::{Form, PortProtocol};
use super::*;

fn ports(service: &Service) -> Vec<(u16, PortProtocol)> {
    let ports = service.ports.iter();
    ports.map(|port| (port.number, port.protocol)).collect()
}

fn only(world: &World, host: &str) -> Service {
    let found: Vec<&Service> = world.services_named(host).collect();
    assert_eq!(found.len(), 1, "{host}");
    found[0].clone()
}

#[test]
fn reads_services() {
    let mut world = World::new("Mesh.Internal.");
    world.put(
        Kind::Service,
        "shop/reviews",
        json!({
            "metadata": {"annotations": {"networking.istio.io/exportTo": " . , bank"}},
            "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"], "ports": [
                {"name": "http-web", "port": 80}, {"name": "metrics", "port": 81},
                {"name": "x", "port": 82, "appProtocol": "grpc"}, {"name": "dns", "port": 53, "protocol": "UDP"},
                {"port": 3306}, {"name": "tls", "port": 443}, {"name": "grpc-web-x", "port": 83},
                {"name": "http", "port": 84, "appProtocol": "kubernetes.io/wss"},
                {"name": "x", "port": 85, "appProtocol": "kubernetes.io/h2c"},
                {"name": "HTTP2", "port": 86}, {"name": "httpx", "port": 87}]},
        }),
    );
    let reviews = only(&world, "reviews.shop.svc.mesh.internal");
    use PortProtocol::{Auto, Http, Tcp};
    assert_eq!(
        ports(&reviews),
        [
            (80, Http),
            (81, Auto),
            (82, Http),
            (3306, Tcp),
            (443, Tcp),
            (83, Http),
            (84, Tcp),
            (85, Http),
            (86, Http),
            (87, Auto)
        ]
    );
    assert_eq!(reviews.form, Form::Cluster);
    assert_eq!(
        world.services_at("fd00::9".parse().unwrap()).next(),
        Some(&reviews)
    );
    for (namespace, sees) in [("shop", true), ("bank", true), ("other", false)] {
        assert_eq!(world.sees_service(namespace, &reviews), sees, "{namespace}");
    }
}

#[test]
fn reads_headless_services_and_aliases() {
    let mut world = world();
    world.service("shop/db", "None", &["tcp:5432"]);
    let db = only(&world, "db.shop.svc.cluster.local");
    assert_eq!((db.form, db.addresses.len()), (Form::Headless, 0));
    world.put(
        Kind::Service,
        "shop/out",
        json!({"spec": {"type": "ExternalName", "externalName": "API.example.com."}}),
    );
    assert_eq!(
        only(&world, "out.shop.svc.cluster.local").form,
        Form::Alias("api.example.com".into())
    );
}

#[test]
fn a_service_entry_is_a_service_for_each_host() {
    let mut world = world();
    world.put_entry(
        "shop/out",
        json!({"hosts": ["*.Example.com", "api.test"], "addresses": ["240.0.0.1", "240.1.0.0/16"],
               "ports": [{"number": 443, "protocol": "TLS"}, {"number": 80, "protocol": "HTTP"}],
               "exportTo": ["~"], "resolution": "DNS"}),
    );
    let wildcard = only(&world, "*.example.com");
    assert!(wildcard.is_wildcard());
    assert_eq!(wildcard.form, Form::Entry(name("shop/out")));
    assert_eq!(world.wildcard_services().count(), 1);
    assert_eq!(world.services_at("240.0.0.1".parse().unwrap()).count(), 2);
    assert!(!world.sees_service("shop", &wildcard));
    // Changed, then gone: nothing of what it was is left.
    world.put_entry("shop/out", json!({"hosts": ["other.test"]}));
    assert_eq!(world.services_named("api.test").count(), 0);
    assert_eq!(world.wildcard_services().count(), 0);
    assert_eq!(
        world.delete(Kind::ServiceEntry, &name("shop/out")),
        Touched::Everything
    );
    assert_eq!(world.services_named("other.test").count(), 0);
}

#[test]
fn reads_virtual_services() {
    let mut world = world();
    world.virtual_service(
        "shop/reviews",
        json!({"hosts": ["reviews", "*.bank.svc.cluster.local"], "exportTo": [".", "front"], "http": [
            {"match": [{"sourceLabels": {"app": "a"}}], "route": [{"destination": {"host": "v1"}}, {"destination": {"host": "v2.bank"}}],
             "mirror": {"host": "shadow"}, "mirrors": [{"destination": {"host": "shadow2"}}]},
            {"delegate": {"name": "more", "namespace": "bank"}}, {"delegate": {"name": "here"}}],
            "tcp": [{"route": [{"destination": {"host": "db.data.svc.cluster.local"}}]}],
            "tls": [{"route": [{"destination": {"host": "Secure"}}]}]}),
    );
    let route = world.routes().next().unwrap().clone();
    assert_eq!(
        route.hosts,
        ["reviews.shop.svc.cluster.local", "*.bank.svc.cluster.local"]
    );
    let destinations: Vec<&str> = route.destinations.iter().map(String::as_str).collect();
    assert_eq!(
        destinations,
        [
            "db.data.svc.cluster.local",
            "secure.shop.svc.cluster.local",
            "shadow.shop.svc.cluster.local",
            "shadow2.shop.svc.cluster.local",
            "v1.shop.svc.cluster.local",
            "v2.bank"
        ]
    );
    assert_eq!(
        route.delegates,
        BTreeSet::from([name("bank/more"), name("shop/here")])
    );
    assert!(route.mesh && route.asks_who_calls && !route.of_gateway_api);
    assert!(world.sees_route("front", &route) && world.sees_route("shop", &route));
    assert!(!world.sees_route("bank", &route));
    assert_eq!(
        world.routes_named("reviews.shop.svc.cluster.local").count(),
        1
    );
    assert_eq!(world.wildcard_routes().count(), 1);
}

#[test]
fn a_virtual_service_of_gateways_is_not_for_sidecars() {
    let mut world = world();
    for (gateways, mesh) in [
        (json!(["istio-system/in"]), false),
        (json!(["istio-system/in", "mesh"]), true),
        (json!(null), true),
    ] {
        world.virtual_service("shop/a", json!({"hosts": ["a.test"], "gateways": gateways}));
        assert_eq!(world.routes_named("a.test").count() == 1, mesh);
    }
}

#[test]
fn reads_routes_of_gateway_api() {
    let mut world = world();
    world.put(
        Kind::HttpRoute,
        "shop/r",
        json!({"spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "reviews"},
                           {"group": "", "kind": "Service", "name": "a", "namespace": "bank"},
                           {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "out"},
                           {"name": "a-gateway"}],
            "rules": [{"backendRefs": [{"name": "v1", "port": 80}, {"name": "v2", "namespace": "bank"},
                                       {"kind": "Hostname", "group": "networking.istio.io", "name": "API.test"},
                                       {"kind": "InferencePool", "group": "inference.networking.k8s.io", "name": "p"}],
                       "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow"}}}]}]}}),
    );
    let route = world.routes().next().unwrap();
    assert_eq!(
        route.hosts,
        ["reviews.shop.svc.cluster.local", "a.bank.svc.cluster.local"]
    );
    assert_eq!(route.entries, [name("shop/out")]);
    let destinations: Vec<&str> = route.destinations.iter().map(String::as_str).collect();
    assert_eq!(
        destinations,
        [
            "api.test",
            "shadow.shop.svc.cluster.local",
            "v1.shop.svc.cluster.local",
            "v2.bank.svc.cluster.local"
        ]
    );
    assert_eq!(world.routes_of_entry(&name("shop/out")).count(), 1);
    world.put(
        Kind::TcpRoute,
        "shop/r",
        json!({"spec": {"parentRefs": [{"name": "a-gateway"}]}}),
    );
    assert_eq!(world.routes().filter(|route| route.mesh).count(), 1);
}

#[test]
fn reads_pods_and_their_owners() {
    let owned = |kind: &str, owner: &str, labels: Value| {
        json!({"metadata": {"generateName": "x-", "labels": labels, "ownerReferences":
            [{"apiVersion": "v1", "kind": "Other", "name": "no", "uid": "0"},
             {"apiVersion": "v1", "kind": kind, "name": owner, "uid": "1", "controller": true}]}})
    };
    // Left: what the injector makes `OWNER` of, in `pkg/kube/util_test.go` too. Right: what the shim reads in that.
    for (body, kind, workload) in [
        (
            owned(
                "ReplicaSet",
                "cart-5d4f",
                json!({"pod-template-hash": "5d4f"}),
            ),
            "Deployment",
            "cart",
        ),
        (
            owned(
                "ReplicaSet",
                "cart-5d4f",
                json!({"rollouts-pod-template-hash": "5d4f"}),
            ),
            "Rollout",
            "cart",
        ),
        (
            owned("ReplicaSet", "cart-5d4f", json!({})),
            "ReplicaSet",
            "cart-5d4f",
        ),
        (
            owned("ReplicaSet", "cart", json!({"pod-template-hash": "5d4f"})),
            "ReplicaSet",
            "cart",
        ),
        (owned("StatefulSet", "db", json!({})), "StatefulSet", "db"),
        (owned("DaemonSet", "log", json!({})), "DaemonSet", "log"),
        (
            owned("Job", "nightly-27816420", json!({})),
            "CronJob",
            "nightly",
        ),
        (
            owned("Job", "nightly-2781642", json!({})),
            "Job",
            "nightly-2781642",
        ),
        (
            owned("Job", "a-12345678901", json!({})),
            "Job",
            "a-12345678901",
        ),
        (
            owned(
                "ReplicationController",
                "dc-1",
                json!({"deploymentconfig": "dc"}),
            ),
            "Deploymentconfig",
            "dc",
        ),
        (
            owned("ReplicationController", "rc", json!({})),
            "ReplicationController",
            "rc",
        ),
        (owned("CloneSet", "c", json!({})), "Cloneset", "c"),
        (json!({"metadata": {"generateName": "x-"}}), "Pod", "one"),
        (
            json!({"metadata": {"ownerReferences":
                [{"apiVersion": "v1", "kind": "StatefulSet", "name": "db", "uid": "1", "controller": true}]}}),
            "Pod",
            "one",
        ),
    ] {
        let mut world = world();
        world.put(Kind::Pod, "shop/one", body);
        let pod = world.pod("shop", "one").unwrap();
        let found = pod.workload.as_ref().unwrap();
        assert_eq!((found.kind(), found.name()), (kind, workload));
        assert_eq!(pod.service_account, "default");
        assert!(!pod.injected);
    }
}

#[test]
fn knows_a_sidecar_by_container_annotation_or_label() {
    // Gateways that were injected have the annotation too.
    let proxy = |args: &[&str]| {
        json!({"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}},
               "spec": {"containers": [{"name": "istio-proxy", "args": args}]}})
    };
    for (body, injected) in [
        (
            json!({"spec": {"containers": [{"name": "istio-proxy"}]}}),
            true,
        ),
        (
            json!({"spec": {"initContainers": [{"name": "istio-proxy"}]}}),
            true,
        ),
        (
            json!({"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}}}),
            true,
        ),
        (
            json!({"metadata": {"labels": {"security.istio.io/tlsMode": "istio"}}}),
            true,
        ),
        (json!({"spec": {"containers": [{"name": "app"}]}}), false),
        (proxy(&["proxy", "sidecar", "--domain", "x"]), true),
        (proxy(&["proxy", "--domain", "x"]), true),
        (proxy(&["proxy", "router", "--domain", "x"]), false),
        (proxy(&["proxy", "waypoint"]), false),
        (
            json!({"metadata": {"labels": {"gateway.networking.k8s.io/gateway-name": "g"}},
                   "spec": {"containers": [{"name": "istio-proxy"}]}}),
            false,
        ),
    ] {
        let mut world = world();
        world.put(Kind::Pod, "shop/one", body.clone());
        assert_eq!(
            world.pod("shop", "one").unwrap().injected,
            injected,
            "{body}"
        );
    }
}

#[test]
fn reads_mesh_config() {
    let mut world = world();
    let mesh = "
rootNamespace: mesh-root
trustDomain: td
trustDomainAliases: [old]
defaultServiceExportTo: ['.']
discoverySelectors:
- matchLabels: {istio: 'yes'}
- matchExpressions: [{key: team, operator: In, values: [a, b]}]
extensionProviders:
- name: zipkin
  zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411}
- name: authz
  envoyExtAuthzGrpc: {service: bank/Authz.bank.svc.cluster.local, port: 1}
- name: prometheus
  prometheus: {}
outboundTrafficPolicy: {egressProxy: {host: egress.istio-system.svc.cluster.local, port: {number: 80}}}
somethingNew: {a: 1}
";
    let at = "istio-system/istio";
    world.put(Kind::MeshConfig, at, json!({"data": {"mesh": mesh}}));
    let config = world.config().clone();
    assert_eq!(config.root_namespace, "mesh-root");
    assert_eq!(
        config.trust_domains,
        BTreeSet::from(["td".into(), "old".into()])
    );
    assert_eq!(config.default_service_export_to, ["."]);
    assert_eq!(config.default_route_export_to, ["*"]);
    assert_eq!(config.providers.len(), 3);
    assert!(
        config
            .providers
            .contains("bank/authz.bank.svc.cluster.local")
    );
    let labels = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    assert!(config.discovers(&labels("istio", "yes")) && config.discovers(&labels("team", "b")));
    assert!(!config.discovers(&labels("team", "c")) && !config.discovers(&[].into()));
}

#[test]
fn reads_sidecars_and_knows_ours() {
    let mut world = world();
    world.put(
        Kind::Sidecar,
        "shop/theirs",
        json!({"metadata": {"creationTimestamp": "2026-01-02T03:04:05Z"},
               "spec": {"workloadSelector": {"labels": {"app": "cart"}}, "ingress": [{}],
                        "egress": [{"hosts": ["./*"]}, {"port": {"number": 80}, "hosts": ["a/b"]}],
                        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}}),
    );
    world.put(
        Kind::Sidecar,
        "shop/lazymesh-ours",
        json!({"metadata": {"uid": "u", "labels": {"app.kubernetes.io/managed-by": "lazymesh"}}, "spec": {"egress": []}}),
    );
    let theirs = world
        .sidecars("shop")
        .find(|(name, _)| name.name == "theirs");
    let theirs = theirs.unwrap().1;
    assert!(theirs.ours.is_none() && theirs.has_ingress);
    assert_eq!(theirs.created.seconds(), 1_767_323_045);
    assert_eq!(
        theirs.egress.iter().map(|e| e.port).collect::<Vec<_>>(),
        [false, true]
    );
    let ours = world.sidecar(&Name::new("shop", "lazymesh-ours")).unwrap();
    let ours = ours.ours.as_ref().unwrap();
    assert_eq!(
        (ours.uid.as_str(), &ours.spec),
        ("u", &json!({"egress": []}))
    );
}

#[test]
fn what_cannot_be_read_is_left_out_and_said() {
    let mut world = world();
    world.service("shop/a", "10.96.0.9", &["http:80"]);
    let bad = object("shop/a", json!({"spec": {"ports": [{"port": "eighty"}]}}));
    let error = world.apply(Kind::Service, &bad).unwrap_err();
    assert!(error.to_string().contains("Service shop/a"), "{error}");
    assert_eq!(world.services_named("a.shop.svc.cluster.local").count(), 0);
    assert_eq!(world.unreadable().count(), 1);
    world.service("shop/a", "10.96.0.9", &["http:80"]);
    assert_eq!(world.unreadable().count(), 0);
    for (kind, body) in [
        (Kind::VirtualService, json!({"spec": {"hosts": "a"}})),
        (Kind::ServiceEntry, json!({"spec": {}})),
        (Kind::Pod, json!({"spec": "none"})),
        (Kind::HttpRoute, json!({"spec": {"rules": 1}})),
        (Kind::Sidecar, json!({"spec": {"egress": [1]}})),
        (Kind::ServiceCidr, json!({"spec": {"cidrs": ["ten"]}})),
    ] {
        let object = object("shop/bad", body);
        assert!(world.apply(kind, &object).is_err(), "{kind}");
        assert_eq!(world.unreadable().count(), 1, "{kind}");
        world.retain(kind, &BTreeSet::new());
        assert_eq!(world.unreadable().count(), 0, "{kind}");
    }
}

#[test]
fn the_last_good_mesh_config_stays() {
    let (mut world, at) = (world(), "istio-system/istio");
    assert!(world.mesh_config_fault().unwrap().contains("defaults"));
    let good = json!({"data": {"mesh": "trustDomain: example.org"}});
    let trusted = |world: &World| world.config().trust_domains.contains("example.org");
    for bad in [json!({"data": {"mesh": "["}}), json!({})] {
        world.put(Kind::MeshConfig, at, good.clone());
        assert_eq!(world.mesh_config_fault(), None);
        assert!(world.apply(Kind::MeshConfig, &object(at, bad)).is_err());
        assert!(trusted(&world));
        let fault = world.mesh_config_fault().unwrap();
        assert!(fault.contains(at) && fault.contains("last"), "{fault}");
    }
    world.put(Kind::MeshConfig, at, good.clone());
    world.delete(Kind::MeshConfig, &name(at));
    assert!(trusted(&world));
    assert!(world.mesh_config_fault().unwrap().contains(GONE));
    world.put(Kind::MeshConfig, at, good);
    assert_eq!(world.mesh_config_fault(), None);
    // As after a watch began anew.
    let none = BTreeSet::new();
    assert_eq!(world.retain(Kind::MeshConfig, &none), Touched::Nothing);
    assert!(trusted(&world));
    assert!(world.mesh_config_fault().unwrap().contains(GONE));
}

#[test]
fn nulls_are_absent_fields() {
    let mut world = world();
    world.virtual_service(
        "shop/a",
        json!({"hosts": ["a"], "gateways": null, "http": [{"match": null, "route": null, "mirror": null}]}),
    );
    assert_eq!(world.routes().filter(|route| route.mesh).count(), 1);
}

#[test]
fn says_which_namespaces_a_change_matters_to() {
    let mut world = world();
    let own = Touched::Namespace("shop".into());
    world.lazy_namespace("shop");
    assert!(world.namespaces().any(|name| name == "shop"));
    assert_eq!(world.put_pod("shop/cart-1", "cart"), own);
    assert_eq!(
        world.put(Kind::Pod, "shop/cart-1", pod_of("cart")),
        Touched::Nothing
    );
    assert_eq!(
        world.put(Kind::Sidecar, "shop/mine", json!({"spec": {}})),
        own
    );
    assert_eq!(
        world.put(Kind::Sidecar, "istio-system/all", json!({"spec": {}})),
        Touched::Everything
    );
    assert_eq!(
        world.service("shop/a", "10.96.0.9", &["http:80"]),
        Touched::Everything
    );
    assert_eq!(
        world.service("shop/a", "10.96.0.9", &["http:80"]),
        Touched::Nothing
    );
    assert_eq!(
        world.retain(Kind::Pod, &BTreeSet::from([name("shop/cart-1")])),
        Touched::Nothing
    );
    assert_eq!(world.retain(Kind::Pod, &BTreeSet::new()), own);
    assert_eq!(
        world.delete(Kind::Pod, &name("shop/cart-1")),
        Touched::Nothing
    );
    let and =
        |one: &str, two: &str| Touched::Namespace(one.into()).and(Touched::Namespace(two.into()));
    assert_eq!(
        (and("a", "a"), and("a", "b")),
        (Touched::Namespace("a".into()), Touched::Everything)
    );
}

/// Things that happen to a mesh, one per object.
fn happenings() -> Vec<(Kind, &'static str, Value)> {
    vec![
        (
            Kind::Service,
            "a/x",
            json!({"spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}}),
        ),
        (
            Kind::Service,
            "b/x",
            json!({"spec": {"clusterIP": "10.96.0.8"}}),
        ),
        (
            Kind::ServiceEntry,
            "a/e",
            json!({"spec": {"hosts": ["*.t", "x.t"], "addresses": ["10.96.0.8"]}}),
        ),
        (
            Kind::ServiceEntry,
            "b/e",
            json!({"spec": {"hosts": ["*.t"]}}),
        ),
        (
            Kind::VirtualService,
            "a/v",
            json!({"spec": {"hosts": ["x", "*.t"]}}),
        ),
        (
            Kind::VirtualService,
            "b/v",
            json!({"spec": {"hosts": ["*.t"]}}),
        ),
        (
            Kind::HttpRoute,
            "a/v",
            json!({"spec": {"parentRefs": [
            {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "e"}]}}),
        ),
        (Kind::Pod, "a/p", pod_of("p")),
        (Kind::Sidecar, "a/s", json!({"spec": {}})),
    ]
}

proptest! {
    /// What is known is a function of what there is, not of how it came to be.
    #[test]
    fn the_order_of_events_does_not_matter(
        kept in subsequence((0..9).collect::<Vec<usize>>(), 0..9),
        order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        let happenings = happenings();
        let mut one = world();
        for at in &kept {
            let (kind, name, body) = &happenings[*at];
            one.put(*kind, name, body.clone());
        }
        let mut two = world();
        for at in &order {
            let (kind, name, body) = &happenings[*at];
            two.put(*kind, name, body.clone());
        }
        for at in &order {
            let (kind, at_name, _) = &happenings[*at];
            if !kept.contains(at) {
                two.delete(*kind, &name(at_name));
            }
        }
        // A kind without objects is as good as a kind never seen.
        two.routes.retain(|_, table| !table.names().is_empty());
        prop_assert_eq!(one, two);
    }
}
