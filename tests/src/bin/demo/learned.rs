//! The learned graph, as the controller gives it to any shim.

use crate::bootstrap::Identity;
use crate::parts::Parts;
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use dependency_graph::api::dependency_graph_client::DependencyGraphClient;
use dependency_graph::api::{WatchRequest, WorkloadState};
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// How long a report may take to be in the graph.
const LIMIT: Duration = Duration::from_secs(10);

/// What the controller knows of a workload, once it knows at least `expected`: lines `ns/workload -> host:port`.
///
/// # Errors
/// When it does not learn them in time.
pub(crate) async fn dependencies(
    parts: &Parts,
    identity: &Identity,
    expected: &BTreeSet<String>,
) -> Result<Vec<String>> {
    until(
        "the graph to hold every service that was called",
        LIMIT,
        async || {
            let known = read(parts, identity).await?;
            let missing: Vec<_> = expected
                .iter()
                .filter(|line| !known.contains(*line))
                .collect();
            ensure!(
                missing.is_empty(),
                "{} missing, the first is {}",
                missing.len(),
                missing[0]
            );
            Ok(Some(known.into_iter().collect()))
        },
    )
    .await
}

/// How a dependency is written in the report.
pub(crate) fn line(identity: &Identity, host: &str, port: u16) -> String {
    format!(
        "{}/{} -> {host}:{port}",
        identity.namespace, identity.workload
    )
}

async fn read(parts: &Parts, identity: &Identity) -> Result<BTreeSet<String>> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(parts.root()?));
    let endpoint = Endpoint::from_shared(parts.controller_url())?.tls_config(tls)?;
    let mut client = DependencyGraphClient::new(endpoint.connect().await?);
    let mut request = tonic::Request::new(WatchRequest::default());
    let token = format!("Bearer {}", parts.secret());
    request
        .metadata_mut()
        .insert("authorization", token.parse()?);
    let mut responses = client.watch(request).await?.into_inner();
    let mut lines = BTreeSet::new();
    loop {
        let response = responses
            .message()
            .await?
            .context("the watch ended early")?;
        for state in &response.workloads {
            lines.extend(of_workload(state, identity));
        }
        if response.snapshot_complete {
            return Ok(lines);
        }
    }
}

fn of_workload(state: &WorkloadState, identity: &Identity) -> Vec<String> {
    let ours = state.workload.as_ref().is_some_and(|workload| {
        workload.namespace == identity.namespace && workload.name == identity.workload
    });
    let line = |dependency: &dependency_graph::api::Dependency| {
        let port = u16::try_from(dependency.port).ok()?;
        Some(line(identity, &dependency.host, port))
    };
    if ours {
        state.dependencies.iter().filter_map(line).collect()
    } else {
        vec![]
    }
}
