//! What istiod takes a Sidecar to mean.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Test, until, until_true};

use super::LIMIT;
use super::wiring::{host, sidecar};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "fallback::scope_a_route_is_named_by_its_own_namespace",
            routes_of_other_namespaces,
        ),
        Test::new(
            "fallback::scope_the_older_sidecar_wins",
            the_older_sidecar_wins,
        ),
    ]
}

/// A route that answers by itself, so that whether it is there shows in the status.
fn route(host: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: teapot}}, spec: {{hosts: [\"{host}\"],
           http: [{{fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}, route: [{{destination: {{host: \"{host}\"}}}}]}}]}}}}"
    )
}

async fn expect_status(when: &str, client: &Pod, url: &str, status: u16) -> Result<()> {
    until(when, LIMIT, || async {
        let outcome = client.call(&Call::new(url)).await?;
        ensure!(outcome.status == Some(status), "{url}: {outcome:?}");
        Ok(())
    })
    .await
}

async fn routes_of_other_namespaces(case: Case) -> Result<()> {
    let shop = case.namespace(&[]).await?;
    let callers = case.namespace(&[]).await?;
    let routes = case.namespace(&[]).await?;
    shop.server("server").await?;
    let full = format!("server.{}.svc.cluster.local", shop.name());
    let url = format!("http1://{full}/");
    routes.apply(&route(&full)).await?;
    let plain = callers.workload("plain").no_app().start().await?;
    expect_status("the plain route", &plain, &url, 418).await?;
    let service = format!("{}/{full}", shop.name());
    let in_routes = format!("{}/{full}", routes.name());
    let name = async |hosts: &[&String]| {
        let hosts = hosts.iter().map(|&host| host.clone()).collect();
        callers.apply(&sidecar("one", "client", &hosts, "")).await
    };
    name(&[&service]).await?;
    let client = callers.workload("client").no_app().start().await?;
    // The route is not there, although the service is: as if nobody had written it.
    expect_caller("the service alone", &client, &url, true).await?;
    name(&[&service, &in_routes]).await?;
    expect_status("both", &client, &url, 418).await?;
    // The route alone brings the cluster of its destination, but no listener that leads to it: plain text.
    name(&[&in_routes]).await?;
    expect_caller("the route alone", &client, &url, false).await?;
    let clusters = client.envoy().await?.dynamic_clusters().await?;
    ensure!(
        clusters.iter().any(|cluster| cluster.contains(&full)),
        "{clusters:?}"
    );
    // A wildcard route is found by the exact name of a service below it.
    routes.delete(&route(&full)).await?;
    let wildcard = format!("*.{}.svc.cluster.local", shop.name());
    routes.apply(&route(&wildcard)).await?;
    expect_status("the wildcard route", &plain, &url, 418).await?;
    name(&[&service]).await?;
    expect_caller("the service below a wildcard", &client, &url, true).await?;
    name(&[&service, &in_routes]).await?;
    expect_status("the wildcard route by an exact name", &client, &url, 418).await
}

/// Waits until the server is reached through the mesh, or past it.
async fn expect_caller(when: &str, client: &Pod, url: &str, through_mesh: bool) -> Result<()> {
    until(when, LIMIT, || async {
        let caller = client.get(url).await?.saw.caller;
        let expected = through_mesh.then(|| client.spiffe_id());
        ensure!(caller == expected, "the server saw {caller:?}");
        Ok(())
    })
    .await
}

/// Applies a Sidecar and says when it was made.
async fn created(ns: &Namespace, yaml: &str) -> Result<Timestamp> {
    ns.apply(yaml).await?;
    let objects = ns.mesh().resources().apply(ns.name(), yaml).await?;
    let created = objects
        .first()
        .and_then(|object| object.metadata.creation_timestamp.clone());
    Ok(created.context("no creation time")?.0)
}

async fn the_older_sidecar_wins(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    for name in ["first", "second"] {
        ns.server(name).await?;
    }
    let only = |service: &str| BTreeSet::from([host(ns.name(), service)]);
    // Names in the other order than ages.
    let older = created(&ns, &sidecar("z-older", "client", &only("first"), "")).await?;
    // Creation times are whole seconds.
    until_true("the next second", LIMIT, || async {
        Ok(Timestamp::now().as_second() > older.as_second())
    })
    .await?;
    ns.apply(&sidecar("a-younger", "client", &only("second"), ""))
        .await?;
    let client = ns.workload("client").no_app().start().await?;
    let knows = |service: &'static str| {
        let client = client.clone();
        async move {
            until("the Sidecar", LIMIT, || async {
                let clusters = client.envoy().await?.dynamic_clusters().await?;
                let known: Vec<_> = ["first", "second"]
                    .into_iter()
                    .filter(|name| {
                        clusters
                            .iter()
                            .any(|cluster| cluster.contains(&format!("||{name}.")))
                    })
                    .collect();
                ensure!(known == [service], "{known:?}");
                Ok(())
            })
            .await
        }
    };
    knows("first").await?;
    // A change does not make it younger, and the younger one takes over when it goes.
    ns.apply(&sidecar(
        "a-younger",
        "client",
        &only("second"),
        "outboundTrafficPolicy: {mode: ALLOW_ANY},",
    ))
    .await?;
    knows("first").await?;
    ns.delete(&sidecar("z-older", "client", &only("first"), ""))
        .await?;
    knows("second").await
}
