//! The mesh's own rules hold on the first call as on the second: they are part of what a service brings along.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Namespace, Test, until};

use super::{LIMIT, Shop, caller, ensure_clean};

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "sidecar::routing_holds_on_the_first_call",
        holds_on_the_first_call,
    )]
}

/// Rules that lead to `second`, in each of the ways in which there can be some.
async fn rules(shop: &Namespace, rules: &Namespace) -> Result<()> {
    let (ns, other) = (shop.name(), rules.name());
    let virtual_service = |name: &str, host: &str, http: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}}}, spec: {{
               hosts: [\"{host}\"], http: [{http}]}}}}"
        )
    };
    let second = format!("second.{ns}.svc.cluster.local");
    let to_second = format!("{{route: [{{destination: {{host: {second}}}}}]}}");
    let by_header = format!(
        "{{match: [{{headers: {{x-to: {{exact: second}}}}}}], route: [{{destination: {{host: {second}}}}}],
           mirror: {{host: mirror.{ns}.svc.cluster.local}}}}, {{route: [{{destination: {{host: first}}}}]}}"
    );
    let weighted = format!(
        "{{route: [{{destination: {{host: first}}, weight: 0}}, {{destination: {{host: {second}}}, weight: 100}}]}}"
    );
    let delegate = format!("{{delegate: {{name: part, namespace: {other}}}}}");
    shop.apply(&virtual_service("by-header", "by-header", &by_header))
        .await?;
    shop.apply(&virtual_service("weighted", "weighted", &weighted))
        .await?;
    shop.apply(&virtual_service("delegates", "delegates", &delegate))
        .await?;
    rules
        .apply(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: part}}, spec: {{http: [{to_second}]}}}}"
        ))
        .await?;
    let full = format!("elsewhere.{ns}.svc.cluster.local");
    rules
        .apply(&virtual_service("elsewhere", &full, &to_second))
        .await?;
    shop.apply(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: gateway-api}, spec: {
           parentRefs: [{group: '', kind: Service, name: gateway-api, port: 80}],
           rules: [{backendRefs: [{name: second, port: 80}]}]}}",
    )
    .await
}

async fn holds_on_the_first_call(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let other = case.namespace(&[]).await?;
    let services = [
        "by-header",
        "weighted",
        "delegates",
        "elsewhere",
        "gateway-api",
    ];
    shop.web("first", &services).await?;
    for app in ["first", "second", "mirror"] {
        shop.web(app, &[app]).await?;
    }
    rules(&shop.ns, &other).await?;
    let first = shop.ns.workload("first").start().await?;
    let second = shop.ns.workload("second").start().await?;
    let mirror = shop.ns.workload("mirror").start().await?;
    let client = shop.client("client").await?;
    let call = |service: &str| Call::new(format!("http1://{service}/")).header("x-to", "second");
    for service in services {
        for round in ["first", "second"] {
            let outcome = client.call(&call(service)).await?;
            let answer = outcome.answer().with_context(|| service.to_owned())?;
            ensure!(
                answer.who.pod == second.name(),
                "the {round} call to {service}: {} answered",
                answer.who.pod
            );
            let seen = caller(&outcome)?;
            ensure!(
                seen == client.spiffe_id(),
                "{service}: the server saw {seen}"
            );
            ensure_clean(&outcome)?;
        }
    }
    until("what was mirrored", LIMIT, || async {
        let seen = mirror.seen().await?.len();
        ensure!(seen == 2, "{seen} of 2 calls were mirrored");
        Ok(())
    })
    .await?;
    // A rule that goes takes its effect along.
    let gone =
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: weighted}}";
    shop.ns.delete(gone).await?;
    until("the rule to be gone", LIMIT, || async {
        let answer = client.get("http1://weighted/").await?;
        ensure!(answer.who.pod == first.name(), "{} answers", answer.who.pod);
        Ok(())
    })
    .await
}
