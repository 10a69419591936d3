//! The route configuration of a workload that settles: as the controller's EnvoyFilter leaves it.

use super::*;
use crate::envoy::config::core::v3 as core;
use crate::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use dependency_graph::fallback::{FALLBACK_ROUTE, PLAIN, TRIES, TRY};
use rds::header_matcher::HeaderMatchSpecifier;

const PROXY: &str = "outbound|80||global-proxy.lazymesh-system.svc.cluster.local";

/// The route that is put first, for authorities of the mesh that were not told to pass it by.
fn fallback() -> rds::Route {
    let mut route = to(PROXY);
    route.name = FALLBACK_ROUTE.into();
    let regex = RegexMatcher {
        regex: r"(?is)(?:[^.:\[\]]+|.+(?:\.shop|\.store|\.svc\.cluster\.local))(?::[0-9]+)?".into(),
        ..Default::default()
    };
    let authority = rds::HeaderMatcher {
        name: ":authority".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::SafeRegex(regex)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let plain = rds::HeaderMatcher {
        name: PLAIN.into(),
        invert_match: true,
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    };
    route.r#match.as_mut().unwrap().headers = vec![plain, authority];
    route.request_headers_to_add = vec![core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: TRIES.into(),
            value: format!("%REQ({TRY})%"),
            ..Default::default()
        }),
        ..Default::default()
    }];
    action(&mut route).internal_redirect_policy = Some(rds::InternalRedirectPolicy::default());
    route
}

fn with_fallback(name: &str, last: rds::Route) -> rds::VirtualHost {
    rds::VirtualHost {
        name: name.into(),
        domains: vec!["*".into()],
        // Two, where one regular expression would be too long.
        routes: vec![fallback(), fallback(), last],
        ..Default::default()
    }
}

fn settling(last: rds::VirtualHost) -> Vec<u8> {
    let hosts = vec![
        service("a.shop", 80, "10.96.0.1"),
        service("b.shop", 80, "10.96.0.2"),
        service("c.store", 80, "10.96.0.3"),
        last,
    ];
    config_with(hosts, |config| {
        config.request_headers_to_remove = vec![TRY.into(), PLAIN.into()];
    })
}

#[test]
fn what_falls_back_is_nobodys_to_answer() {
    let blocked = rds::Route {
        action: Some(Action::DirectResponse(rds::DirectResponseAction {
            status: 502,
            ..Default::default()
        })),
        ..to("")
    };
    for last in [
        with_fallback("allow_any", to("PassthroughCluster")),
        with_fallback("block_all", blocked),
    ] {
        let raw = settling(last.clone());
        let routes = Routes::parse(&Bytes::copy_from_slice(&raw))
            .unwrap()
            .unwrap();
        assert_eq!(routes.fallback(), Some(PROXY));
        let service = |authority| matches!(routes.meaning(authority), Meaning::Service { .. });
        assert!(service("a.shop") && service("10.96.0.2:80"));
        // Not passed through: a service of the mesh that istiod does not send looks like this as well.
        for authority in [
            "new.shop",
            "new",
            "typo.shop:80",
            "10.96.9.9",
            "example.com",
        ] {
            assert_eq!(routes.meaning(authority), Meaning::Other, "{authority}");
        }
        // Nor held: no stand-in takes it, whatever was asked for before.
        let composed = composed(&raw, &[A], &["typo.shop"], false);
        assert_valid(&composed);
        assert_eq!(
            names(&composed),
            ["a.shop.svc.cluster.local:80", &last.name, "lazy|0"]
        );
        let stand_in = &composed.virtual_hosts[2];
        assert!(
            stand_in.domains.iter().all(|domain| !domain.contains('*')),
            "{stand_in:?}"
        );
        assert_eq!(stand_in.domains.len(), 10);
        // The fallback is as the controller wrote it, and what it is told by is removed as it said.
        assert_eq!(composed.virtual_hosts[1], last);
        let removed = [TRY, PLAIN, HEADER].map(str::to_owned);
        assert_eq!(composed.request_headers_to_remove, removed);
    }
}

#[test]
fn without_it_names_are_nobodys_again() {
    let raw = settling(rest("PassthroughCluster"));
    let routes = Routes::parse(&Bytes::copy_from_slice(&raw))
        .unwrap()
        .unwrap();
    assert_eq!(routes.fallback(), None);
    assert_eq!(
        routes.meaning("typo.shop"),
        Meaning::Nobody("PassthroughCluster")
    );
    // What was asked for before it came has its place.
    let composed = composed(&raw, &[], &["typo.shop"], false);
    let rest = composed
        .virtual_hosts
        .iter()
        .find(|host| host.name == "allow_any");
    assert_eq!(rest.unwrap().domains, ["*", "typo.shop"]);
}
