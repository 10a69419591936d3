//! Listeners: made to ask, held, copied; whatever their bytes.
//!
//! A list of encoded `Resource`s, as a `DeltaDiscoveryResponse` has it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::time::Duration;
use xds_shim::ads::DeltaResponse;
use xds_shim::cluster::payload;
use xds_shim::envoy::config::listener::v3::Listener;
use xds_shim::listener::{OnDemandConfig, make_lazy};
use xds_shim::stand_in::tcp::{Connections, Kind, inside};

fn is_listener(resource: &[u8]) -> bool {
    payload(resource).is_ok_and(|raw| Listener::decode(raw).is_ok())
}

fuzz_target!(|data: &[u8]| {
    let Ok(response) = DeltaResponse::decode(&data.to_vec().into()) else {
        return;
    };
    let config = OnDemandConfig::new(Duration::from_secs(5));
    let mut connections = Connections::default();
    let mut sound = true;
    for resource in &response.resources {
        let was = is_listener(&resource.raw);
        sound &= was;
        if let Ok(lazy) = make_lazy(&resource.raw, &config) {
            let changed = lazy.resource.as_deref().unwrap_or(&resource.raw);
            assert!(!was || is_listener(changed), "make_lazy broke it");
            // What is lazy already stays as it is, but for the header, which is written again.
            assert!(make_lazy(changed, &config).is_ok());
        }
        if let Ok(copy) = inside::copy(&resource.raw, "lazyin|1|10.0.0.1") {
            assert!(!was || is_listener(&copy), "copy broke it");
        }
        if let Ok(kind) = Kind::of(&resource.name, &resource.raw) {
            connections.put(&resource.name, kind);
        }
    }
    connections.settle();
    if let Ok(Some((_, outer))) = connections.outer(&config) {
        assert!(!sound || is_listener(&outer));
    }
    for (_, raw) in connections.wildcards(&config).unwrap_or_default() {
        assert!(!sound || is_listener(&raw));
    }
    for (single, way) in connections.held() {
        assert!(connections.holds(&single.listener));
        let asked = xds_shim::stand_in::tcp::Asked {
            way,
            destination: single.destination,
        };
        assert_eq!(connections.find(&asked), Some(single));
    }
    for resource in &response.resources {
        connections.remove(&resource.name);
    }
    connections.settle();
    assert_eq!(connections.held().count(), 0);
});
