use crate::embedded::istio::Documents;
use crate::embedded::proxy::Proxy;
use crate::embedded::resources::{CDS, LDS, Resources, Snapshot};
use crate::embedded::shape::{MeshShape, Port, Protocol, Service, outbound_cluster};
use prost::{Message, Name};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use xds_shim::envoy::config::listener::v3::Listener;
use xds_shim::envoy::config::route::v3::RouteConfiguration;
use xds_shim::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_shim::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

const FALLBACK: &str =
    include_str!("../../../../lazyload-controller/src/render/golden/fallback.yaml");
/// What the global proxy is installed with.
const INSTALLED: [&str; 2] = [
    include_str!("../../../../manifests/global-proxy/service.yaml"),
    include_str!("../../../../manifests/global-proxy/mesh.yaml"),
];
const POD: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 4);

fn mesh() -> Resources {
    let mut shape = MeshShape::with_services(100).auto_mtls(true);
    let port = |number, target, protocol| Port {
        number,
        target,
        protocol,
    };
    let proxy = Service {
        name: "global-proxy".to_owned(),
        namespace: "lazymesh-system".to_owned(),
        cluster_ip: Ipv4Addr::new(10, 111, 0, 1),
        ports: vec![
            port(80, 15080, Protocol::Http),
            port(15009, 15081, Protocol::Tcp),
        ],
        endpoints: vec![POD],
        account: Some("global-proxy".to_owned()),
    };
    shape.services.insert(proxy.host(), proxy);
    Resources::new(shape)
}

/// A Sidecar of shop's, with these hosts announced and given.
fn sidecar(announced: &str, given: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: a, namespace: shop}}\nspec:\n  \
         workloadSelector: {{labels: {{app: client}}}}\n  egress:\n  \
         - port: {{number: 15999, protocol: HTTP_PROXY, name: announced}}\n    bind: 127.0.0.1\n    \
         captureMode: IPTABLES\n    hosts: [{announced}]\n  - hosts: [{given}]\n"
    )
}

fn put(resources: &mut Resources, texts: &[&str]) -> Option<BTreeSet<String>> {
    resources.put_documents(Documents::read(texts.iter().copied()).unwrap())
}

fn client() -> Proxy {
    Proxy {
        labels: [("app".to_owned(), "client".to_owned())].into(),
        ..Proxy::in_namespace("shop")
    }
}

fn names(snapshot: &Snapshot, url: &str) -> BTreeSet<String> {
    snapshot.table(url).unwrap().keys().cloned().collect()
}

fn decode<M: Message + Default + Name>(snapshot: &Snapshot, name: &str) -> M {
    M::decode(snapshot.get(&M::type_url(), name).unwrap().clone()).unwrap()
}

fn routes(snapshot: &Snapshot, host: &str) -> Vec<String> {
    let config: RouteConfiguration = decode(snapshot, "80");
    let mut hosts = config.virtual_hosts.iter();
    let host = hosts.find(|one| one.name == host).unwrap();
    host.routes.iter().map(|route| route.name.clone()).collect()
}

#[test]
fn what_is_announced_comes_as_clusters_alone() {
    let mut resources = mesh();
    let touched = put(
        &mut resources,
        &[&sidecar(
            "ns-0/svc-0.ns-0.svc.cluster.local",
            "ns-1/svc-10.ns-1.svc.cluster.local",
        )],
    );
    assert_eq!(touched, Some(BTreeSet::from(["shop".to_owned()])));
    let snapshot = resources.snapshot_for(&client());
    let clusters = names(&snapshot, CDS);
    for (host, port) in [
        ("svc-0.ns-0.svc.cluster.local", 9000),
        ("svc-10.ns-1.svc.cluster.local", 80),
    ] {
        assert!(clusters.contains(&outbound_cluster(host, port)), "{host}");
    }
    // Three ports of each, and four that belong to none.
    assert_eq!(clusters.len(), 10);
    let expected = [
        "0.0.0.0_80",
        "0.0.0.0_8080",
        "10.96.0.20_9000",
        "virtualInbound",
        "virtualOutbound",
    ];
    assert_eq!(names(&snapshot, LDS), expected.map(String::from).into());
    let config: RouteConfiguration = decode(&snapshot, "80");
    let hosts = config.virtual_hosts.iter().map(|host| host.name.as_str());
    assert_eq!(
        hosts.collect::<Vec<_>>(),
        ["svc-10.ns-1.svc.cluster.local:80", "allow_any"]
    );
}

#[test]
fn nobody_else_is_trimmed() {
    let mut resources = mesh();
    put(&mut resources, &[&sidecar("~/*", "~/*")]);
    let other = Proxy::in_namespace("shop");
    assert_eq!(names(&resources.snapshot_for(&other), CDS).len(), 216);
    assert_eq!(names(&resources.snapshot_for(&client()), CDS).len(), 4);
    put(&mut resources, &[]);
    assert_eq!(names(&resources.snapshot_for(&client()), CDS).len(), 216);
}

#[test]
fn the_fallback_is_patched_in() {
    let mut resources = mesh();
    put(&mut resources, &[FALLBACK]);
    let snapshot = resources.snapshot_for(&client());
    assert_eq!(routes(&snapshot, "allow_any"), ["lazymesh", "allow_any"]);
    assert_eq!(
        routes(&snapshot, "svc-10.ns-1.svc.cluster.local:80"),
        ["default"]
    );
    let config: RouteConfiguration = decode(&snapshot, "80");
    assert!(
        config
            .request_headers_to_remove
            .contains(&"x-lazymesh-try".to_owned())
    );
    let listener: Listener = decode(&snapshot, "virtualOutbound");
    let chains: Vec<_> = listener.filter_chains.iter().map(|one| &one.name).collect();
    assert!(chains.contains(&&"lazymesh-tcp".to_owned()), "{chains:?}");
    assert_eq!(routes(&resources.snapshot("other"), "allow_any").len(), 1);
}

#[test]
fn a_pod_that_serves_takes_mutual_tls_and_says_who_called() {
    let mut resources = mesh();
    assert_eq!(put(&mut resources, &INSTALLED), None, "callers are all");
    let proxy = Proxy {
        labels: [("app".to_owned(), "global-proxy".to_owned())].into(),
        address: Some(POD),
        ..Proxy::in_namespace("lazymesh-system")
    };
    let snapshot = resources.snapshot_for(&proxy);
    assert!(names(&snapshot, CDS).contains("inbound|15080||"));
    assert_eq!(names(&snapshot, CDS).len(), 216 + 2);
    let routes: RouteConfiguration = decode(&snapshot, "80");
    assert_eq!(routes.vhost_header, "x-lazymesh-route");
    let listener: Listener = decode(&snapshot, "virtualInbound");
    let config = |chain: &str| {
        let mut chains = listener.filter_chains.iter();
        let chain = chains.find(|one| one.name == chain).unwrap();
        assert!(chain.transport_socket.is_some());
        match chain.filters[0].config_type.as_ref().unwrap() {
            xds_shim::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any) => {
                any.value.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    let tunnel = TcpProxy::decode(config("0.0.0.0_15081").as_slice()).unwrap();
    assert_eq!(tunnel.tunneling_config.unwrap().headers_to_add.len(), 1);
    assert!(tunnel.cluster_specifier.is_some(), "merged, not replaced");
    let manager = hcm::HttpConnectionManager::decode(config("0.0.0.0_15080").as_slice()).unwrap();
    assert!(manager.set_current_client_cert_details.unwrap().uri);
}

#[test]
fn a_rule_says_how_callers_connect() {
    let mut resources = mesh();
    let host = "global-proxy.lazymesh-system.svc.cluster.local";
    let cluster =
        |resources: &mut Resources, port| -> xds_shim::envoy::config::cluster::v3::Cluster {
            decode(&resources.snapshot("shop"), &outbound_cluster(host, port))
        };
    assert!(
        cluster(&mut resources, 80)
            .typed_extension_protocol_options
            .is_empty()
    );
    put(&mut resources, &INSTALLED[..1]);
    let (http, tunnel) = (cluster(&mut resources, 80), cluster(&mut resources, 15009));
    assert_eq!(http.typed_extension_protocol_options.len(), 1);
    assert_eq!(tunnel.typed_extension_protocol_options.len(), 1);
    assert_ne!(
        http.typed_extension_protocol_options,
        tunnel.typed_extension_protocol_options
    );
    put(&mut resources, &[]);
    assert!(
        cluster(&mut resources, 80)
            .typed_extension_protocol_options
            .is_empty()
    );
}
