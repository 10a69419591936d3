//! The admin port over loopback, asked by a plain socket.

use std::time::Duration;

use prometheus::IntCounter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::readiness::Task;

struct Server {
    address: std::net::SocketAddr,
    readiness: Readiness,
    drain: Drain,
    registry: Registry,
    _task: tokio_util::task::AbortOnDropHandle<std::io::Result<()>>,
}

async fn start(edit: impl FnOnce(Admin) -> Admin) -> Server {
    let (readiness, drain) = (Readiness::new(), Drain::new(Duration::from_secs(1)));
    let registry = crate::metrics::registry().unwrap();
    let admin = Admin::new("test", registry.clone(), readiness.clone(), drain.clone());
    let bound = edit(admin)
        .bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = bound.address();
    let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(bound.serve()));
    Server {
        address,
        readiness,
        drain,
        registry,
        _task,
    }
}

impl Server {
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }
}

#[tokio::test]
async fn ready_lists_what_is_pending() {
    let server = start(|admin| admin).await;
    let (store, watch): (Task, Task) = (
        server.readiness.register("store"),
        server.readiness.register("watch"),
    );
    assert_eq!(server.get("/healthz/live").await.0, 200);
    assert_eq!(
        server.get("/healthz/ready").await,
        (503, "pending:\nstore\nwatch\n".into())
    );
    store.mark_ready();
    watch.mark_ready();
    assert_eq!(server.get("/healthz/ready").await, (200, "ready\n".into()));
    // As soon as it is said.
    server.drain.leave();
    assert_eq!(
        server.get("/healthz/ready").await,
        (503, "pending:\ndraining\n".into())
    );
    assert_eq!(server.get("/healthz/live").await.0, 200);
}

#[tokio::test]
async fn metrics_are_those_of_the_registry() {
    let server = start(|admin| admin).await;
    let counter = IntCounter::new("lazymesh_test_total", "a test").unwrap();
    counter.inc_by(7);
    server.registry.register(Box::new(counter)).unwrap();
    let (status, text) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("lazymesh_test_total 7"), "{text}");
    assert!(text.contains("process_resident_memory_bytes"), "{text}");
}

#[tokio::test]
async fn pages_of_the_binary_are_served_and_listed() {
    let server = start(|admin| {
        admin
            .notice("half of it is missing")
            .route("/debug/streams", "open streams", || {
                Reply::json(&vec!["a", "b"])
            })
    })
    .await;
    let (status, text) = server.get("/debug/streams?pretty").await;
    assert_eq!(status, 200);
    assert_eq!(
        serde_json::from_str::<Vec<String>>(&text).unwrap(),
        ["a", "b"]
    );
    let (_, index) = server.get("/").await;
    for wanted in [
        "half of it is missing",
        "GET /debug/streams",
        "open streams",
        "/healthz/ready",
    ] {
        assert!(index.contains(wanted), "{index}");
    }
    assert_eq!(server.get("/debug/other").await.0, 404);
    assert_eq!(server.ask("POST", "/debug/streams", "").await.0, 405);
}

#[tokio::test]
async fn the_log_level_changes() {
    let (log, _keep) = crate::telemetry::detached("info");
    let server = start(move |admin| admin.log_control(log)).await;
    assert_eq!(server.get("/logging").await, (200, "info\n".into()));
    assert_eq!(
        server.ask("PUT", "/logging", "debug").await,
        (200, "debug\n".into())
    );
    let (status, why) = server.ask("PUT", "/logging", "loud").await;
    assert_eq!(status, 400);
    assert!(why.contains("no such level"), "{why}");
    assert_eq!(
        server.ask("PUT", "/logging", &"x".repeat(5000)).await.0,
        400
    );
    assert_eq!(server.get("/logging").await, (200, "debug\n".into()));
}

#[tokio::test]
async fn without_a_log_control_there_is_no_such_page() {
    let server = start(|admin| admin).await;
    assert_eq!(server.get("/logging").await.0, 404);
    assert_eq!(server.ask("PUT", "/logging", "debug").await.0, 404);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = start(|admin| admin).await;
    let admin = Admin::new(
        "b",
        server.registry.clone(),
        Readiness::new(),
        Drain::new(Duration::ZERO),
    );
    let error = admin.bind(server.address).await.unwrap_err();
    assert!(
        error.to_string().contains(&server.address.to_string()),
        "{error}"
    );
}
