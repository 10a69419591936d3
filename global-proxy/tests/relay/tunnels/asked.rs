//! Tunnels lead to services only: to what the controller says is one.

use dependency_graph::api::FallbackPolicy::{PreferRedirect, RedirectOnly, RelayOnly};
use dependency_graph::api::Protocol;
use dependency_graph::api::call_answer::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Tunnels, echo};
use crate::controller::{Controller, answer, service};
use crate::support::{Proxy, Server, soon, until};

const GET: &str = "GET / HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";

async fn asking(controller: &Controller) -> Proxy {
    Proxy::asking(controller, &["--tunnel-listen=127.0.0.1:0"]).await
}

/// One whose services have ports of this protocol, whatever is asked.
async fn carrying(protocol: Protocol) -> Controller {
    Controller::start(PreferRedirect, move |call| {
        let mut said = answer(call, State::Pending);
        said.resolved = Some(service(protocol.into()));
        vec![said]
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_service_is_neither_dialled_nor_carried() {
    for policy in [PreferRedirect, RelayOnly] {
        let controller = Controller::saying(policy, State::UnknownName).await;
        let (proxy, server) = (asking(&controller).await, echo().await);
        let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
        let mut said = tunnels.open(server.address).await.unwrap();
        said.up.write(b"\x16\x03\x01").await.unwrap();
        assert_eq!(said.down.broken().await, h2::Reason::CONNECT_ERROR);
        let mut silent = tunnels.open(server.address).await.unwrap();
        assert_eq!(silent.down.broken().await, h2::Reason::CONNECT_ERROR);
        // HTTP is told why.
        let mut caller = tunnels.open(server.address).await.unwrap().socket();
        caller.write_all(GET.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(caller.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(answer.contains("knows no such service"), "{answer}");
        assert_eq!(server.connections(), 0);
        until("both are counted", async || {
            proxy.tunnels("no_service").await == 2.0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_carried_whoever_speaks_first() {
    let controller = carrying(Protocol::Tcp).await;
    let proxy = asking(&controller).await;
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let server = echo().await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    tunnel.up.write(b"\x16hello").await.unwrap();
    assert_eq!(tunnel.down.exactly(6).await, "\x16hello");
    let server = Server::raw(|mut raw, _| async move {
        raw.send("220 ready\r\n").await;
        raw.until("\r\n").await;
    })
    .await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    assert_eq!(tunnel.down.exactly(11).await, "220 ready\r\n");
    let calls = controller.heard(2).await;
    for call in calls {
        assert_eq!(call.authority, "");
        assert_eq!(call.protocol(), Protocol::Tcp);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_is_served_where_the_port_is_carried_as_http_and_is_bytes_elsewhere() {
    // What no relay of HTTP would pass on as it is.
    let odd = "GET / HTTP/1.1\r\nHOST:  s\r\nX-Odd:   1\r\n\r\n";
    let server = Server::raw(|mut raw, _| async move {
        let head = raw.head().await;
        let length = head.len();
        raw.send(&format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{head}"
        ))
        .await;
    })
    .await;
    for (protocol, untouched) in [(Protocol::Tcp, true), (Protocol::Http, false)] {
        let controller = carrying(protocol).await;
        let proxy = asking(&controller).await;
        let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
        let mut tunnel = tunnels.open(server.address).await.unwrap();
        tunnel.up.write(odd.as_bytes()).await.unwrap();
        tunnel.up.end();
        let seen = tunnel.down.text().await;
        assert_eq!(seen.ends_with(odd), untouched, "{seen}");
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
        let outcome = if untouched { "relayed" } else { "http" };
        until("it is counted", async || {
            proxy.tunnels(outcome).await == 1.0
        })
        .await;
        assert_eq!(controller.calls()[0].protocol(), Protocol::Http);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_controller_is_silent_only_addresses_of_services_are_carried_to() {
    let controller = Controller::silent(PreferRedirect).await;
    let (proxy, server) = (asking(&controller).await, echo().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    tunnel.up.write(b"\x16hello").await.unwrap();
    assert_eq!(tunnel.down.exactly(6).await, "\x16hello");
    controller.ranges(&["10.96.0.0/16"]).await;
    until("it is refused", async || {
        let mut tunnels = tunnels.clone();
        let mut tunnel = tunnels.open(server.address).await.unwrap();
        let _ = tunnel.up.write(b"\x16hello").await;
        tunnel.up.end();
        tunnel.down.drained().await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_only_carries_no_bytes_to_services_either() {
    let controller = Controller::saying(RedirectOnly, State::Written).await;
    let (proxy, server) = (asking(&controller).await, echo().await);
    let mut tunnels = Tunnels::connect(proxy.tunnel()).await;
    let mut tunnel = tunnels.open(server.address).await.unwrap();
    tunnel.up.write(b"\x16hello").await.unwrap();
    assert_eq!(tunnel.down.broken().await, h2::Reason::CONNECT_ERROR);
    assert_eq!(server.connections(), 0);
}
