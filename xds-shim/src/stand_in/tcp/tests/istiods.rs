//! What becomes of what istiod sends.

use super::*;
use crate::envoy::service::discovery::v3::DeltaDiscoveryResponse;

/// A mesh with services of every kind, as istiod sends it.
#[test]
fn of_what_istiod_sends() {
    let response = DeltaDiscoveryResponse::decode(OF_ISTIOD).unwrap();
    let mut connections = Connections::default();
    for resource in &response.resources {
        let kind = Kind::of(&resource.name, &resource.encode_to_vec()).unwrap();
        connections.put(&resource.name, kind);
    }
    connections.settle();
    assert_eq!(
        connections.rest(&to("192.0.2.1", 1)),
        Some("PassthroughCluster")
    );
    // Kept: TCP services on 3306, 80 and 443, where HTTP services, or ServiceEntries with TLS, make a
    // wildcard listener.
    let by = |connections: &Connections, way| {
        let held = connections.held().filter(|(_, w)| *w == way);
        let services = held.map(|(single, _)| single.service.to_string());
        let short = services.map(|s| s.replace(".svc.cluster.local", ""));
        short.collect::<BTreeSet<_>>()
    };
    let clusters = [
        "hl.all-1:9005",
        "istiod.istio-system:15010",
        "istiod.istio-system:15012",
        "istiod.istio-system:15014",
        "many.all-1:5001",
        "many.all-1:5002",
        "redis.all-1:6379",
        "server.all-1:9000",
        "server.all-1:9001",
        "tls.all-1:8443",
        "xds-shim.all-1:15012",
    ];
    let all = |list: &[&str]| {
        list.iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(by(&connections, Way::Cluster), all(&clusters));
    let inside = [
        "auto-1.all-1:4000",
        "auto-1.all-1:8085",
        "auto-2.all-1:4000",
        "auto-2.all-1:8085",
        "auto-on-80.all-1:80",
        "hl.all-1:8086",
        "mongo.all-1:27017",
        "subset.all-1:8085",
    ];
    assert_eq!(by(&connections, Way::Inside), all(&inside));
    connections.remove("0.0.0.0_3306");
    connections.remove("0.0.0.0_443");
    let clusters = by(&connections, Way::Cluster);
    for there in [
        "db-1.all-1:3306",
        "v6.example.com:3306",
        "kubernetes.default:443",
    ] {
        assert!(clusters.contains(there), "no {there} in {clusters:?}");
    }
    let inside = by(&connections, Way::Inside);
    assert!(
        inside.contains("ruled.all-1:3306"),
        "one alone with its idle timeout: {inside:?}"
    );
    let outer = outer(&connections);
    let chain = chain_for(&outer, &to("2001:db8::1", 3306));
    assert!(chain.starts_with("lazymesh-tcp-"), "{chain}");
    assert_eq!(outer.filter_chains.len(), 4);
}
