//! Calls made from inside a pod, by `mesh-app call`.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::pod::{CONTROL_PORT, Pod};
use super::{process, tools};
use crate::app::{Answer, Outcome, Saw};

/// A call, or many, to be made from a pod. The URL is `PROTOCOL://HOST[:PORT][/PATH]`, the protocol one of `http10`,
/// `http1`, `http2`, `grpc`, `grpc-stream`, `grpc-chat`, `ws`, `tcp`, `tcp-server-first`, `tls`; the host an address or a service as
/// pods of the namespace name it. [`Call::to`] says where to connect for any other host.
#[derive(Clone, Debug)]
pub struct Call {
    url: String,
    to: Option<Ipv4Addr>,
    args: Vec<String>,
}

impl Call {
    /// One call.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            to: None,
            args: Vec::new(),
        }
    }

    fn arg(mut self, flag: &str, value: impl std::fmt::Display) -> Self {
        self.args.extend([flag.to_owned(), format!("{value}")]);
        self
    }

    /// Connects to this address, whatever the host is.
    #[must_use]
    pub fn to(mut self, address: Ipv4Addr) -> Self {
        self.to = Some(address);
        self
    }

    /// Connects to this port, whatever the URL says.
    #[must_use]
    pub fn to_port(self, port: u16) -> Self {
        self.arg("--port", port)
    }

    /// The HTTP method; GET without.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        self.arg("--method", method)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.arg("--header", format!("{name}: {value}"))
    }

    /// The size of the body, in bytes.
    #[must_use]
    pub fn body_bytes(self, bytes: usize) -> Self {
        self.arg("--body-bytes", bytes)
    }

    /// How many messages a streaming or WebSocket call has; 3 without.
    #[must_use]
    pub fn messages(self, count: u32) -> Self {
        self.arg("--messages", count)
    }

    /// How many calls.
    #[must_use]
    pub fn count(self, count: u64) -> Self {
        self.arg("--count", count)
    }

    /// How many calls at once; 1 without.
    #[must_use]
    pub fn concurrency(self, calls: usize) -> Self {
        self.arg("--concurrency", calls)
    }

    /// Calls begun per second; without, as fast as they go.
    #[must_use]
    pub fn rate(self, per_second: f64) -> Self {
        self.arg("--rate", per_second)
    }

    /// For how long calls are begun.
    #[must_use]
    pub fn duration(self, duration: Duration) -> Self {
        self.arg("--duration-ms", duration.as_millis())
    }

    /// How long a call may take; 15 s without.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        self.arg("--timeout-ms", limit.as_millis())
    }

    /// Keeps connections from call to call; without, each call makes its own.
    #[must_use]
    pub fn reuse(mut self) -> Self {
        self.args.push("--reuse".to_owned());
        self
    }

    async fn command(&self, pod: &Pod) -> Result<Command> {
        let mut command = pod.command(&tools::own_program("mesh-app")?);
        command.arg("call").args(self.words(pod).await?);
        Ok(command)
    }

    /// The arguments of `mesh-app call`.
    async fn words(&self, pod: &Pod) -> Result<Vec<String>> {
        let host = host(&self.url)?;
        let address = match (self.to, host.parse()) {
            (Some(address), _) | (None, Ok(address)) => address,
            (None, Err(_)) => pod
                .mesh()
                .cluster()
                .resolve(&pod.spec().namespace, host)
                .await
                .with_context(|| {
                    format!("no service {host} (hint: say where to connect with Call::to)")
                })?,
        };
        let mut words = vec![
            self.url.clone(),
            "--resolve".to_owned(),
            address.to_string(),
        ];
        words.extend_from_slice(&self.args);
        Ok(words)
    }
}

fn host(url: &str) -> Result<&str> {
    let (_, rest) = url
        .split_once("://")
        .with_context(|| format!("not a URL: {url}"))?;
    let authority = rest.split('/').next().unwrap_or(rest);
    Ok(authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host))
}

impl Outcome {
    /// The (first) answer of a call that succeeded.
    ///
    /// # Errors
    /// When the call failed, or was answered by something else than `mesh-app`.
    pub fn answer(&self) -> Result<&Answer> {
        if let Some(error) = &self.error {
            bail!("the call failed after {:.1} ms: {error}", self.latency_ms);
        }
        self.answers
            .first()
            .with_context(|| format!("not mesh-app answered, but {:?}", self.body))
    }
}

impl Pod {
    /// Makes one call and gives back its outcome, a failed call's as well.
    ///
    /// # Errors
    /// When the call cannot even be tried.
    pub async fn call(&self, call: &Call) -> Result<Outcome> {
        let mut outcomes = self.calls(call).await?;
        anyhow::ensure!(
            outcomes.len() == 1,
            "one call has {} outcomes: use Pod::calls",
            outcomes.len()
        );
        outcomes.pop().context("no outcome")
    }

    /// Makes one GET, unary call or connection with the answer it must get.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        let outcome = self.call(&Call::new(url)).await?;
        Ok(outcome
            .answer()
            .with_context(|| format!("{} calls {url}", self.name()))?
            .clone())
    }

    /// Makes many calls and gives back their outcomes, failed ones as well, in the order they ended.
    ///
    /// # Errors
    /// When they cannot even be tried.
    pub async fn calls(&self, call: &Call) -> Result<Vec<Outcome>> {
        let lines = process::output(&mut call.command(self).await?, "").await?;
        lines
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// Makes one call after the other, by one client program, and gives back the outcome of each, in their order. None is
    /// begun after `limit`: there are fewer outcomes than calls then.
    ///
    /// # Errors
    /// When they cannot even be tried.
    pub async fn call_each(&self, calls: &[Call], limit: Duration) -> Result<Vec<Outcome>> {
        let mut lines = String::new();
        for call in calls {
            lines += &serde_json::to_string(&call.words(self).await?)?;
            lines.push('\n');
        }
        let mut command = self.command(&tools::own_program("mesh-app")?);
        let command = command.arg("call-each").arg("--limit-ms");
        let command = command.arg(limit.as_millis().to_string());
        let begin = Instant::now();
        let printed = process::output(command, &lines).await?;
        let outcomes: Vec<Outcome> = printed
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect::<Result<_>>()?;
        anyhow::ensure!(
            outcomes.len() == calls.len()
                || (outcomes.len() < calls.len() && begin.elapsed() >= limit),
            "{} calls have {} outcomes",
            calls.len(),
            outcomes.len()
        );
        Ok(outcomes)
    }

    /// Starts steady traffic, which goes on until [`Traffic::stop`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn traffic(&self, call: &Call) -> Result<Traffic> {
        let mut command = call.command(self).await?;
        command.arg("--until-stopped");
        Traffic::start(command)
    }

    /// What this pod's application has seen since it started or was told to forget, the latest 10,000 calls.
    ///
    /// # Errors
    /// When it has no application.
    pub async fn seen(&self) -> Result<Vec<Saw>> {
        let url = format!("http://{}:{CONTROL_PORT}/_seen", self.address());
        Ok(serde_json::from_str(&super::http::get(&url).await?.body)?)
    }

    /// Has its application forget what it has seen.
    ///
    /// # Errors
    /// When it has no application.
    pub async fn forget_seen(&self) -> Result<()> {
        let stream = tokio::net::TcpStream::connect((self.address(), CONTROL_PORT)).await?;
        let answer = super::http::over(stream, ::http::Method::DELETE, "/_seen").await?;
        anyhow::ensure!(answer.status == 200, "/_seen: {}", answer.status);
        Ok(())
    }
}

/// Traffic under way.
#[derive(Debug)]
pub struct Traffic {
    child: Child,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    reader: JoinHandle<Result<()>>,
}

/// What became of traffic.
#[derive(Clone, Debug)]
pub struct TrafficSummary {
    /// Every call, in the order they ended.
    pub outcomes: Vec<Outcome>,
}

impl TrafficSummary {
    /// The calls that failed.
    pub fn failures(&self) -> Vec<&Outcome> {
        self.outcomes
            .iter()
            .filter(|outcome| !outcome.is_ok())
            .collect()
    }

    /// Fails when any call failed, or none was made.
    ///
    /// # Errors
    /// The number of failures, and the first ones.
    pub fn expect_no_failure(&self) -> Result<()> {
        let failures = self.failures();
        anyhow::ensure!(!self.outcomes.is_empty(), "no call was made");
        if let Some(first) = failures.first() {
            let error = first.error.as_deref().unwrap_or_default();
            bail!(
                "{} of {} calls failed, the first at {:.0} ms: {error}",
                failures.len(),
                self.outcomes.len(),
                first.at_ms
            );
        }
        Ok(())
    }

    /// The median latency of the calls that succeeded, in milliseconds.
    pub fn median_ms(&self) -> Option<f64> {
        let mut latencies: Vec<_> = self
            .outcomes
            .iter()
            .filter(|call| call.is_ok())
            .map(|call| call.latency_ms)
            .collect();
        latencies.sort_by(f64::total_cmp);
        latencies.get(latencies.len() / 2).copied()
    }
}

impl Traffic {
    fn start(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let (stdout, stderr) = (
            child.stdout.take().context("no pipe")?,
            child.stderr.take().context("no pipe")?,
        );
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let filed = Arc::clone(&outcomes);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Some(line) = lines.next_line().await? {
                filed
                    .lock()
                    .push(serde_json::from_str(&line).with_context(|| line.clone())?);
            }
            let mut said = String::new();
            BufReader::new(stderr).read_to_string(&mut said).await?;
            anyhow::ensure!(said.is_empty(), "mesh-app call: {said}");
            Ok(())
        });
        Ok(Self {
            child,
            outcomes,
            reader,
        })
    }

    /// How many calls have ended so far.
    pub fn count(&self) -> usize {
        self.outcomes.lock().len()
    }

    /// What became of the call that ended last.
    pub fn last(&self) -> Option<Outcome> {
        self.outcomes.lock().last().cloned()
    }

    /// Waits until `more` further calls have ended.
    ///
    /// # Errors
    /// When they have not within `limit`.
    pub async fn wait_for(&self, more: usize, limit: Duration) -> Result<()> {
        let target = self.count() + more;
        super::wait::until_true("calls to be made", limit, || async {
            Ok(self.count() >= target)
        })
        .await
    }

    /// Stops beginning calls, waits for those under way, and says what became of all.
    ///
    /// # Errors
    /// When the client itself failed.
    pub async fn stop(mut self) -> Result<TrafficSummary> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?))
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let status = timeout(Duration::from_secs(60), self.child.wait())
            .await
            .context("the client does not end")??;
        self.reader.await??;
        anyhow::ensure!(status.success(), "the client ended with {status}");
        let outcomes = std::mem::take(&mut *self.outcomes.lock());
        Ok(TrafficSummary { outcomes })
    }
}
