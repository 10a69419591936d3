//! Services of every kind.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Port, Service, Speaks, World, any, networking, one_of, percent};
use crate::differential::scenario::{Lead, Resource, Server};

/// Names that could be taken for something else.
const NAMES: [&str; 14] = [
    "web", "api", "db", "a", "b", "svc", "cluster", "local", "$B", "$A", "web-v1", "com", "x1",
    "mail",
];
/// All ports there are: the same number speaks now this and now that.
const PORTS: [Port; 16] = [
    port(80, Speaks::Http),
    port(80, Speaks::Http),
    port(8080, Speaks::Http),
    port(9000, Speaks::Http),
    port(80, Speaks::Http2),
    port(8082, Speaks::Http2),
    port(7070, Speaks::Grpc),
    port(9000, Speaks::Tcp),
    port(3306, Speaks::Tcp),
    port(80, Speaks::Tcp),
    port(9001, Speaks::TcpServerFirst),
    port(443, Speaks::Tls),
    port(8443, Speaks::Tls),
    port(8080, Speaks::AutoHttp),
    port(80, Speaks::AutoHttp),
    port(9000, Speaks::AutoTcp),
];

const fn port(number: u16, speaks: Speaks) -> Port {
    Port { number, speaks }
}

impl Port {
    /// Its name in a service; the protocol is its beginning.
    fn name(self) -> String {
        let protocol = match self.speaks {
            Speaks::Http => "http",
            Speaks::Http2 => "http2",
            Speaks::Grpc => "grpc",
            Speaks::Tcp | Speaks::TcpServerFirst => "tcp",
            Speaks::Tls => "tls",
            Speaks::AutoHttp | Speaks::AutoTcp => "main",
        };
        format!("{protocol}-{}", self.number)
    }

    /// Where the servers listen for it.
    fn target(self) -> u16 {
        match self.speaks {
            Speaks::Http | Speaks::AutoHttp => 8080,
            Speaks::Http2 => 8082,
            Speaks::Grpc => 7070,
            Speaks::Tcp | Speaks::AutoTcp => 9000,
            Speaks::TcpServerFirst => 9001,
            Speaks::Tls => 9443,
        }
    }

    fn feature(self) -> String {
        format!("port/{:?}", self.speaks)
    }

    /// As a ServiceEntry has it; none for a port that does not say what it speaks.
    fn protocol(self) -> &'static str {
        match self.speaks {
            Speaks::Http => "HTTP",
            Speaks::Http2 => "HTTP2",
            Speaks::Grpc => "GRPC",
            Speaks::Tcp | Speaks::TcpServerFirst => "TCP",
            Speaks::Tls => "TLS",
            Speaks::AutoHttp | Speaks::AutoTcp => "",
        }
    }
}

/// Makes the services of a seed.
pub(super) fn make(world: &mut World, rng: &mut Rng) {
    for _ in 0..rng.usize(5..9) {
        in_kubernetes(world, rng);
    }
    if percent(rng, 40) {
        external_name(world, rng);
    }
    for number in 0..rng.usize(1..4) {
        entry(world, rng, number);
    }
}

/// A few ports whose numbers differ.
fn ports(rng: &mut Rng) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for _ in 0..any(rng, [1, 1, 2, 3]) {
        let more = any(rng, PORTS);
        if ports.iter().all(|port| port.number != more.number) {
            ports.push(more);
        }
    }
    ports
}

fn servers(rng: &mut Rng) -> Vec<Server> {
    match rng.u32(..20) {
        0..5 => vec![Server::V1],
        5..8 => vec![Server::V2],
        8..13 => vec![Server::V1, Server::V2],
        13..15 => vec![Server::Strict],
        15 | 16 => vec![Server::Guarded],
        17 => vec![Server::Refusing],
        18 => vec![Server::Outside],
        _ => Vec::new(),
    }
}

fn in_kubernetes(world: &mut World, rng: &mut Rng) {
    let namespace = any(rng, ["$A", "$A", "$B"]);
    let name = any(rng, NAMES);
    let taken = |service: &Service| service.namespace == namespace && service.name == name;
    if world.services.iter().any(taken) {
        return;
    }
    let headless = percent(rng, 15);
    let mut ports = ports(rng);
    if headless {
        // Nothing translates: who connects, connects to the pod's own port.
        for port in &mut ports {
            port.number = port.target();
        }
        ports.sort_by_key(|port| port.number);
        ports.dedup_by_key(|port| port.number);
    }
    let greets = ports
        .iter()
        .any(|port| port.speaks == Speaks::TcpServerFirst);
    let servers = if greets {
        // A sidecar that takes plain text, or a policy, waits for the client's bytes: both would wait for ever.
        match rng.u32(..3) {
            1 if !headless => vec![Server::V1, Server::V2],
            2 => vec![Server::Strict],
            _ => vec![Server::V1],
        }
    } else if headless {
        vec![any(rng, [Server::V1, Server::V2, Server::Strict])]
    } else {
        servers(rng)
    };
    // In the part of the range from which the API server takes none by itself.
    let vip = format!("10.96.0.{}", 64 + world.services.len());
    let service = Service {
        namespace,
        name: name.to_owned(),
        host: format!("{name}.{namespace}.svc.cluster.local"),
        address: if headless { servers[0].address() } else { vip },
        ports,
        servers,
        is_kubernetes: true,
        headless,
    };
    let resource = resource(world, rng, &service);
    world.resources.push(resource);
    world.services.push(service);
}

/// The Service itself.
pub(super) fn resource(world: &mut World, rng: &mut Rng, service: &Service) -> Resource {
    let Service {
        namespace,
        name,
        ports,
        servers,
        headless,
        ..
    } = service;
    for server in servers {
        world.tries(format!("server/{}", server.name()));
    }
    if servers.is_empty() {
        world.tries("service/no-endpoints");
    }
    if servers.len() > 1 {
        world.tries("service/two-endpoints");
    }
    for port in ports {
        world.tries(port.feature());
    }
    if *headless {
        world.tries("service/headless");
    }
    let mut metadata = json!({"name": name, "namespace": namespace});
    if percent(rng, 10) {
        let to = any(rng, [".", "*", "~"]);
        metadata["annotations"] = json!({"networking.istio.io/exportTo": to});
        world.tries(format!("service/export-to-{to}"));
    }
    let cluster_ip = if *headless { "None" } else { &service.address };
    let ports: Vec<_> = ports
        .iter()
        .map(|port| {
            json!({"name": port.name(), "port": port.number, "targetPort": port.target(), "protocol": "TCP"})
        })
        .collect();
    Resource {
        object: json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
                       // What passes Envoy by meets the same server for both clients.
                       "spec": {"clusterIP": cluster_ip, "ports": ports, "sessionAffinity": "ClientIP"}}),
        lead: Some(Lead {
            namespace: (*namespace).to_owned(),
            name: name.clone(),
            servers: servers.clone(),
        }),
    }
}

/// A service that is another name for one of the others, or for a name outside.
fn external_name(world: &mut World, rng: &mut Rng) {
    world.tries("service/external-name");
    let name = "alias".to_owned();
    let target = if percent(rng, 70) {
        one_of(rng, &world.services)
    } else {
        None
    };
    let (to, address, ports) = match target {
        Some(target) => (target.host, target.address, target.ports),
        None => (
            "dns9.diff.test".to_owned(),
            Server::Outside.address(),
            vec![port(8080, Speaks::Http)],
        ),
    };
    let listed: Vec<_> = ports
        .iter()
        .map(|port| json!({"name": port.name(), "port": port.number, "protocol": "TCP"}))
        .collect();
    let with_ports = rng.bool();
    let spec = if with_ports {
        json!({"type": "ExternalName", "externalName": to, "ports": listed})
    } else {
        json!({"type": "ExternalName", "externalName": to})
    };
    world.add(json!({"apiVersion": "v1", "kind": "Service",
                     "metadata": {"name": name, "namespace": "$A"}, "spec": spec}));
    world.services.push(Service {
        namespace: "$A",
        host: format!("{name}.$A.svc.cluster.local"),
        name,
        ports,
        address,
        servers: vec![Server::Outside],
        is_kubernetes: true,
        headless: false,
    });
}

/// Ports of a ServiceEntry: where they are where their servers listen, since nothing translates what passes by.
fn entry_ports(rng: &mut Rng) -> Vec<Port> {
    let mut ports = ports(rng);
    if rng.bool() {
        for port in &mut ports {
            port.number = port.target();
        }
        ports.sort_by_key(|port| port.number);
        ports.dedup_by_key(|port| port.number);
    }
    ports
}

fn entry(world: &mut World, rng: &mut Rng, number: usize) {
    let kind = any(
        rng,
        ["static", "dns", "wildcard-none", "wildcard-static", "none"],
    );
    let namespace = any(rng, ["$A", "$B"]);
    let name = format!("entry{number}");
    let host = match kind {
        "dns" => format!("dns{number}.diff.test"),
        "wildcard-none" | "wildcard-static" => format!("*.wild{number}.diff.test"),
        _ => format!("entry{number}.diff.test"),
    };
    let mut ports = entry_ports(rng);
    if kind.ends_with("none") {
        // Without an address and a name in the protocol nobody knows what is meant.
        ports.retain(|port| port.speaks.is_http() || port.speaks == Speaks::Tls);
        if ports.is_empty() {
            ports.push(port(8080, Speaks::Http));
        }
    }
    let vip = (kind != "wildcard-none" && kind != "none" && percent(rng, 50))
        .then(|| format!("10.96.0.{}", 200 + number));
    let server = any(
        rng,
        [Server::Outside, Server::Outside, Server::V1, Server::Strict],
    );
    let spec = spec(world, rng, (kind, &host, &ports), vip.as_deref(), server);
    world.tries(format!("entry/{kind}"));
    world.tries(if vip.is_some() {
        "entry/address"
    } else {
        "entry/no-address"
    });
    world.add(networking("ServiceEntry", namespace, &name, &spec));
    world.services.push(Service {
        namespace,
        name,
        host,
        ports,
        address: vip.unwrap_or_else(|| Server::Outside.address()),
        servers: vec![server],
        is_kubernetes: false,
        headless: false,
    });
}

fn spec(
    world: &mut World,
    rng: &mut Rng,
    (kind, host, ports): (&str, &str, &[Port]),
    vip: Option<&str>,
    server: Server,
) -> Value {
    let listed: Vec<_> = ports
        .iter()
        .map(|port| {
            // Only a Service's ports can be named without a protocol.
            let mut listed = json!({"number": port.number, "name": port.name()});
            if !port.protocol().is_empty() {
                listed["protocol"] = port.protocol().into();
            }
            if !kind.ends_with("none") {
                listed["targetPort"] = port.target().into();
            }
            listed
        })
        .collect();
    let mut spec = json!({
        "hosts": [host], "ports": listed,
        "location": any(rng, ["MESH_EXTERNAL", "MESH_INTERNAL"]),
    });
    let mut endpoint = json!({"address": server.address()});
    if server != Server::Outside && rng.bool() {
        endpoint["labels"] = json!({"security.istio.io/tlsMode": "istio"});
        world.tries("entry/mtls");
    }
    match kind {
        "static" | "wildcard-static" => {
            spec["resolution"] = "STATIC".into();
            spec["endpoints"] = json!([endpoint]);
        }
        "dns" => {
            spec["resolution"] = "DNS".into();
            if rng.bool() {
                spec["endpoints"] = json!([{"address": "dns8.diff.test"}]);
            }
        }
        _ => spec["resolution"] = "NONE".into(),
    }
    if let Some(vip) = vip {
        spec["addresses"] = json!([vip]);
    }
    if percent(rng, 15) {
        spec["exportTo"] = json!([any(rng, [".", "*"])]);
        world.tries("entry/export-to");
    }
    spec
}
