//! What all seeds share: the servers, the shim, the marks. Only the clients, and the mesh around them, are a seed's own.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use mesh_tests::app::Saw;
use mesh_tests::differential::Server;
use mesh_tests::testbed::{AppPorts, Case, Namespace, Pod, PodEndpoint, Replica, Shims};

use crate::marks::Marks;

/// How many names outside the cluster are known to the resolver.
const OUTSIDE_NAMES: usize = 10;

/// Policies of the servers that differ. A client is told from others by its service account's name.
const POLICIES: &str = "
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict},
 spec: {selector: {matchLabels: {app: strict}}, mtls: {mode: STRICT}}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: guarded},
 spec: {selector: {matchLabels: {app: guarded}}, action: ALLOW,
   rules: [{from: [{source: {principals: ['*/sa/plain', '*/sa/lazy']}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: refusing},
 spec: {selector: {matchLabels: {app: refusing}}, action: DENY,
   rules: [{from: [{source: {principals: ['*/sa/plain', '*/sa/lazy']}}]}]}}
---
# The servers call nobody: changes of the mesh are none for them.
{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default}, spec: {egress: [{hosts: ['./*']}]}}";

#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) case: Case,
    pub(crate) marks: Marks,
    pub(crate) shims: Shims,
    shim: Replica,
    servers: BTreeMap<Server, Pod>,
}

impl Lab {
    pub(crate) async fn open(case: &Case) -> Result<Self> {
        let pool = case.namespace(&[]).await?;
        pool.apply(POLICIES).await?;
        // It selects all of them, so that their sidecars know what their ports speak.
        let service = pool.service("pool").selector(&[("pool", "diff")]);
        let service = service.usual_ports().port("tls", 9443, 9443);
        service.create().await?;
        // The first one has the lowest address: what passes Envoy by to a service of several goes there.
        let first = start(&pool, Server::ALL[0]).await?;
        let others = Server::ALL[1..].iter().map(|&server| start(&pool, server));
        let pods = [vec![first], try_join_all(others).await?].concat();
        let servers: BTreeMap<_, _> = Server::ALL.into_iter().zip(pods).collect();
        let outside = servers.get(&Server::Outside).context("no server")?;
        for number in 0..OUTSIDE_NAMES {
            let host = format!("dns{number}.diff.test");
            case.mesh.add_host(outside.address(), &host)?;
        }
        let parts = case.namespace(&[]).await?;
        let shims = parts.shims().await?;
        let shim = shims.start(&["--default-mode=on-demand"]).await?;
        Ok(Self {
            case: case.clone(),
            marks: Marks::open(case).await?,
            shims,
            shim,
            servers,
        })
    }

    /// How often a client's Envoy asked for something that it did not have.
    pub(crate) async fn asks(&self) -> Result<f64> {
        self.shim.metric("lazymesh_shim_asks_total", "").await
    }

    /// The addresses of the servers, and what scenarios call them.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.servers
            .iter()
            .map(|(server, pod)| (pod.address().to_string(), server.address()))
    }

    /// A server as an endpoint of services.
    pub(crate) fn endpoint(&self, server: Server) -> Option<PodEndpoint> {
        let pod = self.servers.get(&server)?;
        Some(PodEndpoint {
            namespace: pod.spec().namespace.clone(),
            name: pod.name().to_owned(),
            address: pod.address(),
        })
    }

    /// All that the servers have seen since they were told to forget, with the server's name.
    pub(crate) async fn seen(&self) -> Result<Vec<(String, Saw)>> {
        let each = self.servers.iter().map(|(server, pod)| async move {
            let seen = pod.seen().await?.into_iter();
            anyhow::Ok(
                seen.map(|saw| (server.name().to_owned(), saw))
                    .collect::<Vec<_>>(),
            )
        });
        Ok(try_join_all(each).await?.into_iter().flatten().collect())
    }

    pub(crate) async fn forget_seen(&self) -> Result<()> {
        try_join_all(self.servers.values().map(Pod::forget_seen)).await?;
        Ok(())
    }
}

async fn start(pool: &Namespace, server: Server) -> Result<Pod> {
    let ports = AppPorts {
        tls: vec![9443],
        ..AppPorts::default()
    };
    let workload = pool
        .workload(server.name())
        .label("pool", "diff")
        .app(ports);
    let workload = workload.sidecar(|sidecar| sidecar.concurrency = 1);
    match server {
        Server::V1 | Server::V2 => workload.label("version", server.name()).start().await,
        Server::Outside => workload.no_sidecar().start().await,
        _ => workload.start().await,
    }
}
