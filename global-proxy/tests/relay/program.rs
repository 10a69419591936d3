//! The program itself, in a process of its own: what it weighs, what it writes, how it ends.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_runtime::BoxError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Body, Raw, Server, fed, full, h2_request, head, soon, until};
use crate::tunnels::{Tunnel, Tunnels};

const PROGRAM: &str = env!("CARGO_BIN_EXE_global-proxy");
const PIECE: usize = 64 << 10;
const MUCH: usize = 512 << 20;
const IN_A_TUNNEL: usize = 100 << 20;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    async fn start(folder: &Path) -> (Self, SocketAddr) {
        let (program, http, _) = Self::with_tunnels(folder).await;
        (program, http)
    }

    /// Its ports for HTTP and for tunnels, too.
    async fn with_tunnels(folder: &Path) -> (Self, SocketAddr, SocketAddr) {
        let ports = folder.join("ports.json");
        let child = Command::new(PROGRAM)
            .args(["--no-sidecar", "--policy=relay-only", "--workers=2"])
            .args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
            .args(["--tunnel-listen=127.0.0.1:0", "--drain-delay=3s"])
            .arg("--port-file")
            .arg(&ports)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self(child);
        until("its ports are written", async || ports.exists()).await;
        (program, bound(folder, "http"), bound(folder, "tunnel"))
    }

    /// The most memory it has had, in bytes.
    fn peak(&self) -> usize {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.unwrap().parse::<usize>().unwrap() << 10
    }
}

impl Program {
    fn descriptors(&self) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.0.id()));
        all.unwrap().count()
    }
}

/// Where it listens for this.
fn bound(folder: &Path, name: &str) -> SocketAddr {
    let text = std::fs::read_to_string(folder.join("ports.json")).unwrap();
    let ports: serde_json::Value = serde_json::from_str(&text).unwrap();
    let port = u16::try_from(ports[name].as_u64().unwrap()).unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Answers with what it is sent, as it comes.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    let body = request.into_body().map_err(Into::into).boxed_unsync();
    Ok(Response::new(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_gibibyte_each_way_in_flat_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = Program::start(folder.path()).await;
    let server = Server::http(echo).await;
    // Beside what its own code takes, which in a build for tests is the half of it.
    let start = program.peak();
    over_http1(address, server.address).await;
    over_http2(address, server.address).await;
    let more = program.peak() - start;
    // 28 to 53 MB were seen; a gibibyte went through.
    assert!(more < 64 << 20, "it took {more} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_each_way_in_a_tunnel_in_flat_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (program, _, address) = Program::with_tunnels(folder.path()).await;
    let server = Server::raw(|raw, _| async move {
        let (mut read, mut write) = raw.0.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let mut tunnels = Tunnels::connect(address).await;
    let Tunnel { mut up, mut down } = tunnels.open(server.address).await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..IN_A_TUNNEL / PIECE {
            up.write(&[7; PIECE]).await.unwrap();
        }
        up.end();
    });
    let got = down.drained().await.unwrap();
    soon(sending).await.unwrap();
    assert_eq!(got, IN_A_TUNNEL);
    let peak = program.peak();
    assert!(peak < 64 << 20, "it had {peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_requests_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = Program::start(folder.path()).await;
    let server = Server::http(|_| async { Ok(Response::new(full("ok"))) }).await;
    rounds(address, server.address, 20).await;
    let (descriptors, memory) = (program.descriptors(), program.memory("VmRSS:"));
    rounds(address, server.address, 200).await;
    // A caller's connection closes a moment after the caller has.
    until("no descriptor is left behind", async || {
        program.descriptors() <= descriptors
    })
    .await;
    let grown = program.memory("VmRSS:").saturating_sub(memory);
    assert!(grown < 4 << 20, "memory grew by {grown} bytes");
}

/// Each of 50 requests, on a connection of its own.
async fn rounds(proxy: SocketAddr, server: SocketAddr, count: usize) {
    for _ in 0..count {
        let mut caller = Raw(TcpStream::connect(proxy).await.unwrap());
        let requests = head("GET / HTTP/1.1", server, "").repeat(49)
            + &head("GET / HTTP/1.1", server, "connection: close\r\n");
        caller.send(&requests).await;
        assert_eq!(caller.rest().await.matches("HTTP/1.1 200 OK").count(), 50);
    }
}

async fn over_http1(proxy: SocketAddr, server: SocketAddr) {
    let mut caller = Raw(TcpStream::connect(proxy).await.unwrap());
    let lines = format!("content-length: {MUCH}\r\n");
    caller.send(&head("POST / HTTP/1.1", server, &lines)).await;
    caller.head().await;
    let (mut read, mut write) = caller.0.into_split();
    let sending = tokio::spawn(async move {
        for _ in 0..MUCH / PIECE {
            write.write_all(&[7; PIECE]).await.unwrap();
        }
        write
    });
    let (mut got, mut buffer) = (0, vec![0; 1 << 20]);
    while got < MUCH {
        let bytes = soon(read.read(&mut buffer)).await.unwrap();
        assert!(bytes > 0, "ended after {got} bytes");
        got += bytes;
    }
    drop(sending.await.unwrap());
}

async fn over_http2(proxy: SocketAddr, server: SocketAddr) {
    let stream = TokioIo::new(TcpStream::connect(proxy).await.unwrap());
    let http2 = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut caller, connection) = http2.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (feed, body) = fed();
    let sending = tokio::spawn(async move {
        for _ in 0..MUCH / PIECE {
            assert!(feed.data(Bytes::from_static(&[0; PIECE])).await);
        }
    });
    let response = soon(caller.send_request(h2_request("/", server, body)));
    let (mut body, mut got) = (response.await.unwrap().into_body(), 0);
    while let Some(frame) = soon(body.frame()).await {
        got += frame.unwrap().into_data().unwrap().len();
    }
    sending.await.unwrap();
    assert_eq!(got, MUCH);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_well_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let (mut program, address) = Program::start(folder.path()).await;
    let server = Server::mirror().await;
    let served = async || {
        let mut caller = Raw(TcpStream::connect(address).await.unwrap());
        let lines = "connection: close\r\n";
        caller
            .send(&head("GET / HTTP/1.1", server.address, lines))
            .await;
        assert!(caller.rest().await.starts_with("HTTP/1.1 200 "));
    };
    // Over several connections, so that both workers have some.
    for _ in 0..8 {
        served().await;
    }
    let kill = Command::new("kill")
        .arg(program.0.id().to_string())
        .status();
    assert!(kill.unwrap().success());
    // It says so first, and takes what still comes.
    let admin = bound(folder.path(), "admin");
    until("it is not ready any more", async || {
        let mut caller = Raw(TcpStream::connect(admin).await.unwrap());
        let ready = "GET /healthz/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        caller.send(ready).await;
        caller.rest().await.starts_with("HTTP/1.1 503 ")
    })
    .await;
    served().await;
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(status.success(), "{status}");
}

#[test]
fn flags_that_do_not_go_together_are_said_in_a_line() {
    let output = Command::new(PROGRAM).arg("--no-sidecar").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("loopback"), "{text}");
}
