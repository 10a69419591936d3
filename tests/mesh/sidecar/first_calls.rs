//! First calls, over every protocol: answered as plain Istio answers them, and by the caller's own identity wherever its
//! Envoy can follow a redirect.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, IstiodOptions, Test, until};

use super::{LIMIT, Shop, caller, ensure_clean, record_of, wait_direct};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sidecar::first_calls_of_every_protocol", of_every_protocol),
        Test::new(
            "sidecar::first_calls_where_no_listener_is",
            where_no_listener_is,
        ),
        Test::new("sidecar::first_calls_of_http10", of_http10),
    ]
}

/// Who the server sees on the first call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    /// The caller itself.
    Caller,
    /// The global proxy: the request cannot be sent twice.
    GlobalProxy,
    /// Either, as the time it takes to send it has it.
    Either,
}

struct Way {
    service: &'static str,
    port: (&'static str, u16, u16),
    call: Call,
    seen: Seen,
}

fn way(service: &'static str, port: (&'static str, u16, u16), call: Call, seen: Seen) -> Way {
    Way {
        service,
        port,
        call,
        seen,
    }
}

/// Each service is called once in only one way, on a port that has a listener: the global proxy's own.
fn ways() -> Vec<Way> {
    use Seen::{Caller, Either, GlobalProxy};
    let (http, http2, grpc) = (("http", 80, 8080), ("http2", 80, 8082), ("grpc", 80, 7070));
    let post = |url: &str, bytes| Call::new(url).method("POST").body_bytes(bytes);
    let forged = Call::new("http1://get/hello?a=b%20c")
        .header("x-lazymesh-tries", "5")
        .header("x-lazymesh-pod", "forged");
    vec![
        way("get", http, forged, Caller),
        way("post", http, post("http1://post/", 50_000), Caller),
        way(
            "upload",
            http,
            post("http1://upload/", 2_000_000),
            GlobalProxy,
        ),
        way(
            "events",
            http,
            Call::new("http1://events/?events=3&every_ms=300"),
            Caller,
        ),
        way("socket", http, Call::new("ws://socket/"), GlobalProxy),
        way("get2", http2, Call::new("http2://get2/"), Caller),
        way("post2", http2, post("http2://post2/", 50_000), Caller),
        way(
            "unary",
            grpc,
            Call::new("grpc://unary:80").body_bytes(900),
            Caller,
        ),
        way("stream", grpc, Call::new("grpc-stream://stream:80"), Caller),
        way("chat", grpc, Call::new("grpc-chat://chat:80"), Either),
        // Only the caller may: the global proxy would be refused.
        way(
            "guarded-get",
            http,
            Call::new("http1://guarded-get/"),
            Caller,
        ),
        way(
            "guarded-post",
            http,
            post("http1://guarded-post/", 9_000),
            Caller,
        ),
        way(
            "guarded-unary",
            grpc,
            Call::new("grpc://guarded-unary:80"),
            Caller,
        ),
    ]
}

async fn of_every_protocol(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let principal = format!("cluster.local/ns/{}/sa/client", shop.ns.name());
    shop.ns
        .apply(&format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: guarded}}, spec: {{
               selector: {{matchLabels: {{app: guarded}}}}, action: ALLOW,
               rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]}}}}"
        ))
        .await?;
    let ways = ways();
    for way in &ways {
        let guarded = way.service.starts_with("guarded");
        let app = if guarded { "guarded" } else { "server" };
        shop.service(app, way.service, way.port).await?;
    }
    for app in ["server", "guarded"] {
        shop.ns.workload(app).start().await?;
    }
    let client = shop.client("client").await?;
    for way in &ways {
        let outcome = client.call(&way.call).await?;
        let seen = caller(&outcome).with_context(|| way.service)?;
        ensure_clean(&outcome).with_context(|| way.service)?;
        let may = match way.seen {
            Seen::Caller => seen == client.spiffe_id(),
            Seen::GlobalProxy => seen == shop.relayed(),
            Seen::Either => seen == client.spiffe_id() || seen == shop.relayed(),
        };
        ensure!(may, "{}: the server saw {seen}", way.service);
        if way.service == "events" {
            let first = outcome.first_byte_ms.context("no event")?;
            ensure!(
                outcome.answers.len() == 3 && outcome.latency_ms - first >= 500.0,
                "the events came together: {outcome:?}"
            );
        }
    }
    for way in &ways {
        wait_direct(&client, &way.call)
            .await
            .with_context(|| way.service)?;
    }
    let arrived = shop.arrived().await?;
    for way in &ways {
        client.call(&way.call).await?.answer()?;
    }
    ensure!(
        shop.arrived().await? <= arrived,
        "what is learned comes by the global proxy"
    );
    let record = record_of(&shop.ns, "client").await?.data.to_string();
    for way in &ways {
        let host = format!("\"{}.{}.svc.cluster.local\"", way.service, shop.ns.name());
        ensure!(record.contains(&host), "{host} is not in {record}");
    }
    Ok(())
}

/// Ports on which no service that the sidecar has listens: calls come by the tunnel. The first is carried under the global
/// proxy's identity; then the connection is told to close, and the next one is the caller's own.
async fn where_no_listener_is(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    // A service each: a sidecar that has one has all of its ports.
    shop.service("server", "web", ("http2", 8082, 8082)).await?;
    shop.service("server", "chat", ("grpc", 7070, 7070)).await?;
    // A port of no said protocol is looked at by the caller's Envoy, once it has the service.
    shop.service("server", "sniffed", ("web", 8090, 8080))
        .await?;
    shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    let calls = [
        Call::new("http2://web:8082/"),
        Call::new("grpc-chat://chat:7070"),
    ];
    for call in &calls {
        let outcome = client.call(call).await?;
        let seen = caller(&outcome)?;
        ensure_clean(&outcome)?;
        ensure!(seen == shop.relayed(), "the server saw {seen}");
        // One connection for all calls: it must be told to close, or it would stay.
        let kept = call.clone().reuse().rate(20.0);
        let traffic = client.traffic(&kept).await?;
        wait_direct(&client, call).await?;
        until("the connection to be given up", LIMIT, || async {
            let last = traffic.last().context("no call")?;
            ensure!(caller(&last)? == client.spiffe_id(), "it is kept");
            Ok(())
        })
        .await?;
        traffic.stop().await?.expect_no_failure()?;
    }
    // Over a sniffed port a server of this testbed is told of no caller: upstream Envoy has no istio.alpn.
    let sniffed = "http1://sniffed:8090/";
    client.get(sniffed).await?;
    until("calls to the sniffed port to go direct", LIMIT, || async {
        let before = shop.arrived().await?;
        client.get(sniffed).await?;
        ensure!(shop.arrived().await? <= before, "they come by the tunnel");
        Ok(())
    })
    .await
}

/// HTTP/1.0, where the mesh lets it in; else Envoy's listeners pass it through as they do what is no HTTP.
async fn of_http10(case: Case) -> Result<()> {
    let options = IstiodOptions {
        env: vec![("PILOT_HTTP10".to_owned(), "1".to_owned())],
        ..IstiodOptions::default()
    };
    case.mesh.restart_istiod_with(&options).await?;
    let result = http10(&case).await;
    case.mesh.restart_istiod().await?;
    result
}

async fn http10(case: &Case) -> Result<()> {
    let shop = Shop::open(case).await?;
    shop.web("server", &["get", "post"]).await?;
    shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    for call in [
        Call::new("http10://get/"),
        Call::new("http10://post/").method("POST").body_bytes(5_000),
    ] {
        for round in ["first", "second"] {
            let outcome = client.call(&call).await?;
            let seen = caller(&outcome).context(round)?;
            ensure!(seen == client.spiffe_id(), "the server saw {seen}");
            ensure_clean(&outcome)?;
        }
    }
    Ok(())
}
