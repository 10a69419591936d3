//! Route configurations with virtual hosts held: Envoy takes them, and each host is led where it was.
//!
//! The first byte says what is given, the rest is an encoded `Resource`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::collections::BTreeSet;
use xds_shim::cluster::payload;
use xds_shim::envoy::config::route::v3 as rds;
use xds_shim::stand_in::domains::Domains;
use xds_shim::stand_in::routes::{Meaning, Routes, View, without_header};
use xds_shim::wire;

/// The domains of a configuration; `None` if one occurs twice, which Envoy refuses.
fn domains(config: &rds::RouteConfiguration) -> Option<Domains> {
    let mut domains = Domains::default();
    for (at, host) in config.virtual_hosts.iter().enumerate() {
        for domain in &host.domains {
            domains
                .insert(domain, u32::try_from(at).ok()?)
                .then_some(())?;
        }
    }
    Some(domains)
}

/// Whether every payload of a `Resource` can be taken apart into fields.
fn is_walkable(resource: &[u8]) -> bool {
    let walks = |config: &[u8]| wire::fields(config).all(|field| field.is_ok());
    wire::each(resource, 2)
        .all(|any| any.is_ok_and(|any| wire::each(any, 2).all(|config| config.is_ok_and(walks))))
}

fuzz_target!(|data: &[u8]| {
    let Some((how, resource)) = data.split_first() else {
        return;
    };
    let Ok(Some(routes)) = Routes::parse(resource) else {
        return;
    };
    let given = |cluster: &str| {
        cluster
            .bytes()
            .fold(*how, |sum, b| sum.wrapping_mul(31).wrapping_add(b))
            & 4
            != 0
    };
    let nobody: BTreeSet<Box<str>> = ["typo.shop", "10.96.1.1", "x.y.svc.cluster.local"]
        .map(Into::into)
        .into();
    let view = View {
        gives: &given,
        nobody: &nobody,
        exact: how & 1 != 0,
    };
    let Ok(composed) = routes.compose(resource, view) else {
        // Broken where nothing was looked for, as in a payload that a later one replaced; it is given whole then.
        assert!(!is_walkable(resource), "parsed, but not composed");
        return;
    };
    assert!(without_header(resource).is_ok());
    let decode = |raw: &[u8]| rds::RouteConfiguration::decode(payload(raw).ok()?).ok();
    let Some(before) = decode(resource) else {
        return;
    };
    let Some(after) = decode(&composed) else {
        panic!("what was a message is none any more")
    };
    let Some(old) = domains(&before) else { return };
    let Some(new) = domains(&after) else {
        panic!("a domain occurs twice: {after:?}")
    };
    if before.virtual_hosts.iter().any(|h| h.domains.is_empty()) {
        return;
    }
    assert!(after.virtual_hosts.iter().all(|h| !h.domains.is_empty()));
    let all = before.virtual_hosts.iter().flat_map(|h| &h.domains);
    let authorities = all.map(|d| d.replace('*', "some"));
    for authority in authorities.chain(nobody.iter().map(|h| h.to_string())) {
        // What follows a colon is taken for a port, whatever a domain says.
        let host = routes.host(&authority);
        let taken = |by: &Domains, config: &rds::RouteConfiguration| {
            by.find(&host)
                .map(|at| config.virtual_hosts[at as usize].clone())
        };
        let Some(taken_after) = taken(&new, &after) else {
            assert!(taken(&old, &before).is_none(), "{host} is taken no more");
            continue;
        };
        let was_there = before
            .virtual_hosts
            .iter()
            .any(|h| h.name == taken_after.name);
        if taken_after.name.starts_with("lazy|") && !was_there {
            // Whoever asks is told the same by what the name means.
            assert!(
                !matches!(routes.meaning(&authority), Meaning::Other),
                "{authority}"
            );
        } else {
            let expected = taken(&old, &before).map(|h| (h.name, h.routes));
            assert_eq!(
                Some((taken_after.name, taken_after.routes)),
                expected,
                "{host}"
            );
        }
    }
});
