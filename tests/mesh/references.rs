//! Clusters that something beside a route refers to are there from the start: nothing asks for them.

use anyhow::{Result, ensure};
use mesh_tests::testbed::{Case, Namespace, Pod, Test, until};
use std::time::Duration;

use crate::on_demand::{Shop, ensure_held};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("references::an_access_log", an_access_log),
        Test::new("references::an_external_authorizer", an_external_authorizer),
    ]
}

/// An EnvoyFilter for the outbound side of the namespace's sidecars that are called `client`.
fn envoy_filter(patch: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {{name: refers}}, \
          spec: {{workloadSelector: {{labels: {{app: client}}}}, configPatches: [{patch}]}}}}"
    )
}

/// Applies the filter and waits until a plain sidecar of the same label has it.
async fn apply(ns: &Namespace, filter: &str, word: &str) -> Result<()> {
    ns.apply(filter).await?;
    let plain = ns.workload("client").no_app().start().await?;
    until("the filter", Duration::from_secs(10), || async {
        let dump = plain.envoy().await?.config_dump().await?.to_string();
        ensure!(dump.contains(word), "no {word} in the config");
        Ok(())
    })
    .await
}

async fn ensure_there(pod: &Pod, cluster: &str) -> Result<()> {
    let clusters = pod.envoy().await?.dynamic_clusters().await?;
    ensure!(
        clusters.iter().any(|c| c == cluster),
        "no {cluster} among {clusters:?}"
    );
    Ok(())
}

/// Envoy refuses a listener whose gRPC access log names a cluster that is not active yet: so the
/// cluster and its endpoints go ahead of the listener, on a cold start too.
async fn an_access_log(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    shop.ns.server("collector").await?;
    let cluster = format!(
        "outbound|7070||collector.{}.svc.cluster.local",
        shop.ns.name()
    );
    let log = format!(
        "{{name: envoy.access_loggers.http_grpc, typed_config: {{\
          \"@type\": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig, \
          common_config: {{log_name: refers, transport_api_version: V3, \
          grpc_service: {{envoy_grpc: {{cluster_name: \"{cluster}\"}}}}}}}}}}"
    );
    let patch = format!(
        "{{applyTo: NETWORK_FILTER, match: {{context: SIDECAR_OUTBOUND, listener: {{filterChain: {{filter: \
          {{name: envoy.filters.network.http_connection_manager}}}}}}}}, patch: {{operation: MERGE, value: \
          {{typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
          access_log: [{log}]}}}}}}}}"
    );
    apply(&shop.ns, &envoy_filter(&patch), "HttpGrpcAccessLogConfig").await?;
    let client = shop.client("client").await?;
    ensure_there(&client, &cluster).await?;
    ensure_held(&client, "server").await?;
    client.get("http1://server/").await?;
    let nacks = shop
        .shim
        .metric("lazymesh_shim_nacks_total", "")
        .await
        .unwrap_or(0.0);
    ensure!(nacks < 0.5, "the proxy refused {nacks} responses");
    Ok(())
}

async fn an_external_authorizer(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let authorizer = shop.ns.server("authorizer").await?;
    let cluster = format!(
        "outbound|80||authorizer.{}.svc.cluster.local",
        shop.ns.name()
    );
    let patch = format!(
        "{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_OUTBOUND, listener: {{filterChain: {{filter: \
          {{name: envoy.filters.network.http_connection_manager}}}}}}}}, patch: {{operation: INSERT_BEFORE, value: \
          {{name: envoy.filters.http.ext_authz, typed_config: {{\
          \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, \
          transport_api_version: V3, http_service: {{path_prefix: /authorize, server_uri: \
          {{uri: \"http://authorizer\", cluster: \"{cluster}\", timeout: 5s}}}}}}}}}}}}"
    );
    apply(&shop.ns, &envoy_filter(&patch), "ExtAuthz").await?;
    let client = shop.client("client").await?;
    ensure_there(&client, &cluster).await?;
    ensure_held(&client, "server").await?;
    client.get("http1://server/the-first").await?;
    let seen = authorizer.seen().await?;
    ensure!(
        seen.iter().any(|s| s.path == "/authorize/the-first"),
        "the authorizer saw {:?}",
        seen.iter().map(|s| &s.path).collect::<Vec<_>>()
    );
    Ok(())
}
