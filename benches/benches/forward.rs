//! One call after the other over loopback: through the global proxy, beside its baselines: straight to the server, and
//! through a program that copies bytes and looks at none.
//!
//! How much it carries is for `make bench-relay`; this is what one call costs on its way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use clap::Parser;
use divan::Bencher;
use global_proxy::app::App;
use global_proxy::config::Cli;
use memchr::memmem;
use mesh_benches::must;
use mesh_runtime::drain::Drain;
use tokio::runtime::{Builder, Runtime};

/// Bytes of each answer's body.
const BODIES: [usize; 2] = [1 << 10, 64 << 10];
const END: &[u8] = b"\r\n\r\n";

fn main() {
    divan::main();
}

/// A server that answers each request with a body of so many bytes. Ends with the process.
fn server(body: usize) -> SocketAddr {
    let listener = must(TcpListener::bind("127.0.0.1:0"));
    let address = must(listener.local_addr());
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n");
    let answer = [head.as_bytes(), &vec![b'x'; body]].concat();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut connection = Connection::new(stream);
                while connection.read_head() && connection.stream.write_all(&answer).is_ok() {}
            });
        }
    });
    address
}

/// One end of a connection over which one message goes at a time.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        must(stream.set_nodelay(true));
        let buffer = vec![0; 256 << 10];
        Self {
            stream,
            buffer,
            filled: 0,
        }
    }

    fn to(address: SocketAddr) -> Self {
        Self::new(must(TcpStream::connect(address)))
    }

    /// Reads a head and forgets it; `false` at the end of the connection. What came of a body counts as filled.
    fn read_head(&mut self) -> bool {
        self.filled = 0;
        loop {
            let Ok(read @ 1..) = self.stream.read(&mut self.buffer[self.filled..]) else {
                return false;
            };
            self.filled += read;
            if let Some(at) = memmem::find(&self.buffer[..self.filled], END) {
                self.filled -= at + END.len();
                return true;
            }
        }
    }

    fn call(&mut self, request: &[u8], body: usize) {
        must(self.stream.write_all(request));
        assert!(self.read_head(), "no answer");
        while self.filled < body {
            let read = must(self.stream.read(&mut self.buffer));
            assert!(read > 0, "half an answer");
            self.filled += read;
        }
        assert_eq!(self.filled, body);
    }
}

/// A call is to `server`, whoever is asked.
fn request(server: SocketAddr) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nhost: server.shop:80\r\nx-lazymesh-original-dst: {server}\r\n\
         user-agent: bench\r\naccept: */*\r\nx-request-id: 6b9c5d0e-8f6c-4f5a-9d5c-5a5c9d0e8f6c\r\n\r\n"
    )
    .into_bytes()
}

fn calls(bencher: Bencher<'_, '_>, asked: SocketAddr, server: SocketAddr, body: usize) {
    let mut connection = Connection::to(asked);
    let request = request(server);
    // The first one opens connections.
    connection.call(&request, body);
    bencher.bench_local(|| connection.call(&request, body));
}

/// A runtime with one thread for what is in the way.
fn runtime() -> Runtime {
    must(
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build(),
    )
}

/// What is compared against: nothing in the way.
#[divan::bench(args = BODIES)]
fn baseline_direct(bencher: Bencher<'_, '_>, body: usize) {
    let server = server(body);
    calls(bencher, server, server, body);
}

/// What is compared against: bytes copied both ways.
#[divan::bench(args = BODIES)]
fn baseline_copied_bytes(bencher: Bencher<'_, '_>, body: usize) {
    let server = server(body);
    let runtime = runtime();
    let listener = must(runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")));
    let asked = must(listener.local_addr());
    runtime.spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = must(tokio::net::TcpStream::connect(server).await);
                must(caller.set_nodelay(true));
                must(server.set_nodelay(true));
                let _ = tokio::io::copy_bidirectional(&mut caller, &mut server).await;
            });
        }
    });
    calls(bencher, asked, server, body);
}

/// Through the global proxy, as with `--no-sidecar --policy relay-only --workers 1`.
#[divan::bench(args = BODIES)]
fn the_global_proxy(bencher: Bencher<'_, '_>, body: usize) {
    let server = server(body);
    let runtime = runtime();
    let cli = must(Cli::try_parse_from([
        "global-proxy",
        "--no-sidecar",
        "--policy=relay-only",
        "--workers=1",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ]));
    let drain = Drain::new(Duration::ZERO);
    let app = must(runtime.block_on(App::bind(&cli, None, drain.clone())));
    let asked = app.address();
    let running = runtime.spawn(app.run());
    calls(bencher, asked, server, body);
    drain.start();
    must(must(runtime.block_on(running)));
}
