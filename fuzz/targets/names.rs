//! Names of clusters: taken apart, and put together again to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xds_shim::cluster::OutboundName;
use xds_shim::stand_in::tcp::Asked;
use xds_shim::stand_in::{Name, domains, header_value};

fuzz_target!(|name: &str| {
    match Name::parse(name) {
        Some(Name::Request { routes, authority }) => {
            assert_eq!(format!("lazy|{routes}|{authority}"), name);
            let value = header_value(routes).unwrap_or_default();
            assert!(value.ends_with("%REQ(:authority)%"), "{value}");
        }
        Some(Name::Connection(asked)) => {
            let again = asked.name();
            assert_eq!(Asked::parse(&again), Some(asked));
        }
        None => {}
    }
    assert!(Asked::parse(name).is_none() || Asked::way(name).is_some());
    if let Some(OutboundName { port, subset, host }) = OutboundName::parse(name) {
        assert!(Name::parse(name).is_none());
        let again = format!("outbound|{port}|{subset}|{host}");
        assert_eq!(
            OutboundName::parse(&again),
            Some(OutboundName { port, subset, host })
        );
    }
    for ignores_port in [false, true] {
        let host = domains::host_of(name, ignores_port);
        // A second time nothing changes, unless there were two ports.
        assert!(host.len() <= name.len());
        assert_eq!(host, host.to_ascii_lowercase());
        if domains::is_plain(&host) {
            assert!(
                matches!(domains::Domain::parse(&host), domains::Domain::Exact(h) if h == host)
            );
        }
    }
});
