//! Calls over loopback: a hand-made mesh, a store in memory, and a client as a global proxy is one.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dependency_graph::api::call_answer::State as Said;
use dependency_graph::api::dependency_graph_client::DependencyGraphClient;
use dependency_graph::api::{Call, CallAnswer, CallsRequest, CallsResponse, Protocol};
use dependency_graph::{Mode, Record, Source, Workload};
use futures::channel::mpsc;
use lazyload_controller::api::GraphApi;
use lazyload_controller::auth::Auth;
use lazyload_controller::calls::{self, Calls, Mesh};
use lazyload_controller::given::Given;
use lazyload_controller::limits::Limits;
use lazyload_controller::mesh::{Kind, World};
use lazyload_controller::metrics::Metrics;
use lazyload_controller::report::Reports;
use lazyload_controller::resource::Entry;
use lazyload_controller::state::{State, Versioned};
use lazyload_controller::store::Store;
use lazyload_controller::store::memory::Memory;
use lazyload_controller::writer::Writer;
use mesh_runtime::drain::Drain;
use mesh_runtime::grpc::{self, Dialer};
use parking_lot::RwLock;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc as queue, watch};
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::{Code, Streaming};

const DEADLINE: Duration = Duration::from_secs(20);
const REVIEWS: &str = "reviews.shop.svc.cluster.local";

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.expect("not done in time")
}

/// A controller as far as calls need one.
struct Controller {
    state: State,
    given: Given,
    world: Arc<RwLock<World>>,
    changed: watch::Sender<()>,
    synced: watch::Sender<bool>,
    drain: Drain,
    address: std::net::SocketAddr,
    running: JoinHandle<()>,
}

fn put(world: &mut World, kind: Kind, namespace: &str, name: &str, mut body: Value) {
    body["metadata"]["name"] = json!(name);
    if !namespace.is_empty() {
        body["metadata"]["namespace"] = json!(namespace);
    }
    let object = serde_json::from_value(body).unwrap();
    world.apply(kind, &object).unwrap();
}

fn pod(world: &mut World, name: &str, app: &str) {
    let body = json!({
        "metadata": {
            "generateName": format!("{app}-5d4f-"),
            "labels": {"app": app, "pod-template-hash": "5d4f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "1",
                                 "name": format!("{app}-5d4f"), "controller": true}],
        },
        "spec": {"serviceAccountName": app, "containers": [{"name": "istio-proxy"}]},
        "status": {"phase": "Running"},
    });
    put(world, Kind::Pod, "shop", name, body);
}

fn service(world: &mut World, name: &str, address: &str) {
    let ports = json!([{"name": "http", "port": 80}, {"name": "tcp", "port": 5432}]);
    let spec = json!({"clusterIP": address, "ports": ports});
    put(world, Kind::Service, "shop", name, json!({"spec": spec}));
}

fn mesh() -> World {
    let mut world = World::new("cluster.local");
    let labels = json!({"metadata": {"labels": {"lazymesh.dev/mode": "sidecar"}}});
    put(&mut world, Kind::Namespace, "", "shop", labels);
    service(&mut world, "reviews", "10.96.1.1");
    service(&mut world, "ratings", "10.96.1.2");
    pod(&mut world, "cart-1", "cart");
    pod(&mut world, "web-1", "web");
    world
}

fn cart() -> Workload {
    Workload::new("shop", "Deployment", "cart").unwrap()
}

impl Controller {
    async fn start(limits: Limits, max_stream_age: Duration) -> Self {
        let (registry, drain) = (Registry::new(), Drain::new(3 * DEADLINE));
        let metrics = Metrics::new(&registry).unwrap();
        let (state, store) = (State::new(metrics.clone()), Arc::new(Memory::default()));
        let window = Duration::from_millis(20);
        let writer = Writer::new(
            store.clone(),
            state.clone(),
            limits,
            window,
            metrics.clone(),
        );
        let (stale, of_stale) = queue::channel(1);
        tokio::spawn(store.follow(state.clone(), stale));
        let writing = tokio::spawn(writer.clone().run(of_stale, drain.clone()));
        let reports = Reports {
            state: state.clone(),
            writer,
            limits,
            metrics,
            drain: drain.clone(),
        };
        let world = Arc::new(RwLock::new(mesh()));
        let (changed, changes) = watch::channel(());
        let (done, synced) = watch::channel(true);
        let mesh = Mesh {
            world: world.clone(),
            changes,
            synced,
        };
        let given = Given::default();
        given.gives(&cart(), BTreeSet::new(), Instant::now());
        let of_calls = calls::Metrics::new(&registry).unwrap();
        let calls = Calls::new(reports.clone(), Some(mesh), given.clone(), of_calls);
        let api = GraphApi::server(Auth::None, reports, calls, max_stream_age);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let until = drain.clone();
        let running = tokio::spawn(async move {
            let routes = Routes::new(api).prepare();
            grpc::serve(listener, None, routes, &until).await.unwrap();
            writing.await.unwrap().unwrap();
        });
        Self {
            state,
            given,
            world,
            changed,
            synced: done,
            drain,
            address,
            running,
        }
    }

    async fn usual() -> Self {
        Self::start(Limits::default(), Duration::from_secs(3600)).await
    }

    async fn proxy(&self) -> Proxy {
        let dialer = Dialer::new(&format!("http://{}", self.address), None, None).unwrap();
        let (calls, outgoing) = mpsc::channel(16);
        let mut client = DependencyGraphClient::new(dialer.channel());
        let answers = in_time(client.calls(outgoing)).await.unwrap().into_inner();
        Proxy { calls, answers }
    }

    fn gives(&self, hosts: &[&str]) {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        self.given.gives(&cart(), hosts, Instant::now());
    }

    async fn stop(self) {
        self.drain.start();
        in_time(self.running).await.unwrap();
    }
}

struct Proxy {
    calls: mpsc::Sender<CallsRequest>,
    answers: Streaming<CallsResponse>,
}

impl Proxy {
    fn send(&mut self, calls: Vec<Call>) {
        self.calls.try_send(CallsRequest { calls }).unwrap();
    }

    async fn next(&mut self) -> Vec<CallAnswer> {
        let response = in_time(self.answers.message()).await.unwrap();
        response.expect("the stream goes on").answers
    }

    /// What was last said of these calls, once all are done.
    async fn done(&mut self, ids: &[u64]) -> BTreeMap<u64, CallAnswer> {
        let mut last = BTreeMap::new();
        while !ids
            .iter()
            .all(|id| last.get(id).is_some_and(|one: &CallAnswer| one.done))
        {
            let said = self.next().await.into_iter();
            last.extend(said.map(|answer| (answer.id, answer)));
        }
        last
    }

    async fn until(&mut self, id: u64, state: Said) -> CallAnswer {
        loop {
            let said = self.next().await.into_iter();
            if let Some(found) = said.into_iter().find(|a| a.id == id && a.state() == state) {
                return found;
            }
        }
    }
}

fn call(id: u64, pod: &str, authority: &str) -> Call {
    Call {
        id,
        spiffe_id: "spiffe://cluster.local/ns/shop/sa/cart".into(),
        pod: pod.into(),
        authority: authority.into(),
        destination: "10.96.1.1:80".into(),
        protocol: Protocol::Http.into(),
        seen: Some(std::time::SystemTime::now().into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_pending_then_written_and_whoever_watches_hears_of_it() {
    let controller = Controller::usual().await;
    let mut proxy = controller.proxy().await;
    let watcher = controller.state.watch();
    let begin = Instant::now();
    proxy.send(vec![call(1, "cart-1", "reviews")]);
    let said = proxy.next().await;
    eprintln!("pending after {:?}", begin.elapsed());
    assert_eq!(
        (said[0].id, said[0].state(), said[0].done),
        (1, Said::Pending, false)
    );
    // What writes Sidecars need not wait for the store.
    in_time(watcher.told().changed()).await;
    let told = controller.state.view(&cart()).unwrap();
    assert_eq!(told.learned.len(), 1);
    controller.gives(&["other", REVIEWS]);
    let written = proxy.until(1, Said::Written).await;
    assert!(written.written_ms_ago < 20_000);
    let done = if written.done {
        written
    } else {
        proxy.done(&[1]).await.remove(&1).unwrap()
    };
    assert_eq!(done.state(), Said::Written);
    let stored = controller.state.record(&cart()).unwrap();
    let (host, _, edge) = stored.learned.edges().next().unwrap();
    assert_eq!((host.as_str(), edge.source), (REVIEWS, Source::Fallback));
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_callers_and_modes_are_judged() {
    let controller = Controller::usual().await;
    let off = Record {
        mode: Some(Mode::Off),
        ..Record::default()
    };
    let web = Workload::new("shop", "Deployment", "web").unwrap();
    let entry = Entry {
        workload: web,
        record: off,
        capped: false,
        stale: false,
        said: Default::default(),
        settle_after: None,
        keeping: Default::default(),
    };
    controller
        .state
        .set_record(Versioned { entry, revision: 1 });
    let mut proxy = controller.proxy().await;
    let of_web = Call {
        spiffe_id: "spiffe://cluster.local/ns/shop/sa/web".into(),
        ..call(3, "web-1", "reviews")
    };
    proxy.send(vec![
        call(1, "cart-1", "example.com"),
        call(2, "web-1", "reviews"),
        of_web,
        call(4, "cart-9", "reviews"),
    ]);
    let said = proxy.done(&[1, 2, 3, 4]).await;
    let said: Vec<_> = said
        .values()
        .map(|a| (a.state(), a.reason.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (Said::UnknownName, ""),
            (
                Said::UnknownCaller,
                "pod shop/web-1 does not run as service account cart"
            ),
            (Said::Refused, "shop/web is in mode off"),
            (Said::UnknownCaller, "no pod shop/cart-9 is known"),
        ]
    );
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_seen_a_moment_later_is_known_then() {
    let controller = Controller::usual().await;
    let mut proxy = controller.proxy().await;
    // A machine that stands still for the second that a caller is waited for must not fail this.
    for id in (1..20).step_by(2) {
        let new = format!("cart-{}", id + 1);
        proxy.send(vec![
            call(id, &new, "reviews"),
            call(id + 1, "cart-1", "ratings"),
        ]);
        // The other one does not wait for it.
        assert_eq!(proxy.next().await[0].id, id + 1);
        pod(&mut controller.world.write(), &new, "cart");
        controller.changed.send_replace(());
        if proxy.done(&[id]).await[&id].state() == Said::Pending {
            controller.stop().await;
            return;
        }
    }
    panic!("a pod that was seen in time was never known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_record_refuses() {
    let limits = Limits {
        dependencies: 1,
        ..Limits::default()
    };
    let controller = Controller::start(limits, Duration::from_secs(3600)).await;
    let mut proxy = controller.proxy().await;
    proxy.send(vec![call(1, "cart-1", "reviews")]);
    assert_eq!(proxy.done(&[1]).await[&1].state(), Said::Pending);
    proxy.send(vec![call(2, "cart-1", "ratings")]);
    let said = proxy.done(&[2]).await.remove(&2).unwrap();
    assert_eq!(said.state(), Said::Refused);
    assert!(
        said.reason.contains("as many dependencies"),
        "{}",
        said.reason
    );
    assert_eq!(controller.state.view(&cart()).unwrap().learned.len(), 1);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_may_be_sent_again_on_the_same_stream_and_another() {
    let controller = Controller::usual().await;
    let mut proxy = controller.proxy().await;
    proxy.send(vec![call(1, "cart-1", "reviews")]);
    proxy.send(vec![call(1, "cart-1", "reviews")]);
    assert_eq!(proxy.done(&[1]).await[&1].state(), Said::Pending);
    controller.gives(&[REVIEWS]);
    proxy.until(1, Said::Written).await;
    let mut other = controller.proxy().await;
    other.send(vec![call(1, "cart-1", "reviews")]);
    let said = other.next().await;
    assert_eq!((said[0].state(), said[0].done), (Said::Written, true));
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_the_mesh_is_known() {
    let controller = Controller::usual().await;
    controller.synced.send_replace(false);
    let mut proxy = controller.proxy().await;
    proxy.send(vec![call(1, "cart-1", "late")]);
    service(&mut controller.world.write(), "late", "10.96.1.3");
    controller.synced.send_replace(true);
    assert_eq!(proxy.done(&[1]).await[&1].state(), Said::Pending);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_what_is_stored_and_ends() {
    let controller = Controller::usual().await;
    let mut proxy = controller.proxy().await;
    proxy.send(vec![call(1, "cart-1", "reviews")]);
    assert_eq!(proxy.next().await[0].state(), Said::Pending);
    controller.drain.start();
    let mut done = false;
    while let Ok(Some(response)) = in_time(proxy.answers.message()).await {
        done |= response.answers.iter().any(|answer| answer.done);
    }
    assert!(done, "it was stored, and said to be");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_age_though_a_call_is_open() {
    let controller = Controller::start(Limits::default(), Duration::from_secs(2)).await;
    let mut proxy = controller.proxy().await;
    proxy.send(vec![call(1, "cart-1", "reviews")]);
    assert_eq!(proxy.done(&[1]).await[&1].state(), Said::Pending);
    assert!(in_time(proxy.answers.message()).await.unwrap().is_none());
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_talks_nonsense_ends_its_own_stream_only() {
    let controller = Controller::usual().await;
    let mut proxy = controller.proxy().await;
    let huge = Call {
        authority: "a".repeat(5 << 20),
        ..call(1, "cart-1", "")
    };
    proxy.send(vec![huge]);
    let error = in_time(proxy.answers.message()).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    let mut other = controller.proxy().await;
    other.send(vec![call(1, "cart-1", "reviews")]);
    assert_eq!(other.next().await[0].state(), Said::Pending);
    controller.stop().await;
}
