//! The fallback takes what plain Istio would send to a service of the mesh, and nothing else: for every name that istiod's
//! own config for a plain pod knows, and many that it does not, on every port, against that of a lazy pod beside it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use mesh_tests::testbed::{Case, Namespace, Test};

use super::wiring::{Config, Goes, Speaks};
use super::{Shop, wait_lazy, wait_plain};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sidecar::cover_with_allow_any", with_allow_any),
        Test::new("sidecar::cover_with_registry_only", with_registry_only),
    ]
}

async fn with_allow_any(case: Case) -> Result<()> {
    compare(&case, None).await
}

/// By a Sidecar of the user's for the whole namespace, which both pods have.
async fn with_registry_only(case: Case) -> Result<()> {
    let policy =
        "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default}, spec: {
           outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}";
    compare(&case, Some(policy)).await
}

/// Services of the shop, with the ports that each has.
const SERVICES: [(&str, &[(&str, u16)]); 8] = [
    ("web", &[("http", 80)]),
    ("api", &[("http", 8080), ("http2", 8082)]),
    ("rpc", &[("grpc", 7070)]),
    ("sniffed", &[("web", 8090)]),
    ("db", &[("tcp", 5432)]),
    // Its port for TCP is one of HTTP elsewhere.
    ("mixed", &[("http", 80), ("tcp", 8080)]),
    ("https", &[("https", 443)]),
    ("empty", &[("http", 8085)]),
];
/// Outside of the ranges of services and of pods.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// The rest of the mesh: names of every sort that are not those of a Service with an address.
fn others(ns: &str, other: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: alias}}, spec: {{type: ExternalName,
             externalName: web.{ns}.svc.cluster.local, ports: [{{name: http, port: 80}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: abroad}}, spec: {{type: ExternalName,
    externalName: www.example.com, ports: [{{name: http, port: 80}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: api}}, spec: {{
    hosts: [api.example.org, \"*.wild.example.org\"], location: MESH_EXTERNAL, resolution: NONE,
    ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 8443, name: tls, protocol: TLS}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: inside}}, spec: {{
    hosts: [inside.mesh], location: MESH_INTERNAL, resolution: STATIC, addresses: [240.1.2.3],
    ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 5432, name: tcp, protocol: TCP}}],
    endpoints: [{{address: 192.0.2.8}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: rule}}, spec: {{
    hosts: [rule.example.net], http: [{{route: [{{destination: {{host: web.{ns}.svc.cluster.local}}}}]}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: moved}}, spec: {{
    hosts: [far.{other}.svc.cluster.local], http: [{{route: [{{destination: {{host: web.{ns}.svc.cluster.local}}}}]}}]}}}}"
    )
}

/// Makes the mesh.
async fn populate(ns: &Namespace, other: &Namespace) -> Result<()> {
    let services = SERVICES.iter().map(|(name, ports)| {
        let mut service = ns.service(name);
        for (of, port) in *ports {
            service = service.port(of, *port, *port);
        }
        service
    });
    let more = [
        ns.service("headless").port("http", 80, 80).headless(),
        ns.service("raw").port("tcp", 5433, 5433).headless(),
        other.service("web").port("http", 80, 80),
        other.service("far").port("http", 8088, 8088),
        other.service("broker").port("tcp", 9092, 9092),
        other.service("distant").port("http", 80, 80).headless(),
    ];
    let services: Vec<_> = services.chain(more).collect();
    try_join_all(services.iter().map(|service| service.create())).await?;
    let private = "{apiVersion: v1, kind: Service, metadata: {name: private,
                    annotations: {networking.istio.io/exportTo: \".\"}},
                    spec: {selector: {app: private}, ports: [{name: http, port: 80}]}}";
    other.apply(private).await?;
    ns.apply(&others(ns.name(), other.name())).await
}

/// Names that istiod's config does not have, or not on each port.
fn strange(ns: &str, other: &str) -> Vec<String> {
    let of_mesh = ["web", "db", "headless", "pod-0.headless", "nobody", "a.b.c"];
    let forms = [
        "S",
        "S.N",
        "S.N.svc",
        "S.N.svc.cluster.local",
        "S.N.svc.cluster.local.",
    ];
    let own = of_mesh
        .iter()
        .flat_map(|name| forms.map(|form| form.replace('S', name).replace('N', ns)));
    let theirs = ["web", "far", "private", "nobody", "pod-0.distant"];
    let theirs = theirs.iter().flat_map(|name| {
        forms[1..]
            .iter()
            .map(|form| form.replace('S', name).replace('N', other))
    });
    let foreign = [
        "www.example.com",
        "example.com",
        "below.rule.example.net",
        "wild.example.org",
        "a.b.wild.example.org",
        "web.nowhere",
        "svc.cluster.local",
        "cluster.local",
        "web.svc.cluster.org",
        "192.0.2.7",
        "10.97.0.1",
        "10.96.1.2.example.com.net",
        "[2001:db8::1]",
        "xn--bcher-kva.example",
    ];
    own.chain(theirs)
        .chain(foreign.map(str::to_owned))
        .collect()
}

/// Whether a name may be one of a service of the mesh: as Kubernetes' DNS and istiod write them.
fn is_of_mesh(authority: &str, namespaces: &BTreeSet<String>) -> bool {
    let host = authority.to_ascii_lowercase();
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => &host,
    };
    if let Ok(address) = host.parse() {
        return in_range(address);
    }
    let labels: Vec<&str> = host.strip_suffix('.').unwrap_or(host).split('.').collect();
    let name = labels.iter().all(|label| !label.is_empty());
    let dotted = host.ends_with('.');
    let ends = |tail: &[&str]| labels.len() > tail.len() && labels.ends_with(tail);
    name && match labels[..] {
        [_] => !dotted && !host.contains(':'),
        [.., last] => {
            ends(&["svc", "cluster", "local"])
                || (!dotted && (ends(&["svc"]) || namespaces.contains(last)))
        }
        [] => false,
    }
}

/// Whether it is an address of a service, as the API server gives them here.
fn in_range(address: Ipv4Addr) -> bool {
    address.octets()[..2] == [10, 96]
}

/// Every name, in several writings.
fn names(plain: &Config, ns: &str, other: &str) -> BTreeSet<String> {
    let known = plain.domains().filter(|domain| *domain != "*");
    let known = known.map(|domain| match domain.strip_prefix('*') {
        Some(tail) => format!("below{tail}"),
        None => domain.to_owned(),
    });
    let all: BTreeSet<String> = known.chain(strange(ns, other)).collect();
    let written = all.iter().flat_map(|name| {
        let with_port = match name.parse::<SocketAddrV4>() {
            Ok(_) => name.clone(),
            Err(_) if name.contains(':') && !name.ends_with(']') => name.clone(),
            Err(_) => format!("{name}:80"),
        };
        [name.clone(), name.to_uppercase(), with_port]
    });
    written.collect()
}

/// How many calls went where; what counts nothing compared nothing.
#[derive(Debug, Default)]
struct Counts {
    redirected: usize,
    tunnelled: usize,
    given: usize,
    outside: usize,
    by_name: usize,
}

impl Counts {
    /// That a lazy pod's call goes where a plain pod's goes, or to the fallback if that is a service's.
    fn compare(&mut self, call: &Compared<'_>) -> Result<()> {
        let (plain, lazy) = (&call.plain, &call.lazy);
        let to_mesh = matches!(plain, Goes::To(cluster) if is_service(cluster));
        let passes = |goes: &Goes| match goes {
            Goes::To(cluster) => !cluster.starts_with("outbound|"),
            other => *other == Goes::Refused,
        };
        match lazy {
            _ if lazy == plain && to_mesh => self.given += 1,
            _ if lazy == plain => self.outside += 1,
            // What is not a service's after all is answered by the global proxy as plain Istio does it.
            Goes::Redirected if to_mesh || (passes(plain) && call.of_mesh) => {
                self.redirected += usize::from(to_mesh);
            }
            Goes::Tunnelled if to_mesh || (passes(plain) && call.in_range) => {
                self.tunnelled += usize::from(to_mesh);
            }
            // A known difference: without a listener for its port nobody looks at the name.
            _ if to_mesh && passes(lazy) && !call.in_range && !call.shared => self.by_name += 1,
            _ => anyhow::bail!("it goes {lazy:?}, but a plain pod's {plain:?}"),
        }
        Ok(())
    }
}

struct Compared<'a> {
    plain: &'a Goes,
    lazy: &'a Goes,
    of_mesh: bool,
    in_range: bool,
    /// Whether the lazy pod has a listener for the port of all addresses.
    shared: bool,
}

fn is_service(cluster: &str) -> bool {
    cluster.starts_with("outbound|") && cluster.ends_with(".svc.cluster.local")
}

async fn compare(case: &Case, policy: Option<&str>) -> Result<()> {
    let shop = Shop::open(case).await?;
    let other = case.namespace(&[]).await?;
    if let Some(policy) = policy {
        shop.ns.apply(policy).await?;
    }
    populate(&shop.ns, &other).await?;
    let plain = shop.ns.workload("plain").no_app();
    let plain = plain.label("lazymesh.dev/mode", "off").start().await?;
    let client = shop.client("client").await?;
    wait_plain(&plain).await?;
    wait_lazy(&client).await?;
    let (of_plain, of_lazy) = (Config::of(&plain).await?, Config::of(&client).await?);

    let (ns, other) = (shop.ns.name(), other.name());
    let namespaces = [ns, other, shop.system.name(), "istio-system", "default"];
    let namespaces: BTreeSet<String> = namespaces.into_iter().map(str::to_owned).collect();
    let mut ports: BTreeSet<u16> = of_plain.ports().chain(of_lazy.ports()).collect();
    // One that nobody has.
    ports.insert(8099);
    let mut counts = Counts::default();
    for name in names(&of_plain, ns, other) {
        let host = name.to_ascii_lowercase();
        let host = host
            .rsplit_once(':')
            .map_or(host.as_str(), |(host, _)| host);
        let vip = match host.parse() {
            Ok(address) => Some(address),
            Err(_) => case.mesh.cluster().resolve(ns, host).await,
        };
        for to in [vip, Some(OUTSIDE)].into_iter().flatten() {
            for port in &ports {
                let to = SocketAddrV4::new(to, *port);
                for speaks in [Speaks::Http(&name), Speaks::Bytes] {
                    let what = || format!("{speaks:?} to {to}");
                    let (plain, lazy) = (
                        of_plain.resolve(to, speaks).with_context(what)?,
                        of_lazy.resolve(to, speaks).with_context(what)?,
                    );
                    let call = Compared {
                        plain: &plain,
                        lazy: &lazy,
                        of_mesh: is_of_mesh(&name, &namespaces),
                        in_range: in_range(*to.ip()),
                        shared: of_lazy.shares(*port),
                    };
                    counts.compare(&call).with_context(what)?;
                }
            }
        }
    }
    tracing::info!(?counts, "calls compared");
    ensure!(
        counts.redirected > 50 && counts.tunnelled > 50 && counts.outside > 500,
        "hardly anything was compared: {counts:?}"
    );
    Ok(())
}
