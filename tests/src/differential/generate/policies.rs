//! Sidecars of the users' own: what callers see of the mesh, and what becomes of the rest.

use fastrand::Rng;
use serde_json::json;

use super::{World, any, networking, one_of, percent};

/// Makes at most one Sidecar for the clients. Each lets them see the marks: by these the test knows that a change came.
pub(super) fn make(world: &mut World, rng: &mut Rng) {
    if !percent(rng, 45) {
        return;
    }
    let kind = any(rng, ["all", "own", "named", "port", "mesh", "mesh"]);
    world.tries(format!("sidecar/{kind}"));
    let hosts = match (kind, one_of(rng, &world.services)) {
        ("all" | "mesh", _) => json!(["*/*"]),
        ("named", Some(service)) => {
            json!([
                format!("{}/{}", any(rng, [".", "*"]), service.host),
                "$B/*",
                "$M/*"
            ])
        }
        _ => json!(["./*", "$M/*"]),
    };
    let mut egress = vec![json!({"hosts": hosts})];
    if kind == "port"
        && let Some(port) =
            one_of(rng, &world.services).and_then(|service| one_of(rng, &service.ports))
    {
        egress.insert(
            0,
            json!({"port": {"number": port.number, "protocol": "HTTP", "name": "http-one"}, "hosts": ["$B/*"]}),
        );
    }
    let mut spec = json!({"egress": egress});
    let policy = any(rng, ["", "REGISTRY_ONLY", "REGISTRY_ONLY", "ALLOW_ANY"]);
    let policy = if kind == "mesh" || kind == "all" {
        "REGISTRY_ONLY"
    } else {
        policy
    };
    if !policy.is_empty() {
        world.tries(format!("sidecar/{policy}"));
        spec["outboundTrafficPolicy"] = json!({"mode": policy});
    }
    let of_mesh = kind == "mesh";
    if !of_mesh && percent(rng, 40) {
        world.tries("sidecar/selects");
        spec["workloadSelector"] = json!({"labels": {"app": "client"}});
    }
    let namespace = if of_mesh { "istio-system" } else { "$A" };
    world.add(networking("Sidecar", namespace, "default", &spec));
}
