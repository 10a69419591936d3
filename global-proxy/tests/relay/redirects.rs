//! What is redirected, and what is relayed or refused in its place.

use dependency_graph::api::FallbackPolicy::{PreferRedirect, RedirectOnly, RelayOnly};
use dependency_graph::api::call_answer::State;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::controller::{Controller, answer};
use crate::support::{Body, Proxy, Server, empty, fed, full, h2_request, head, soon, text, until};

/// What the caller's side says of a request on a fallback route that has been redirected so often.
pub(crate) fn routed(tries: &str) -> String {
    format!("{CALLER}x-lazymesh-tries: {tries}\r\n")
}

/// The same on no such route.
const CALLER: &str = "x-forwarded-client-cert: URI=spiffe://td/ns/shop/sa/cart\r\n\
                      x-lazymesh-pod: cart-1\r\n";

pub(crate) fn h2_routed(request: Request<Body>, tries: &'static str) -> Request<Body> {
    let mut request = request;
    for (name, value) in [
        ("x-forwarded-client-cert", "URI=spiffe://td/ns/shop/sa/cart"),
        ("x-lazymesh-pod", "cart-1"),
        ("x-lazymesh-tries", tries),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    request
}

/// The lines of a head after its first, sorted.
fn lines(head: &str) -> Vec<&str> {
    let mut lines: Vec<_> = head.trim_end().split("\r\n").skip(1).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_and_its_second_try() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.connect().await;
    for (tries, next) in [("", 1), ("1", 2), ("5", 6)] {
        caller
            .send(&head(
                "GET /a%2Fb?c=%20d HTTP/1.1",
                server.address,
                &routed(tries),
            ))
            .await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 307 "), "{answer}");
        // Nothing else that an application could see.
        let wanted = [
            "content-length: 0".to_owned(),
            "location: http://server.shop:80/a%2Fb?c=%20d".to_owned(),
            format!("x-lazymesh-try: {next}"),
        ];
        assert_eq!(lines(&answer), wanted);
    }
    // One report, and the later tries needed none.
    let calls = controller.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].spiffe_id, "spiffe://td/ns/shop/sa/cart");
    assert_eq!(calls[0].pod, "cart-1");
    assert_eq!(calls[0].authority, "server.shop:80");
    assert_eq!(calls[0].destination, server.address.to_string());
    assert_eq!(server.connections(), 0);
    until("counted", async || {
        proxy.exchanges("http1", "redirected").await == 3.0
    })
    .await;
    let held = proxy.metric("lazymesh_proxy_hold_seconds_count").await;
    assert!(held >= 2.0, "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_once_its_body_is_there() {
    let controller = Controller::saying(RedirectOnly, State::Written).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.connect().await;
    let length = format!("{}content-length: 60000\r\n", routed(""));
    let chunked = format!("{}transfer-encoding: chunked\r\n", routed(""));
    for (lines, body) in [
        (length, "a".repeat(60_000)),
        (chunked, "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n".to_owned()),
    ] {
        let request = head("POST /p HTTP/1.1", server.address, &lines);
        caller.send(&(request + &body)).await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 307 "), "{answer}");
        assert!(answer.contains("x-lazymesh-try: 1\r\n"), "{answer}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_and_grpc() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.h2().await;
    for (body, kind) in [
        (empty(), "text/plain"),
        (full("body"), "text/plain"),
        (full("\0\0\0\0\x03abc"), "application/grpc"),
    ] {
        let mut request = h2_routed(h2_request("/s.S/M", server.address, body), "");
        let kind = HeaderValue::from_static(kind);
        request.headers_mut().insert("content-type", kind);
        let response = soon(caller.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 307);
        let mut headers = response.headers().clone();
        // hyper's own, of an answer without a body.
        headers.remove("content-length");
        let location = HeaderValue::from_static("http://server.shop:80/s.S/M");
        let mut wanted = HeaderMap::new();
        wanted.insert("location", location);
        wanted.insert("x-lazymesh-try", HeaderValue::from_static("1"));
        assert_eq!(headers, wanted);
        let body = soon(response.into_body().collect()).await.unwrap();
        assert!(body.trailers().is_none() && body.to_bytes().is_empty());
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_mesh_does_not_have_goes_where_plain_istio_sends_it() {
    for policy in [PreferRedirect, RedirectOnly] {
        let controller = Controller::saying(policy, State::UnknownName).await;
        let (proxy, server) = (
            Proxy::asking(&controller, &[]).await,
            Server::mirror().await,
        );
        let mut caller = proxy.connect().await;
        caller
            .send(&head("GET /x HTTP/1.1", server.address, &routed("2")))
            .await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 307 "), "{answer}");
        let wanted = [
            "content-length: 0",
            "location: http://server.shop:80/x",
            "x-lazymesh-plain: 1",
        ];
        assert_eq!(lines(&answer), wanted);
        assert_eq!(server.connections(), 0);
        until("counted", async || {
            proxy.exchanges("http1", "plain").await == 1.0
        })
        .await;
    }
}

/// A request that no answer of a controller has redirected: its first line, its lines, its body, why it is not.
fn not_redirected() -> Vec<(&'static str, String, String, &'static str)> {
    let with = |tries: &str, lines: &str| routed(tries) + lines;
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", 70_000, "b".repeat(70_000));
    let none = String::new;
    vec![
        ("GET / HTTP/1.1", CALLER.into(), none(), "direct"),
        ("GET / HTTP/1.1", with("6", ""), none(), "redirects_used_up"),
        (
            "GET / HTTP/1.1",
            with("many", ""),
            none(),
            "redirects_used_up",
        ),
        ("GET /a/../b HTTP/1.1", with("", ""), none(), "unsayable"),
        (
            "POST / HTTP/1.1",
            with("", "content-length: 70000\r\n"),
            "b".repeat(70_000),
            "body_too_large",
        ),
        (
            "POST / HTTP/1.1",
            with("", "transfer-encoding: chunked\r\n"),
            chunk,
            "body_too_large",
        ),
        (
            "POST / HTTP/1.1",
            with("", "transfer-encoding: chunked\r\ntrailer: x-sum\r\n"),
            "3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n".into(),
            "trailers",
        ),
        (
            "POST / HTTP/1.1",
            with("", "expect: 100-continue\r\ncontent-length: 3\r\n"),
            "abc".into(),
            "expects_continue",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_redirected_is_relayed_whole() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let proxy = Proxy::asking(&controller, &[]).await;
    let server = Server::http(count).await;
    for (line, lines, body, why) in not_redirected() {
        let before = proxy.relays(why).await;
        let mut caller = proxy.connect().await;
        let lines = lines + "connection: close\r\n";
        caller
            .send(&(head(line, server.address, &lines) + &body))
            .await;
        let answer = caller.rest().await;
        let final_answer = answer.replacen("HTTP/1.1 100 Continue\r\n\r\n", "", 1);
        assert!(final_answer.starts_with("HTTP/1.1 200 "), "{why}: {answer}");
        let sent = match body.len() {
            0 => "0 ".to_owned(),
            _ if body.contains('b') && body.len() >= 70_000 => format!("{} ", 70_000),
            _ if why == "trailers" => "3 6".to_owned(),
            _ => "3 ".to_owned(),
        };
        assert!(final_answer.ends_with(&sent), "{why}: {answer}");
        assert_eq!(proxy.relays(why).await, before + 1.0, "{why}");
    }
}

/// Says how long the body was, and what was in its trailers.
async fn count(request: Request<Incoming>) -> Result<Response<Body>, mesh_runtime::BoxError> {
    let body = request.into_body().collect().await?;
    let sum = body.trailers().and_then(|trailers| trailers.get("x-sum"));
    let sum = sum.map_or("", |sum| sum.to_str().unwrap()).to_owned();
    Ok(Response::new(full(format!(
        "{} {sum}",
        body.to_bytes().len()
    ))))
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_only_refuses_it_and_never_relays() {
    let controller = Controller::saying(RedirectOnly, State::Written).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    for (line, lines, body, why) in not_redirected() {
        let mut caller = proxy.connect().await;
        let lines = lines + "connection: close\r\n";
        caller
            .send(&(head(line, server.address, &lines) + &body))
            .await;
        let answer = caller.rest().await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{why}: {answer}");
        assert!(answer.contains("redirect-only"), "{why}: {answer}");
        assert_eq!(proxy.relays(why).await, 0.0, "{why}");
    }
    let mut upgrade = proxy.connect().await;
    let lines = routed("") + "connection: upgrade\r\nupgrade: websocket\r\n";
    upgrade
        .send(&head("GET / HTTP/1.1", server.address, &lines))
        .await;
    assert!(upgrade.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(server.connections(), 0);
    let answers = async || proxy.exchanges("http1", "redirect_only").await == 9.0;
    until("counted", answers).await;
    assert_eq!(proxy.exchanges("http1", "relayed").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_relayed_and_told() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let proxy = Proxy::asking(&controller, &[]).await;
    let server = Server::raw(|mut raw, _| async move {
        raw.head().await;
        raw.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
        )
        .await;
        let said = raw.exactly(5).await;
        raw.send(&said).await;
    })
    .await;
    let mut caller = proxy.connect().await;
    let lines = routed("") + "connection: upgrade\r\nupgrade: echo\r\n";
    caller
        .send(&head("GET / HTTP/1.1", server.address, &lines))
        .await;
    assert!(caller.head().await.starts_with("HTTP/1.1 101 "));
    caller.send("hello").await;
    assert_eq!(caller.exactly(5).await, "hello");
    assert_eq!(proxy.relays("upgrade").await, 1.0);
    controller.heard(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_the_sidecar_will_not_have_is_relayed() {
    for (state, why) in [
        (State::Refused, "refused"),
        (State::UnknownCaller, "unknown_caller"),
    ] {
        let controller = Controller::saying(PreferRedirect, state).await;
        let (proxy, server) = (
            Proxy::asking(&controller, &[]).await,
            Server::mirror().await,
        );
        let mut caller = proxy.connect().await;
        let post = routed("1") + "content-length: 4\r\nx-envoy-original-url: http://x/\r\n";
        caller
            .send(&(head("POST /z HTTP/1.1", server.address, &post) + "body"))
            .await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = caller.until("\n\nbody").await;
        assert!(seen.starts_with("POST /z HTTP/1.1\n"), "{seen}");
        assert!(
            !seen.contains("x-lazymesh") && !seen.contains("x-envoy"),
            "{seen}"
        );
        assert_eq!(proxy.relays(why).await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_only_relays_at_once_and_tells_all_the_same() {
    let controller = Controller::silent(RelayOnly).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &["--hold=60s"]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.h2().await;
    let request = h2_routed(h2_request("/", server.address, empty()), "");
    let response = soon(caller.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!text(response.into_body()).await.contains("x-lazymesh"));
    assert_eq!(proxy.relays("relay_only").await, 1.0);
    assert_eq!(controller.heard(1).await[0].authority, "server.shop:80");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_service_is_not_relayed_in_any_way() {
    for policy in [PreferRedirect, RelayOnly] {
        let controller = Controller::start(policy, |call| {
            let mut said = answer(call, State::UnknownName);
            if call.authority.starts_with("refused") {
                said.state = State::Refused.into();
            }
            vec![said]
        })
        .await;
        let (proxy, server) = (
            Proxy::asking(&controller, &[]).await,
            Server::mirror().await,
        );
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
        for (lines, host) in [
            (CALLER.to_owned(), "server.shop:80"),
            (routed("") + upgrade, "server.shop:80"),
            (routed(""), "refused.shop:80"),
        ] {
            let mut caller = proxy.connect().await;
            let request = head("GET / HTTP/1.1", server.address, &lines);
            caller.send(&request.replace("server.shop:80", host)).await;
            let answer = caller.head().await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            let body = caller.until("namespace sees)\n").await;
            assert!(body.contains(&server.address.to_string()), "{body}");
        }
        // By a route it goes where plain Istio sends it, under every policy.
        let mut caller = proxy.connect().await;
        let request = head("GET / HTTP/1.1", server.address, &routed(""));
        caller.send(&request).await;
        let answer = caller.head().await;
        assert!(answer.contains("x-lazymesh-plain: 1\r\n"), "{answer}");
        assert_eq!(server.connections(), 0);
        assert_eq!(proxy.exchanges("http1", "no_service").await, 3.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_controller_is_silent_only_addresses_of_services_are_relayed_to() {
    let controller = Controller::silent(RelayOnly).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    let status = async || {
        let mut caller = proxy.connect().await;
        let request = head("GET / HTTP/1.1", server.address, &routed(""));
        caller.send(&request).await;
        caller.head().await.get(9..12).unwrap().to_owned()
    };
    assert_eq!(status().await, "200");
    controller.ranges(&["10.96.0.0/16"]).await;
    until("it is refused", async || status().await == "502").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_that_comes_with_an_answer_is_the_newer() {
    let controller = Controller::start(PreferRedirect, |call| {
        let mut said = answer(call, State::Refused);
        said.policy = RedirectOnly.into();
        vec![said]
    })
    .await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    for lines in [routed(""), CALLER.to_owned()] {
        let mut caller = proxy.connect().await;
        caller
            .send(&head("GET / HTTP/1.1", server.address, &lines))
            .await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_before_the_policy_is_known() {
    let server = Server::mirror().await;
    // Nobody is there.
    let proxy = Proxy::asking_at("http://127.0.0.1:1", &[]).await;
    let mut caller = proxy.connect().await;
    caller
        .send(&head("GET / HTTP/1.1", server.address, &routed("")))
        .await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert_eq!(server.connections(), 0);
    assert_eq!(proxy.exchanges("http1", "policy_unknown").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_calls_are_relayed_as_far_as_that_is_known_to_be_allowed() {
    for (policy, status) in [(PreferRedirect, "200"), (RedirectOnly, "503")] {
        let controller = Controller::silent(policy).await;
        let (proxy, server) = (
            Proxy::asking(&controller, &[]).await,
            Server::mirror().await,
        );
        controller.stop().await;
        let away = "lazymesh_proxy_controller_calls_connected";
        until("it is away", async || proxy.metric(away).await == 0.0).await;
        let mut caller = proxy.connect().await;
        caller
            .send(&head("GET / HTTP/1.1", server.address, &routed("")))
            .await;
        let answer = caller.head().await;
        assert!(answer.contains(status), "{answer}");
        let relayed = if status == "200" { 1.0 } else { 0.0 };
        assert_eq!(proxy.relays("controller_away").await, relayed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_route_is_told_to_close_once_calls_go_direct() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    let closes = async |lines: &str| {
        let mut caller = proxy.connect().await;
        caller
            .send(&head("GET / HTTP/1.1", server.address, lines))
            .await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer.contains("connection: close\r\n")
    };
    until("it is told to close", async || closes(CALLER).await).await;
    // By a route each request goes where it can.
    assert!(!closes(&routed("6")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_relayed_as_it_came_when_it_is_not_redirected_after_all() {
    let controller = Controller::silent(PreferRedirect).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &["--hold=60s"]).await,
        Server::mirror().await,
    );
    // Over HTTP/1 in chunks, whole.
    let mut caller = proxy.connect().await;
    let lines = routed("1") + "transfer-encoding: chunked\r\n";
    let post = head("POST /one HTTP/1.1", server.address, &lines);
    caller
        .send(&(post + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))
        .await;
    let call = controller.heard(1).await.remove(0);
    assert_eq!(server.connections(), 0);
    controller.say(vec![answer(&call, State::Refused)]).await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
    let seen = caller.until("\n\nabcde").await;
    assert!(seen.contains("transfer-encoding: chunked\n"), "{seen}");
    // Over HTTP/2, with the length it said.
    let mut caller = proxy.h2().await;
    let mut request = h2_routed(h2_request("/two", server.address, full("whole")), "3");
    let host = "http://other.shop:80/two".parse().unwrap();
    *request.uri_mut() = host;
    let response = tokio::spawn(caller.send_request(request));
    let call = controller.heard(2).await.remove(1);
    controller
        .say(vec![answer(&call, State::UnknownCaller)])
        .await;
    let response = soon(response).await.unwrap().unwrap();
    let seen = text(response.into_body()).await;
    assert!(seen.contains("content-length: 5\n"), "{seen}");
    assert!(seen.ends_with("\n\nwhole"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_end_in_time_is_relayed_as_it_flows() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let (proxy, server) = (
        Proxy::asking(&controller, &[]).await,
        Server::mirror().await,
    );
    let mut caller = proxy.h2().await;
    let (feed, body) = fed();
    feed.data("begin, ").await;
    let request = h2_routed(h2_request("/", server.address, body), "");
    let response = tokio::spawn(caller.send_request(request));
    until("it is relayed", async || {
        proxy.relays("body_slow").await == 1.0
    })
    .await;
    feed.data("end").await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("10"));
    feed.trailers(trailers).await;
    drop(feed);
    let response = soon(response).await.unwrap().unwrap();
    let seen = text(response.into_body()).await;
    assert!(seen.contains("\n\nbegin, end\n"), "{seen}");
    assert!(seen.contains("\"x-sum\": \"10\""), "{seen}");
}
