//! First calls: held in the caller's own Envoy, then direct, with the caller's own identity.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Replica, Shims, Test};
use std::time::Duration;

use crate::plain::EVERY_PROTOCOL;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("on_demand::every_protocol", every_protocol),
        Test::new(
            "on_demand::a_policy_knows_the_first_caller",
            a_policy_knows_the_first_caller,
        ),
        Test::new(
            "on_demand::a_first_call_with_a_large_body",
            a_first_call_with_a_large_body,
        ),
        Test::new(
            "on_demand::many_first_calls_make_one_admission",
            many_first_calls,
        ),
        Test::new(
            "on_demand::what_is_nobodys_passes_at_once",
            what_is_nobodys_passes_at_once,
        ),
        Test::new("on_demand::a_headless_service", a_headless_service),
    ]
}

/// A namespace under STRICT mTLS whose sidecars are on demand.
pub(crate) struct Shop {
    pub(crate) ns: Namespace,
    pub(crate) shims: Shims,
    pub(crate) shim: Replica,
}

impl Shop {
    pub(crate) async fn open(case: &Case) -> Result<Self> {
        let ns = case.namespace(&[]).await?;
        ns.strict_mtls().await?;
        let shims = ns.shims().await?;
        let shim = shims.start(&["--default-mode=on-demand"]).await?;
        Ok(Self { ns, shims, shim })
    }

    /// A pod that only calls, with a lazy sidecar.
    pub(crate) async fn client(&self, name: &str) -> Result<Pod> {
        self.ns
            .workload(name)
            .no_app()
            .via(&self.shims)
            .start()
            .await
    }

    /// How many services were asked for on demand.
    pub(crate) async fn asks(&self) -> Result<f64> {
        self.shim.metric("lazymesh_shim_asks_total", "").await
    }
}

/// Fails unless the pod's Envoy holds no cluster of this service.
pub(crate) async fn ensure_held(pod: &Pod, service: &str) -> Result<()> {
    let clusters = pod.envoy().await?.dynamic_clusters().await?;
    let of_service: Vec<_> = clusters
        .iter()
        .filter(|c| c.contains(&format!("|{service}.")))
        .collect();
    ensure!(
        of_service.is_empty(),
        "{service} is there before the first call: {of_service:?}"
    );
    Ok(())
}

async fn every_protocol(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let server = shop.ns.server("server").await?;
    // Each protocol has a port of its own, so that every call here is a first one; and a pod of a
    // workload of its own, where two protocols share a port.
    for (index, (url, tells)) in EVERY_PROTOCOL.into_iter().enumerate() {
        let client = shop.client(&format!("client-{index}")).await?;
        ensure_held(&client, "server").await?;
        for round in ["first", "second"] {
            let answer = client
                .get(url)
                .await
                .with_context(|| format!("{round} call"))?;
            ensure!(
                answer.who.pod == server.name(),
                "{url}: {} answered",
                answer.who.pod
            );
            ensure!(
                !tells || answer.saw.caller == Some(client.spiffe_id()),
                "{url}, {round} call: the server saw {:?}",
                answer.saw.caller
            );
        }
    }
    Ok(())
}

async fn a_policy_knows_the_first_caller(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let friend = shop.client("friend").await?;
    let stranger = shop.client("stranger").await?;
    let principal = friend.spiffe_id().replace("spiffe://", "");
    shop.ns
        .apply(&format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: friends}}, \
             spec: {{selector: {{matchLabels: {{app: server}}}}, action: ALLOW, \
             rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]}}}}"
        ))
        .await?;
    // The policy is there once a third party is refused, which asks the server itself.
    let probe = shop.ns.workload("probe").no_app().start().await?;
    mesh_tests::testbed::until("the policy", Duration::from_secs(10), || async {
        let outcome = probe.call(&Call::new("http1://server/")).await?;
        ensure!(
            outcome.status == Some(403),
            "the answer is {:?}",
            outcome.status
        );
        Ok(())
    })
    .await?;
    for url in ["http1://server/", "grpc://server:7070", "tcp://server:9000"] {
        ensure_asks(&shop, &friend, url, true).await?;
        ensure_asks(&shop, &stranger, url, false).await?;
    }
    Ok(())
}

/// A first call that must succeed, or must not.
async fn ensure_asks(shop: &Shop, pod: &Pod, url: &str, succeeds: bool) -> Result<()> {
    let before = shop.asks().await?;
    let outcome = pod.call(&Call::new(url)).await?;
    ensure!(
        outcome.is_ok() == succeeds,
        "{} calls {url}: {:?} {:?}",
        pod.name(),
        outcome.status,
        outcome.error
    );
    ensure!(shop.asks().await? > before, "{url} was not asked for");
    Ok(())
}

async fn a_first_call_with_a_large_body(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    for (index, (url, _)) in EVERY_PROTOCOL.into_iter().enumerate() {
        let client = shop.client(&format!("client-{index}")).await?;
        let method = if url.starts_with("ws") { "GET" } else { "POST" };
        let call = Call::new(url).method(method).body_bytes(5 << 20);
        client
            .call(&call)
            .await?
            .answer()
            .with_context(|| url.to_owned())?;
    }
    Ok(())
}

async fn many_first_calls(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns.server("server").await?;
    let client = shop.client("client").await?;
    for url in ["http1://server/", "tcp://server:9000"] {
        let before = shop.asks().await?;
        let outcomes = client
            .calls(&Call::new(url).count(50).concurrency(50))
            .await?;
        ensure!(outcomes.len() == 50, "{} calls were made", outcomes.len());
        for outcome in &outcomes {
            outcome.answer()?;
        }
        let asked = shop.asks().await? - before;
        ensure!(
            (asked - 1.0).abs() < f64::EPSILON,
            "{url}: {asked} admissions"
        );
    }
    Ok(())
}

/// Plain Istio passes on what is in no registry (ALLOW_ANY); a lazy sidecar does the same, unheld.
async fn what_is_nobodys_passes_at_once(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let outside = shop.ns.workload("outside").no_sidecar().start().await?;
    let client = shop.client("client").await?;
    for url in [
        format!("http1://{}:8080/", outside.address()),
        format!("tcp-server-first://{}:9001", outside.address()),
    ] {
        let outcome = client.call(&Call::new(&url)).await?;
        outcome.answer().with_context(|| url.clone())?;
        ensure!(
            outcome.latency_ms < 1000.0,
            "{url} took {} ms",
            outcome.latency_ms
        );
    }
    ensure!(shop.asks().await? < 0.5, "something was asked for");
    Ok(())
}

async fn a_headless_service(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let service = shop.ns.service("server").headless();
    service
        .port("http", 8080, 8080)
        .port("tcp", 9000, 9000)
        .create()
        .await?;
    let server = shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    ensure_held(&client, "server").await?;
    for url in ["http1://server:8080/", "tcp://server:9000"] {
        let call = Call::new(url).to(server.address());
        let outcome = client.call(&call).await?;
        let answer = outcome.answer().with_context(|| url.to_owned())?;
        ensure!(
            answer.who.pod == server.name(),
            "{} answered",
            answer.who.pod
        );
    }
    Ok(())
}
