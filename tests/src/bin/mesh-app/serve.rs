//! The server: one accept loop per port, and a control port that tells what was seen.

mod grpc;
mod http;
mod tcp;
mod websocket;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_tests::app::{Answer, Identity, Saw};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How many requests are remembered.
const SEEN_LIMIT: usize = 10_000;
/// How many `fail_key`s are counted.
const FAIL_KEYS_LIMIT: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The pod's name
    #[arg(long, default_value = "")]
    pod: String,
    /// The pod's namespace
    #[arg(long, default_value = "")]
    namespace: String,
    /// The pod's service account
    #[arg(long, default_value = "")]
    service_account: String,
    /// The pod's workload
    #[arg(long, default_value = "")]
    workload: String,
    /// The pod's `version` label
    #[arg(long)]
    version_label: Option<String>,
    /// A port for HTTP/1.1, WebSocket, HTTP/2 with prior knowledge and gRPC
    #[arg(long)]
    http: Vec<u16>,
    /// A port for TCP where the client speaks first
    #[arg(long)]
    tcp: Vec<u16>,
    /// A port for TCP where the server speaks first
    #[arg(long)]
    tcp_server_first: Vec<u16>,
    /// A port for TLS with a certificate of its own, inside it as over TCP
    #[arg(long)]
    tls: Vec<u16>,
    /// The port that tells what was seen: GET /_seen (JSON), DELETE /_seen, GET /_ready
    #[arg(long)]
    control: u16,
}

/// What all connections share.
#[derive(Debug, Default)]
pub(crate) struct State {
    identity: Identity,
    seen: Mutex<VecDeque<Saw>>,
    failed: Mutex<HashMap<String, u32>>,
}

impl State {
    /// Remembers a call and makes the answer to it.
    pub(crate) fn answer(&self, saw: Saw) -> Answer {
        let mut seen = self.seen.lock();
        if seen.len() == SEEN_LIMIT {
            seen.pop_front();
        }
        seen.push_back(saw.clone());
        Answer {
            who: self.identity.clone(),
            saw,
        }
    }

    /// Forgets what was seen, and how often what failed.
    pub(crate) fn forget(&self) {
        self.seen.lock().clear();
        self.failed.lock().clear();
    }

    /// Whether attempt after attempt under `key` is to fail still: the first `times` ones do.
    pub(crate) fn is_to_fail(&self, key: &str, times: u32) -> bool {
        let mut failed = self.failed.lock();
        if failed.len() >= FAIL_KEYS_LIMIT && !failed.contains_key(key) {
            return false;
        }
        let count = failed.entry(key.to_owned()).or_default();
        *count += 1;
        *count <= times
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let identity = Identity {
        pod: args.pod,
        namespace: args.namespace,
        service_account: args.service_account,
        workload: args.workload,
        version: args.version_label,
    };
    let state = Arc::new(State {
        identity,
        ..State::default()
    });
    let mut loops = JoinSet::new();
    for port in args.http {
        accept(&mut loops, &state, port, move |state, stream| {
            http::serve(state, stream, port)
        })
        .await?;
    }
    for port in args.tcp {
        accept(&mut loops, &state, port, move |state, stream| {
            tcp::serve(state, stream, port, false)
        })
        .await?;
    }
    for port in args.tcp_server_first {
        accept(&mut loops, &state, port, move |state, stream| {
            tcp::serve(state, stream, port, true)
        })
        .await?;
    }
    let tls = tcp::tls_config()?;
    for port in args.tls {
        let tls = Arc::clone(&tls);
        accept(&mut loops, &state, port, move |state, stream| {
            tcp::serve_tls(state, stream, port, Arc::clone(&tls))
        })
        .await?;
    }
    // Last: who can reach it knows that the others listen.
    accept(&mut loops, &state, args.control, http::serve_control).await?;
    match loops.join_next().await {
        Some(ended) => ended.context("an accept loop died")?,
        None => Ok(()),
    }
}

async fn accept<F>(
    loops: &mut JoinSet<Result<()>>,
    state: &Arc<State>,
    port: u16,
    serve: impl Fn(Arc<State>, TcpStream) -> F + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("port {port}"))?;
    let state = Arc::clone(state);
    loops.spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let connection = serve(Arc::clone(&state), stream);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    eprintln!("port {port}: {peer}: {error:#}");
                }
            });
        }
    });
    Ok(())
}
