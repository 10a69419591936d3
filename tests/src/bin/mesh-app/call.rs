//! The client: makes calls at the wished pace and prints one line of JSON for each.

mod grpc;
mod http;
mod http10;
mod tcp;
mod websocket;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser as _;
use mesh_tests::app::{Answer, Outcome};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::digest::Digest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// PROTOCOL://HOST[:PORT][/PATH]; PROTOCOL is http10, http1, http2, grpc, grpc-stream, grpc-chat, ws, tcp, tcp-server-first or tls
    url: String,
    /// Connect to this address, whatever HOST is
    #[arg(long)]
    resolve: Ipv4Addr,
    /// Connect to this port, whatever the URL says
    #[arg(long)]
    port: Option<u16>,
    /// The HTTP method
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header, `name: value`
    #[arg(long = "header")]
    headers: Vec<String>,
    /// How many bytes of body (over gRPC and TCP: of payload)
    #[arg(long, default_value_t = 0)]
    body_bytes: usize,
    /// How many messages a streaming call has
    #[arg(long, default_value_t = 3)]
    messages: u32,
    /// How many calls; without it and --duration-ms, one; with --until-stopped, no limit
    #[arg(long)]
    count: Option<u64>,
    /// For how long
    #[arg(long)]
    duration_ms: Option<u64>,
    /// Until SIGTERM
    #[arg(long)]
    until_stopped: bool,
    /// At most so many calls at once
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Calls begun per second; without it, as fast as they go
    #[arg(long)]
    rate: Option<f64>,
    /// Keep connections for further calls (HTTP and TCP)
    #[arg(long)]
    reuse: bool,
    /// How long a call may take
    #[arg(long, default_value_t = 15_000)]
    timeout_ms: u64,
}

/// A call to be made: what all calls of this run have in common.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) protocol: Protocol,
    /// `host` or `host:port` as in the URL.
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) method: ::http::Method,
    pub(crate) headers: ::http::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) messages: u32,
    address: (Ipv4Addr, u16),
    reuse: bool,
    /// Connections that wait for the next call.
    idle_http: Mutex<Vec<http::Connection>>,
    idle_tcp: Mutex<Vec<tcp::Connection>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http10,
    Http1,
    Http2,
    Grpc,
    GrpcStream,
    GrpcChat,
    WebSocket,
    Tcp,
    TcpServerFirst,
    Tls,
}

/// One call for each line of standard input, a JSON list of the arguments of `call`; one after the other, and a line of
/// JSON for each. None is begun after `limit`.
pub(crate) async fn run_each(limit: Duration) -> Result<()> {
    #[derive(clap::Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stdout = tokio::io::stdout();
    let begin = Instant::now();
    while begin.elapsed() < limit
        && let Some(line) = lines.next_line().await?
    {
        let words: Vec<String> = serde_json::from_str(&line).with_context(|| line.clone())?;
        let args = Line::try_parse_from(words)
            .with_context(|| line.clone())?
            .args;
        let timeout = Duration::from_millis(args.timeout_ms);
        let outcome = Target::read(&args)?.call(timeout).await;
        stdout
            .write_all(format!("{}\n", serde_json::to_string(&outcome)?).as_bytes())
            .await?;
        stdout.flush().await?;
    }
    Ok(())
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let target = Arc::new(Target::read(&args)?);
    let (lines, mut printed) = mpsc::channel::<Outcome>(1024);
    let printer = tokio::spawn(async move {
        let mut stdout = tokio::io::stdout();
        while let Some(outcome) = printed.recv().await {
            let mut line = serde_json::to_vec(&outcome)?;
            line.push(b'\n');
            stdout.write_all(&line).await?;
        }
        stdout.flush().await?;
        anyhow::Ok(())
    });
    pace(&args, &target, &lines).await?;
    drop(lines);
    printer.await?
}

/// Begins calls as the arguments have it, until there are enough; then waits for those under way.
async fn pace(args: &Args, target: &Arc<Target>, lines: &mpsc::Sender<Outcome>) -> Result<()> {
    let begin = Instant::now();
    let limit = args
        .count
        .unwrap_or(if args.duration_ms.is_some() || args.until_stopped {
            u64::MAX
        } else {
            1
        });
    let stop = stop_signal(args.duration_ms.map(Duration::from_millis))?;
    let free = Arc::new(Semaphore::new(args.concurrency.max(1)));
    let call_timeout = Duration::from_millis(args.timeout_ms);
    let mut ticks = args
        .rate
        .filter(|rate| *rate > 0.0)
        .map(|rate| interval(Duration::from_secs_f64(1.0 / rate)));
    if let Some(ticks) = &mut ticks {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    }
    let (begun, mut calls) = (AtomicU64::new(0), JoinSet::new());
    while begun.fetch_add(1, Ordering::Relaxed) < limit && !*stop.borrow() {
        let permit = {
            let mut stopped = stop.clone();
            let next = async {
                if let Some(ticks) = &mut ticks {
                    ticks.tick().await;
                }
                Arc::clone(&free).acquire_owned().await
            };
            tokio::select! {
                permit = next => permit?,
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        };
        let (target, lines) = (Arc::clone(target), lines.clone());
        calls.spawn(async move {
            let at = begin.elapsed();
            let mut outcome = target.call(call_timeout).await;
            outcome.at_ms = at.as_secs_f64() * 1000.0;
            drop(permit);
            // The printer is gone only when standard output is.
            let _ = lines.send(outcome).await;
        });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
    Ok(())
}

/// Becomes true at SIGTERM or when the time is over.
fn stop_signal(after: Option<Duration>) -> Result<watch::Receiver<bool>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let (send, receive) = watch::channel(false);
    tokio::spawn(async move {
        let over = async {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminated.recv() => {}
            () = over => {}
        }
        let _ = send.send(true);
    });
    Ok(receive)
}

impl Target {
    fn read(args: &Args) -> Result<Self> {
        let (scheme, rest) = args.url.split_once("://").context("the URL has no ://")?;
        let protocol = Protocol::read(scheme)?;
        let (authority, path) = rest
            .find('/')
            .map_or((rest, "/"), |slash| rest.split_at(slash));
        let port = match (args.port, authority.rsplit_once(':')) {
            (Some(port), _) => port,
            (None, Some((_, port))) => port.parse().context("the port")?,
            (None, None) => 80,
        };
        let mut headers = ::http::HeaderMap::new();
        for header in &args.headers {
            let (name, value) = header
                .split_once(':')
                .with_context(|| format!("not a header: {header}"))?;
            headers.append(
                ::http::HeaderName::try_from(name.trim())?,
                value.trim().try_into()?,
            );
        }
        // Not all the same, so that a lost or doubled piece shows in the digest.
        let body = (0..args.body_bytes)
            .map(|index| (index % 251) as u8)
            .collect::<Vec<_>>()
            .into();
        Ok(Self {
            protocol,
            authority: authority.to_owned(),
            path: path.to_owned(),
            method: args.method.parse()?,
            headers,
            body,
            messages: args.messages,
            address: (args.resolve, port),
            reuse: args.reuse,
            idle_http: Mutex::default(),
            idle_tcp: Mutex::default(),
        })
    }

    async fn call(&self, limit: Duration) -> Outcome {
        let begin = Instant::now();
        let exchange = async {
            match self.protocol {
                Protocol::Http10 => http10::call(self).await,
                Protocol::Http1 | Protocol::Http2 => http::call(self, begin).await,
                Protocol::Grpc | Protocol::GrpcStream | Protocol::GrpcChat => {
                    grpc::call(self).await
                }
                Protocol::WebSocket => websocket::call(self).await,
                Protocol::Tcp | Protocol::TcpServerFirst => tcp::call(self).await,
                Protocol::Tls => tcp::call_tls(self).await,
            }
        };
        let mut outcome = match timeout(limit, exchange).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome {
                error: Some(format!("{error:#}")),
                ..Outcome::default()
            },
            Err(_) => Outcome {
                error: Some(format!("no answer within {limit:?}")),
                ..Outcome::default()
            },
        };
        outcome.latency_ms = begin.elapsed().as_secs_f64() * 1000.0;
        self.judge(&mut outcome);
        outcome
    }

    /// A bad status, or a body that did not arrive as it was sent, is a failure.
    fn judge(&self, outcome: &mut Outcome) {
        if outcome.error.is_some() {
            return;
        }
        if let Some(status) = outcome.status.filter(|status| *status >= 400) {
            let body = outcome.body.as_deref().unwrap_or_default();
            outcome.error = Some(format!("status {status} {body}").trim().to_owned());
            return;
        }
        let sent = Digest::of(&self.body);
        // A greeting says nothing of what was sent.
        for answer in outcome
            .answers
            .iter()
            .filter(|answer| !answer.saw.body_sha256.is_empty())
        {
            if (answer.saw.body_bytes, &answer.saw.body_sha256) != (sent.0, &sent.1) {
                outcome.error = Some(format!(
                    "sent {} bytes, {} other ones arrived",
                    sent.0, answer.saw.body_bytes
                ));
            }
        }
    }

    pub(crate) async fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Protocol {
    fn read(scheme: &str) -> Result<Self> {
        Ok(match scheme {
            "http10" => Self::Http10,
            "http" | "http1" => Self::Http1,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-stream" => Self::GrpcStream,
            "grpc-chat" => Self::GrpcChat,
            "ws" => Self::WebSocket,
            "tcp" => Self::Tcp,
            "tcp-server-first" => Self::TcpServerFirst,
            "tls" => Self::Tls,
            other => bail!("{other} is no protocol I speak"),
        })
    }
}

/// Files a body under what it is: answers, also as server-sent events, or something else.
pub(crate) fn file_body(outcome: &mut Outcome, body: &[u8]) {
    let events = std::str::from_utf8(body).ok().and_then(|text| {
        let events = text.strip_prefix("data: ")?.split("data: ");
        events
            .map(|event| serde_json::from_str(event).ok())
            .collect::<Option<Vec<Answer>>>()
    });
    if let Some(events) = events {
        outcome.answers.extend(events);
        return;
    }
    match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => outcome.answers.push(answer),
        Err(_) => outcome.body = Some(String::from_utf8_lossy(body).chars().take(2000).collect()),
    }
}
