//! The global proxy itself in its place: the real program between real sidecars. Only its controller is the test's, which
//! grows the Sidecar by hand.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dependency_graph::api::call_answer::State;
use dependency_graph::api::dependency_graph_server::{DependencyGraph, DependencyGraphServer};
use dependency_graph::api::{
    self, CallAnswer, CallsRequest, CallsResponse, FallbackPolicy, Mode, NamespaceMode,
    ReportRequest, ReportResponse, WatchRequest, WatchResponse,
};
use mesh_runtime::drain::Drain;
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Test, own_program, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::LIMIT;
use super::http::ensure_clean;
use super::wiring::{self, Growing, Tunnel};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("fallback::program_redirects_first_calls", redirects),
        Test::new(
            "fallback::program_redirect_only_never_relays",
            redirect_only,
        ),
    ]
}

/// Not the controller's own, which is pilot-agent's in a pod.
const CONTROLLER_PORT: u16 = 19998;
const ADMIN_PORT: u16 = 15023;

/// Says what one namespace allows, and adds to its Sidecar whatever is called.
#[derive(Clone)]
struct Controller {
    namespace: String,
    policy: FallbackPolicy,
    sidecar: Growing,
}

impl Controller {
    async fn answer(&self, call: &api::Call) -> Result<CallAnswer> {
        let service = call.authority.split(['.', ':']).next();
        self.sidecar.add(service.unwrap_or_default()).await?;
        Ok(CallAnswer {
            id: call.id,
            state: State::Written.into(),
            done: true,
            ..Default::default()
        })
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl DependencyGraph for Controller {
    type ReportStream = Answers<ReportResponse>;
    type WatchStream = Answers<WatchResponse>;
    type CallsStream = Answers<CallsResponse>;

    async fn report(
        &self,
        _: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        Err(Status::unimplemented("a global proxy reports calls"))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (updates, outgoing) = mpsc::channel(1);
        let state = WatchResponse {
            namespaces: vec![NamespaceMode {
                namespace: self.namespace.clone(),
                mode: Mode::Sidecar.into(),
                fallback: self.policy.into(),
            }],
            snapshot_complete: true,
            ..Default::default()
        };
        tokio::spawn(async move {
            let _ = updates.send(Ok(state)).await;
            updates.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn calls(
        &self,
        request: Request<Streaming<CallsRequest>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        let mut batches = request.into_inner();
        let (answers, outgoing) = mpsc::channel(8);
        let controller = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                for call in batch.calls {
                    let answer = controller.answer(&call).await;
                    let answer = answer.map_err(|error| Status::internal(format!("{error:#}")));
                    let answer = answer.map(|answer| CallsResponse {
                        answers: vec![answer],
                    });
                    if answers.send(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

struct Shop {
    ns: Namespace,
    global_proxy: Pod,
    server: Pod,
    client: Pod,
    _program: Child,
}

impl Shop {
    async fn open(case: &Case, policy: FallbackPolicy) -> Result<Self> {
        let ns = case.namespace(&[]).await?;
        ns.strict_mtls().await?;
        let sidecar = Growing::new(&ns, "client", "");
        ns.service("global-proxy")
            .port("http", 80, 15080)
            .port("tcp-tunnel", 15009, 15081)
            .create()
            .await?;
        ns.apply(&wiring::global_proxy(ns.name(), Tunnel::Http2))
            .await?;
        ns.apply(wiring::ROUTE).await?;
        let global_proxy = ns.workload("global-proxy").no_app().start().await?;
        let controller = Controller {
            namespace: ns.name().to_owned(),
            policy,
            sidecar: sidecar.clone(),
        };
        let listener = global_proxy.network().listen(CONTROLLER_PORT).await?;
        let service = DependencyGraphServer::new(controller);
        tokio::spawn(async move {
            let never = Drain::new(Duration::ZERO);
            mesh_runtime::grpc::serve(listener, None, service, &never).await
        });
        let program = start(&global_proxy)?;
        until("the global proxy", LIMIT, || ready(&global_proxy)).await?;
        let server = Self::server(&ns).await?;
        sidecar.write().await?;
        ns.apply(&wiring::fallback(ns.name(), "client")).await?;
        let client = ns.workload("client").no_app().all_stats().start().await?;
        super::wait_fallback(&client).await?;
        Ok(Self {
            ns,
            global_proxy,
            server,
            client,
            _program: program,
        })
    }

    /// One pod behind several services, each of which is called for the first time once.
    async fn server(ns: &Namespace) -> Result<Pod> {
        for (name, protocol, target) in [
            ("one", "http", 8080),
            ("two", "http", 8080),
            ("three", "grpc", 7070),
            ("four", "http", 8080),
        ] {
            ns.service(name)
                .port(protocol, 80, target)
                .selector(&[("app", "server")])
                .create()
                .await?;
        }
        ns.workload("server").start().await
    }

    /// The global proxy's metrics, as text.
    async fn metrics(&self) -> Result<String> {
        get(&self.global_proxy, "/metrics").await
    }
}

fn start(pod: &Pod) -> Result<Child> {
    let log = pod.mesh().places().log(&format!("{}-program", pod.name()));
    let log = File::create(&log).with_context(|| log.display().to_string())?;
    let mut command = pod.command(&own_program("global-proxy")?);
    command
        .arg("--listen=0.0.0.0:15080")
        .arg(format!("--admin-listen=127.0.0.1:{ADMIN_PORT}"))
        .arg(format!("--controller=http://127.0.0.1:{CONTROLLER_PORT}"))
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    command.spawn().context("cannot start global-proxy")
}

async fn ready(pod: &Pod) -> Result<()> {
    let answer = get(pod, "/healthz/ready").await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

async fn get(pod: &Pod, path: &str) -> Result<String> {
    let network = pod.network();
    let mut stream = network.connect(Ipv4Addr::LOCALHOST, ADMIN_PORT).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Larger than what is redirected.
const LARGE: usize = 200_000;

async fn redirects(case: Case) -> Result<()> {
    let shop = Shop::open(&case, FallbackPolicy::PreferRedirect).await?;
    let direct = shop.client.spiffe_id();
    let relayed = shop.global_proxy.spiffe_id();
    for (call, caller) in [
        (Call::new("http1://one/hello?a=b%20c"), &direct),
        (
            Call::new("http2://two/post")
                .method("POST")
                .body_bytes(50_000),
            &direct,
        ),
        (Call::new("grpc://three:80"), &direct),
        (
            Call::new("http1://four/post")
                .method("POST")
                .body_bytes(LARGE),
            &relayed,
        ),
    ] {
        let outcome = shop.client.call(&call).await?;
        let answer = outcome.answer()?;
        ensure!(
            answer.saw.caller.as_ref() == Some(caller),
            "the server saw {:?}, not {caller}",
            answer.saw.caller
        );
        ensure_clean(&answer.saw)?;
        let ours = outcome
            .headers
            .keys()
            .find(|name| name.starts_with("x-lazymesh"));
        ensure!(ours.is_none(), "the application saw {ours:?}");
    }
    // What was relayed was told as well, so that the next one goes direct.
    let again = Call::new("http1://four/post")
        .method("POST")
        .body_bytes(LARGE);
    until("a large body goes direct", LIMIT, || async {
        let outcome = shop.client.call(&again).await?;
        ensure!(outcome.answer()?.saw.caller.as_ref() == Some(&direct));
        Ok(())
    })
    .await?;
    ensure!(shop.server.seen().await?.len() >= 5);
    let metrics = shop.metrics().await?;
    let redirected = "outcome=\"redirected\",protocol=\"http1\"} 0";
    ensure!(!metrics.contains(redirected), "{metrics}");
    Ok(())
}

async fn redirect_only(case: Case) -> Result<()> {
    let shop = Shop::open(&case, FallbackPolicy::RedirectOnly).await?;
    let large = Call::new("http1://four/post")
        .method("POST")
        .body_bytes(LARGE);
    let outcome = shop.client.call(&large).await?;
    ensure!(outcome.status == Some(503), "{outcome:?}");
    let said = outcome.body.unwrap_or_default();
    ensure!(said.contains("redirect-only"), "{said}");
    let outcome = shop.client.call(&Call::new("http1://one/")).await?;
    let caller = &outcome.answer()?.saw.caller;
    ensure!(*caller == Some(shop.client.spiffe_id()), "{caller:?}");
    let metrics = shop.metrics().await?;
    let relays = metrics
        .lines()
        .filter(|line| line.starts_with("lazymesh_proxy_relays_total"));
    for relay in relays {
        ensure!(relay.ends_with(" 0"), "{relay} in {}", shop.ns.name());
    }
    Ok(())
}
