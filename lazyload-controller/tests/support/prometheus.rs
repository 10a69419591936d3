//! A Prometheus in this test, what it scrapes, a past made for it, and a controller's history that asks it.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dependency_graph::{Dependency, Learned, Port, Protocol, Record, Workload};
use kube::core::DynamicObject;
use lazyload_controller::config::Cli;
use lazyload_controller::expiry::Lack;
use lazyload_controller::history::{History, Parts};
use lazyload_controller::lease::Leading;
use lazyload_controller::limits::Limits;
use lazyload_controller::mesh::{Kind, World};
use lazyload_controller::metrics::Metrics;
use lazyload_controller::prometheus::Prometheus;
use lazyload_controller::state::State;
use lazyload_controller::store::memory::Memory;
use lazyload_controller::writer::Writer;
use mesh_runtime::drain::Drain;
use parking_lot::{Mutex, RwLock};
use prometheus::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A series as Istio's sidecars have it: the metric and its labels.
pub(crate) type Series = (&'static str, String);

fn series(metric: &'static str, workload: &str, service: &str) -> Series {
    let labels = format!(
        r#"reporter="source",source_workload="{workload}",source_workload_namespace="shop",source_principal="unknown",destination_workload="{service}-v1",destination_service="{service}.shop.svc.cluster.local",destination_service_name="{service}",request_protocol="x",response_flags="-""#
    );
    (metric, labels)
}

pub(crate) fn http(workload: &str, service: &str) -> Series {
    series("istio_requests_total", workload, service)
}

pub(crate) fn tcp(workload: &str, service: &str) -> Series {
    series("istio_tcp_connections_opened_total", workload, service)
}

pub(crate) fn bytes(workload: &str, service: &str) -> Series {
    series("istio_tcp_sent_bytes_total", workload, service)
}

/// Serves counters as a sidecar does.
pub(crate) struct Exporter {
    pub(crate) address: SocketAddr,
    counters: Arc<Mutex<BTreeMap<Series, u64>>>,
}

impl Exporter {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters: Arc<Mutex<BTreeMap<Series, u64>>> = Arc::default();
        let serve = {
            let counters = counters.clone();
            async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.unwrap() == 0 {
                            break;
                        }
                    }
                    let mut page = String::new();
                    for ((metric, labels), value) in counters.lock().iter() {
                        writeln!(page, "{metric}{{{labels}}} {value}").unwrap();
                    }
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n\r\n";
                    // Whoever asked may have gone.
                    let _ = stream.write_all((head.to_owned() + &page).as_bytes()).await;
                }
            }
        };
        tokio::spawn(serve);
        Self { address, counters }
    }

    pub(crate) fn count(&self, series: Series, more: u64) {
        *self.counters.lock().entry(series).or_default() += more;
    }
}

/// Samples of the past, one a minute.
pub(crate) struct Past {
    begin: u64,
    end: u64,
    metrics: BTreeMap<&'static str, String>,
}

impl Past {
    pub(crate) fn new(begin: u64, end: u64) -> Self {
        Self {
            begin,
            end,
            metrics: BTreeMap::new(),
        }
    }

    /// A series with what the function says at each moment.
    pub(crate) fn series(mut self, series: Series, value: impl Fn(u64) -> Option<u64>) -> Self {
        let (metric, labels) = series;
        let lines = self.metrics.entry(metric).or_default();
        for at in (self.begin..self.end).step_by(60) {
            if let Some(value) = value(at) {
                writeln!(lines, "{metric}{{{labels}}} {value} {at}").unwrap();
            }
        }
        self
    }

    /// As OpenMetrics.
    pub(crate) fn write(&self) -> String {
        let mut text = String::new();
        for (metric, lines) in &self.metrics {
            let family = metric.strip_suffix("_total").unwrap();
            writeln!(text, "# TYPE {family} counter").unwrap();
            text += lines;
        }
        text + "# EOF\n"
    }
}

/// A Prometheus; it ends with this.
pub(crate) struct Server {
    pub(crate) url: String,
    _process: Process,
    _folder: TempDir,
}

struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(name: &str) -> Command {
    Command::new(std::env::var(name).unwrap_or_else(|_| panic!("{name} names the program")))
}

impl Server {
    /// With a past, and something to scrape four times a second.
    pub(crate) async fn start(scraped: Option<SocketAddr>, past: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        if !past.is_empty() {
            let text = folder.path().join("past");
            std::fs::write(&text, past).unwrap();
            let made = program("PROMTOOL")
                .args(["tsdb", "create-blocks-from", "openmetrics"])
                .args([&text, &data])
                .output()
                .unwrap();
            assert!(
                made.status.success(),
                "{}",
                String::from_utf8_lossy(&made.stderr)
            );
        }
        let targets = scraped.map(|address| address.to_string());
        let config = json!({
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"},
            "scrape_configs": [{"job_name": "sidecars", "static_configs": [{"targets": targets.as_slice()}]}],
        });
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let address = free_address();
        let process = program("PROMETHEUS")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            url: format!("http://{address}"),
            _process: Process(process),
            _folder: folder,
        };
        server.until_ready().await;
        server
    }

    async fn until_ready(&self) {
        let args = args(&["--prometheus", &self.url]);
        let prometheus = Prometheus::new(&args.serve.prometheus).unwrap().unwrap();
        until("Prometheus answers", async || {
            let answer = prometheus
                .ask("vector(1)", std::time::SystemTime::now().into())
                .await;
            answer.is_ok_and(|answer| answer.rows.len() == 1)
        })
        .await;
    }
}

/// Free a moment ago: Prometheus does not say which port it took.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn args(flags: &[&str]) -> Cli {
    Cli::try_parse_from([&["x"], flags].concat()).unwrap()
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let done = tokio::time::timeout(DEADLINE, asking).await;
    done.unwrap_or_else(|_| panic!("{what}"));
}

/// What the controller's `app.rs` puts together, on a store in memory.
pub(crate) struct Rig {
    pub(crate) history: History,
    pub(crate) state: State,
    writer: Writer,
    writing: Drain,
}

impl Rig {
    pub(crate) fn new(server: &Server, flags: &[&str], mode: &str) -> Self {
        let serve = args(&[flags, &["--prometheus", &server.url]].concat()).serve;
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (state, store) = (State::new(metrics.clone()), Arc::new(Memory::default()));
        state.namespaces_synced();
        state.records_synced();
        let limits = Limits::default();
        let window = Duration::from_millis(1);
        let writer = Writer::new(
            store.clone(),
            state.clone(),
            limits,
            window,
            metrics.clone(),
        );
        let writing = Drain::new(Duration::from_secs(5));
        tokio::spawn(writer.clone().run(mpsc::channel(1).1, writing.clone()));
        let history = History::new(Parts {
            prometheus: Prometheus::new(&serve.prometheus).unwrap(),
            state: state.clone(),
            writer: writer.clone(),
            store,
            world: Some(Arc::new(RwLock::new(world(mode)))),
            limits,
            args: serve.history,
            metrics,
            leader: Leading::alone(),
        });
        Self {
            history,
            state,
            writer,
            writing,
        }
    }

    pub(crate) async fn learn(&self, name: &str, calls: &Learned) {
        let ticket = self.writer.submit(workload(name), calls.clone()).await;
        ticket.await.unwrap();
    }

    pub(crate) fn record(&self, name: &str) -> Option<Arc<Record>> {
        self.state.record(&workload(name))
    }

    /// What is learned of a workload, as `service:port/protocol`.
    pub(crate) fn learned(&self, name: &str) -> Vec<String> {
        let record = self.record(name).unwrap_or_default();
        let all = record.learned.dependencies();
        all.map(|d| d.to_string().replace(".shop.svc.cluster.local", ""))
            .collect()
    }

    pub(crate) async fn until_learned(&self, name: &str, expected: &[&str]) {
        until(&format!("{name} learns {expected:?}"), async || {
            self.learned(name) == expected
        })
        .await;
    }

    pub(crate) fn lack(&self, name: &str) -> Option<Lack> {
        self.state.keeping(&workload(name)).unwrap().lack
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.writing.start();
    }
}

fn workload(name: &str) -> Workload {
    Workload::new("shop", "Deployment", name).unwrap()
}

pub(crate) fn dependency(name: &str, protocol: Protocol) -> Dependency {
    Dependency {
        host: format!("{name}.shop.svc.cluster.local").parse().unwrap(),
        port: Port::try_from(80).unwrap(),
        protocol,
    }
}

/// A namespace in this mode with a pod that calls and the services there are.
fn world(mode: &str) -> World {
    let mut world = World::new("cluster.local");
    let mut put = |kind, object: Value| {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        world.apply(kind, &object).unwrap();
    };
    let labels = json!({"lazymesh.dev/mode": mode});
    put(
        Kind::Namespace,
        json!({"metadata": {"name": "shop", "labels": labels}}),
    );
    for (name, ports) in [
        (
            "reviews",
            json!([{"name": "http", "port": 80}, {"name": "http-two", "port": 9080}, {"name": "tcp", "port": 1}]),
        ),
        ("ratings", json!([{"name": "http", "port": 80}])),
        ("db", json!([{"name": "tcp-sql", "port": 5432}])),
        ("old", json!([{"name": "http", "port": 80}])),
    ] {
        let metadata = json!({"namespace": "shop", "name": name});
        put(
            Kind::Service,
            json!({"metadata": metadata, "spec": {"clusterIP": "10.96.0.9", "ports": ports}}),
        );
    }
    let metadata = json!({
        "namespace": "shop", "name": "cart-5d4f-x", "generateName": "cart-5d4f-",
        "labels": {"app": "cart", "pod-template-hash": "5d4f"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "1", "name": "cart-5d4f", "controller": true}],
    });
    let spec = json!({"containers": [{"name": "app"}, {"name": "istio-proxy"}]});
    put(Kind::Pod, json!({"metadata": metadata, "spec": spec}));
    world
}
