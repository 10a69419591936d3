//! Copies of clusters: they differ from what they are copies of in few fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use xds_shim::cluster::{eds_name, payload};
use xds_shim::envoy::config::cluster::v3::Cluster;
use xds_shim::references::{self, Found};
use xds_shim::stand_in::{copy_cluster, copy_for_nobody};

const NAME: &str = "lazy|80|a.shop";

fn decode(resource: &[u8]) -> Option<Cluster> {
    Cluster::decode(payload(resource).ok()?).ok()
}

fuzz_target!(|resource: &[u8]| {
    references::anywhere(resource, &mut Found::default());
    let _ = eds_name(resource);
    let Some(cluster) = decode(resource) else {
        return;
    };
    for (copied, breakers) in [
        (copy_cluster(resource, NAME), false),
        (copy_for_nobody(resource, NAME), true),
    ] {
        let Ok(raw) = copied else { continue };
        if payload(&raw).is_ok_and(<[u8]>::is_empty) {
            continue;
        }
        let Some(mut copy) = decode(&raw) else {
            panic!("not a cluster any more")
        };
        assert_eq!(copy.name, NAME);
        if let Ok(Some(eds)) = eds_name(resource) {
            assert_eq!(
                eds_name(&raw),
                Ok(Some(eds).filter(|e| !e.is_empty()).or(Some(NAME)))
            );
        }
        copy.name.clone_from(&cluster.name);
        copy.alt_stat_name.clone_from(&cluster.alt_stat_name);
        copy.eds_cluster_config
            .clone_from(&cluster.eds_cluster_config);
        if breakers {
            let retries = copy.circuit_breakers.iter().flat_map(|b| &b.thresholds);
            assert!(retries.clone().count() > 0);
            assert!(
                retries
                    .into_iter()
                    .all(|t| t.max_retries.is_some_and(|r| r.value == 0))
            );
            copy.circuit_breakers.clone_from(&cluster.circuit_breakers);
        }
        // By their bytes: a number that is none (NaN) does not equal itself. Maps have no order.
        assert_eq!(copy.encoded_len(), cluster.encoded_len());
    }
});
