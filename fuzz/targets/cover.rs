//! The cover of the mesh's names: its regular expressions say what it says.
//!
//! Lines: the cluster's domain, namespaces by blanks, ranges by blanks, then authorities.
#![no_main]

use dependency_graph::cover::Cover;
use libfuzzer_sys::fuzz_target;
use regex::Regex;

fuzz_target!(|data: &str| {
    let mut lines = data.lines();
    let (Some(domain), Some(namespaces), Some(ranges)) = (lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let ranges: Vec<_> = ranges
        .split(' ')
        .filter_map(|r| r.parse().ok())
        .take(8)
        .collect();
    // Kubernetes' names and domains are of these letters.
    let fits = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    };
    let names: Vec<&str> = namespaces.split(' ').filter(|n| fits(n)).take(50).collect();
    if !fits(domain) {
        return;
    }
    let cover = Cover::of(names.iter().copied(), [], domain, &ranges);
    let regexes: Vec<Regex> = cover
        .authority_regexes()
        .iter()
        .map(|r| Regex::new(&format!("^(?:{r})$")))
        .map(|r| r.unwrap_or_else(|e| panic!("not a regular expression: {e}")))
        .collect();
    for name in &names {
        for host in [
            format!("a.{name}"),
            format!("a.{name}.svc"),
            format!("a.{name}.svc.{}:80", domain.trim_matches('.')),
        ] {
            assert!(cover.matches(&host), "{host}");
        }
    }
    for authority in lines.take(20).filter(|a| a.is_ascii()) {
        let says = regexes.iter().any(|r| r.is_match(authority));
        assert_eq!(says, cover.matches(authority), "{authority:?}");
    }
});
