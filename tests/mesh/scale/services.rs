//! A mesh of many services, in some shapes.
//!
//! The shape `plain` is that of docs/facts.md: 20 namespaces, 5 endpoints a service, two HTTP ports, every tenth service a
//! TCP port.

use anyhow::Result;
use futures::future::try_join_all;
use mesh_tests::testbed::{Case, Namespace, Pod};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// How many services a server stands behind: the calls go to these.
pub(crate) const CALLED: u32 = 45;
/// Over how many namespaces services are spread.
const NAMESPACES: usize = 20;
/// How many services go to the API server one after the other.
const AT_ONCE: usize = 250;

/// What is particular about the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Ports that name their protocol.
    Plain,
    /// The same, and every other ten services have a VirtualService each: one half of those a timeout only, the other
    /// half a match and weights.
    VirtualServices,
    /// No port names its protocol.
    Auto,
}

impl Shape {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::VirtualServices, Self::Auto];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::VirtualServices => "virtual-services",
            Self::Auto => "auto",
        }
    }

    /// Names of a service's ports.
    fn ports(self) -> [&'static str; 3] {
        match self {
            Self::Plain | Self::VirtualServices => ["http", "http-two", "tcp"],
            Self::Auto => ["one", "two", "three"],
        }
    }

    /// The port of bytes. To istiod 3306 is MySQL's and never another protocol's, whatever its name.
    fn tcp_port(self) -> u16 {
        match self {
            Self::Plain | Self::VirtualServices => 3306,
            Self::Auto => 3307,
        }
    }
}

/// Which service the call of this number goes to: one with a TCP port. Calls 0, 1 and 3 of the shape with VirtualServices
/// meet none, one with a timeout, one with a match.
fn service_of(call: u32) -> u32 {
    call * 10
}

/// Services in namespaces of their own, which only the caller's namespace sees.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) shape: Shape,
    pub(crate) count: u32,
    namespaces: Vec<Namespace>,
}

impl Services {
    /// Services without a selector, with endpoints written by hand: the server's pod stands behind those that are called,
    /// four addresses where nobody is behind every other.
    pub(crate) async fn make(
        case: &Case,
        caller: &Namespace,
        server: &Pod,
        shape: Shape,
        count: u32,
    ) -> Result<Self> {
        let namespaces = try_join_all((0..NAMESPACES).map(|_| case.namespace(&[]))).await?;
        let chunk = async |(at, namespace): (usize, &Namespace)| {
            let of_it: Vec<u32> = (at as u32..count).step_by(namespaces.len()).collect();
            for some in of_it.chunks(AT_ONCE) {
                let mut yaml = String::new();
                for &i in some {
                    write_service(&mut yaml, i, server, caller, shape)?;
                    write_virtual_service(&mut yaml, i, caller, shape)?;
                }
                namespace.apply(&yaml).await?;
            }
            anyhow::Ok(())
        };
        try_join_all(namespaces.iter().enumerate().map(chunk)).await?;
        Ok(Self {
            shape,
            count,
            namespaces,
        })
    }

    /// The service the call of this number goes to, by the name that callers of other namespaces use.
    fn name(&self, call: u32) -> String {
        let i = service_of(call);
        let namespace = &self.namespaces[i as usize % self.namespaces.len()];
        format!("svc-{i}.{}", namespace.name())
    }

    /// What the `Sidecar` of a caller calls it.
    pub(crate) fn egress_host(&self, call: u32) -> String {
        let name = self.name(call);
        let namespace = name.split_once('.').map_or("", |(_, namespace)| namespace);
        format!("{namespace}/{name}.svc.cluster.local")
    }

    pub(crate) fn http_url(&self, call: u32) -> String {
        format!("http1://{}/", self.name(call))
    }

    pub(crate) fn tcp_url(&self, call: u32) -> String {
        format!("tcp://{}:{}", self.name(call), self.shape.tcp_port())
    }
}

fn write_service(
    yaml: &mut String,
    i: u32,
    server: &Pod,
    caller: &Namespace,
    shape: Shape,
) -> Result<()> {
    let [one, two, three] = shape.ports();
    let is_called = i.is_multiple_of(10) && i / 10 < CALLED;
    let (tcp_port, tcp_endpoint) = if i.is_multiple_of(10) {
        let port = shape.tcp_port();
        (
            format!(", {{name: {three}, port: {port}, targetPort: 9000}}"),
            format!(", {{name: {three}, port: 9000}}"),
        )
    } else {
        (String::new(), String::new())
    };
    let pod = format!(
        "{{addresses: [\"{}\"], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {}, namespace: {}}}}}",
        server.address(),
        server.name(),
        server.spec().namespace
    );
    let nobody = |n: u32| {
        let address = Ipv4Addr::from(0xC612_0000 + i * 8 + n); // 198.18.0.0/15: for benchmarks
        format!("{{addresses: [\"{address}\"], conditions: {{ready: true}}}}")
    };
    let endpoints = if is_called {
        vec![pod; 1]
    } else {
        (0..5).map(nobody).collect()
    };
    write!(
        yaml,
        "{{apiVersion: v1, kind: Service, metadata: {{name: svc-{i}, annotations: {{networking.istio.io/exportTo: {}}}}}, \
          spec: {{ports: [{{name: {one}, port: 80, targetPort: 8080}}, {{name: {two}, port: 8082, targetPort: 8080}}{tcp_port}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: svc-{i}, labels: {{kubernetes.io/service-name: svc-{i}}}}}, \
          addressType: IPv4, ports: [{{name: {one}, port: 8080}}, {{name: {two}, port: 8080}}{tcp_endpoint}], endpoints: [{}]}}\n---\n",
        caller.name(),
        endpoints.join(", ")
    )?;
    Ok(())
}

fn write_virtual_service(
    yaml: &mut String,
    i: u32,
    caller: &Namespace,
    shape: Shape,
) -> Result<()> {
    let http = match (shape, i / 10 % 4) {
        (Shape::VirtualServices, 1) => {
            format!("[{{timeout: 7s, route: [{{destination: {{host: svc-{i}}}}}]}}]")
        }
        (Shape::VirtualServices, 3) => {
            let to = |port, weight| {
                format!(
                    "{{destination: {{host: svc-{i}, port: {{number: {port}}}}}, weight: {weight}}}"
                )
            };
            format!(
                "[{{match: [{{uri: {{prefix: /v2}}}}], route: [{}]}}, {{route: [{}, {}]}}]",
                to(8082, 100),
                to(80, 90),
                to(8082, 10)
            )
        }
        _ => return Ok(()),
    };
    write!(
        yaml,
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: svc-{i}}}, \
          spec: {{hosts: [svc-{i}], exportTo: [{}], http: {http}}}}}\n---\n",
        caller.name()
    )?;
    Ok(())
}
