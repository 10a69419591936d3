//! Plain Istio, without any part of ours: what lazy sidecars are measured against, and proof that the testbed is a mesh.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{AppPorts, Call, Case, Test, until};

/// Every way to call the usual ports of a server, and whether HTTP headers tell the server who calls.
pub(crate) const EVERY_PROTOCOL: [(&str, bool); 8] = [
    ("http1://server/hello", true),
    ("http2://server:8082/hello", true),
    ("grpc://server:7070", true),
    ("grpc-stream://server:7070", true),
    ("grpc-chat://server:7070", true),
    ("ws://server/socket", true),
    ("tcp://server:9000", false),
    ("tcp-server-first://server:9001", false),
];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "plain::every_protocol_under_strict_mtls",
            every_protocol_under_strict_mtls,
        ),
        Test::new(
            "plain::a_large_body_arrives_as_it_was_sent",
            a_large_body_arrives_as_it_was_sent,
        ),
        Test::new(
            "plain::plain_text_from_outside_is_refused",
            plain_text_from_outside_is_refused,
        ),
        Test::new(
            "plain::a_policy_admits_the_caller_over_tcp",
            a_policy_admits_the_caller_over_tcp,
        ),
        Test::new(
            "plain::what_has_no_listener_passes_through",
            what_has_no_listener_passes_through,
        ),
        Test::new(
            "plain::a_cluster_ip_is_shared_by_its_pods",
            a_cluster_ip_is_shared_by_its_pods,
        ),
        Test::new(
            "plain::a_headless_service_leads_to_its_pod",
            a_headless_service_leads_to_its_pod,
        ),
        Test::new(
            "plain::traffic_survives_a_rolling_update",
            traffic_survives_a_rolling_update,
        ),
        Test::new(
            "plain::a_route_mirrors_and_splits_by_header",
            a_route_mirrors_and_splits_by_header,
        ),
        Test::new(
            "plain::a_crashed_sidecar_comes_back",
            a_crashed_sidecar_comes_back,
        ),
    ]
}

async fn every_protocol_under_strict_mtls(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.strict_mtls().await?;
    let server = ns.server("server").await?;
    let client = ns.workload("client").no_app().start().await?;
    for (url, tells) in EVERY_PROTOCOL {
        let answer = client.get(url).await?;
        ensure!(
            answer.who.pod == server.name(),
            "{url}: {} answered",
            answer.who.pod
        );
        if tells {
            let caller = answer
                .saw
                .caller
                .with_context(|| format!("{url}: the server saw no caller"))?;
            ensure!(
                caller == client.spiffe_id(),
                "{url}: the server saw {caller}"
            );
        }
    }
    let seen = server.seen().await?;
    ensure!(
        seen.len() >= EVERY_PROTOCOL.len(),
        "the server remembers {} calls",
        seen.len()
    );
    Ok(())
}

async fn a_large_body_arrives_as_it_was_sent(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.server("server").await?;
    let client = ns.workload("client").no_app().start().await?;
    for (url, _) in EVERY_PROTOCOL {
        let call = Call::new(url)
            .method(if url.starts_with("ws") { "GET" } else { "POST" })
            .body_bytes(5 << 20);
        let outcome = client.call(&call).await?;
        outcome.answer().with_context(|| url.to_owned())?;
    }
    Ok(())
}

async fn plain_text_from_outside_is_refused(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    let server = ns.server("server").await?;
    let outsider = ns
        .workload("outsider")
        .no_sidecar()
        .no_app()
        .start()
        .await?;
    // First without the policy: it is the policy that makes the difference.
    let answer = outsider.get("http1://server/").await?;
    ensure!(
        answer.saw.caller.is_none(),
        "a caller without a certificate was seen as {:?}",
        answer.saw.caller
    );
    ns.strict_mtls().await?;
    until(
        "plain text to be refused",
        Duration::from_secs(10),
        || async {
            for url in [
                "http1://server/".to_owned(),
                format!("tcp://{}:9000", server.address()),
            ] {
                let outcome = outsider.call(&Call::new(&url)).await?;
                ensure!(!outcome.is_ok(), "{url} was answered");
            }
            Ok(())
        },
    )
    .await
}

async fn a_policy_admits_the_caller_over_tcp(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.strict_mtls().await?;
    let name = ns.name();
    ns.apply(&format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: only-client}}, spec: {{
           selector: {{matchLabels: {{app: server}}}},
           rules: [{{from: [{{source: {{principals: [cluster.local/ns/{name}/sa/client]}}}}]}}]}}}}"
    ))
    .await?;
    ns.server("server").await?;
    let client = ns.workload("client").no_app().start().await?;
    let stranger = ns.workload("stranger").no_app().start().await?;
    for (url, _) in EVERY_PROTOCOL {
        client.get(url).await?;
        let refused = stranger.call(&Call::new(url)).await?;
        ensure!(!refused.is_ok(), "{url}: a stranger was let in");
    }
    Ok(())
}

async fn what_has_no_listener_passes_through(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.apply(
        "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: narrow}, spec: {
           workloadSelector: {labels: {app: client}}, egress: [{hosts: [istio-system/*]}]}}",
    )
    .await?;
    ns.service("server").usual_ports().create().await?;
    let server = ns.workload("server").no_sidecar().start().await?;
    let client = ns.workload("client").no_app().all_stats().start().await?;
    let envoy = client.envoy().await?;
    let clusters = envoy.dynamic_clusters().await?;
    ensure!(
        !clusters.iter().any(|cluster| cluster.contains("server")),
        "the client knows the server: {clusters:?}"
    );
    for url in [
        "http1://server/",
        "tcp://server:9000",
        "tcp-server-first://server:9001",
    ] {
        let answer = client.get(url).await?;
        ensure!(answer.who.pod == server.name());
        ensure!(answer.saw.caller.is_none());
    }
    // Istio ends the names of its own clusters in statistics with a semicolon.
    let passed = envoy
        .stat("cluster.PassthroughCluster;.upstream_cx_total")
        .await?;
    ensure!(passed >= 3, "{passed} connections passed through");
    Ok(())
}

async fn a_cluster_ip_is_shared_by_its_pods(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.service("server").usual_ports().create().await?;
    ns.workload("server").pods(2).await?;
    // With a sidecar Envoy chooses the pod, without one the ClusterIP's translation does.
    let inside = ns.workload("inside").no_app().start().await?;
    let outside = ns.workload("outside").no_app().no_sidecar().start().await?;
    for client in [inside, outside] {
        let outcomes = client
            .calls(&Call::new("http1://server/").count(20))
            .await?;
        let mut pods: Vec<_> = outcomes
            .iter()
            .map(|call| Ok(call.answer()?.who.pod.clone()))
            .collect::<Result<_>>()?;
        pods.sort();
        pods.dedup();
        ensure!(pods.len() == 2, "{}: only {pods:?} answered", client.name());
    }
    Ok(())
}

async fn a_headless_service_leads_to_its_pod(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.strict_mtls().await?;
    // Istio sends to the port that was called, not to the target port: with a headless service they must be one.
    ns.service("server")
        .usual_ports()
        .port("http-direct", 8080, 8080)
        .headless()
        .create()
        .await?;
    let server = ns.workload("server").start().await?;
    let client = ns.workload("client").no_app().start().await?;
    for (url, tells) in EVERY_PROTOCOL {
        let url = &url.replace("server/", "server:8080/");
        let answer = client.get(url).await?;
        ensure!(answer.who.pod == server.name());
        ensure!(
            !tells || answer.saw.caller == Some(client.spiffe_id()),
            "{url}: {:?}",
            answer.saw.caller
        );
    }
    Ok(())
}

async fn traffic_survives_a_rolling_update(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    let old = ns.server("server").await?;
    let client = ns.workload("client").no_app().start().await?;
    let traffic = client
        .traffic(&Call::new("http1://server/").rate(50.0).concurrency(5))
        .await?;
    traffic.wait_for(20, Duration::from_secs(10)).await?;
    let new = ns.workload("server").label("version", "v2").start().await?;
    old.set_ready(false).await?;
    until(
        "the new pod alone to answer",
        Duration::from_secs(10),
        || async {
            let outcomes = client
                .calls(&Call::new("http1://server/").count(10))
                .await?;
            for outcome in outcomes {
                ensure!(
                    outcome.answer()?.who.pod == new.name(),
                    "the old pod answers still"
                );
            }
            Ok(())
        },
    )
    .await?;
    old.delete().await?;
    traffic.wait_for(20, Duration::from_secs(10)).await?;
    let summary = traffic.stop().await?;
    summary.expect_no_failure()?;
    let last = summary.outcomes.last().context("no outcome")?.answer()?;
    ensure!(
        last.who.version.as_deref() == Some("v2"),
        "{:?} answered last",
        last.who
    );
    Ok(())
}

async fn a_route_mirrors_and_splits_by_header(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    let v1 = ns.server("server").await?;
    let mirror = ns.server("mirror").await?;
    ns.workload("server").label("version", "v2").start().await?;
    ns.apply(
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: server}, spec: {host: server,
           subsets: [{name: v2, labels: {version: v2}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: server}, spec: {hosts: [server], http: [
   {match: [{headers: {to: {exact: v2}}}], route: [{destination: {host: server, subset: v2}}], mirror: {host: mirror, port: {number: 80}}},
   {fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: server}}]}]}}",
    )
    .await?;
    let client = ns.workload("client").no_app().start().await?;
    let outcome = client.call(&Call::new("http1://server/x")).await?;
    ensure!(
        outcome.status == Some(418),
        "the route's fault is not there: {outcome:?}"
    );
    ensure!(v1.seen().await?.is_empty());
    let outcome = client
        .call(&Call::new("http1://server/mirrored").header("to", "v2"))
        .await?;
    ensure!(outcome.answer()?.who.version.as_deref() == Some("v2"));
    until("the mirror to arrive", Duration::from_secs(5), || async {
        let seen = mirror.seen().await?;
        ensure!(
            seen.iter().any(|saw| saw.path == "/mirrored"),
            "it saw {seen:?}"
        );
        Ok(())
    })
    .await
}

async fn a_crashed_sidecar_comes_back(case: Case) -> Result<()> {
    let ns = case.namespace(&[]).await?;
    ns.strict_mtls().await?;
    let server = ns.server("server").await?;
    let client = ns
        .workload("client")
        .app(AppPorts::default())
        .start()
        .await?;
    client.get("http1://server/").await?;
    let before = client.envoy().await?.pid()?;
    client.restart_sidecar().await?;
    let envoy = client.envoy().await?;
    ensure!(envoy.pid()? != before);
    ensure!(envoy.running()?.rss()? > 10 << 20 && envoy.memory().await?.allocated > 1 << 20);
    let answer = client.get("http1://server/").await?;
    ensure!(answer.who.pod == server.name() && answer.saw.caller == Some(client.spiffe_id()));
    Ok(())
}
