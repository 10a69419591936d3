//! TCP: to the global proxy by a tunnel that says where it was going and who opened it.

use std::net::Ipv4Addr;
use std::time::Duration;

use ::http::Version;
use anyhow::{Context, Result, ensure};
use mesh_tests::testbed::{AppPorts, Call, Case, Pod, Test, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stub::Opened;
use super::wiring::{self, Tunnel};
use super::{LIMIT, Shop, ensure_unknown};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "fallback::tcp_a_tunnel_says_who_and_where_to",
            who_and_where_to,
        ),
        Test::new(
            "fallback::tcp_each_side_may_close_first",
            each_side_may_close_first,
        ),
        Test::new(
            "fallback::tcp_an_http1_tunnel_has_no_half_close",
            no_half_close_over_http1,
        ),
        Test::new(
            "fallback::tcp_what_is_learned_is_not_delayed",
            learned_is_not_delayed,
        ),
        Test::new("fallback::tcp_never_in_plain_text", never_in_plain_text),
        Test::new(
            "fallback::tcp_a_port_of_http_is_taken_in_plain_text",
            a_port_of_http,
        ),
        Test::new("fallback::tcp_two_filters_in_a_namespace", two_filters),
    ]
}

async fn shop(case: &Case, tunnel: Tunnel) -> Result<Shop> {
    Shop::open(case, "", tunnel, |_, arrived| async move {
        anyhow::bail!("{} came as HTTP", arrived.authority)
    })
    .await
}

async fn address(shop: &Shop, service: &str) -> Result<Ipv4Addr> {
    let cluster = shop.ns.mesh().cluster();
    cluster
        .resolve(shop.ns.name(), service)
        .await
        .context("no such service")
}

async fn who_and_where_to(case: Case) -> Result<()> {
    let shop = shop(&case, Tunnel::Http2).await?;
    let server = shop.ns.server("server").await?;
    let client = shop.client().await?;
    ensure_unknown(&client, "server").await?;
    let vip = address(&shop, "server").await?;
    for (url, port) in [
        ("tcp://server:9000", 9000),
        ("tcp-server-first://server:9001", 9001),
        ("http1://server:8082/", 8082),
    ] {
        let answer = client.get(url).await?;
        ensure!(
            answer.who.pod == server.name(),
            "{} answered",
            answer.who.pod
        );
        let opened = shop.global_proxy.opened();
        let expected = Opened {
            caller: client.spiffe_id(),
            pod: client.name().to_owned(),
            destination: format!("{vip}:{port}"),
            version: Version::HTTP_2,
        };
        ensure!(opened.last() == Some(&expected), "{opened:?}");
    }
    // Many at once, and large ones.
    for call in [
        Call::new("tcp://server:9000")
            .count(60)
            .concurrency(20)
            .body_bytes(1000),
        Call::new("tcp://server:9000")
            .count(4)
            .concurrency(4)
            .body_bytes(5 << 20),
    ] {
        for outcome in client.calls(&call).await? {
            outcome.answer()?;
        }
    }
    // What is no service's goes where it went.
    let outside = shop.ns.workload("outside").no_sidecar().start().await?;
    let before = shop.global_proxy.opened().len();
    let answer = client
        .get(&format!("tcp://{}:9000", outside.address()))
        .await?;
    ensure!(answer.who.pod == outside.name() && shop.global_proxy.opened().len() == before);
    Ok(())
}

/// A server that a test plays: takes one connection and does with it what the test says.
async fn play(shop: &Shop) -> Result<(Pod, tokio::net::TcpListener)> {
    shop.ns
        .service("played")
        .port("tcp", 9000, 9000)
        .create()
        .await?;
    let pod = shop.ns.workload("played").no_app().start().await?;
    let listener = pod.network().listen(9000).await?;
    Ok((pod, listener))
}

pub(crate) const MEGABYTE: usize = 1 << 20;

/// The client is done before the server has said anything: the server's answer must come all the same.
pub(crate) async fn client_closes_first(
    client: &Pod,
    vip: Ipv4Addr,
    listener: &tokio::net::TcpListener,
) -> Result<usize> {
    let calls = async {
        let mut stream = client.network().connect(vip, 9000).await?;
        stream.write_all(&vec![7; MEGABYTE]).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer.len())
    };
    let serves = async {
        let (mut stream, _) = listener.accept().await?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await?;
        ensure!(got.len() == MEGABYTE, "the server got {} bytes", got.len());
        stream.write_all(&vec![8; MEGABYTE]).await?;
        Ok(())
    };
    Ok(timeout(LIMIT, async { tokio::try_join!(calls, serves) })
        .await??
        .0)
}

/// The server is done first: what the client sends after that must arrive.
pub(crate) async fn server_closes_first(
    client: &Pod,
    vip: Ipv4Addr,
    listener: &tokio::net::TcpListener,
) -> Result<usize> {
    let calls = async {
        let mut stream = client.network().connect(vip, 9000).await?;
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting).await?;
        ensure!(greeting == b"done", "the client got {greeting:?}");
        stream.write_all(&vec![7; MEGABYTE]).await?;
        stream.shutdown().await?;
        Ok(())
    };
    let serves = async {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"done").await?;
        stream.shutdown().await?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await?;
        anyhow::Ok(got.len())
    };
    Ok(timeout(LIMIT, async { tokio::try_join!(serves, calls) })
        .await??
        .0)
}

async fn each_side_may_close_first(case: Case) -> Result<()> {
    let shop = shop(&case, Tunnel::Http2).await?;
    let (_pod, listener) = play(&shop).await?;
    let vip = address(&shop, "played").await?;
    let client = shop.client().await?;
    let got = client_closes_first(&client, vip, &listener)
        .await
        .context("the client closes first")?;
    ensure!(got == MEGABYTE, "the client got {got} bytes");
    let got = server_closes_first(&client, vip, &listener)
        .await
        .context("the server closes first")?;
    ensure!(got == MEGABYTE, "the server got {got} bytes");
    ensure!(shop.global_proxy.opened().len() == 2);
    Ok(())
}

/// Why tunnels are HTTP/2: Envoy closes an HTTP/1.1 tunnel, both ways, with the first FIN.
async fn no_half_close_over_http1(case: Case) -> Result<()> {
    let shop = shop(&case, Tunnel::Http1).await?;
    let (_pod, listener) = play(&shop).await?;
    let vip = address(&shop, "played").await?;
    let client = shop.client().await?;
    let got = client_closes_first(&client, vip, &listener).await;
    ensure!(
        !matches!(got, Ok(MEGABYTE)),
        "an HTTP/1.1 tunnel can be closed one way: {got:?}"
    );
    Ok(())
}

async fn learned_is_not_delayed(case: Case) -> Result<()> {
    let shop = shop(&case, Tunnel::Http2).await?;
    shop.ns.server("server").await?;
    shop.sidecar.add("server").await?;
    let client = shop.client().await?;
    let call = Call::new("tcp-server-first://server:9001")
        .count(10)
        .timeout(Duration::from_secs(5));
    for outcome in client.calls(&call).await? {
        outcome.answer()?;
    }
    ensure!(
        shop.global_proxy.opened().is_empty(),
        "a learned service came by the global proxy"
    );
    Ok(())
}

/// Without a global proxy there is no connection, rather than one past the mesh.
async fn never_in_plain_text(case: Case) -> Result<()> {
    let shop = shop(&case, Tunnel::Http2).await?;
    shop.ns.service("server").usual_ports().create().await?;
    let server = shop.ns.workload("server").no_sidecar().start().await?;
    let client = shop.client().await?;
    client.get("tcp://server:9000").await?;
    shop.global_proxy.pod.set_ready(false).await?;
    until("the global proxy to be gone", LIMIT, || async {
        let before = server.seen().await?.len();
        let outcome = client.call(&Call::new("tcp://server:9000")).await?;
        ensure!(
            !outcome.is_ok() && server.seen().await?.len() == before,
            "the server was reached"
        );
        Ok(())
    })
    .await?;
    let seen = server.seen().await?;
    let by_client = seen
        .iter()
        .filter(|saw| saw.host == client.address().to_string())
        .count();
    ensure!(
        by_client == 0,
        "{by_client} connections came past the global proxy"
    );
    Ok(())
}

/// Why a TCP service on a port that is HTTP for another service cannot be lazy: the port's listener takes it, and what
/// is not HTTP passes through there, never by `virtualOutbound`.
async fn a_port_of_http(case: Case) -> Result<()> {
    let shop = shop(&case, Tunnel::Http2).await?;
    shop.ns
        .service("web")
        .port("http", 9000, 8080)
        .selector(&[("app", "server")])
        .create()
        .await?;
    shop.ns
        .service("queue")
        .port("tcp", 9000, 9000)
        .selector(&[("app", "outside")])
        .create()
        .await?;
    shop.ns.workload("server").start().await?;
    let outside = shop
        .ns
        .workload("outside")
        .no_sidecar()
        .app(AppPorts::default())
        .start()
        .await?;
    shop.sidecar.add("web").await?;
    let client = shop.client().await?;
    client.get("tcp://queue:9000").await?;
    let seen = outside.seen().await?;
    ensure!(
        shop.global_proxy.opened().is_empty() && seen[0].host == client.address().to_string(),
        "the listener of another service's HTTP port does not take it any more: {seen:?}"
    );
    Ok(())
}

/// How one EnvoyFilter takes another one's place: with prefixes that are not the same but cover the same. Two chains
/// that match alike are refused, and with them the listener.
async fn two_filters(case: Case) -> Result<()> {
    let shop = shop(&case, Tunnel::Http2).await?;
    shop.ns.server("server").await?;
    let client = shop.client().await?;
    let envoy = client.envoy().await?;
    let whole = wiring::fallback(shop.ns.name(), "client");
    let halves = whole
        .replace("name: lazymesh-fallback", "name: lazymesh-halves")
        .replace("name: lazymesh-tcp", "name: lazymesh-halves")
        .replace(
            "{address_prefix: 10.96.0.0, prefix_len: 16}",
            "{address_prefix: 10.96.0.0, prefix_len: 17}, {address_prefix: 10.96.128.0, prefix_len: 17}",
        );
    let again = halves.replace("name: lazymesh-halves", "name: lazymesh-again");
    let wait_chains = async |wanted: [bool; 2]| {
        until("the filter chains", LIMIT, || async {
            let dump = envoy.config_dump().await?.to_string();
            let chains = ["lazymesh-tcp", "lazymesh-halves"]
                .map(|chain| dump.contains(&format!("\"{chain}\"")));
            ensure!(chains == wanted, "{chains:?}, not {wanted:?}");
            Ok(())
        })
        .await
    };
    let refused = async || envoy.stat("listener_manager.lds.update_rejected").await;
    shop.ns.apply(&halves).await?;
    wait_chains([true, true]).await?;
    client.get("tcp://server:9000").await?;
    shop.ns.delete(&whole).await?;
    wait_chains([false, true]).await?;
    client.get("tcp://server:9000").await?;
    ensure!(refused().await? == 0, "a listener was refused");
    shop.ns.apply(&again).await?;
    until("the listener to be refused", LIMIT, || async {
        ensure!(refused().await? > 0, "it was not");
        Ok(())
    })
    .await?;
    client.get("tcp://server:9000").await?;
    Ok(())
}
