//! DestinationRules.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Service, World, any, networking, one_of, percent};

/// Makes the DestinationRules of a seed: at most one for each service, for several are merged by their age.
pub(super) fn make(world: &mut World, rng: &mut Rng) {
    let mut services = world.services.clone();
    rng.shuffle(&mut services);
    for service in services.into_iter().take(rng.usize(1..4)) {
        let object = rule(world, rng, &service);
        world.add(object);
    }
}

/// A rule for one service.
pub(super) fn rule(world: &mut World, rng: &mut Rng, service: &Service) -> Value {
    let namespace = if percent(rng, 80) {
        service.namespace
    } else {
        "$A"
    };
    let mut spec = json!({"host": service.written(rng, namespace)});
    if let Some(policy) = policy(world, rng, service) {
        spec["trafficPolicy"] = policy;
    }
    if percent(rng, 70) {
        world.tries("rule/subsets");
        let mut subsets = vec![
            json!({"name": "v1", "labels": {"version": "v1"}}),
            json!({"name": "v2", "labels": {"version": "v2"}}),
        ];
        if percent(rng, 30) {
            world.tries("rule/policy-of-a-subset");
            subsets[0]["trafficPolicy"] =
                json!({"connectionPool": {"http": {"maxRequestsPerConnection": 1}}});
        }
        spec["subsets"] = subsets.into();
    }
    match rng.u32(..10) {
        0 => {
            spec["exportTo"] = json!([any(rng, [".", "*", "$A"])]);
            world.tries("rule/export-to");
        }
        1 | 2 => {
            let app = any(rng, ["client", "client", "nobody"]);
            spec["workloadSelector"] = json!({"matchLabels": {"app": app}});
            world.tries(format!("rule/selects-{app}"));
        }
        _ => {}
    }
    let name = service.rule("rule");
    networking("DestinationRule", namespace, &name, &spec)
}

fn policy(world: &mut World, rng: &mut Rng, service: &Service) -> Option<Value> {
    let kinds = [
        "none",
        "round-robin",
        "random",
        "hash-header",
        "hash-source-ip",
        "hash-maglev",
        "tls-disable",
        "tls-mutual",
        "tls-simple",
        "outlier",
        "upgrade",
        "one-request",
        "port-level",
        "proxy-protocol",
    ];
    let kind = any(rng, kinds);
    // Each of these has the server wait for the client, or what it greets with not be understood.
    let no_greeting = kind.starts_with("tls-") || kind == "port-level" || kind == "proxy-protocol";
    // The clients have addresses of their own.
    let by_address = kind == "hash-source-ip" && service.servers.len() > 1;
    // What an HTTP server says to a line that it does not understand may come or be cut off.
    let not_understood = kind == "proxy-protocol" && service.http_port().is_some();
    if service.greets() && no_greeting || by_address || not_understood {
        return None;
    }
    world.tries(format!("rule/{kind}"));
    Some(match kind {
        "round-robin" => json!({"loadBalancer": {"simple": "ROUND_ROBIN"}}),
        "random" => json!({"loadBalancer": {"simple": "RANDOM"}}),
        "hash-header" => {
            json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}})
        }
        "hash-source-ip" => json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}}),
        "hash-maglev" => json!({"loadBalancer": {"consistentHash":
            {"httpQueryParameterName": "user", "maglev": {"tableSize": 17}}}}),
        "tls-disable" => json!({"tls": {"mode": "DISABLE"}}),
        "tls-mutual" => json!({"tls": {"mode": "ISTIO_MUTUAL"}}),
        "tls-simple" => {
            json!({"tls": {"mode": "SIMPLE", "sni": "mesh-app", "insecureSkipVerify": true}})
        }
        // High, so that what probes provoke ejects nobody.
        "outlier" => json!({"outlierDetection": {"consecutive5xxErrors": 500, "interval": "60s"}}),
        "upgrade" => json!({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}),
        "one-request" => {
            json!({"connectionPool": {"tcp": {"maxConnections": 100}, "http": {"maxRequestsPerConnection": 1}}})
        }
        "port-level" => {
            let port = one_of(rng, &service.ports)?;
            json!({"portLevelSettings": [{"port": {"number": port.number}, "tls": {"mode": "DISABLE"}}]})
        }
        "proxy-protocol" => json!({"proxyProtocol": {"version": "V1"}}),
        _ => return None,
    })
}
