//! HTTP: to the global proxy by a route, and from there, by a redirect that the caller's own Envoy follows, straight
//! to the service.

use ::http::{Response, StatusCode, Version};
use anyhow::{Context, Result, ensure};
use mesh_tests::app::Saw;
use mesh_tests::testbed::{AppPorts, Call, Case, Test};

use super::wiring::Tunnel;
use super::{Shop, ensure_unknown, redirect_after_a_pause};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "fallback::http_a_redirect_keeps_the_caller",
            a_redirect_keeps_the_caller,
        ),
        Test::new("fallback::http_tries_are_counted", tries_are_counted),
        Test::new("fallback::http_with_registry_only", with_registry_only),
        Test::new("fallback::http_what_is_not_ours_goes_where_it_went", plain),
        Test::new(
            "fallback::http_a_location_of_the_server_s_own",
            a_location_of_the_servers_own,
        ),
        Test::new(
            "fallback::http_a_request_comes_as_it_was_sent",
            as_it_was_sent,
        ),
        Test::new(
            "fallback::http_a_body_that_is_too_large_is_not_redirected",
            too_large,
        ),
    ]
}

/// A server must see no trace of the way its request took.
pub(super) fn ensure_clean(saw: &Saw) -> Result<()> {
    for name in saw.headers.keys() {
        ensure!(
            !name.starts_with("x-lazymesh")
                && name != "x-envoy-original-url"
                && name != "x-envoy-internal-redirect",
            "the server saw {name}: {:?}",
            saw.headers
        );
    }
    Ok(())
}

async fn a_redirect_keeps_the_caller(case: Case) -> Result<()> {
    let shop = Shop::growing(&case).await?;
    let vip = shop.ns.service("server").usual_ports();
    vip.create().await?;
    shop.ns
        .service("second")
        .port("http", 80, 8080)
        .selector(&[("app", "server")])
        .create()
        .await?;
    shop.ns
        .service("third")
        .port("grpc", 80, 7070)
        .selector(&[("app", "server")])
        .create()
        .await?;
    let server = shop.ns.workload("server").start().await?;
    let client = shop.client().await?;
    ensure_unknown(&client, "server").await?;
    let forged = "x-lazymesh-tries";
    let get = Call::new("http1://server/hello?a=b%20c")
        .header(forged, "5")
        .header("x-lazymesh-pod", "forged");
    let post = Call::new("http2://second/post")
        .method("POST")
        .body_bytes(50_000);
    let grpc = Call::new("grpc://third:80");
    for call in [get, post, grpc] {
        let outcome = client.call(&call).await?;
        let answer = outcome.answer()?;
        ensure!(
            answer.who.pod == server.name(),
            "{} answered",
            answer.who.pod
        );
        ensure!(
            answer.saw.caller == Some(client.spiffe_id()),
            "the server saw {:?}",
            answer.saw.caller
        );
        ensure_clean(&answer.saw)?;
        let ours = outcome
            .headers
            .keys()
            .find(|name| name.starts_with("x-lazymesh"));
        ensure!(ours.is_none(), "the application saw {ours:?}");
    }
    ensure!(server.seen().await?[0].path == "/hello?a=b%20c");
    let arrived = shop.global_proxy.arrived();
    let first = arrived
        .first()
        .context("nothing arrived at the global proxy")?;
    let vip = case
        .mesh
        .cluster()
        .resolve(shop.ns.name(), "server")
        .await
        .context("no address")?;
    ensure!(
        first.header("x-lazymesh-original-dst") == format!("{vip}:80"),
        "{first:?}"
    );
    ensure!(first.header("x-lazymesh-pod") == client.name(), "{first:?}");
    ensure!(
        first.tries() == 0,
        "a forged count of tries got through: {first:?}"
    );
    ensure!(first.caller() == Some(client.spiffe_id()), "{first:?}");
    Ok(())
}

async fn tries_are_counted(case: Case) -> Result<()> {
    let shop = Shop::open(&case, "", Tunnel::Http2, |sidecar, arrived| async move {
        // Three times too early.
        if arrived.tries() < 3 {
            return arrived.redirect(&[]);
        }
        sidecar.add(&arrived.service()).await?;
        redirect_after_a_pause(&arrived).await
    })
    .await?;
    shop.ns.server("server").await?;
    let client = shop.client().await?;
    let call = Call::new("http1://SERVER:80/")
        .method("POST")
        .body_bytes(3_000);
    let address = case
        .mesh
        .cluster()
        .resolve(shop.ns.name(), "server")
        .await
        .context("no address")?;
    let answer = client.call(&call.to(address)).await?.answer()?.clone();
    ensure!(answer.saw.caller == Some(client.spiffe_id()));
    ensure_clean(&answer.saw)?;
    let arrived = shop.global_proxy.arrived();
    let tries: Vec<_> = arrived
        .iter()
        .map(|arrived| arrived.header("x-lazymesh-tries"))
        .collect();
    ensure!(tries[..4] == ["", "1", "2", "3"], "{tries:?}");
    let hosts: Vec<_> = arrived
        .iter()
        .map(|arrived| arrived.authority.as_str())
        .collect();
    ensure!(hosts[0] == "SERVER:80", "{hosts:?}");
    ensure!(
        arrived
            .iter()
            .all(|arrived| arrived.header("x-lazymesh-pod") == client.name()
                && arrived.body.len() == 3_000),
        "{arrived:?}"
    );
    ensure!(
        answer.saw.host == "SERVER:80",
        "the server saw the host {}",
        answer.saw.host
    );
    Ok(())
}

const REGISTRY_ONLY: &str = "outboundTrafficPolicy: {mode: REGISTRY_ONLY},";

async fn with_registry_only(case: Case) -> Result<()> {
    let shop = Shop::open(
        &case,
        REGISTRY_ONLY,
        Tunnel::Http2,
        |sidecar, arrived| async move {
            if arrived.service() == "nobody" {
                return arrived.redirect(&[("x-lazymesh-plain", "1")]);
            }
            sidecar.add(&arrived.service()).await?;
            redirect_after_a_pause(&arrived).await
        },
    )
    .await?;
    let server = shop.ns.server("server").await?;
    let client = shop.client().await?;
    let answer = client.get("http1://server/").await?;
    ensure!(answer.who.pod == server.name() && answer.saw.caller == Some(client.spiffe_id()));
    let refused = client
        .call(&Call::new("http1://nobody/").to(server.address()))
        .await?;
    ensure!(
        refused.status == Some(502),
        "not what plain Istio answers: {refused:?}"
    );
    Ok(())
}

async fn plain(case: Case) -> Result<()> {
    let shop = Shop::open(&case, "", Tunnel::Http2, |_, arrived| async move {
        arrived.redirect(&[("x-lazymesh-plain", "1")])
    })
    .await?;
    let ports = AppPorts {
        http: vec![80],
        ..AppPorts::default()
    };
    let outside = shop
        .ns
        .workload("outside")
        .no_sidecar()
        .app(ports)
        .start()
        .await?;
    let client = shop.client().await?;
    for (host, falls_back) in [("nobody", true), ("www.example.com", false)] {
        let before = shop.global_proxy.arrived().len();
        let call = Call::new(format!("http1://{host}/")).to(outside.address());
        let answer = client.call(&call).await?.answer()?.clone();
        ensure!(
            answer.who.pod == outside.name() && answer.saw.host == host,
            "{answer:?}"
        );
        ensure_clean(&answer.saw)?;
        let more = shop.global_proxy.arrived().len() - before;
        ensure!(
            more == usize::from(falls_back),
            "{host} came by the global proxy {more} times"
        );
    }
    Ok(())
}

/// What the global proxy relays must not look like a redirect of its own.
async fn a_location_of_the_servers_own(case: Case) -> Result<()> {
    let shop = Shop::open(&case, "", Tunnel::Http2, |_, arrived| async move {
        let wanted = arrived.path.trim_matches('/').parse::<u16>()?;
        let name = if (300..400).contains(&wanted) {
            "x-lazymesh-location"
        } else {
            "location"
        };
        let mut response = Response::builder().status(StatusCode::from_u16(wanted)?);
        if wanted != 200 {
            response = response.header(name, "http://elsewhere/next?x=y%20z");
        }
        Ok(response.body("relayed".into())?)
    })
    .await?;
    shop.ns.server("server").await?;
    let client = shop.client().await?;
    for wanted in [200, 201, 301, 302, 307, 308] {
        let outcome = client
            .call(&Call::new(format!("http1://server/{wanted}")))
            .await?;
        ensure!(outcome.status == Some(wanted), "{wanted}: {outcome:?}");
        let location = outcome.headers.get("location").map(String::as_str);
        let expected = (wanted != 200).then_some("http://elsewhere/next?x=y%20z");
        ensure!(location == expected, "{wanted}: {outcome:?}");
        ensure!(
            !outcome.headers.contains_key("x-lazymesh-location"),
            "{outcome:?}"
        );
    }
    ensure!(
        shop.global_proxy.arrived().len() == 6,
        "a redirect of the server's own was followed"
    );
    Ok(())
}

async fn as_it_was_sent(case: Case) -> Result<()> {
    let shop = Shop::open(&case, "", Tunnel::Http2, |_, arrived| async move {
        let status = if arrived.version == Version::HTTP_2 {
            202
        } else {
            201
        };
        Ok(Response::builder().status(status).body("".into())?)
    })
    .await?;
    shop.ns.server("server").await?;
    let client = shop.client().await?;
    for (protocol, version) in [("http1", Version::HTTP_11), ("http2", Version::HTTP_2)] {
        client
            .call(&Call::new(format!("{protocol}://server/")))
            .await?;
        let arrived = shop.global_proxy.arrived();
        let last = arrived.last().context("nothing arrived")?;
        ensure!(
            last.version == version,
            "{protocol} arrived as {:?}",
            last.version
        );
    }
    Ok(())
}

/// Envoy hands our redirect to the application when it could not keep the whole body: the global proxy must not make one.
async fn too_large(case: Case) -> Result<()> {
    let shop = Shop::growing(&case).await?;
    shop.ns.server("server").await?;
    let client = shop.client().await?;
    let post = |bytes| {
        Call::new("http1://server/")
            .method("POST")
            .body_bytes(bytes)
    };
    let outcome = client.call(&post(200_000)).await?;
    ensure!(outcome.status == Some(307), "{outcome:?}");
    Ok(())
}
