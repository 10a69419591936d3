//! What changes or vanishes while a service is held, while it is being admitted, and after.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::{try_join, try_join_all};
use mesh_tests::app::Outcome;
use mesh_tests::testbed::{Call, Case, Pod, Test, until};

use crate::steps::{NO_HOLD, NOWHERE, SOON, Shop, Steady, answers_at_once, fails_at_once};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "changes::endpoints_move_while_held",
            endpoints_move_while_held,
        ),
        Test::new(
            "changes::endpoints_move_under_traffic",
            endpoints_move_under_traffic,
        ),
        Test::new(
            "changes::the_last_endpoint_goes_and_another_comes",
            the_last_endpoint_goes_and_another_comes,
        ),
        Test::new(
            "changes::a_destination_rule_comes_while_held",
            a_destination_rule_comes_while_held,
        ),
        Test::new(
            "changes::destination_rules_change_under_traffic",
            destination_rules_change_under_traffic,
        ),
        Test::new(
            "changes::a_destination_rule_comes_with_the_first_call",
            a_destination_rule_comes_with_the_first_call,
        ),
        Test::new("changes::a_service_vanishes_while_held", |case| {
            a_service_vanishes(case, false)
        }),
        Test::new("changes::a_service_vanishes_after_it_was_learned", |case| {
            a_service_vanishes(case, true)
        }),
        Test::new(
            "changes::a_service_comes_after_it_was_asked_for",
            a_service_comes_after_it_was_asked_for,
        ),
    ]
}

/// A pod with its config straight from istiod, to tell when a change is there and what plain Istio answers.
async fn witness(shop: &Shop) -> Result<Pod> {
    shop.ns.workload("witness").no_app().start().await
}

/// Waits until calls of the pod are answered by `server` alone.
async fn reaches_only(pod: &Pod, url: &str, server: &Pod) -> Result<()> {
    until("the other pod alone to answer", SOON, || async {
        for outcome in pod.calls(&Call::new(url).count(6)).await? {
            let who = &outcome.answer()?.who.pod;
            ensure!(who == server.name(), "{who} answers still");
        }
        Ok(())
    })
    .await
}

async fn endpoints_move_while_held(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let client = shop.client().await?;
    let witness = witness(&shop).await?;
    let new = shop.ns.workload("server").start().await?;
    shop.server.delete().await?;
    reaches_only(&witness, "http1://server/", &new).await?;
    for url in ["http1://server/", "tcp-server-first://server:9001"] {
        let first = client.get(url).await?;
        ensure!(
            first.who.pod == new.name(),
            "{url}: {} answered",
            first.who.pod
        );
    }
    Ok(())
}

async fn endpoints_move_under_traffic(case: Case) -> Result<()> {
    const URLS: [&str; 3] = [
        "http1://server/",
        "grpc://server:7070",
        "tcp-server-first://server:9001",
    ];
    let shop = Shop::open(&case).await?;
    let client = shop.client().await?;
    let traffic = Steady::start(&client, &URLS).await?;
    let new = shop.ns.workload("server").start().await?;
    shop.server.set_ready(false).await?;
    for url in URLS {
        reaches_only(&client, url, &new).await?;
    }
    shop.server.delete().await?;
    traffic.goes_on().await?;
    traffic.stop().await
}

async fn the_last_endpoint_goes_and_another_comes(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let client = shop.client().await?;
    client.get("http1://server/").await?;
    shop.server.set_ready(false).await?;
    until("calls to fail", SOON, || {
        fails_at_once(&client, "http1://server/")
    })
    .await?;
    // Asked for while it has no endpoints: no reason to wait either.
    fails_at_once(&client, "http2://server:8082/").await?;
    shop.server.set_ready(true).await?;
    for url in ["http1://server/", "http2://server:8082/"] {
        until("calls to succeed", SOON, || answers_at_once(&client, url)).await?;
    }
    Ok(())
}

/// Two versions of the server, told apart by a DestinationRule, and a route that chooses by header.
const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server}
spec: {host: server, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server}
spec:
  hosts: [server]
  http:
  - {match: [{headers: {to: {exact: v1}}}], route: [{destination: {host: server, subset: v1}}]}
  - {match: [{headers: {to: {exact: v2}}}], route: [{destination: {host: server, subset: v2}}]}
  - {route: [{destination: {host: server}}]}
";

async fn version_answers(pod: &Pod, version: &str) -> Result<Outcome> {
    let outcome = pod
        .call(&Call::new("http1://server/").header("to", version))
        .await?;
    let answered = outcome.answer()?.who.version.clone();
    ensure!(
        answered.as_deref() == Some(version),
        "{answered:?} answered"
    );
    Ok(outcome)
}

async fn versions(shop: &Shop) -> Result<()> {
    let start = |version: &'static str| {
        let workload = shop.ns.workload("server").label("version", version);
        async move { workload.start().await }
    };
    try_join(start("v1"), start("v2")).await?;
    Ok(())
}

async fn a_destination_rule_comes_while_held(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    versions(&shop).await?;
    let client = shop.client().await?;
    let witness = witness(&shop).await?;
    shop.ns.apply(SUBSETS).await?;
    until("the rule to be in force", SOON, || {
        version_answers(&witness, "v2")
    })
    .await?;
    // The client's routes come a moment later or sooner than the witness's: until then it has no reason to ask.
    for version in ["v2", "v1", "v2"] {
        let outcome = until("the rule to be in force", SOON, || {
            version_answers(&client, version)
        })
        .await?;
        ensure!(
            outcome.latency_ms < 1000.0 * NO_HOLD.as_secs_f64(),
            "{outcome:?}"
        );
    }
    Ok(())
}

async fn destination_rules_change_under_traffic(case: Case) -> Result<()> {
    const URLS: [&str; 3] = [
        "http1://server/",
        "grpc-chat://server:7070",
        "tcp-server-first://server:9001",
    ];
    let shop = Shop::open(&case).await?;
    // Plain text must be an answer too: it shows which rule is in force.
    shop.ns
        .apply("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict}, spec: {mtls: {mode: PERMISSIVE}}}")
        .await?;
    versions(&shop).await?;
    let client = shop.client().await?;
    let traffic = Steady::start(&client, &URLS).await?;
    let rule = |policy: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: server}}, spec: {{host: server, trafficPolicy: {policy}}}}}"
        )
    };
    let caller_is = |wanted: Option<String>| {
        let client = &client;
        async move {
            let caller = answers_at_once(client, "http1://server/")
                .await?
                .answer()?
                .saw
                .caller
                .clone();
            ensure!(caller == wanted, "the server saw {caller:?}");
            Ok(())
        }
    };
    for round in 1..=3 {
        // Over TCP a server that admits both waits for the client to speak first: plain text on one port only.
        let plain = rule(&format!(
            "{{connectionPool: {{tcp: {{maxConnections: {round}00}}}},
               portLevelSettings: [{{port: {{number: 80}}, tls: {{mode: DISABLE}}}}]}}"
        ));
        shop.ns.apply(&plain).await?;
        until("plain text", SOON, || caller_is(None)).await?;
        traffic.goes_on().await?;
        shop.ns
            .apply(&rule("{loadBalancer: {simple: ROUND_ROBIN}}"))
            .await?;
        until("mTLS", SOON, || caller_is(Some(client.spiffe_id()))).await?;
        traffic.goes_on().await?;
    }
    shop.ns.apply(SUBSETS).await?;
    for version in ["v2", "v1"] {
        until("subsets", SOON, || version_answers(&client, version)).await?;
    }
    traffic.goes_on().await?;
    traffic.stop().await
}

/// Many times, because it is a race: each call is on its way while the rule for its service is.
async fn a_destination_rule_comes_with_the_first_call(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let names: Vec<_> = (0..24).map(|number| format!("s{number}")).collect();
    let services: Vec<_> = names.iter().map(String::as_str).collect();
    shop.more_services(&services).await?;
    let client = shop.client().await?;
    let rule = |name: &str| {
        format!("{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}}}, spec: {{host: {name},
            trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 77}}}}}}}}}}")
    };
    for pair in names.chunks(4) {
        let both = pair.iter().map(|name| {
            let (client, ns, rule) = (&client, &shop.ns, rule(name));
            async move {
                let (http, tcp) = (format!("http1://{name}/"), format!("tcp://{name}:9000"));
                let call = async { try_join(client.get(&http), client.get(&tcp)).await };
                try_join(ns.apply(&rule), call).await
            }
        });
        try_join_all(both).await?;
    }
    for name in &names {
        answers_at_once(&client, &format!("http1://{name}/")).await?;
        answers_at_once(&client, &format!("tcp://{name}:9000")).await?;
    }
    // The rules are in force, on what was admitted before them and after.
    until("the rules to be in force", SOON, || async {
        let config = client
            .envoy()
            .await?
            .get("/config_dump?resource=dynamic_active_clusters")
            .await?;
        let changed = config.matches("\"max_connections\": 77").count();
        ensure!(
            changed >= 2 * names.len(),
            "{changed} clusters have their rule"
        );
        Ok(())
    })
    .await
}

/// The listeners of a dump that take connections; those that are being drained are in it as well.
fn active(listeners: &str) -> Result<String> {
    let dump: serde_json::Value = serde_json::from_str(listeners)?;
    let configs = dump["configs"].as_array().into_iter().flatten();
    Ok(configs
        .map(|config| config["active_state"].to_string())
        .collect())
}

async fn a_service_vanishes(case: Case, learned: bool) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.more_services(&["gone"]).await?;
    let client = shop.client().await?;
    let witness = witness(&shop).await?;
    let address = case.mesh.cluster().resolve(shop.ns.name(), "gone").await;
    let address = address.ok_or_else(|| anyhow::anyhow!("a service without an address"))?;
    let urls = ["http1://gone/", "grpc://gone:7070", "tcp://gone:9000"];
    for url in urls {
        witness.get(url).await?;
        if learned {
            client.get(url).await?;
        }
    }
    shop.ns
        .delete("{apiVersion: v1, kind: Service, metadata: {name: gone}}")
        .await?;
    for pod in [&client, &witness] {
        let envoy = pod.envoy().await?;
        until("the service to be gone", SOON, || async {
            let name = format!("||gone.{}.svc.cluster.local", shop.ns.name());
            let routes = envoy
                .get("/config_dump?resource=dynamic_route_configs")
                .await?;
            ensure!(
                !routes.contains(&name),
                "{} has its routes still",
                pod.name()
            );
            let listeners = envoy.get("/config_dump?resource=dynamic_listeners").await?;
            ensure!(
                !active(&listeners)?.contains(&name),
                "{} has its listeners still",
                pod.name()
            );
            Ok(())
        })
        .await?;
    }
    for round in ["first", "second"] {
        for url in urls {
            let probe = Call::new(url).to(address).timeout(Duration::from_secs(3));
            let (plain, lazy) = try_join(witness.call(&probe), client.call(&probe)).await?;
            ensure!(
                plain.status == lazy.status && !plain.is_ok() && !lazy.is_ok(),
                "{round} probe {url}: plain {plain:?}, lazy {lazy:?}"
            );
            let later = lazy.latency_ms - plain.latency_ms;
            ensure!(
                later < 1000.0,
                "{round} probe {url}: {later} ms later than plain Istio"
            );
        }
    }
    // And it comes back.
    shop.more_services(&["gone"]).await?;
    for url in urls {
        until("the service to be back", SOON, || {
            answers_at_once(&client, url)
        })
        .await?;
    }
    Ok(())
}

async fn a_service_comes_after_it_was_asked_for(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.route_to_nowhere().await?;
    let client = shop.client().await?;
    let witness = witness(&shop).await?;
    for round in 0..2 {
        // The client's first call of all asks for it.
        for _ in 0..3 {
            fails_at_once(&client, NOWHERE).await?;
        }
        fails_at_once(&witness, NOWHERE).await?;
        shop.more_services(&["nowhere"]).await?;
        until("plain Istio to reach it", SOON, || {
            answers_at_once(&witness, NOWHERE)
        })
        .await?;
        until("the service to be reached", SOON, || {
            answers_at_once(&client, NOWHERE)
        })
        .await?;
        answers_at_once(&client, NOWHERE).await?;
        if round == 0 {
            shop.ns
                .delete("{apiVersion: v1, kind: Service, metadata: {name: nowhere}}")
                .await?;
            until("it to fail", SOON, || fails_at_once(&client, NOWHERE)).await?;
            until("plain Istio to fail", SOON, || {
                fails_at_once(&witness, NOWHERE)
            })
            .await?;
        }
    }
    Ok(())
}
