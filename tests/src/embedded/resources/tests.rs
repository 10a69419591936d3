use super::*;
use crate::embedded::shape::{Protocol, numbered_service};
use std::net::Ipv4Addr;
use xds_shim::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_shim::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

fn resources(count: u32) -> Resources {
    Resources::new(MeshShape::with_services(count))
}

fn decode<M: Message + Default + Name>(snapshot: &Snapshot, name: &str) -> M {
    let body = snapshot
        .get(&M::type_url(), name)
        .unwrap_or_else(|| panic!("no {name}"));
    M::decode(body.clone()).unwrap()
}

#[test]
fn a_thousand_services_have_the_counts_of_a_real_istiod() {
    let snapshot = resources(1000).snapshot("ns-0");
    let count = |url| snapshot.table(url).unwrap().len();
    // 2,100 of services and four that belong to none; Envoy's bootstrap adds its own.
    assert_eq!(count(CDS), 2104);
    assert_eq!(count(EDS), 2100);
    // Two HTTP ports, a hundred TCP addresses, virtualOutbound and virtualInbound.
    assert_eq!(count(LDS), 104);
    assert_eq!(count(RDS), 2);
}

#[test]
fn each_cluster_has_its_endpoints_under_its_own_name() {
    let snapshot = resources(50).snapshot("ns-0");
    let mut seen = 0;
    for name in snapshot
        .table(CDS)
        .unwrap()
        .keys()
        .filter(|name| name.starts_with("outbound|"))
    {
        let cluster: Cluster = decode(&snapshot, name);
        let eds = cluster.eds_cluster_config.unwrap();
        assert_eq!(&eds.service_name, name);
        let assignment: ClusterLoadAssignment = decode(&snapshot, name);
        assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 5);
        seen += 1;
    }
    assert_eq!(seen, 105);
}

#[test]
fn automatic_mtls_adds_socket_matches_and_nothing_else() {
    let plain = resources(1).snapshot("ns-0");
    let mtls = Resources::new(MeshShape::with_services(1).auto_mtls(true)).snapshot("ns-0");
    let name = numbered_service(0).cluster(80);
    let mut with: Cluster = decode(&mtls, &name);
    let matches = std::mem::take(&mut with.transport_socket_matches);
    let names: Vec<_> = matches.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["tlsMode-istio", "tlsMode-disabled"]);
    assert_eq!(with, decode::<Cluster>(&plain, &name));
}

#[test]
fn routes_name_a_service_in_every_way_and_catch_the_rest_last() {
    let snapshot = resources(20).snapshot("ns-0");
    let routes: RouteConfiguration = decode(&snapshot, "80");
    assert!(routes.ignore_port_in_host_matching);
    assert_eq!(routes.validate_clusters.map(|flag| flag.value), Some(false));
    let host = |name: &str| {
        routes
            .virtual_hosts
            .iter()
            .find(|host| host.name == name)
            .unwrap()
    };
    let own = &host("svc-0.ns-0.svc.cluster.local:80").domains;
    assert!(own.contains(&"svc-0".to_owned()), "{own:?}");
    assert!(own.contains(&"10.96.0.10".to_owned()), "{own:?}");
    let foreign = &host("svc-10.ns-1.svc.cluster.local:80").domains;
    assert!(!foreign.contains(&"svc-10".to_owned()), "{foreign:?}");
    assert!(foreign.contains(&"svc-10.ns-1".to_owned()), "{foreign:?}");
    assert_eq!(routes.virtual_hosts.last().unwrap().name, routes::ALLOW_ANY);
}

#[test]
fn no_two_virtual_hosts_of_a_route_config_share_a_domain() {
    let snapshot = resources(300).snapshot("ns-3");
    for name in ["80", "8080"] {
        let routes: RouteConfiguration = decode(&snapshot, name);
        let domains: Vec<_> = routes
            .virtual_hosts
            .iter()
            .flat_map(|host| &host.domains)
            .collect();
        let distinct: BTreeSet<_> = domains.iter().collect();
        assert_eq!(domains.len(), distinct.len());
    }
}

#[test]
fn http_listeners_ask_for_the_route_config_of_their_port() {
    let snapshot = resources(20).snapshot("ns-0");
    let listener: Listener = decode(&snapshot, "0.0.0.0_8080");
    assert_eq!(listener.bind_to_port.map(|flag| flag.value), Some(false));
    let filter = &listener.filter_chains[0].filters[0];
    let manager: HttpConnectionManager = packed(filter);
    let Some(route) = manager.route_specifier else {
        panic!("no routes")
    };
    assert!(
        format!("{route:?}").contains(r#"route_config_name: "8080""#),
        "{route:?}"
    );
    assert_eq!(
        manager.http_filters.last().unwrap().name,
        "envoy.filters.http.router"
    );
    assert_eq!(
        listener.default_filter_chain.unwrap().name,
        "PassthroughFilterChain"
    );
}

#[test]
fn tcp_ports_have_a_listener_at_their_cluster_ip() {
    let snapshot = resources(20).snapshot("ns-0");
    let service = numbered_service(10);
    let listener: Listener = decode(&snapshot, &format!("{}_9000", service.cluster_ip));
    let proxy: TcpProxy = packed(&listener.filter_chains[0].filters[0]);
    assert!(format!("{:?}", proxy.cluster_specifier).contains(&service.cluster(9000)));
}

fn packed<M: Message + Default>(filter: &xds_shim::envoy::config::listener::v3::Filter) -> M {
    use xds_shim::envoy::config::listener::v3::filter::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        panic!("not typed")
    };
    M::decode(any.value.as_slice()).unwrap()
}

#[test]
fn an_endpoint_change_touches_its_own_service_alone() {
    let mut resources = resources(20);
    let before = resources.snapshot("ns-0");
    let service = numbered_service(10);
    let push = resources.apply(Change::Endpoints(
        service.host(),
        vec![Ipv4Addr::new(10, 1, 2, 3)],
    ));
    let expected = service
        .ports
        .iter()
        .map(|port| service.cluster(port.number))
        .collect();
    assert_eq!(push, Push::from([(EDS.to_owned(), Scope::Names(expected))]));
    let after = resources.snapshot("ns-0");
    let changed: Vec<_> = before
        .table(EDS)
        .unwrap()
        .iter()
        .filter(|(name, body)| after.get(EDS, name) != Some(body))
        .collect();
    assert_eq!(changed.len(), 3);
    assert_eq!(before.table(CDS), after.table(CDS));
}

#[test]
fn removing_and_adding_a_service_again_gives_the_same_resources() {
    let mut resources = resources(20);
    let before = resources.snapshot("ns-0");
    let service = numbered_service(10);
    let push = resources.apply(Change::RemoveService(service.host()));
    assert!(matches!(&push[CDS], Scope::Names(names) if names.len() == 3));
    assert_eq!((&push[LDS], &push[RDS]), (&Scope::All, &Scope::All));
    let without = resources.snapshot("ns-0");
    assert_eq!(
        without.table(CDS).unwrap().len() + 3,
        before.table(CDS).unwrap().len()
    );
    assert!(without.get(CDS, &service.cluster(80)).is_none());
    let routes: RouteConfiguration = decode(&without, "80");
    assert!(
        !routes
            .virtual_hosts
            .iter()
            .any(|host| host.name.starts_with("svc-10."))
    );

    resources.apply(Change::PutService(service));
    let again = resources.snapshot("ns-0");
    for url in PUSH_ORDER {
        assert_eq!(again.table(url), before.table(url), "{url}");
    }
}

#[test]
fn a_service_that_changes_nothing_is_not_pushed() {
    let mut resources = resources(20);
    assert!(
        resources
            .apply(Change::PutService(numbered_service(3)))
            .is_empty()
    );
    assert!(
        resources
            .apply(Change::RemoveService("nobody".to_owned()))
            .is_empty()
    );
    assert!(
        resources
            .apply(Change::Endpoints("nobody".to_owned(), vec![]))
            .is_empty()
    );
}

#[test]
fn a_service_that_loses_a_port_loses_its_cluster_and_listener() {
    let mut resources = resources(20);
    let mut service = numbered_service(10);
    let name = service.cluster(9000);
    service.ports.retain(|port| port.protocol == Protocol::Http);
    let push = resources.apply(Change::PutService(service.clone()));
    assert!(matches!(&push[CDS], Scope::Names(names) if names.contains(&name)));
    let snapshot = resources.snapshot("ns-0");
    assert!(snapshot.get(CDS, &name).is_none() && snapshot.get(EDS, &name).is_none());
    assert!(
        snapshot
            .get(LDS, &format!("{}_9000", service.cluster_ip))
            .is_none()
    );
}

#[test]
fn what_was_put_by_hand_outlives_generated_changes() {
    let mut resources = resources(20);
    let service = numbered_service(10);
    let name = service.cluster(80);
    let cluster = Cluster {
        name: name.clone(),
        alt_stat_name: "by hand".to_owned(),
        ..Default::default()
    };
    resources.apply(Change::put(&name, &cluster));
    let routes = RouteConfiguration {
        name: "80".to_owned(),
        ..Default::default()
    };
    resources.apply(Change::put("80", &routes));
    resources.apply(Change::RemoveResource {
        type_url: LDS.to_owned(),
        name: "0.0.0.0_80".to_owned(),
    });
    resources.apply(Change::RemoveService(numbered_service(3).host()));
    let snapshot = resources.snapshot("ns-1");
    assert_eq!(decode::<Cluster>(&snapshot, &name), cluster);
    assert_eq!(decode::<RouteConfiguration>(&snapshot, "80"), routes);
    assert!(snapshot.get(LDS, "0.0.0.0_80").is_none());
}

#[test]
fn types_that_nothing_is_generated_for_have_what_was_put() {
    let mut resources = resources(1);
    let url = "type.googleapis.com/istio.networking.nds.v1.NameTable";
    assert!(resources.snapshot("ns-0").table(url).is_none());
    let push = resources.apply(Change::PutResource {
        type_url: url.to_owned(),
        name: "table".to_owned(),
        body: Bytes::from_static(b"names"),
    });
    assert_eq!(push, Push::from([(url.to_owned(), Scope::All)]));
    assert_eq!(
        resources
            .snapshot("ns-0")
            .get(url, "table")
            .unwrap()
            .as_ref(),
        b"names"
    );
}
