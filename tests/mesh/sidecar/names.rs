//! Every way to write a name or an address: calls go where those of a plain pod beside go, the first as the later ones.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use mesh_tests::app::Outcome;
use mesh_tests::testbed::{AppPorts, Call, Case, Pod, Test, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{LIMIT, Shop, ensure_clean, wait_lazy};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sidecar::names_with_allow_any", with_allow_any),
        Test::new("sidecar::names_with_registry_only", with_registry_only),
    ]
}

async fn with_allow_any(case: Case) -> Result<()> {
    compare(&case, None).await
}

/// By a Sidecar of the user's for the whole namespace, which both pods have.
async fn with_registry_only(case: Case) -> Result<()> {
    let policy =
        "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default}, spec: {
                     outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}";
    compare(&case, Some(policy)).await
}

/// The ways to write service `S` of namespace `N`.
const FORMS: [&str; 11] = [
    "S",
    "S.N",
    "S.N.svc",
    "S.N.svc.cluster.local",
    "S.N.svc.cluster.local.",
    "S:80",
    "S.N:80",
    "S.N.svc.cluster.local:80",
    "below.S.N.svc.cluster.local",
    "upper",
    "address",
];

/// Names that are no service's, with the pod outside the mesh behind them.
const STRANGE: [&str; 8] = [
    "nobody",
    "nobody.N",
    "nobody.N.svc",
    "nobody.N.svc.cluster.local",
    "www.example.com",
    "api.example.org",
    "a.b.c",
    "address",
];

struct Target {
    host: String,
    to: Ipv4Addr,
}

async fn targets(shop: &Shop, outside: &Pod, headless: &Pod) -> Result<Vec<Target>> {
    let ns = shop.ns.name();
    let mut targets = Vec::new();
    for (number, form) in FORMS.into_iter().enumerate() {
        // A service of its own for each, so that each is called for the first time.
        let service = format!("form{number}");
        let to = shop.address(&service).await?;
        let host = match form {
            "address" => to.to_string(),
            "upper" => format!("{service}.{ns}.svc.CLUSTER.local").to_uppercase(),
            form => form.replace('S', &service).replace('N', ns),
        };
        targets.push(Target { host, to });
    }
    for form in STRANGE {
        let to = outside.address();
        let host = match form {
            "address" => to.to_string(),
            form => form.replace('N', ns),
        };
        targets.push(Target { host, to });
    }
    for host in [
        "headless".to_owned(),
        format!("{}.headless", headless.name()),
    ] {
        let to = headless.address();
        targets.push(Target { host, to });
    }
    Ok(targets)
}

async fn compare(case: &Case, policy: Option<&str>) -> Result<()> {
    let shop = Shop::open(case).await?;
    if let Some(policy) = policy {
        shop.ns.apply(policy).await?;
    }
    for number in 0..FORMS.len() {
        shop.web("server", &[&format!("form{number}")]).await?;
    }
    shop.ns
        .service("headless")
        .port("http", 80, 80)
        .headless()
        .create()
        .await?;
    let on_80 = AppPorts {
        http: vec![80],
        tcp: Vec::new(),
        tcp_server_first: Vec::new(),
        tls: Vec::new(),
    };
    shop.ns.workload("server").start().await?;
    let headless = shop.ns.workload("headless").app(on_80.clone());
    let headless = headless.start().await?;
    // Not in the shop: of services there the controller would learn that it has no sidecar.
    let outside = shop.system.workload("outside").no_sidecar().app(on_80);
    let outside = outside.start().await?;
    shop.ns
        .apply(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: api}}, spec: {{
               hosts: [api.example.org], location: MESH_EXTERNAL, resolution: STATIC,
               ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: {}}}]}}}}",
            outside.address()
        ))
        .await?;
    let plain = shop.ns.workload("plain").no_app().service_account("client");
    let plain = plain.label("lazymesh.dev/mode", "off").start().await?;
    let client = shop
        .ns
        .workload("client")
        .no_app()
        .all_stats()
        .start()
        .await?;
    wait_lazy(&client).await?;
    let targets = targets(&shop, &outside, &headless).await?;
    for Target { host, to } in &targets {
        let call = Call::new(format!("http1://{host}/a?b=c")).to(*to);
        let expected = what(&plain.call(&call).await?);
        for round in ["first", "second"] {
            let outcome = client.call(&call).await?;
            ensure_clean(&outcome).with_context(|| host.clone())?;
            let got = what(&outcome);
            ensure!(
                got == expected,
                "the {round} call to {host}: {got:?}, but a plain pod has {expected:?}"
            );
        }
    }
    beside_the_global_proxy(&shop, &client).await?;
    absolute_form(&shop, [&plain, &client]).await
}

/// What is relayed goes to the service that its caller means, not to one of that name beside the global proxy.
async fn beside_the_global_proxy(shop: &Shop, client: &Pod) -> Result<()> {
    shop.web("server", &["twin"]).await?;
    let other = shop.system.service("twin").port("http", 80, 80);
    other.selector(&[("app", "outside")]).create().await?;
    let to = shop.address("twin").await?;
    let call = Call::new("http1://twin/").method("POST").to(to);
    let outcome = client.call(&call.body_bytes(200_000)).await?;
    let answer = outcome.answer()?;
    ensure!(
        answer.who.workload == "server" && answer.saw.host == "twin",
        "{answer:?}"
    );
    ensure!(answer.saw.caller == Some(shop.relayed()), "{answer:?}");
    Ok(())
}

/// What must be the same: the status, who answered, and what it saw.
fn what(outcome: &Outcome) -> (Option<u16>, Option<[String; 4]>, Option<String>) {
    let answer = outcome.answers.first().map(|answer| {
        let (who, saw) = (&answer.who, &answer.saw);
        let caller = saw.caller.clone().unwrap_or_default();
        [who.pod.clone(), saw.host.clone(), saw.path.clone(), caller]
    });
    (outcome.status, answer, outcome.body.clone())
}

/// A request as to a proxy, which an application may send anywhere.
async fn absolute_form(shop: &Shop, [plain, client]: [&Pod; 2]) -> Result<()> {
    shop.web("server", &["absolute"]).await?;
    let to = shop.address("absolute").await?;
    let request = "GET http://absolute/x HTTP/1.1\r\nhost: absolute\r\nconnection: close\r\n\r\n";
    let call = async |pod: &Pod| {
        let mut stream = pod.network().connect(to, 80).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8(answer)?;
        let (status, rest) = answer.split_once("\r\n").context("no answer")?;
        let host = rest.contains("\"host\":\"absolute\"");
        anyhow::Ok((status.to_owned(), host))
    };
    // A plain pod must have the service first.
    let expected = until("a plain pod to have the service", LIMIT, || async {
        let (status, host) = call(plain).await?;
        ensure!(status.contains("200"), "{status}");
        Ok((status, host))
    })
    .await?;
    for _ in 0..2 {
        let got = call(client).await?;
        ensure!(got == expected, "{got:?}, but a plain pod has {expected:?}");
    }
    Ok(())
}
