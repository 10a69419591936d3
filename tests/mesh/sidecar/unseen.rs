//! What no application ever sees: a redirect of ours. What it sees as before: the redirects of servers.

use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{Call, Case, Test};

use super::{Shop, ensure_clean};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sidecar::unseen_no_redirect_of_ours", no_redirect_of_ours),
        Test::new("sidecar::unseen_early_answers", early_answers),
        Test::new(
            "sidecar::unseen_servers_redirects_are_theirs",
            servers_redirects_are_theirs,
        ),
    ]
}

/// Bodies on both sides of every limit, requests that claim to have come over TLS, paths that are hard to say.
async fn no_redirect_of_ours(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let calls: Vec<(String, Call)> = calls();
    for (service, _) in &calls {
        shop.web("server", &[service]).await?;
    }
    shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    for (service, call) in &calls {
        let outcome = client.call(call).await?;
        ensure!(outcome.status == Some(200), "{service}: {outcome:?}");
        outcome.answer().with_context(|| service.clone())?;
        ensure_clean(&outcome).with_context(|| service.clone())?;
        ensure!(!outcome.headers.contains_key("location"), "{outcome:?}");
    }
    Ok(())
}

fn calls() -> Vec<(String, Call)> {
    let sizes = [0, 59_000, 61_000, 66_000, 70_000, 2_000_000].map(|bytes| {
        let service = format!("size-{bytes}");
        let call = Call::new(format!("http1://{service}/"));
        (service, call.method("POST").body_bytes(bytes))
    });
    let paths = [
        "/?next=http://elsewhere/%3Fa=b",
        "//double//slash",
        "/%2e%2e/up",
        "/semi;colon?q[]=1&q[]=2",
        "/*",
    ];
    let paths = paths.iter().enumerate().map(|(number, path)| {
        let service = format!("path-{number}");
        (
            service.clone(),
            Call::new(format!("http1://{service}{path}")),
        )
    });
    let claims = ("claims".to_owned(), {
        Call::new("http1://claims/").header("x-forwarded-proto", "https")
    });
    sizes.into_iter().chain(paths).chain([claims]).collect()
}

/// A server that has heard enough before the body is there.
async fn early_answers(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    shop.web("server", &["server"]).await?;
    shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    let call = Call::new("http1://server/?early=1&status=413").method("POST");
    for _ in 0..2 {
        let outcome = client.call(&call.clone().body_bytes(2_000_000)).await?;
        ensure!(outcome.status == Some(413), "{outcome:?}");
    }
    Ok(())
}

const ELSEWHERE: &str = "http://elsewhere/next?x=y%20z";

/// On the first call, which is redirected or relayed, and on the second.
async fn servers_redirects_are_theirs(case: Case) -> Result<()> {
    let shop = Shop::open(&case).await?;
    let mut calls = Vec::new();
    for status in [201, 301, 302, 307, 308] {
        for (way, bytes) in [("small", 10), ("large", 100_000)] {
            let service = format!("{way}-{status}");
            shop.web("server", &[&service]).await?;
            let url = format!("http1://{service}/?status={status}&location={ELSEWHERE}");
            calls.push((status, Call::new(url).method("POST").body_bytes(bytes)));
        }
    }
    shop.ns.workload("server").start().await?;
    let client = shop.client("client").await?;
    for (status, call) in calls.iter().chain(&calls) {
        let outcome = client.call(call).await?;
        ensure!(outcome.status == Some(*status), "{status}: {outcome:?}");
        let location = outcome.headers.get("location").map(String::as_str);
        ensure!(location == Some(ELSEWHERE), "{status}: {outcome:?}");
        ensure_clean(&outcome)?;
    }
    Ok(())
}
