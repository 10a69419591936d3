//! A controller in this process, and clients of it.

// Clippy sees that a function is for tests only where it says so itself.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Parser;
use dependency_graph::api::dependency_graph_client::DependencyGraphClient;
use dependency_graph::api::{self, ReportRequest, ReportResponse, WatchRequest, WatchResponse};
use futures::channel::mpsc;
use lazyload_controller::app::{App, Error, Known};
use lazyload_controller::config::Cli;
use mesh_runtime::drain::Drain;
use mesh_runtime::grpc::Dialer;
use tonic::Streaming;
use tonic::transport::Channel;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Controller {
    pub(crate) drain: Drain,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) admin: std::net::SocketAddr,
    pub(crate) known: Known,
    pub(crate) running: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Controller {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let local = [
            "x",
            "--plaintext",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ];
        Self::start_with(&[&local[..], flags].concat()).await
    }

    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let flags = Cli::try_parse_from(flags).unwrap().serve;
        // Longer than a test may take: a stream that does not end by itself fails it.
        let drain = Drain::new(3 * DEADLINE);
        let app = App::bind(&flags, None, drain.clone()).await.unwrap();
        let (address, admin) = (app.address(), app.admin_address());
        let known = app.known().clone();
        Self {
            drain,
            address,
            admin,
            known,
            running: tokio::spawn(app.run()),
        }
    }

    pub(crate) async fn memory() -> Self {
        Self::start(&["--store", "memory", "--auth", "none"]).await
    }

    pub(crate) async fn folder(path: &Path) -> Self {
        let store = format!("file:{}", path.display());
        Self::start(&["--store", &store, "--auth", "none"]).await
    }

    pub(crate) fn client(&self) -> DependencyGraphClient<Channel> {
        let dialer = Dialer::new(&format!("http://{}", self.address), None, None).unwrap();
        DependencyGraphClient::new(dialer.channel())
    }

    /// A watch whose snapshot was read: the watch, and the snapshot as one message.
    pub(crate) async fn watch(&self) -> (Streaming<WatchResponse>, WatchResponse) {
        let mut stream = self
            .client()
            .watch(WatchRequest::default())
            .await
            .unwrap()
            .into_inner();
        let mut snapshot = WatchResponse::default();
        while !snapshot.snapshot_complete {
            let part = next(&mut stream).await;
            snapshot.namespaces.extend(part.namespaces);
            snapshot.workloads.extend(part.workloads);
            snapshot.snapshot_complete = part.snapshot_complete;
        }
        (stream, snapshot)
    }

    pub(crate) async fn report(&self) -> Reporter {
        let (batches, outgoing) = mpsc::channel(16);
        let answers = self.client().report(outgoing).await.unwrap().into_inner();
        Reporter {
            batches,
            answers,
            sequence: 0,
        }
    }

    pub(crate) async fn stop(self) {
        self.drain.start();
        in_time(self.running).await.unwrap().unwrap();
    }

    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let text = in_time(get(self.admin, "/metrics")).await;
        let found = text
            .lines()
            .find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {text}"))
    }
}

pub(crate) struct Reporter {
    pub(crate) batches: mpsc::Sender<ReportRequest>,
    pub(crate) answers: Streaming<ReportResponse>,
    pub(crate) sequence: u64,
}

impl Reporter {
    pub(crate) fn send(&mut self, observations: Vec<api::Observation>) {
        self.sequence += 1;
        self.batches
            .try_send(ReportRequest {
                sequence: self.sequence,
                observations,
            })
            .unwrap();
    }

    pub(crate) async fn stored(&mut self) -> u64 {
        in_time(self.answers.message())
            .await
            .unwrap()
            .unwrap()
            .sequence
    }

    pub(crate) async fn send_and_wait(&mut self, observations: Vec<api::Observation>) {
        self.send(observations);
        assert_eq!(self.stored().await, self.sequence);
    }
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("not done in time")
}

pub(crate) async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    in_time(stream.message())
        .await
        .unwrap()
        .expect("the watch goes on")
}

pub(crate) async fn get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

pub(crate) fn workload(name: &str) -> api::Workload {
    api::Workload {
        namespace: "shop".into(),
        kind: "Deployment".into(),
        name: name.into(),
    }
}

pub(crate) fn seen_at(name: &str, host: &str, seen: Option<SystemTime>) -> api::Observation {
    let protocol = api::Protocol::Http.into();
    api::Observation {
        workload: Some(workload(name)),
        dependency: Some(api::Dependency {
            host: host.into(),
            port: 80,
            protocol,
        }),
        seen: seen.map(Into::into),
    }
}

pub(crate) fn seen(name: &str, host: &str) -> api::Observation {
    seen_at(name, host, Some(SystemTime::now()))
}

pub(crate) fn hosts(state: &api::WorkloadState) -> Vec<&str> {
    state
        .dependencies
        .iter()
        .map(|dependency| dependency.host.as_str())
        .collect()
}
