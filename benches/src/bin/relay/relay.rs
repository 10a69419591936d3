//! The relays that are compared: each a process of its own with one worker, held to one core.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::running::Running;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long a relay may take to be there.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// The core of the relay under test, and the core of the load and the origin.
pub(crate) const RELAY_CORE: usize = 1;
pub(crate) const LOAD_CORE: usize = 0;

/// Which program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    Ours,
    Envoy,
}

impl Which {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "global-proxy",
            Self::Envoy => "Envoy",
        }
    }
}

/// A running relay; killed when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    child: Child,
    pub(crate) which: Which,
    pub(crate) address: SocketAddr,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    /// Starts the global proxy without a sidecar.
    pub(crate) async fn ours(program: &Path, folder: &Path) -> Result<Self> {
        let ports = folder.join("ports.json");
        let _ = fs::remove_file(&ports);
        let mut command = Command::new(program);
        command
            .args(["--no-sidecar", "--policy=relay-only", "--workers=1"])
            .args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
            // Neither of the two writes an access log.
            .args(["--log-level", "warn", "--port-file"])
            .arg(&ports);
        let mut relay = Self::spawn(Which::Ours, command, folder)?;
        let text = relay.file(&ports).await?;
        let port = serde_json::from_str::<Value>(&text)?["http"].as_u64();
        relay.address = loopback(port.context("no port of the global proxy")?)?;
        Ok(relay)
    }

    /// Starts Envoy with an `ORIGINAL_DST` cluster that goes by the same header.
    pub(crate) async fn envoy(program: &Path, folder: &Path) -> Result<Self> {
        let (config, admin) = (folder.join("envoy.yaml"), folder.join("envoy-admin"));
        let _ = fs::remove_file(&admin);
        fs::write(&config, include_str!("envoy.yaml"))?;
        let mut command = Command::new(program);
        command
            .args(["--concurrency", "1", "--disable-hot-restart"])
            .args(["--log-level", "warn", "-c"])
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin);
        let mut relay = Self::spawn(Which::Envoy, command, folder)?;
        let admin: SocketAddr = relay.file(&admin).await?.trim().parse()?;
        let begin = Instant::now();
        relay.address = loop {
            let said = get(admin, "/listeners").await?;
            let mut lines = said.lines();
            let address = lines.find_map(|line| line.strip_prefix("requests::"));
            match address.map(str::parse::<SocketAddr>) {
                Some(Ok(address)) if address.port() > 0 => break address,
                _ => ensure!(begin.elapsed() < START, "Envoy does not listen: {said}"),
            }
            sleep(POLL).await;
        };
        Ok(relay)
    }

    /// Starts a program on its core: a process inherits where the thread that starts it may run.
    fn spawn(which: Which, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{}.log", which.as_str()));
        let log = File::create(&log).with_context(|| log.display().to_string())?;
        pin(RELAY_CORE)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        pin(LOAD_CORE)?;
        let child = child.with_context(|| format!("start {}", which.as_str()))?;
        Ok(Self {
            child,
            which,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
        })
    }

    /// What it has written into a file, once that is there and not empty.
    async fn file(&mut self, path: &PathBuf) -> Result<String> {
        let begin = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(path)
                && !text.is_empty()
            {
                return Ok(text);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended at once: {status} (hint: its log)",
                    self.which.as_str()
                );
            }
            ensure!(
                begin.elapsed() < START,
                "{} does not come up",
                self.which.as_str()
            );
            sleep(POLL).await;
        }
    }

    /// What the kernel says of it.
    pub(crate) fn running(&self) -> Running {
        Running::new(self.child.id())
    }

    /// Its open descriptors.
    pub(crate) fn descriptors(&self) -> Result<u64> {
        let all = fs::read_dir(format!("/proc/{}/fd", self.child.id()))?;
        Ok(u64::try_from(all.count())?)
    }
}

/// Keeps this thread, and what it starts, on one core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores)
        .with_context(|| format!("core {core} cannot be had (hint: two cores are needed, 0 and 1)"))
}

fn loopback(port: u64) -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, u16::try_from(port)?).into())
}

/// A page of Envoy's admin port, as it comes.
async fn get(admin: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
