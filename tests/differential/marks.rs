//! How the test knows that istiod has taken in what was changed, and that a client has it.
//!
//! istiod learns of each kind of resource by a watch of its own, in the order in which they were written; between kinds
//! there is none. So one resource of each kind is changed after all others, and when a pod that sees the
//! whole mesh has got every one of these, istiod knows all that was written before. After that a last mark is made,
//! which comes to the clients behind everything else: a route that answers by itself, which any client can ask.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::differential::Probe;
use mesh_tests::testbed::{Call, Case, Namespace, Pod, until};

/// No service of a scenario has it.
const PORT: u16 = 18080;
const LIMIT: Duration = Duration::from_secs(30);
/// How long one call for it may take.
const CALL_LIMIT: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub(crate) struct Marks {
    ns: Namespace,
    watcher: Pod,
    address: Ipv4Addr,
    number: AtomicU32,
}

impl Marks {
    pub(crate) async fn open(case: &Case) -> Result<Self> {
        let ns = case.namespace(&[]).await?;
        for name in ["mark", "mark-http-route", "mark-grpc-route"] {
            let service = ns.service(name).selector(&[]).port("http", PORT, 8080);
            service.create().await?;
        }
        let cluster = case.mesh.cluster();
        let address = cluster.resolve(ns.name(), "mark").await;
        let watcher = ns.workload("watcher").no_app();
        let watcher = watcher.sidecar(|sidecar| sidecar.concurrency = 1);
        Ok(Self {
            address: address.context("a service without an address")?,
            watcher: watcher.start().await?,
            ns,
            number: AtomicU32::new(0),
        })
    }

    pub(crate) fn namespace(&self) -> &str {
        self.ns.name()
    }

    /// Comes back when istiod has taken in all that was written before, with the number of the mark behind it.
    pub(crate) async fn set(&self) -> Result<u32> {
        let number = self.number.fetch_add(2, Ordering::Relaxed) + 1;
        let [_, _, high, low] = number.to_be_bytes();
        let mesh = self.ns.mesh();
        let endpoint = Ipv4Addr::new(10, 99, high, low);
        mesh.cluster()
            .set_endpoints(mesh.resources(), (self.ns.name(), "mark"), &[endpoint])
            .await?;
        mesh.resources()
            .apply(self.ns.name(), &one_of_each_kind(number))
            .await?;
        let ns = self.ns.name();
        let policy = if policy(number) == "ALLOW_ANY" {
            "allow_any"
        } else {
            "block_all"
        };
        let signs = [
            format!("\"{endpoint}\""),
            format!("outbound|{}||mark-service.{ns}.", port(number)),
            format!("mark-{number}.diff.test"),
            format!("\"max_connections\":{}", 100_000 + number),
            format!("\"mark {number}\""),
            format!("http-route-{number}-"),
            format!("grpc-route-{number}-"),
            format!("\"name\":\"{policy}\""),
        ];
        until("istiod to have all that was written", LIMIT, || async {
            let dump = self.watcher.envoy().await?.config_dump().await?.to_string();
            for sign in &signs {
                ensure!(dump.contains(sign.as_str()), "no {sign}");
            }
            Ok(())
        })
        .await?;
        let resources = mesh.resources();
        resources
            .apply(self.ns.name(), &answering(number + 1))
            .await?;
        Ok(number + 1)
    }

    /// The call for a mark as a scenario writes it, for where a client has none.
    pub(crate) fn probe() -> Probe {
        Probe {
            protocol: "http1",
            host: format!("mark.$M.svc.cluster.local:{PORT}"),
            address: "the mark's service".to_owned(),
            port: PORT,
            path: "/".to_owned(),
            method: "GET",
            headers: Vec::new(),
            body: 0,
        }
    }

    /// Comes back when `client` has the mark, and uses all that came before it.
    pub(crate) async fn wait(&self, client: &Pod, number: u32) -> Result<()> {
        let host = format!("http1://mark.{}.svc.cluster.local:{PORT}/", self.ns.name());
        let call = Call::new(host).to(self.address).timeout(CALL_LIMIT);
        until("the client to have the mark", LIMIT, || async {
            let outcome = client.call(&call).await?;
            let answer = outcome.body.unwrap_or_default();
            ensure!(
                answer == format!("mark {number}"),
                "{answer:?} {:?}",
                outcome.error
            );
            let envoy = client.envoy().await?;
            for (name, stat) in [
                ("clusters", "cluster_manager.warming_clusters"),
                ("listeners", "listener_manager.total_listeners_warming"),
            ] {
                let warming = envoy.stat(stat).await?;
                ensure!(warming == 0, "{warming} {name} are warming");
            }
            Ok(())
        })
        .await
    }
}

fn port(number: u32) -> u32 {
    20_000 + number % 10_000
}

/// A Sidecar can carry no number: it is now so and now so.
fn policy(number: u32) -> &'static str {
    if number % 4 == 1 {
        "REGISTRY_ONLY"
    } else {
        "ALLOW_ANY"
    }
}

fn one_of_each_kind(number: u32) -> String {
    format!(
        "
{{apiVersion: v1, kind: Service, metadata: {{name: mark-service}}, spec: {{ports: [{{name: tcp, port: {port}}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: mark}}, spec: {{
   hosts: [mark-{number}.diff.test], resolution: NONE, ports: [{{number: 18081, name: http, protocol: HTTP}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: mark}}, spec: {{host: mark,
   trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {connections}}}}}}}}}}}
---
{answering}
---
{http_route}
---
{grpc_route}
---
{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: mark}}, spec: {{
   workloadSelector: {{labels: {{app: watcher}}}}, outboundTrafficPolicy: {{mode: {policy}}}}}}}",
        port = port(number),
        connections = 100_000 + number,
        answering = answering(number),
        http_route = gateway_route("HTTPRoute", "http-route", number),
        grpc_route = gateway_route("GRPCRoute", "grpc-route", number),
        policy = policy(number),
    )
}

fn gateway_route(kind: &str, name: &str, number: u32) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {{
           parentRefs: [{{group: '', kind: Service, name: mark-{name}}}], rules: [{{
             filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-mark, value: {name}-{number}-}}]}}}}],
             backendRefs: [{{name: mark-{name}, port: {PORT}}}]}}]}}}}"
    )
}

fn answering(number: u32) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: mark}}, spec: {{hosts: [mark],
           http: [{{directResponse: {{status: 200, body: {{string: mark {number}}}}}}}]}}}}"
    )
}
