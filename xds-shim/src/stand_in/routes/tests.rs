//! Route configurations as istiod makes them, taken apart and put together again.

use super::*;
use crate::envoy::config::route::v3 as rds;
use crate::envoy::google::protobuf::{Any, Duration};
use crate::envoy::service::discovery::v3::Resource;
use crate::stand_in::HEADER;
use prost::Message;
use rds::route::Action;
use rds::route_action::ClusterSpecifier;

mod fallback;
mod random;

fn to(cluster: &str) -> rds::Route {
    rds::Route {
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(Action::Route(rds::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
            timeout: Some(Duration::default()),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn action(route: &mut rds::Route) -> &mut rds::RouteAction {
    match &mut route.action {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

/// As istiod writes a service's, `host` being `name.namespace`.
fn service(host: &str, port: u16, address: &str) -> rds::VirtualHost {
    let full = format!("{host}.svc.cluster.local");
    let mut route = to(&format!("outbound|{port}||{full}"));
    route.decorator = Some(rds::Decorator {
        operation: format!("{full}:{port}/*"),
        ..Default::default()
    });
    route.name = "default".into();
    rds::VirtualHost {
        name: format!("{full}:{port}"),
        domains: [
            &full,
            &format!("{full}."),
            host,
            &format!("{host}.svc"),
            address,
        ]
        .map(|d| d.to_owned())
        .to_vec(),
        routes: vec![route],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

fn rest(cluster: &str) -> rds::VirtualHost {
    rds::VirtualHost {
        name: "allow_any".into(),
        domains: vec!["*".into()],
        routes: vec![to(cluster)],
        ..Default::default()
    }
}

fn config(hosts: Vec<rds::VirtualHost>) -> Vec<u8> {
    config_with(hosts, |_| {})
}

fn config_with(
    hosts: Vec<rds::VirtualHost>,
    change: impl FnOnce(&mut rds::RouteConfiguration),
) -> Vec<u8> {
    let mut config = rds::RouteConfiguration {
        name: "80".into(),
        virtual_hosts: hosts,
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    change(&mut config);
    let any = Any {
        type_url: crate::ads::RDS.into(),
        value: config.encode_to_vec(),
    };
    Resource {
        name: "80".into(),
        resource: Some(any),
        ..Default::default()
    }
    .encode_to_vec()
}

fn decode(resource: &[u8]) -> rds::RouteConfiguration {
    let any = Resource::decode(resource).unwrap().resource.unwrap();
    rds::RouteConfiguration::decode(any.value.as_slice()).unwrap()
}

const A: &str = "outbound|80||a.shop.svc.cluster.local";

/// Three services and what is not one.
fn shop() -> Vec<u8> {
    config(vec![
        service("a.shop", 80, "10.96.0.1"),
        service("b.shop", 80, "10.96.0.2"),
        service("c.store", 80, "10.96.0.3"),
        rest("PassthroughCluster"),
    ])
}

fn composed(
    resource: &[u8],
    gives: &[&str],
    nobody: &[&str],
    exact: bool,
) -> rds::RouteConfiguration {
    let routes = Routes::parse(&Bytes::copy_from_slice(resource))
        .unwrap()
        .unwrap();
    let nobody = nobody.iter().map(|n| Box::from(*n)).collect();
    let view = View {
        gives: &|c| gives.contains(&c),
        nobody: &nobody,
        exact,
    };
    decode(&routes.compose(resource, view).unwrap())
}

fn names(config: &rds::RouteConfiguration) -> Vec<&str> {
    config
        .virtual_hosts
        .iter()
        .map(|h| h.name.as_str())
        .collect()
}

/// Envoy refuses domains that occur twice.
fn assert_valid(config: &rds::RouteConfiguration) {
    let mut domains = Domains::default();
    for host in &config.virtual_hosts {
        assert!(!host.domains.is_empty(), "{}", host.name);
        for domain in &host.domains {
            assert!(domains.insert(domain, 0), "{domain} twice");
        }
    }
}

/// The virtual host that takes an authority.
fn taken_by<'a>(config: &'a rds::RouteConfiguration, authority: &str) -> &'a str {
    let mut domains = Domains::default();
    for (at, host) in config.virtual_hosts.iter().enumerate() {
        for domain in &host.domains {
            domains.insert(domain, at as u32);
        }
    }
    let found = domains.find(&host_of(authority, true));
    found.map_or("", |at| &config.virtual_hosts[at as usize].name)
}

fn cluster_of(meaning: Meaning<'_>) -> Option<&str> {
    match meaning {
        Meaning::Service { cluster, operation } => {
            // Servers are told what the virtual host's own decorator would have told them.
            let name = OutboundName::parse(cluster).unwrap().service_port();
            assert_eq!(operation, format!("{name}/*"));
            Some(cluster)
        }
        _ => None,
    }
}

#[test]
fn one_virtual_host_stands_for_many() {
    let config = composed(&shop(), &[], &[], false);
    assert_valid(&config);
    assert_eq!(names(&config), ["allow_any", "lazy|0"]);
    let lazy = &config.virtual_hosts[1];
    for domain in [
        "*.shop",
        "*.store",
        "*.svc",
        "*.svc.cluster.local",
        "*.svc.cluster.local.",
        "10.96.*",
    ] {
        assert!(
            lazy.domains.iter().any(|d| d == domain),
            "{domain} of {:?}",
            lazy.domains
        );
    }
    assert_eq!(lazy.domains.len(), 6);
    assert!(lazy.include_request_attempt_count);
    let mut route = lazy.routes[0].clone();
    assert_eq!(action(&mut route).timeout, Some(Duration::default()));
    let picked = action(&mut route).cluster_specifier.clone();
    assert_eq!(picked, Some(ClusterSpecifier::ClusterHeader(HEADER.into())));
    assert_eq!((route.name.as_str(), route.decorator), ("default", None));
    assert_eq!(config.request_headers_to_remove, [HEADER]);
}

#[test]
fn what_is_admitted_is_given_as_it_came() {
    let config = composed(&shop(), &[A], &[], false);
    assert_valid(&config);
    assert_eq!(
        names(&config),
        ["a.shop.svc.cluster.local:80", "allow_any", "lazy|0"]
    );
    assert_eq!(config.virtual_hosts[0], service("a.shop", 80, "10.96.0.1"));
    for name in [
        "a.shop",
        "A.Shop:80",
        "a.shop.svc.cluster.local.",
        "10.96.0.1",
    ] {
        assert_eq!(
            taken_by(&config, name),
            "a.shop.svc.cluster.local:80",
            "{name}"
        );
    }
    assert_eq!(taken_by(&config, "b.shop"), "lazy|0");
    assert_eq!(taken_by(&config, "example.com"), "allow_any");
}

#[test]
fn whatever_the_whole_sends_to_a_service_the_stand_in_takes() {
    let whole = shop();
    let routes = Routes::parse(&Bytes::copy_from_slice(&whole))
        .unwrap()
        .unwrap();
    for exact in [false, true] {
        let config = composed(&whole, &[], &[], exact);
        assert_valid(&config);
        for host in &decode(&whole).virtual_hosts {
            for domain in host.domains.iter().filter(|d| *d != "*") {
                assert_eq!(taken_by(&config, domain), "lazy|0", "{domain}");
                let (full, port) = host.name.rsplit_once(':').unwrap();
                let meaning = routes.meaning(domain);
                assert_eq!(
                    cluster_of(meaning),
                    Some(&*format!("outbound|{port}||{full}"))
                );
            }
        }
    }
}

#[test]
fn names_that_are_nobodys_go_where_they_went() {
    let routes = Routes::parse(&shop().into()).unwrap().unwrap();
    assert_eq!(
        routes.meaning("Typo.shop:80"),
        Meaning::Nobody("PassthroughCluster")
    );
    assert_eq!(
        routes.meaning("example.com"),
        Meaning::Nobody("PassthroughCluster")
    );
    assert_eq!(routes.host("Typo.Shop:80"), "typo.shop");
    let config = composed(
        &shop(),
        &[],
        &["typo.shop", "a.shop", "*.shop", "x y"],
        false,
    );
    assert_valid(&config);
    assert_eq!(taken_by(&config, "typo.shop"), "allow_any");
    assert_eq!(taken_by(&config, "a.shop"), "lazy|0", "somebody's by now");
    assert_eq!(config.virtual_hosts[0].domains, ["*", "typo.shop"]);
}

#[test]
fn without_wildcards_every_name_is_written_out() {
    let config = composed(&shop(), &[A], &["typo.shop"], true);
    assert_valid(&config);
    assert_eq!(taken_by(&config, "b.shop"), "lazy|0");
    assert_eq!(taken_by(&config, "typo.shop"), "allow_any");
    assert_eq!(config.virtual_hosts[1].domains, ["*"]);
    assert_eq!(config.virtual_hosts[2].domains.len(), 10);
}

#[test]
fn a_rest_that_is_not_one_cluster_leaves_no_room_for_wildcards() {
    let blocked = rds::VirtualHost {
        name: "block_all".into(),
        domains: vec!["*".into()],
        routes: vec![rds::Route {
            action: Some(Action::DirectResponse(rds::DirectResponseAction {
                status: 502,
                ..Default::default()
            })),
            ..to("")
        }],
        ..Default::default()
    };
    for last in [vec![blocked], vec![]] {
        let mut hosts = vec![
            service("a.shop", 80, "10.96.0.1"),
            service("b.shop", 80, "10.96.0.2"),
        ];
        hosts.extend(last);
        let whole = config(hosts);
        let given = composed(&whole, &[], &[], false);
        assert_valid(&given);
        assert_ne!(taken_by(&given, "typo.shop"), "lazy|0");
        assert_eq!(taken_by(&given, "b.shop.svc"), "lazy|0");
        assert_eq!(
            Routes::parse(&Bytes::copy_from_slice(&whole))
                .unwrap()
                .unwrap()
                .meaning("typo.shop"),
            Meaning::Other
        );
    }
}

#[test]
fn routing_of_its_own_is_kept() {
    let with = |change: fn(&mut rds::VirtualHost)| {
        let mut own = service("own.shop", 80, "10.96.0.9");
        change(&mut own);
        own
    };
    let mirrored = with(|h| {
        let policy = rds::route_action::RequestMirrorPolicy {
            cluster: A.into(),
            ..Default::default()
        };
        action(&mut h.routes[0]).request_mirror_policies = vec![policy];
    });
    let weighted = with(|h| {
        action(&mut h.routes[0]).cluster_specifier = Some(ClusterSpecifier::WeightedClusters(
            rds::WeightedCluster::default(),
        ));
    });
    let redirect =
        with(|h| h.routes[0].action = Some(Action::Redirect(rds::RedirectAction::default())));
    let two = with(|h| h.routes.push(to("outbound|80||b.shop.svc.cluster.local")));
    let wildcard = with(|h| h.domains.push("*.own.shop".into()));
    let slower = with(|h| {
        action(&mut h.routes[0]).timeout = Some(Duration {
            seconds: 1,
            nanos: 0,
        })
    });
    let nowhere = with(|h| h.routes.clear());
    let special = with(|h| h.routes = vec![to("PassthroughCluster")]);
    for own in [
        mirrored, weighted, redirect, two, wildcard, slower, nowhere, special,
    ] {
        let whole = config(vec![
            service("a.shop", 80, "10.96.0.1"),
            own.clone(),
            service("b.shop", 80, "10.96.0.2"),
            rest("PassthroughCluster"),
        ]);
        let given = composed(&whole, &[], &[], false);
        assert_valid(&given);
        assert_eq!(given.virtual_hosts[0], own);
        assert_eq!(taken_by(&given, "own.shop"), own.name);
        assert_eq!(taken_by(&given, "b.shop"), "lazy|0");
        let routes = Routes::parse(&Bytes::copy_from_slice(&whole))
            .unwrap()
            .unwrap();
        let own = "outbound|80||own.shop.svc.cluster.local";
        let meaning = routes.meaning("own.shop");
        assert!(meaning == Meaning::Other || cluster_of(meaning) == Some(own));
        assert!(!routes.holds(own));
    }
}

#[test]
fn every_form_of_which_there_are_two_has_a_stand_in() {
    let slow = |host: &str, address: &str| {
        let mut host = service(host, 80, address);
        action(&mut host.routes[0]).timeout = Some(Duration {
            seconds: 1,
            nanos: 0,
        });
        host
    };
    let given = composed(
        &config(vec![
            slow("s.shop", "10.96.0.7"),
            slow("t.shop", "10.96.0.8"),
            service("a.shop", 80, "10.96.0.1"),
            service("b.shop", 80, "10.96.0.2"),
            service("c.shop", 80, "10.96.0.3"),
            rest("PassthroughCluster"),
        ]),
        &[],
        &[],
        false,
    );
    assert_valid(&given);
    assert_eq!(taken_by(&given, "s.shop"), "lazy|0");
    assert_eq!(taken_by(&given, "a.shop"), "lazy|1");
    assert_eq!(taken_by(&given, "new.shop"), "lazy|1");
    let mut slow = given.virtual_hosts[1].routes[0].clone();
    assert_eq!(
        action(&mut slow).timeout,
        Some(Duration {
            seconds: 1,
            nanos: 0
        })
    );
}

#[test]
fn a_wildcard_of_istiods_own_loses_no_name() {
    let mut external = service("x.y", 80, "1.2.3.4");
    external.domains = vec!["*.cluster.local".into()];
    external.name = "external".into();
    let whole = config(vec![
        external,
        service("a.shop", 80, "10.96.0.1"),
        service("b.shop", 80, "10.96.0.2"),
        rest("PassthroughCluster"),
    ]);
    let given = composed(&whole, &[], &[], false);
    assert_valid(&given);
    assert_eq!(taken_by(&given, "typo.shop.svc.cluster.local"), "external");
    assert_eq!(taken_by(&given, "b.shop.svc.cluster.local"), "lazy|0");
    assert_eq!(taken_by(&given, "typo.shop"), "lazy|0");
}

#[test]
fn with_too_little_to_hold_nothing_is() {
    let alone = config(vec![
        service("a.shop", 80, "10.96.0.1"),
        rest("PassthroughCluster"),
    ]);
    let routes = Routes::parse(&Bytes::copy_from_slice(&alone))
        .unwrap()
        .unwrap();
    assert_eq!(
        (cluster_of(routes.meaning("a.shop")), routes.count()),
        (Some(A), (2, 0))
    );
    let whole = without_header(&alone).unwrap();
    assert_eq!(composed(&alone, &[], &["typo.shop"], false), decode(&whole));
    let given = decode(&whole);
    assert_eq!(given.request_headers_to_remove, [HEADER]);
    assert_eq!(given.virtual_hosts.len(), 2);
    let hosts = || {
        vec![
            service("a.shop", 80, "10.96.0.1"),
            service("b.shop", 80, "10.96.0.2"),
        ]
    };
    let discovered = config_with(hosts(), |c| c.vhds = Some(rds::Vhds::default()));
    assert!(
        Routes::parse(&Bytes::copy_from_slice(&discovered))
            .unwrap()
            .is_none()
    );
    assert!(Routes::parse(&Bytes::from_static(&[0x12, 0x80])).is_err());
}

#[test]
fn a_name_of_two_clusters_is_held_once() {
    let mut twice = service("a.shop", 80, "10.96.0.1");
    twice.domains = vec!["other.name".into()];
    let whole = config(vec![
        service("a.shop", 80, "10.96.0.1"),
        twice,
        service("b.shop", 80, "10.96.0.2"),
        rest("PassthroughCluster"),
    ]);
    let given = composed(&whole, &[A], &[], false);
    assert_valid(&given);
    assert_eq!(
        taken_by(&given, "other.name"),
        "a.shop.svc.cluster.local:80"
    );
}
