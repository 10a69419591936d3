use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use regex::Regex;

use super::*;

fn cover(namespaces: &[&str], headless: &[&str], cidrs: &[&str]) -> Cover {
    let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
    Cover::of(
        namespaces.iter().copied(),
        headless.iter().copied(),
        "cluster.local",
        &cidrs,
    )
}

fn shop() -> Cover {
    cover(
        &["shop", "bank"],
        &["db"],
        &["10.96.0.0/12", "fd00:10:96::/108"],
    )
}

/// What Envoy makes of a safe_regex: all of the value must match.
fn whole(regexes: &[String]) -> Vec<Regex> {
    let whole = regexes.iter();
    whole
        .map(|regex| Regex::new(&format!("^(?:{regex})$")).unwrap())
        .collect()
}

#[test]
fn names_of_the_mesh_are_covered() {
    let cover = shop();
    for host in [
        "reviews",
        "reviews.shop",
        "reviews.shop.svc",
        "reviews.shop.svc.cluster.local",
        "reviews.shop.svc.cluster.local.",
        "pod-0.db",
        "pod-0.db.shop",
        "pod-0.db.shop.svc",
        "pod-0.db.shop.svc.cluster.local",
        "REVIEWS.Shop.SVC.cluster.LOCAL",
        "reviews.new-namespace.svc.cluster.local",
        "10.96.0.1",
        "10.111.255.255",
        "[fd00:10:96::1]",
    ] {
        assert!(cover.matches(host), "{host}");
        assert!(cover.matches(&format!("{host}:8080")), "{host}:8080");
    }
}

#[test]
fn other_names_are_not() {
    let cover = shop();
    for host in [
        "",
        "example.com",
        "example.com.",
        "api.example.com",
        "shop.example.com",
        "reviews.elsewhere",
        "reviews.shop.svc.other.domain",
        "cluster.local",
        "svc.cluster.local.example.com",
        "10.95.0.1",
        "10.112.0.1",
        "110.96.0.1",
        "10.96.0.1.nip.io",
        "10.96.0.1.shop.example.com",
        "1.2.3.4",
        ".svc.cluster.local",
        ".shop",
    ] {
        assert!(!cover.matches(host), "{host}");
        assert!(!cover.matches(&format!("{host}:443")), "{host}:443");
    }
    let without_ipv6 = self::cover(&["shop"], &[], &["10.96.0.0/12"]);
    assert!(!without_ipv6.matches("[fd00:10:96::1]"));
}

#[test]
fn any_length_of_prefix_is_said_in_octets() {
    for (cidr, inside, outside, count) in [
        ("10.96.0.0/12", "10.111.0.9", "10.112.0.9", 16),
        ("10.0.0.0/8", "10.200.0.9", "11.0.0.9", 1),
        ("10.96.0.0/16", "10.96.0.9", "10.97.0.9", 1),
        ("10.96.64.0/18", "10.96.127.9", "10.96.128.9", 64),
        ("10.96.7.0/24", "10.96.7.9", "10.96.8.9", 1),
        ("10.96.7.16/28", "10.96.7.31", "10.96.7.32", 16),
        ("10.96.7.16/32", "10.96.7.16", "10.96.7.17", 1),
        ("0.0.0.0/0", "250.0.0.1", "example.com", 256),
    ] {
        let cover = cover(&[], &[], &[cidr]);
        assert!(cover.matches(inside), "{cidr}");
        assert!(!cover.matches(outside), "{cidr}");
        assert_eq!(cover.patterns().count() - 4, count, "{cidr}");
    }
}

#[test]
fn domains_are_envoys() {
    let cover = cover(&["shop"], &[], &["10.96.0.0/16", "10.9.0.1/32", "fd00::/8"]);
    let domains: Vec<_> = cover.patterns().filter_map(Pattern::domain).collect();
    assert_eq!(
        domains,
        [
            "*.shop",
            "*.svc",
            "*.svc.cluster.local",
            "*.svc.cluster.local.",
            "10.96.*",
            "[*",
            "10.9.0.1"
        ]
    );
}

#[test]
fn the_expression_is_the_one_expected() {
    let cover = cover(&["shop", "a-b"], &[], &["10.96.0.0/16", "fd00::/8"]);
    assert_eq!(
        cover.authority_regexes(),
        [
            r"(?is)(?:[^.:\[\]]+|.+(?:\.a-b|\.shop|\.svc|\.svc\.cluster\.local|\.svc\.cluster\.local\.)|10\.96\.[0-9.]+|\[.+)(?::[0-9]+)?"
        ]
    );
}

#[test]
fn thousands_of_namespaces_are_split_over_several() {
    let names: Vec<String> = (0..5000).map(|n| format!("namespace-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cover = cover(&names, &[], &["10.96.7.16/28"]);
    let regexes = cover.authority_regexes();
    assert!(regexes.len() > 5 && regexes.iter().all(|regex| regex.len() <= MAX_REGEX));
    let compiled = whole(&regexes);
    for host in [
        "a.namespace-0",
        "b.namespace-4999:80",
        "10.96.7.17",
        "x",
        "[not",
    ] {
        assert_eq!(
            compiled.iter().any(|regex| regex.is_match(host)),
            cover.matches(host),
            "{host}"
        );
    }
}

/// What may stand in an authority, and near misses of what is covered.
fn any_authority() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("shop".to_owned()),
        Just("SVC".to_owned()),
        Just("svc".to_owned()),
        Just("cluster.local".to_owned()),
        Just("10.96".to_owned()),
        Just("10".to_owned()),
        Just("db".to_owned()),
        Just(".".to_owned()),
        Just(":".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        "[a-z0-9]{1,3}",
        "[ -~]",
    ];
    let end = prop_oneof![
        Just(String::new()),
        ":[0-9]{0,5}",
        Just(".".to_owned()),
        Just(".:80".to_owned())
    ];
    (vec(piece, 0..7), prop_oneof![Just("."), Just("")], end)
        .prop_map(|(pieces, between, end)| pieces.join(between) + &end)
}

fn any_cover() -> impl Strategy<Value = Cover> {
    let name = prop_oneof![Just("shop".to_owned()), "[a-z0-9]([-a-z0-9]{0,3}[a-z0-9])?"];
    let cidr = prop_oneof![
        (any::<[u8; 4]>(), 0_u8..=32).prop_map(|(octets, length)| {
            let net = ipnet::Ipv4Net::new(octets.into(), length).unwrap();
            IpNet::V4(net.trunc())
        }),
        Just("10.96.0.0/12".parse().unwrap()),
        Just("fd00::/108".parse().unwrap())
    ];
    let names = btree_set(name, 0..4);
    (names.clone(), names, vec(cidr, 0..3)).prop_map(|(namespaces, headless, cidrs)| {
        let namespaces = namespaces.iter().map(String::as_str);
        let headless = headless.iter().map(String::as_str);
        Cover::of(namespaces, headless, "cluster.local", &cidrs)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The three ways of saying a cover mean the same.
    #[test]
    fn patterns_expressions_and_model_agree(cover in any_cover(), authority in any_authority()) {
        let matches = cover.matches(&authority);
        let regexes = whole(&cover.authority_regexes());
        prop_assert_eq!(regexes.iter().any(|regex| regex.is_match(&authority)), matches);
        // Envoy strips a port before it looks at domains; the model looks at both.
        let lower = authority.to_ascii_lowercase();
        let hosts = [Some(lower.as_str()), without_port(&lower)];
        let by_patterns = hosts.into_iter().flatten()
            .any(|host| cover.patterns().any(|pattern| pattern.matches(host)));
        prop_assert_eq!(by_patterns, matches);
    }

    /// Every domain that istiod gives a service in view of a namespace is covered: `generateVirtualHostDomains`.
    #[test]
    fn every_domain_of_a_service_is_covered(
        service in "[a-z]([-a-z0-9]{0,8}[a-z0-9])?",
        namespace in prop_oneof![Just("shop"), Just("bank")],
        pod in "[a-z]([-a-z0-9]{0,8}[a-z0-9])?",
        headless in any::<bool>(),
        last in 1_u8..=254,
        port in proptest::option::of(1_u16..),
    ) {
        let own = "shop";
        let known: &[&str] = if headless && namespace == own { &[&service] } else { &[] };
        let cover = cover(&["shop", "bank"], known, &["10.96.0.0/12", "fd00:10:96::/108"]);
        let full = format!("{service}.{namespace}.svc.cluster.local");
        let mut domains = vec![
            full.clone(),
            format!("{full}."),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}"),
            format!("10.96.3.{last}"),
            format!("[fd00:10:96::{last:x}]"),
        ];
        if namespace == own {
            domains.push(service);
        }
        if headless {
            let named: Vec<String> = domains.iter().filter(|d| !d.starts_with("10.") && !d.starts_with('[')).cloned().collect();
            domains.extend(named.iter().map(|domain| format!("{pod}.{domain}")));
        }
        for domain in domains {
            let authority = match port {
                Some(port) => format!("{domain}:{port}"),
                None => domain,
            };
            prop_assert!(cover.matches(&authority), "{authority}");
            prop_assert!(cover.matches(&authority.to_ascii_uppercase()), "{authority}");
        }
    }

    /// Names of the world outside are left alone, unless they end as a namespace of the mesh is called.
    #[test]
    fn names_of_two_labels_elsewhere_are_not_covered(
        first in "[a-z][a-z0-9]{0,8}",
        last in prop_oneof![Just("com"), Just("org"), Just("test"), Just("io")],
        port in proptest::option::of(1_u16..),
    ) {
        let authority = match port {
            Some(port) => format!("{first}.{last}:{port}"),
            None => format!("{first}.{last}"),
        };
        prop_assert!(!shop().matches(&authority));
    }
}
