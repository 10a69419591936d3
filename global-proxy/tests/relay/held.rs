//! Requests that are held until a controller has spoken.

use dependency_graph::api::FallbackPolicy::PreferRedirect;
use dependency_graph::api::call_answer::State;

use crate::controller::{Controller, answer};
use crate::redirects::{h2_routed, routed};
use crate::support::{Proxy, Server, empty, h2_request, head, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_held_until_the_sidecar_is_written() {
    let controller =
        Controller::start(PreferRedirect, |call| vec![answer(call, State::Pending)]).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &["--hold=60s"]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, &routed("")))
        .await;
    let call = controller.heard(1).await.remove(0);
    let mut written = answer(&call, State::Written);
    // Just now: some time is given to the caller's Envoy.
    written.written_ms_ago = 0;
    controller.say(vec![written]).await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 307 "), "{answer}");
    let pauses = "lazymesh_proxy_hold_seconds_bucket{le=\"0.1\"}";
    assert_eq!(proxy.metric(pauses).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn but_not_for_ever() {
    let controller = Controller::saying(PreferRedirect, State::Pending).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &["--hold=300ms"]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, &routed("")))
        .await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(proxy.relays("not_written").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_goes_away_is_not_waited_for() {
    let controller = Controller::saying(PreferRedirect, State::Pending).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &["--hold=1h"]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, &routed("")))
        .await;
    controller.heard(1).await;
    controller.stop().await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(proxy.relays("controller_away").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_is_held_no_longer() {
    let controller = Controller::silent(PreferRedirect).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &["--hold=1h"]).await,
        Server::mirror().await,
    );
    let mut http1 = proxy.connect().await;
    http1
        .send(&head("GET / HTTP/1.1", server.address, &routed("")))
        .await;
    let mut http2 = proxy.h2().await;
    let request = h2_routed(h2_request("/", server.address, empty()), "");
    let held = tokio::spawn(http2.send_request(request));
    // Both are equal, and told once.
    controller.heard(1).await;
    let open = "lazymesh_proxy_connections";
    until("both are there", async || proxy.metric(open).await == 2.0).await;
    drop(http1);
    held.abort();
    for protocol in ["http1", "http2"] {
        until("it is let go", async || {
            proxy.exchanges(protocol, "caller_cut").await == 1.0
        })
        .await;
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_what_is_held() {
    let controller = Controller::silent(PreferRedirect).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &["--hold=1h", "--drain=1h"]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, &routed("")))
        .await;
    let call = controller.heard(1).await.remove(0);
    proxy.drain.start();
    controller.say(vec![answer(&call, State::Written)]).await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 307 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    soon(proxy.running).await.unwrap();
}
