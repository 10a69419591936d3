//! A mesh of many services, in some shapes.
//!
//! The shape `plain` is that of docs/facts.md: 20 namespaces, 5 endpoints a service, two HTTP ports, every tenth service a
//! TCP port.

use anyhow::Result;
use futures::future::try_join_all;
use mesh_tests::testbed::{Case, Namespace, Pod};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Over how many namespaces services are spread.
const NAMESPACES: usize = 20;
/// How many services go to the API server one after the other.
const AT_ONCE: usize = 250;

/// Addresses that nobody is behind, from 198.18.0.0/15, which is for benchmarks; and those of endpoints that come later.
const NOBODY: u32 = 0xC612_0000;
const MORE: u32 = 0x1_FF00;

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

/// Whether a server stands behind a service: calls go to these, and each has but this endpoint. They are every tenth, which
/// have a TCP port, and two more of ten.
fn is_called(i: u32) -> bool {
    i.is_multiple_of(10) || i % 5 == 1
}

/// Services in namespaces of their own, which only the callers' namespaces see.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) shape: Shape,
    pub(crate) count: u32,
    namespaces: Vec<Namespace>,
    server: Pod,
    /// The callers' namespaces, with commas.
    seen_in: String,
}

impl Services {
    /// Services without a selector, with endpoints written by hand: the server's pod stands behind those that are called,
    /// four addresses where nobody is behind every other.
    pub(crate) async fn make(
        case: &Case,
        callers: &[&Namespace],
        server: &Pod,
        shape: Shape,
        count: u32,
    ) -> Result<Self> {
        let names: Vec<_> = callers.iter().map(|ns| ns.name()).collect();
        let services = Self {
            shape,
            count,
            namespaces: try_join_all((0..NAMESPACES).map(|_| case.namespace(&[]))).await?,
            server: server.clone(),
            seen_in: names.join(","),
        };
        let chunk = async |(at, namespace): (usize, &Namespace)| {
            let of_it: Vec<u32> = (at as u32..count).step_by(NAMESPACES).collect();
            for some in of_it.chunks(AT_ONCE) {
                let mut yaml = String::new();
                for &i in some {
                    services.write_service(&mut yaml, i)?;
                    services.write_endpoints(&mut yaml, i, None)?;
                    services.write_virtual_service(&mut yaml, i)?;
                }
                namespace.apply(&yaml).await?;
            }
            anyhow::Ok(())
        };
        try_join_all(services.namespaces.iter().enumerate().map(chunk)).await?;
        Ok(services)
    }

    fn namespace(&self, i: u32) -> &Namespace {
        &self.namespaces[i as usize % self.namespaces.len()]
    }

    /// By the name that callers of other namespaces use.
    fn name_of(&self, i: u32) -> String {
        format!("svc-{i}.{}", self.namespace(i).name())
    }

    /// The service the call of this number goes to.
    fn name(&self, call: u32) -> String {
        self.name_of(service_of(call))
    }

    /// What the `Sidecar` of a caller calls it.
    pub(crate) fn egress_host(&self, call: u32) -> String {
        let name = self.name(call);
        let namespace = name.split_once('.').map_or("", |(_, namespace)| namespace);
        format!("{namespace}/{name}.svc.cluster.local")
    }

    pub(crate) fn http_url(&self, call: u32) -> String {
        self.http_url_of(service_of(call))
    }

    pub(crate) fn tcp_url(&self, call: u32) -> String {
        self.tcp_url_of(service_of(call))
    }

    pub(crate) fn http_url_of(&self, i: u32) -> String {
        format!("http1://{}/", self.name_of(i))
    }

    pub(crate) fn tcp_url_of(&self, i: u32) -> String {
        format!("tcp://{}:{}", self.name_of(i), self.shape.tcp_port())
    }

    /// At most so many services that answer, over HTTP.
    pub(crate) fn to_call(&self, most: u32) -> Vec<u32> {
        let called = (0..self.count).filter(|&i| is_called(i));
        called.take(most as usize).collect()
    }

    /// The same over TCP.
    pub(crate) fn to_call_by_tcp(&self, most: u32) -> Vec<u32> {
        let called = (0..self.count).filter(|i| i.is_multiple_of(10));
        called.take(most as usize).collect()
    }

    fn write_service(&self, yaml: &mut String, i: u32) -> Result<()> {
        let [one, two, three] = self.shape.ports();
        let tcp = match self.tcp_port(i) {
            Some(port) => format!(", {{name: {three}, port: {port}, targetPort: 9000}}"),
            None => String::new(),
        };
        write!(
            yaml,
            "{{apiVersion: v1, kind: Service, metadata: {{name: svc-{i}, annotations: {{networking.istio.io/exportTo: \"{}\"}}}}, \
              spec: {{ports: [{{name: {one}, port: 80, targetPort: 8080}}, {{name: {two}, port: 8082, targetPort: 8080}}{tcp}]}}}}\n---\n",
            self.seen_in
        )?;
        Ok(())
    }

    fn tcp_port(&self, i: u32) -> Option<u16> {
        i.is_multiple_of(10).then(|| self.shape.tcp_port())
    }

    /// `one_more`: tells apart endpoints that nobody is behind, of which the service has one more.
    fn write_endpoints(&self, yaml: &mut String, i: u32, one_more: Option<u32>) -> Result<()> {
        let [one, two, three] = self.shape.ports();
        let tcp = match self.tcp_port(i) {
            Some(_) => format!(", {{name: {three}, port: 9000}}"),
            None => String::new(),
        };
        let (pod, spec) = (&self.server, self.server.spec());
        let pod = format!(
            "{{addresses: [\"{}\"], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {}, namespace: {}}}}}",
            pod.address(),
            pod.name(),
            spec.namespace
        );
        let nobody = |n: u32| {
            let address = Ipv4Addr::from(NOBODY + n);
            format!("{{addresses: [\"{address}\"], conditions: {{ready: true}}}}")
        };
        let mut endpoints = if is_called(i) {
            vec![pod]
        } else {
            (0..5).map(|n| nobody(i * 5 + n)).collect()
        };
        endpoints.extend(one_more.map(|n| nobody(MORE + n % 250)));
        write!(
            yaml,
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: svc-{i}, labels: {{kubernetes.io/service-name: svc-{i}}}}}, \
              addressType: IPv4, ports: [{{name: {one}, port: 8080}}, {{name: {two}, port: 8080}}{tcp}], endpoints: [{}]}}\n---\n",
            endpoints.join(", ")
        )?;
        Ok(())
    }

    fn write_virtual_service(&self, yaml: &mut String, i: u32) -> Result<()> {
        let http = match (self.shape, i / 10 % 4) {
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
        let seen_in = &self.seen_in;
        write!(
            yaml,
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: svc-{i}}}, \
              spec: {{hosts: [svc-{i}], exportTo: [{seen_in}], http: {http}}}}}\n---\n"
        )?;
        Ok(())
    }
}

/// What changes in the mesh.
impl Services {
    /// Gives a service one more endpoint, another one for another number; or none any more.
    pub(crate) async fn change_endpoints(&self, i: u32, one_more: Option<u32>) -> Result<()> {
        let mut yaml = String::new();
        self.write_endpoints(&mut yaml, i, one_more)?;
        self.namespace(i).apply(&yaml).await
    }

    /// Adds a service that nobody calls, another one for another number.
    pub(crate) async fn add(&self, number: u32) -> Result<()> {
        // Not one of those that answer.
        let i = self.count.next_multiple_of(10) + number * 10 + 7;
        let mut yaml = String::new();
        self.write_service(&mut yaml, i)?;
        self.write_endpoints(&mut yaml, i, None)?;
        self.namespace(i).apply(&yaml).await
    }
}
