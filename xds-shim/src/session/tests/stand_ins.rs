//! Requests that come by what stands for held virtual hosts.

use super::*;
use crate::stand_in::domains::{Domains, host_of};
use rds::route_action::ClusterSpecifier;
use std::time::Instant;

const LAZY_A: &str = "lazy|80|a.shop";
const LAZY_TYPO: &str = "lazy|80|Typo.shop:80";

pub(super) fn host(name: &str, domains: &[&str], cluster: &str) -> rds::VirtualHost {
    let action = rds::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    let all = rds::RouteMatch {
        path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".into())),
        ..Default::default()
    };
    rds::VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|d| (*d).into()).collect(),
        routes: vec![rds::Route {
            r#match: Some(all),
            action: Some(rds::route::Action::Route(action)),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// `80`, with these services of the namespace `shop` and all else passed through.
fn shop(services: &[&str]) -> pb::Resource {
    let service = |name: &&str| {
        let full = format!("{name}.shop.svc.cluster.local");
        let domains = [full.as_str(), &format!("{name}.shop"), name];
        host(name, &domains, &format!("outbound|80||{full}"))
    };
    let mut hosts: Vec<_> = services.iter().map(service).collect();
    hosts.push(host("rest", &["*"], SPECIAL));
    super::model::mesh::configuration("80", hosts)
}

/// The route configuration that was sent last.
fn last_routes(seen: &Seen) -> Option<rds::RouteConfiguration> {
    let of_type = seen.to_proxy.iter().filter(|r| r.type_url == ads::RDS);
    let any = of_type
        .flat_map(|r| &r.resources)
        .next_back()?
        .resource
        .clone()?;
    Some(rds::RouteConfiguration::decode(&*any.value).unwrap())
}

fn taken_by(config: &rds::RouteConfiguration, authority: &str) -> String {
    let mut domains = Domains::default();
    for (at, host) in config.virtual_hosts.iter().enumerate() {
        for domain in &host.domains {
            assert!(domains.insert(domain, at as u32), "{domain} twice");
        }
    }
    let at = domains.find(&host_of(authority, true)).unwrap();
    config.virtual_hosts[at as usize].name.clone()
}

/// A stream that runs, with a, b and c in the mesh; and the routes it was given.
fn open(known: &[ServicePort]) -> (Stream, rds::RouteConfiguration) {
    let mut stream = Stream::started(
        known,
        &[cluster(SPECIAL), cluster(A), cluster(A_V1), cluster(B)],
    );
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    let seen = stream.pushes(ads::RDS, "r1", &[shop(&["a", "b", "c"])]);
    let routes = last_routes(&seen).unwrap();
    (stream, routes)
}

fn named<'a>(seen: &'a Seen, name: &str) -> cds::Cluster {
    let mut all = seen.to_proxy.iter().flat_map(|r| &r.resources);
    let found: &'a pb::Resource = all.rfind(|r| r.name == name).unwrap();
    cds::Cluster::decode(&*found.resource.as_ref().unwrap().value).unwrap()
}

#[test]
fn virtual_hosts_are_held() {
    let (_, routes) = open(&[]);
    assert_eq!(taken_by(&routes, "a.shop"), "lazy|0");
    assert_eq!(taken_by(&routes, "example.com"), "rest");
    let (_, routes) = open(&[a()]);
    assert_eq!(taken_by(&routes, "a.shop:80"), "a");
    assert_eq!(taken_by(&routes, "b.shop"), "lazy|0");
}

#[test]
fn a_request_gets_a_copy_first_and_then_the_service_its_own() {
    let (mut stream, _) = open(&[]);
    let seen = stream.asks(ads::CDS, &[LAZY_A]);
    assert_eq!(seen.given(), [LAZY_A]);
    let copy = named(&seen, LAZY_A);
    assert_eq!(
        (copy.name.as_str(), copy.alt_stat_name.as_str()),
        (LAZY_A, A)
    );
    assert_eq!(seen.subscribed(), [A], "names of ours do not go upstream");
    assert_eq!(
        seen.asks,
        [Ask {
            service: a(),
            protocol: Protocol::Http,
            now: true
        }]
    );
    let early = stream.acks(&seen.to_proxy[0]);
    assert!(early.to_proxy.is_empty(), "its endpoints are not there yet");
    let seen = stream.takes(&seen);
    let mut clusters = seen.given()[..2].to_vec();
    clusters.sort_unstable();
    assert_eq!(clusters, [A_V1, A]);
    let order = ["Cluster", "ClusterLoadAssignment", "RouteConfiguration"];
    assert_eq!(seen.order(), order);
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "A.shop:80"), "a");
    // Another of its names that was on its way: the same, learned once.
    let seen = stream.asks(ads::CDS, &["lazy|80|a"]);
    assert_eq!(seen.given(), ["lazy|80|a", A]);
    assert_eq!(
        (seen.order(), seen.asks.len()),
        (vec!["Cluster", "ClusterLoadAssignment"], 0)
    );
}

#[test]
fn endpoints_follow_a_copy_that_shares_them() {
    let (mut stream, _) = open(&[a()]);
    stream.pushes(ads::EDS, "e1", &[endpoints(A, 1), endpoints(A_V1, 1)]);
    let seen = stream.asks(ads::CDS, &["lazy|80|a"]);
    assert_eq!(seen.given(), ["lazy|80|a", A]);
    assert_eq!(seen.order(), ["Cluster", "ClusterLoadAssignment"]);
    // The service's own cluster is as it was, and that it is said again is no reason to send them once more.
    for response in &seen.to_proxy {
        stream.acks(response);
    }
    let clusters = [cluster(SPECIAL), cluster(A), cluster(A_V1), cluster(B)];
    assert!(stream.pushes(ads::CDS, "c2", &clusters).given().is_empty());
    let seen = stream.pushes(ads::EDS, "e2", &[endpoints(A, 1), endpoints(A_V1, 1)]);
    assert!(seen.to_proxy.is_empty(), "{seen:?}");
}

#[test]
fn a_name_that_is_nobodys_has_its_place_before_it_is_answered() {
    let (mut stream, _) = open(&[]);
    let seen = stream.asks(ads::CDS, &[LAZY_TYPO]);
    assert_eq!(seen.order(), ["RouteConfiguration", "Cluster"]);
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "typo.shop"), "rest");
    assert_eq!(named(&seen, LAZY_TYPO).alt_stat_name, SPECIAL);
    assert!(seen.asks.is_empty());
    // Somebody's at last: its virtual host is given, not held, since Envoy would not ask again.
    let seen = stream.pushes(ads::RDS, "r2", &[shop(&["a", "b", "typo"])]);
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "typo.shop"), "typo");
    assert_eq!(seen.asks.len(), 1);
}

#[test]
fn a_name_whose_service_goes_is_nobodys() {
    let (mut stream, _) = open(&[]);
    let asked = stream.asks(ads::CDS, &[LAZY_A]);
    stream.takes(&asked);
    let seen = stream.pushes(ads::RDS, "r2", &[shop(&["b", "c"])]);
    assert_eq!(seen.order(), ["RouteConfiguration"], "in one go");
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "a.shop"), "rest");
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "b.shop"), "lazy|0");
}

#[test]
fn too_many_names_that_are_nobodys_end_the_wildcards() {
    let (mut stream, _) = open(&[]);
    for n in 0..MOST_NOBODYS {
        let seen = stream.asks(ads::CDS, &[&format!("lazy|80|n{n}.shop")]);
        assert_eq!(
            taken_by(&last_routes(&seen).unwrap(), "other.shop"),
            "lazy|0"
        );
    }
    let seen = stream.asks(ads::CDS, &["lazy|80|one-more.shop"]);
    let routes = last_routes(&seen).unwrap();
    assert_eq!(taken_by(&routes, "other.shop"), "rest");
    assert_eq!(taken_by(&routes, "a.shop"), "lazy|0");
    assert_eq!(routes.virtual_hosts[0].domains, ["*"]);
    let seen = stream.asks(ads::CDS, &["lazy|80|late.shop"]);
    assert_eq!(seen.order(), ["Cluster"], "it was on its way");
}

#[test]
fn a_host_that_no_domain_can_say_ends_the_wildcards() {
    let (mut stream, _) = open(&[]);
    let seen = stream.asks(ads::CDS, &["lazy|80|*.shop"]);
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "other.shop"), "rest");
    let long = format!("lazy|80|{}.shop", "x".repeat(5000));
    assert_eq!(stream.asks(ads::CDS, &[&long]).given(), [long.as_str()]);
}

#[test]
fn a_copy_goes_when_nothing_leads_to_it_for_a_while() {
    let (mut stream, _) = open(&[]);
    let asked = stream.asks(ads::CDS, &[LAZY_A, LAZY_TYPO]);
    assert!(asked.given().contains(&LAZY_A));
    stream.takes(&asked);
    let start = Instant::now();
    let mut tidy = |after| Seen::of(stream.session.tidy(start + after));
    assert!(tidy(Duration::ZERO).to_proxy.is_empty());
    assert!(tidy(LINGER - Duration::from_secs(1)).to_proxy.is_empty());
    let seen = tidy(LINGER);
    assert_eq!(seen.removed(), [LAZY_TYPO, LAZY_A]);
    assert!(tidy(2 * LINGER).to_proxy.is_empty());
}

#[test]
fn routes_that_are_refused_end_the_stream() {
    let (mut stream, _) = open(&[]);
    let asked = stream.asks(ads::CDS, &[LAZY_A]);
    let seen = stream.takes(&asked);
    let routes = seen.to_proxy.iter().find(|r| r.type_url == ads::RDS);
    let refusal = refusal(routes.unwrap(), "duplicate domain").encode_to_vec();
    let error = stream.session.on_request(&refusal.into()).unwrap_err();
    assert_eq!(error, Error::CannotAsk("duplicate domain".into()));
}

#[test]
fn what_is_asked_for_before_the_routes_are_known_is_answered_with_them() {
    let mut stream = Stream::new(&[]);
    stream.asks(ads::CDS, &["*", LAZY_A, LAZY_TYPO]);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(A), cluster(B)]);
    assert_eq!((seen.given(), seen.removed()), (vec![SPECIAL], vec![]));
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    let seen = stream.pushes(ads::RDS, "r1", &[shop(&["a", "b", "c"])]);
    assert_eq!(
        seen.order()
            .iter()
            .filter(|t| **t == "RouteConfiguration")
            .count(),
        1
    );
    let routes = last_routes(&seen).unwrap();
    assert_eq!(taken_by(&routes, "a.shop"), "a");
    assert_eq!(taken_by(&routes, "typo.shop"), "rest");
    for name in [LAZY_A, LAZY_TYPO] {
        assert!(seen.given().contains(&name), "{name}");
    }
    assert_eq!(seen.asks.iter().map(|a| a.now).collect::<Vec<_>>(), [false]);
}

#[test]
fn a_copy_that_a_returning_proxy_holds_is_left_until_it_is_idle() {
    let mut stream = Stream::new(&[]);
    let held = [(LAZY_A, "lm-1"), (A, "lm-2")];
    stream.asks_holding(ads::CDS, &["*", LAZY_A], &held);
    let seen = stream.pushes(ads::CDS, "c1", &[cluster(SPECIAL), cluster(A), cluster(B)]);
    assert!(seen.removed().is_empty(), "{:?}", seen.removed());
    stream.asks(ads::LDS, &[]);
    stream.pushes(ads::LDS, "l1", &[http_listener("0.0.0.0_80", "80")]);
    stream.asks(ads::RDS, &["80"]);
    let seen = stream.pushes(ads::RDS, "r1", &[shop(&["a", "b", "c"])]);
    assert_eq!(seen.given(), ["80"]);
    let start = Instant::now();
    assert!(stream.session.tidy(start).is_empty());
    assert_eq!(
        Seen::of(stream.session.tidy(start + LINGER)).removed(),
        [LAZY_A]
    );
}

#[test]
fn what_others_learned_is_given_with_its_virtual_host_behind() {
    let (mut stream, _) = open(&[]);
    let seen = Seen::of(stream.session.admit([a()]));
    assert_eq!(seen.order(), ["Cluster", "RouteConfiguration"]);
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "a.shop"), "a");
}

#[test]
fn a_cluster_a_kept_route_asks_for_brings_its_virtual_host() {
    let (mut stream, _) = open(&[]);
    let seen = stream.asks(ads::CDS, &[A]);
    assert_eq!(taken_by(&last_routes(&seen).unwrap(), "a.shop"), "a");
}

#[test]
fn where_nothing_can_be_held_no_virtual_host_is() {
    let (mut stream, _) = open(&[]);
    let mirror_by_header = {
        let mut resource = routes("81", A, &[]);
        let any = resource.resource.as_mut().unwrap();
        let mut config = rds::RouteConfiguration::decode(&*any.value).unwrap();
        config.request_mirror_policies = vec![rds::route_action::RequestMirrorPolicy {
            cluster_header: "x-mirror".into(),
            ..Default::default()
        }];
        any.value = config.encode_to_vec();
        resource
    };
    stream.pushes(ads::LDS, "l2", &[http_listener("0.0.0.0_81", "81")]);
    stream.asks(ads::RDS, &["81"]);
    let seen = stream.pushes(ads::RDS, "r2", &[mirror_by_header]);
    let all = seen
        .to_proxy
        .iter()
        .flat_map(|r| &r.resources)
        .find(|r| r.name == "80");
    let routes =
        rds::RouteConfiguration::decode(&*all.unwrap().resource.as_ref().unwrap().value).unwrap();
    assert_eq!(taken_by(&routes, "a.shop"), "a");
    assert_eq!(routes.request_headers_to_remove, ["x-lazymesh-cluster"]);
}
