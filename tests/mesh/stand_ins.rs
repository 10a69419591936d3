//! Virtual hosts and listeners that are held: nobody can tell, whatever a request's host is written like.

use anyhow::{Context, Result, ensure};
use mesh_tests::app::Outcome;
use mesh_tests::testbed::{AppPorts, Call, Case, Pod, Test, until};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::on_demand::Shop;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("stand_ins::held_until_called", held_until_called),
        Test::new("stand_ins::every_form_of_a_name", every_form),
        Test::new(
            "stand_ins::every_form_of_a_name_where_all_else_is_blocked",
            every_form_blocked,
        ),
        Test::new("stand_ins::names_that_are_nobodys", nobodys),
        Test::new(
            "stand_ins::a_first_call_outlives_its_copy",
            outlives_its_copy,
        ),
        Test::new("stand_ins::services_come_and_go", services_come_and_go),
        Test::new("stand_ins::connections_are_held", connections_are_held),
        Test::new("stand_ins::sniffed_ports", sniffed_ports),
        Test::new(
            "stand_ins::first_connections_go_on",
            first_connections_go_on,
        ),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);
/// As in the shim: how long a copy stays that nothing leads to, and how often that is looked at.
const COPY_STAYS: Duration = Duration::from_secs(20 + 5);

/// The virtual hosts of a pod's route configuration by name, with their domains.
async fn virtual_hosts(pod: &Pod, routes: &str) -> Result<Vec<(String, Vec<String>)>> {
    let dump = pod.envoy().await?.config_dump().await?;
    let configs = dump["configs"].as_array().context("no configs")?;
    let routes = configs
        .iter()
        .filter_map(|c| c["dynamic_route_configs"].as_array())
        .flatten()
        .map(|c| &c["route_config"])
        .find(|c| c["name"] == routes)
        .with_context(|| format!("no route configuration {routes}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let hosts = routes["virtual_hosts"]
        .as_array()
        .context("no virtual hosts")?;
    let of = |host: &Value| {
        let domains = host["domains"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        (text(&host["name"]), domains)
    };
    Ok(hosts.iter().map(of).collect())
}

async fn has_own_host(pod: &Pod, service: &str) -> Result<bool> {
    let hosts = virtual_hosts(pod, "80").await?;
    Ok(hosts
        .iter()
        .any(|(name, _)| name.starts_with(&format!("{service}."))))
}

/// Services `service0`, ... on port 80, and a pod behind all of them.
async fn services(shop: &Shop, count: usize) -> Result<Pod> {
    for number in 0..count {
        let service = shop
            .ns
            .service(&format!("service{number}"))
            .port("http", 80, 80);
        service.selector(&[("app", "server")]).create().await?;
    }
    shop.ns.workload("server").app(on_80()).start().await
}

/// A pod outside the mesh that answers on port 80.
async fn outside(shop: &Shop) -> Result<Pod> {
    let pod = shop.ns.workload("outside").no_sidecar();
    pod.app(on_80()).start().await
}

fn on_80() -> AppPorts {
    AppPorts {
        http: vec![80],
        tcp: Vec::new(),
        tcp_server_first: Vec::new(),
        tls: Vec::new(),
    }
}

async fn address(shop: &Shop, service: &str) -> Result<Ipv4Addr> {
    let found = shop
        .ns
        .mesh()
        .cluster()
        .resolve(shop.ns.name(), service)
        .await;
    found.with_context(|| format!("no service {service}"))
}

async fn held_until_called(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    services(&shop, 3).await?;
    let client = shop.client("client").await?;
    let hosts = virtual_hosts(&client, "80").await?;
    ensure!(hosts.iter().any(|(name, _)| name == "lazy|0"), "{hosts:?}");
    ensure!(!has_own_host(&client, "service0").await?, "{hosts:?}");
    // What an application sends in our header means nothing, and no server sees ours.
    let call = Call::new("http1://service0/").header("x-lazymesh-cluster", "lazy|80|service1");
    for _ in 0..2 {
        let answer = client.call(&call).await?.answer()?.clone();
        ensure!(answer.saw.host == "service0", "{answer:?}");
        ensure!(
            !answer.saw.headers.contains_key("x-lazymesh-cluster"),
            "{answer:?}"
        );
        ensure!(answer.saw.caller == Some(client.spiffe_id()), "{answer:?}");
    }
    until("the service's own virtual host", LIMIT, || async {
        ensure!(has_own_host(&client, "service0").await?);
        Ok(())
    })
    .await?;
    ensure!(!has_own_host(&client, "service1").await?);
    // A second pod of the workload has it from the start.
    let other = shop.client("client").await?;
    ensure!(has_own_host(&other, "service0").await?);
    ensure!(!has_own_host(&other, "service1").await?);
    Ok(())
}

/// Ways to write a host of a service `S` in namespace `N`, for a request to its address.
const FORMS: [&str; 12] = [
    "S",
    "S.N",
    "S.N.svc",
    "S.N.svc.cluster.local",
    "S.N.svc.cluster.local.",
    "S:80",
    "S.N:81",
    "S.N.svc.cluster.local:80",
    "S.N.svc.CLUSTER.LOCAL",
    "A",
    "A:80",
    "below.S.N.svc.cluster.local",
];

/// Hosts that are no service's, for a request to a pod outside the mesh.
const STRANGE: [&str; 8] = [
    "nobody",
    "nobody.N",
    "nobody.N.svc",
    "NOBODY.N.svc.cluster.local:80",
    "www.example.com",
    "api.example.org",
    "x.wild.example.org",
    "A",
];

async fn every_form(case: Case) -> Result<()> {
    compare(&Shop::open(&case).await?).await
}

async fn every_form_blocked(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.ns
        .apply(
            "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default}, spec: {
               egress: [{hosts: [\"*/*\"]}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}",
        )
        .await?;
    compare(&shop).await
}

/// What must be the same: the status, who answered and what it saw, or what was said instead.
fn what(outcome: &Outcome) -> (Option<u16>, Option<[String; 4]>, Option<String>) {
    let answer = outcome.answers.first().map(|answer| {
        let (who, saw) = (&answer.who, &answer.saw);
        let caller = saw.caller.clone().unwrap_or_default();
        [who.pod.clone(), saw.host.clone(), saw.path.clone(), caller]
    });
    (outcome.status, answer, outcome.body.clone())
}

async fn compare(shop: &Shop) -> Result<()> {
    let server = services(shop, FORMS.len()).await?;
    let outside = outside(shop).await?;
    for (name, hosts, resolution) in [
        ("api", "api.example.org", "STATIC"),
        ("wild", "\"*.wild.example.org\"", "NONE"),
    ] {
        let endpoints = match resolution {
            "STATIC" => format!("endpoints: [{{address: {}}}],", outside.address()),
            _ => String::new(),
        };
        shop.ns
            .apply(&format!(
                "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}}}, spec: {{
                   hosts: [{hosts}], location: MESH_EXTERNAL, resolution: {resolution}, {endpoints}
                   ports: [{{number: 80, name: http, protocol: HTTP}}]}}}}"
            ))
            .await?;
    }
    let plain = shop.ns.workload("plain").no_app().service_account("client");
    let plain = plain.start().await?;
    let lazy = shop.ns.workload("lazy").no_app().service_account("client");
    let lazy = lazy.via(&shop.shims).start().await?;
    let ns = shop.ns.name();
    let mut targets = Vec::new();
    for (number, form) in FORMS.into_iter().enumerate() {
        // A service of its own for each, so that each is called for the first time.
        let service = format!("service{number}");
        let to = address(shop, &service).await?;
        let host = form
            .replace('S', &service)
            .replace('N', ns)
            .replace('A', &to.to_string());
        targets.push((host, to));
    }
    for form in STRANGE {
        let to = outside.address();
        let host = form.replace('N', ns).replace('A', &to.to_string());
        targets.push((host.replace("nsOBODY", "NOBODY"), to));
    }
    for (host, to) in &targets {
        // HTTP/2 as well, and with a body: Envoy holds a request of each kind in its own way.
        for (protocol, body) in [("http1", 0), ("http2", 0), ("http1", 2000)] {
            let method = if body > 0 { "POST" } else { "GET" };
            let call = Call::new(format!("{protocol}://{host}/a?b=c")).to(*to);
            let call = call.method(method).body_bytes(body);
            let expected = what(&plain.call(&call).await?);
            for round in ["first", "second"] {
                let got = what(&lazy.call(&call).await?);
                ensure!(
                    got == expected,
                    "the {round} {protocol} call to {host}: {got:?}, but a plain pod has {expected:?}"
                );
            }
        }
    }
    ensure!(shop.asks().await? >= 5.0, "hardly anything was held");
    drop(server);
    Ok(())
}

/// However many names are made up, each is passed on as plain Istio does, and services are found after.
async fn nobodys(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let server = services(&shop, 4).await?;
    let outside = outside(&shop).await?;
    let client = shop.client("client").await?;
    let ns = shop.ns.name().to_owned();
    for number in 0..80 {
        let call = Call::new(format!("http1://made-up-{number}.{ns}/")).to(outside.address());
        for round in ["first", "second"] {
            let outcome = client.call(&call).await?;
            let answer = outcome
                .answer()
                .with_context(|| format!("{round} call to {number}"))?;
            ensure!(answer.who.pod == outside.name(), "{answer:?}");
        }
        let wildcards = |hosts: Vec<(String, Vec<String>)>| {
            hosts
                .iter()
                .any(|(_, domains)| domains.contains(&format!("*.{ns}")))
        };
        if number == 0 {
            ensure!(
                wildcards(virtual_hosts(&client, "80").await?),
                "no wildcards"
            );
        }
        if number == 79 {
            ensure!(
                !wildcards(virtual_hosts(&client, "80").await?),
                "wildcards without end"
            );
        }
    }
    for host in ["service0", "service1.N", "service2.N.svc.cluster.local"] {
        let host = host.replace('N', &ns);
        let answer = client.get(&format!("http1://{host}/")).await?;
        ensure!(answer.who.pod == server.name(), "{answer:?}");
        ensure!(answer.saw.caller == Some(client.spiffe_id()), "{answer:?}");
    }
    // A server that answers 503 is asked once, as without us; the route of a service would try again.
    let call = Call::new(format!("http1://late.{ns}/?fail=1&fail_key={ns}")).to(outside.address());
    let fresh = shop.client("fresh").await?;
    let outcome = fresh.call(&call).await?;
    ensure!(outcome.status == Some(503), "{outcome:?}");
    Ok(())
}

/// The copy that a first call runs on goes; the call does not.
async fn outlives_its_copy(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    services(&shop, 2).await?;
    let client = shop.client("client").await?;
    let copies = async || {
        let clusters = client.envoy().await?.dynamic_clusters().await?;
        anyhow::Ok(clusters.iter().filter(|c| c.starts_with("lazy|")).count())
    };
    let long = Call::new("http1://service0/?delay_ms=35000").timeout(Duration::from_secs(60));
    let call = client.call(&long);
    let watch = async {
        until("the copy", LIMIT, || async {
            ensure!(copies().await? == 1, "{} copies", copies().await?);
            Ok(())
        })
        .await?;
        until("the copy to go", COPY_STAYS + LIMIT, || async {
            ensure!(copies().await? == 0, "{} copies", copies().await?);
            Ok(())
        })
        .await
    };
    let (outcome, watched) = tokio::join!(call, watch);
    watched?;
    let outcome = outcome?;
    outcome.answer().context("the call that was under way")?;
    ensure!(
        outcome.latency_ms > 34_000.0,
        "it was over before: {} ms",
        outcome.latency_ms
    );
    client.get("http1://service0/").await?;
    Ok(())
}

/// A name that was nobody's becomes a service's, and the other way round.
async fn services_come_and_go(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let server = services(&shop, 3).await?;
    let outside = outside(&shop).await?;
    let client = shop.client("client").await?;
    let ns = shop.ns.name();
    let call = |host: &str| Call::new(format!("http1://{host}.{ns}/")).to(outside.address());
    let who = async |host: &str| {
        let outcome = client.call(&call(host)).await?;
        anyhow::Ok(outcome.answer()?.who.pod.clone())
    };
    ensure!(who("late").await? == outside.name());
    ensure!(who("service0").await? == server.name());
    let late = shop.ns.service("late").port("http", 80, 80);
    late.selector(&[("app", "server")]).create().await?;
    until("the service that came", LIMIT, || async {
        ensure!(who("late").await? == server.name());
        Ok(())
    })
    .await?;
    shop.ns
        .delete("{apiVersion: v1, kind: Service, metadata: {name: service0}}")
        .await?;
    until("the service to be gone", LIMIT, || async {
        ensure!(who("service0").await? == outside.name());
        Ok(())
    })
    .await?;
    ensure!(who("service1").await? == server.name());
    Ok(())
}

/// The listeners a pod's Envoy has for addresses of this service.
async fn listeners_of(shop: &Shop, pod: &Pod, service: &str) -> Result<Vec<String>> {
    let address = address(shop, service).await?;
    let listeners = pod.envoy().await?.dynamic_listeners().await?;
    let of = |name: &String| name.starts_with(&format!("{address}_"));
    Ok(listeners.into_iter().filter(of).collect())
}

/// Services with a TCP port, one where the server speaks first, and one whose protocol is sniffed, which
/// answers HTTP; and a pod behind all of them.
async fn connections(shop: &Shop, count: usize) -> Result<Pod> {
    for number in 0..count {
        let service = shop.ns.service(&format!("service{number}"));
        let service = service
            .port("tcp", 9000, 9000)
            .port("tcp-first", 9001, 9001);
        let service = service.port("sniffed", 8085, 8085).port("odd", 9005, 9005);
        service.selector(&[("app", "server")]).create().await?;
    }
    let ports = AppPorts {
        http: vec![8085],
        tcp: vec![9000, 9005],
        tcp_server_first: vec![9001],
        tls: Vec::new(),
    };
    shop.ns.workload("server").app(ports).start().await
}

async fn connections_are_held(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let server = connections(&shop, 3).await?;
    let plain = shop.ns.workload("plain").no_app().start().await?;
    let client = shop.client("client").await?;
    ensure!(listeners_of(&shop, &plain, "service0").await?.len() == 4);
    ensure!(listeners_of(&shop, &client, "service0").await?.is_empty());
    for (scheme, port) in [
        ("tcp", 9000),
        ("tcp-server-first", 9001),
        ("http1", 8085),
        ("tcp", 9005),
    ] {
        let url = format!("{scheme}://service0:{port}");
        let call = Call::new(&url).body_bytes(100_000).method("POST");
        for round in ["first", "second"] {
            let outcome = client.call(&call).await?;
            let answer = outcome
                .answer()
                .with_context(|| format!("{round} call to {url}"))?;
            ensure!(answer.who.pod == server.name(), "{answer:?}");
            let expected = plain.call(&call).await?;
            same_caller(&plain, &expected, &client, &outcome)?;
        }
        let own = format!("_{port}");
        until("the service's own listener", LIMIT, || async {
            let listeners = listeners_of(&shop, &client, "service0").await?;
            ensure!(listeners.iter().any(|l| l.ends_with(&own)), "{listeners:?}");
            Ok(())
        })
        .await?;
    }
    ensure!(listeners_of(&shop, &client, "service1").await?.is_empty());
    until("copies to go", COPY_STAYS + LIMIT, || async {
        let clusters = client.envoy().await?.dynamic_clusters().await?;
        let copies: Vec<_> = clusters.iter().filter(|c| c.starts_with("lazy")).collect();
        ensure!(copies.is_empty(), "{copies:?}");
        Ok(())
    })
    .await?;
    // As an address that no service has: the connection is closed, or refused, and never held.
    for port in [9000, 8085] {
        let call = Call::new(format!("tcp://{}:{port}", plain.address()));
        let (expected, got) = (plain.call(&call).await?, client.call(&call).await?);
        ensure!(
            expected.is_ok() == got.is_ok(),
            "{got:?}, a plain pod: {expected:?}"
        );
    }
    Ok(())
}

/// A server that sees whose call it was from a plain pod sees it from a lazy one.
fn same_caller(plain: &Pod, expected: &Outcome, lazy: &Pod, got: &Outcome) -> Result<()> {
    let caller = |outcome: &Outcome| anyhow::Ok(outcome.answer()?.saw.caller.clone());
    let knows = caller(expected)? == Some(plain.spiffe_id());
    ensure!(knows || caller(expected)?.is_none(), "{expected:?}");
    ensure!(
        caller(got)? == knows.then(|| lazy.spiffe_id()),
        "{got:?}, a plain pod: {expected:?}"
    );
    Ok(())
}

/// WebSocket, HTTP/2 and HTTP with other services' HTTP on the same port, where the protocol is sniffed.
async fn sniffed_ports(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    for (service, port) in [
        ("auto0", "web"),
        ("auto1", "web"),
        ("auto2", "web"),
        ("named", "http"),
    ] {
        let service = shop.ns.service(service).port(port, 8085, 8085);
        service.selector(&[("app", "server")]).create().await?;
    }
    let ports = AppPorts {
        http: vec![8085],
        tcp: Vec::new(),
        tcp_server_first: Vec::new(),
        tls: Vec::new(),
    };
    let server = shop.ns.workload("server").app(ports).start().await?;
    let plain = shop.ns.workload("plain").no_app().start().await?;
    let client = shop.client("client").await?;
    for (service, scheme) in [
        ("auto0", "http1"),
        ("auto1", "http2"),
        ("auto2", "ws"),
        ("named", "http1"),
    ] {
        let url = format!("{scheme}://{service}:8085/");
        for round in ["first", "second", "third"] {
            let call = Call::new(&url);
            let outcome = client.call(&call).await?;
            let answer = outcome
                .answer()
                .with_context(|| format!("{round} call to {url}"))?;
            ensure!(answer.who.pod == server.name(), "{answer:?}");
            let expected = plain.call(&call).await?;
            same_caller(&plain, &expected, &client, &outcome)
                .with_context(|| format!("{round} {url}"))?;
        }
    }
    Ok(())
}

/// Longer than an Envoy of Istio's takes to end connections of listeners that changed.
const DRAIN: Duration = Duration::from_secs(45);

/// The connections of first calls go on, whatever comes and goes meanwhile.
async fn first_connections_go_on(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    connections(&shop, 2).await?;
    let client = shop.client("client").await?;
    let mut talks = Vec::new();
    for url in [
        "tcp://service0:9000",
        "tcp://service1:9005",
        "http1://service1:8085/",
    ] {
        // On one connection, from the first call on.
        let call = Call::new(url).reuse().rate(5.0).concurrency(1);
        talks.push((url, client.traffic(&call).await?));
    }
    let started = Instant::now();
    let mut round = 0;
    while started.elapsed() < DRAIN + Duration::from_secs(10) {
        round += 1;
        let name = format!("late{round}");
        let service = shop
            .ns
            .service(&name)
            .port("tcp", 9000, 9000)
            .port("odd", 9005, 9005);
        service.selector(&[("app", "server")]).create().await?;
        until("the service that came", LIMIT, || async {
            for port in [9000, 9005] {
                let call = Call::new(format!("tcp://{name}:{port}"));
                client.call(&call).await?.answer()?;
            }
            Ok(())
        })
        .await?;
        for (_, talk) in &talks {
            talk.wait_for(5, LIMIT).await?;
        }
    }
    for (url, talk) in talks {
        let summary = talk.stop().await?;
        summary
            .expect_no_failure()
            .with_context(|| url.to_owned())?;
    }
    Ok(())
}
