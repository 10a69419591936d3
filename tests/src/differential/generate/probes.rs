//! Calls: every way to write a name, on the service's ports and others, in its protocol and others.

use fastrand::Rng;

use super::{Service, Speaks, World, any, one_of, percent};
use crate::differential::scenario::{Probe, Server};

/// How many calls a seed makes.
const PROBES: usize = 44;
/// Where nobody answers, and connections are refused at once.
const NOBODY: &str = "10.96.0.255";

/// Makes the calls of a seed.
pub(super) fn make(world: &mut World, rng: &mut Rng) -> Vec<Probe> {
    let mut probes = Vec::new();
    while probes.len() < PROBES {
        let probe = if percent(rng, 82) {
            let routed: Vec<Service> = if rng.bool() {
                let routed = world
                    .services
                    .iter()
                    .filter(|service| world.has_route(service));
                routed.cloned().collect()
            } else {
                Vec::new()
            };
            let service = one_of(rng, &routed).or_else(|| one_of(rng, &world.services));
            service.and_then(|service| to_service(world, rng, &service))
        } else {
            Some(to_nobody(world, rng))
        };
        let Some(mut probe) = probe else { continue };
        if probe.path.contains("fail=") && mirrors(world) {
            // A server that is mirrored to as well fails what comes first, the request or its mirror.
            "/".clone_into(&mut probe.path);
        }
        if probe.protocol == "ws" && mirrors(world) {
            // Its mirror ends the HTTP/2 connection that a service shares with other calls to where it is mirrored to.
            probe.protocol = "http1";
        }
        world.tries(format!("protocol/{}", probe.protocol));
        let greeted = probe.protocol == "tcp-server-first";
        if greeted
            && probes
                .iter()
                .filter(|probe: &&Probe| probe.protocol == "tcp-server-first")
                .count()
                == 2
        {
            continue;
        }
        if !probes.contains(&probe) {
            probes.push(probe);
        }
    }
    probes
}

fn mirrors(world: &World) -> bool {
    let mut features = world.features.iter();
    features.any(|feature| feature.ends_with("/mirror"))
}

/// A host of a service, or nearly.
fn host(world: &mut World, rng: &mut Rng, service: &Service, port: u16) -> String {
    let Service {
        namespace,
        name,
        host,
        address,
        ..
    } = service;
    if let Some(domain) = host.strip_prefix('*') {
        world.tries("name/wildcard");
        return match rng.u32(..4) {
            0 => format!("a.b{domain}"),
            1 => format!("one{domain}:{port}"),
            2 => domain.trim_start_matches('.').to_owned(),
            _ => format!("one{domain}"),
        };
    }
    let form = if service.is_kubernetes {
        any(
            rng,
            [
                "short",
                "short",
                "ns",
                "ns",
                "svc",
                "full",
                "full",
                "full",
                "dot",
                "upper",
                "port",
                "below",
                "part",
                "address",
                "address-port",
                "pod-of-headless",
            ],
        )
    } else {
        any(
            rng,
            [
                "full", "full", "full", "dot", "upper", "port", "address", "below",
            ],
        )
    };
    world.tries(format!("name/{form}"));
    match form {
        "short" => name.clone(),
        "ns" => format!("{name}.{namespace}"),
        "svc" => format!("{name}.{namespace}.svc"),
        "dot" => format!("{host}."),
        "upper" => {
            // A placeholder stays one.
            let (first, rest) = host.split_once('.').unwrap_or((host, ""));
            if first.starts_with('$') {
                host.replace("cluster.local", "CLUSTER.Local")
            } else {
                format!(
                    "{}.{}",
                    first.to_uppercase(),
                    rest.replace("svc", "SVC").replace("test", "TEST")
                )
            }
        }
        "port" => format!("{}:{port}", any(rng, [name.as_str(), host.as_str()])),
        "below" => format!("below.{host}"),
        "part" => format!("{name}.{namespace}.svc.cluster"),
        "address" => address.clone(),
        "address-port" => format!("{address}:{port}"),
        "pod-of-headless" => format!("pod-0.{host}"),
        _ => host.clone(),
    }
}

fn to_service(world: &mut World, rng: &mut Rng, service: &Service) -> Option<Probe> {
    let port = one_of(rng, &service.ports)?;
    let (number, speaks) = if percent(rng, 88) {
        (port.number, port.speaks)
    } else {
        world.tries("probe/foreign-port");
        let other = one_of(rng, &world.services)?;
        let other = one_of(rng, &other.ports)?;
        (other.number, other.speaks)
    };
    let protocol = protocol(world, rng, speaks);
    let host = host(world, rng, service, number);
    let address = match rng.u32(..20) {
        0 => {
            world.tries("probe/address-of-another");
            one_of(rng, &world.services)?.address
        }
        1 if protocol != "tcp-server-first" => {
            world.tries("probe/address-of-a-pod");
            any(rng, Server::ALL).address()
        }
        _ => service.address.clone(),
    };
    let mut probe = with_content(rng, protocol, host);
    probe.address = address;
    probe.port = number;
    if protocol == "tls" && is_address(&probe.host) {
        probe.host.clone_from(&service.host);
    }
    if protocol == "tls" {
        // A name to ask for: no port, no last dot, no star.
        let name = probe.host.split(':').next().unwrap_or_default();
        probe.host = name
            .trim_end_matches('.')
            .trim_start_matches("*.")
            .to_owned();
    }
    Some(probe)
}

fn is_address(host: &str) -> bool {
    host.starts_with("10.") || host.starts_with("$IP_")
}

/// What is spoken to a port: mostly what it is for.
fn protocol(world: &mut World, rng: &mut Rng, speaks: Speaks) -> &'static str {
    if percent(rng, 10) {
        world.tries("probe/other-protocol");
        // A client that waits for a greeting would wait for long where none comes.
        return match speaks {
            Speaks::Http | Speaks::Http2 | Speaks::Grpc | Speaks::AutoHttp => {
                any(rng, ["tcp", "tls", "http10"])
            }
            _ => any(rng, ["http1", "http2", "tcp"]),
        };
    }
    match speaks {
        Speaks::Http | Speaks::AutoHttp => {
            // Envoy takes a second to close after an upgrade that fails.
            if percent(rng, 7) {
                "ws"
            } else {
                any(rng, ["http1", "http1", "http1", "http2"])
            }
        }
        Speaks::Http2 => any(rng, ["http2", "http2", "http1"]),
        Speaks::Grpc => any(rng, ["grpc", "grpc", "grpc-stream", "grpc-chat", "http2"]),
        Speaks::Tcp | Speaks::AutoTcp => "tcp",
        Speaks::TcpServerFirst => "tcp-server-first",
        Speaks::Tls => "tls",
    }
}

fn with_content(rng: &mut Rng, protocol: &'static str, host: String) -> Probe {
    let is_http = protocol.starts_with("http") || protocol == "ws";
    let is_grpc = protocol.starts_with("grpc");
    let path = any(
        rng,
        [
            "/",
            "/",
            "/old/thing",
            "/old",
            "/api/v1?user=jo",
            "/?user=jo",
            "/a/b?status=404",
            "/?fail_tries=1",
            "/x?size=5000",
        ],
    );
    let method = if is_http && protocol != "ws" && percent(rng, 25) {
        "POST"
    } else {
        "GET"
    };
    let mut headers = Vec::new();
    if is_http || is_grpc {
        for (name, values, chance) in [
            ("x-version", ["v1", "v2", "v2"], 35),
            ("x-user", ["jo", "sam", "kim"], 35),
            (
                "origin",
                [
                    "http://origin.diff.test",
                    "http://origin.diff.test",
                    "http://other.test",
                ],
                15,
            ),
        ] {
            if percent(rng, chance) {
                headers.push((name.to_owned(), any(rng, values).to_owned()));
            }
        }
    }
    let body = match protocol {
        // So much that a server of another protocol sees that it is not meant.
        "tcp" | "tcp-server-first" | "tls" => any(rng, [16, 16, 100_000]),
        _ if method == "POST" => any(rng, [10, 100_000]),
        _ => 0,
    };
    Probe {
        protocol,
        host,
        address: String::new(),
        port: 0,
        path: if is_http {
            path.to_owned()
        } else {
            "/".to_owned()
        },
        method,
        headers,
        body,
    }
}

/// A name that is no service's, or none at all.
fn to_nobody(world: &mut World, rng: &mut Rng) -> Probe {
    world.tries("name/nobodys");
    let host = any(
        rng,
        [
            "nobody",
            "nobody.$A",
            "nobody.$B.svc",
            "nobody.$A.svc.cluster.local",
            "www.example.com",
            "virtual.diff.test",
            "one.virtual.diff.test",
            "virtual.$A",
            "$A",
            "svc",
            "cluster.local",
            "local",
            "a.b.c",
            "web.other",
            "web.nowhere.svc.cluster.local",
            "dns7.diff.test",
            "missing.$A",
            "localhost",
            "10.96.0.255",
            "diff.test",
            "wild0.diff.test",
        ],
    );
    let ports = [
        (80, "http1"),
        (8080, "http1"),
        (8080, "http2"),
        (9000, "tcp"),
        (9000, "http1"),
        (9443, "tls"),
        (7070, "grpc"),
        (12345, "http1"),
        (12345, "tcp"),
        (443, "tls"),
        (9001, "tcp"),
    ];
    let (port, protocol) = any(rng, ports);
    let mut probe = with_content(rng, protocol, host.to_owned());
    if protocol == "tls" && is_address(host) {
        "www.example.com".clone_into(&mut probe.host);
    }
    probe.port = port;
    // Servers that speak first would be waited for at 9001.
    let outside = Server::Outside.address();
    probe.address = if port == 9001 {
        NOBODY.to_owned()
    } else {
        any(rng, [outside.as_str(), outside.as_str(), NOBODY]).to_owned()
    };
    probe
}
