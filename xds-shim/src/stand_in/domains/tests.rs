use super::*;

fn domains(all: &[&str]) -> Domains {
    let mut domains = Domains::default();
    for (at, domain) in all.iter().enumerate() {
        assert!(domains.insert(domain, at as u32), "{domain} twice");
    }
    domains
}

#[test]
fn envoys_order() {
    let all = [
        "a.shop", "*.shop", "*.b.shop", "10.96.*", "10.*", "*", "*-x.shop",
    ];
    let domains = domains(&all);
    let found = |host| all[domains.find(host).unwrap() as usize];
    for (host, domain) in [
        ("a.shop", "a.shop"),
        ("c.shop", "*.shop"),
        ("c.b.shop", "*.b.shop"),
        ("b.shop", "*.shop"),
        ("foo-x.shop", "*-x.shop"),
        ("-x.shop", "*.shop"),
        (".shop", "*"),
        ("shop", "*"),
        ("10.96.0.1", "10.96.*"),
        ("10.97.0.1", "10.*"),
        ("10.", "*"),
        ("10.96.shop", "*.shop"),
        ("", "*"),
    ] {
        assert_eq!(found(host), domain, "{host}");
    }
}

#[test]
fn nothing_takes_what_no_domain_takes() {
    assert_eq!(domains(&["a", "*.b"]).find("c"), None);
    assert_eq!(Domains::default().find(""), None);
}

#[test]
fn a_host_is_in_lower_case_and_its_port_may_be_cut() {
    for (authority, with, without) in [
        ("A.Shop:80", "a.shop:80", "a.shop"),
        ("a.shop", "a.shop", "a.shop"),
        ("a.shop:", "a.shop:", "a.shop"),
        ("[::1]:80", "[::1]:80", "[::1]"),
        ("[::1]", "[::1]", "[::1]"),
        ("::1", "::1", ":"),
        ("a:b:c", "a:b:c", "a:b"),
        ("", "", ""),
    ] {
        assert_eq!(host_of(authority, false), with, "{authority}");
        assert_eq!(host_of(authority, true), without, "{authority}");
    }
}

#[test]
fn only_plain_hosts_can_be_written_as_domains() {
    for host in ["a", "a.shop.svc", "10.0.0.1", "[::1]", "a.shop:80"] {
        assert!(is_plain(host), "{host}");
    }
    for host in ["", "*", "*.a", "a*", "a b", "ä", "a/b", &"a".repeat(256)] {
        assert!(!is_plain(host), "{host}");
    }
}

#[test]
fn a_wildcard_may_take_from_another() {
    let kept = domains(&["*.cluster.local", "*", "x.y"]);
    assert!(kept.has_wildcard_behind("*.shop.svc.cluster.local"));
    assert!(kept.has_wildcard_behind("*.cluster.local"));
    assert!(!kept.has_wildcard_behind("*.local"));
    assert!(!kept.has_wildcard_behind("*.shop"));
    assert!(!kept.has_wildcard_behind("10.*"));
    let odd = domains(&["10.*"]);
    assert!(odd.has_wildcard_behind("*.shop"));
    assert!(odd.has_wildcard_behind("10.96.*"));
    assert!(!odd.has_wildcard_behind("11.*"));
}

/// The search against the rules as they are written: every wildcard tried, the best taken.
#[test]
fn the_search_is_the_rules() {
    let alphabet = ["a", "b", ".", "1"];
    let mut seed = 7u64;
    let mut next = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % n
    };
    for _ in 0..3000 {
        let mut word = |most: usize| -> String {
            let length = next(most + 1);
            (0..length)
                .map(|_| alphabet[next(alphabet.len())])
                .collect()
        };
        let mut domains = Domains::default();
        let mut all = Vec::new();
        for kind in 0..9 {
            let text = word(3);
            let domain = match kind % 3 {
                0 => text,
                1 => format!("*{text}"),
                _ => format!("{text}*"),
            };
            if !domain.is_empty() && !domains.contains(&domain) {
                domains.insert(&domain, all.len() as u32);
                all.push(domain);
            }
        }
        let host = word(5);
        let rank = |domain: &String| match Domain::parse(domain) {
            Domain::Exact(whole) => (host == whole).then_some((3, 0)),
            Domain::Suffix(tail) => {
                (host.len() > tail.len() && host.ends_with(tail)).then_some((2, tail.len()))
            }
            Domain::Prefix(head) => {
                (host.len() > head.len() && host.starts_with(head)).then_some((1, head.len()))
            }
            Domain::Rest => Some((0, 0)),
        };
        let best = all
            .iter()
            .filter(|d| rank(d).is_some())
            .max_by_key(|d| rank(d));
        let found = domains.find(&host).map(|at| &all[at as usize]);
        assert_eq!(found, best, "{host:?} in {all:?}");
    }
}
