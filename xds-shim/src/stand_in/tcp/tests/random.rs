//! What holds for any listeners, names and bytes.

use super::*;
use crate::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use proptest::prelude::*;

/// Few ports and addresses, so that they meet.
fn destinations() -> impl Strategy<Value = BTreeSet<(u16, u8, bool)>> {
    prop::collection::btree_set((3300_u16..3304, any::<u8>(), any::<bool>()), 2..60)
}

fn address(last: u8, six: bool) -> String {
    if six {
        format!("fd00::{last:x}")
    } else {
        format!("10.0.0.{last}")
    }
}

proptest! {
    /// Each connection that is held comes to our chain, and no other does.
    #[test]
    fn exactly_what_is_held_is_taken(all in destinations(), shadowed in 3300_u16..3310) {
        let mut listeners = vec![virtual_outbound(), Listener {
            name: "wild".into(),
            address: at("0.0.0.0", shadowed),
            ..Default::default()
        }];
        for (port, last, six) in &all {
            listeners.push(service(&format!("s{last}-{six}"), &address(*last, *six), *port));
        }
        let connections = with(&listeners);
        let outer = outer(&connections);
        let ours_are = if connections.held().any(|(_, way)| way == Way::Cluster) { "lazymesh-tcp-" } else { form::INSIDE };
        for port in 3299..3306 {
            for last in 0..=255 {
                for six in [false, true] {
                    let destination = to(&address(last, six), port);
                    let chain = chain_for(&outer, &destination);
                    let ours = all.contains(&(port, last, six)) && port != shadowed;
                    prop_assert_eq!(chain.starts_with(ours_are), ours);
                    prop_assert!(ours || chain == "virtualOutbound-catchall-tcp");
                    for way in [Way::Cluster, Way::Inside] {
                        let found = connections.find(&Asked { way, destination });
                        prop_assert_eq!(found.is_some(), all.contains(&(port, last, six)));
                    }
                }
            }
        }
        prop_assert_eq!(chain_for(&outer, &to("10.0.0.1", 15_001)), "virtualOutbound-blackhole");
    }

    #[test]
    fn a_name_comes_back(v4: [u8; 4], v6: [u8; 16], port in 1_u16..) {
        for address in [IpAddr::from(v4), IpAddr::from(v6)] {
            for way in [Way::Cluster, Way::Inside] {
                let asked = Asked { way, destination: Destination::new(address, port) };
                prop_assert_eq!(Asked::parse(&asked.name()), Some(asked));
            }
        }
    }

    #[test]
    fn any_name_is_taken_apart_or_not(name in ".*", tail in "[0-9a-f:.|]*") {
        let _ = Asked::parse(&name);
        for prefix in ["lazytcp|", "lazyin|"] {
            if let Some(asked) = Asked::parse(&format!("{prefix}{tail}")) {
                prop_assert_eq!(Asked::parse(&asked.name()), Some(asked));
            }
        }
    }

    /// istiod's listeners with some bytes changed: an error, or a kind.
    #[test]
    fn broken_messages_do_no_harm(which in any::<prop::sample::Index>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let response = DeltaDiscoveryResponse::decode(OF_ISTIOD).unwrap();
        let resource = &response.resources[which.index(response.resources.len())];
        let mut raw = resource.encode_to_vec();
        for (at, to) in changes {
            let at = at.index(raw.len());
            raw[at] = to;
        }
        let mut connections = with(&[service("a", "10.0.0.1", 3306), service("b", "10.0.0.2", 3306), virtual_outbound()]);
        if let Ok(kind) = Kind::of(&resource.name, &raw) {
            connections.put(&resource.name, kind);
            connections.settle();
            let _ = connections.outer(&config());
        }
        let _ = inside::copy(&raw, "x");
    }
}
