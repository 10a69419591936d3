//! A program under test: a process of its own, in plain text on loopback, and what the kernel says of it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::running::Running;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use tokio::time::sleep;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end once it is told to.
const END: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// How often its CPU is looked at until it rests.
const REST_POLL: Duration = Duration::from_millis(200);
/// What it may use between two looks and rest all the same: each stream looks after itself every few seconds.
const REST_CPU_S: f64 = 0.01;
/// Looks after which it is taken to rest.
const REST_LOOKS: u32 = 10;

/// A running program; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    ports: Value,
}

/// Seconds of CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) user_s: f64,
    /// The kernel's work for it.
    pub(crate) system_s: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user_s + self.system_s
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a program that writes its ports to a file; the file and its log go to `folder`. It is there once it listens.
    ///
    /// # Errors
    /// When it does not listen.
    pub(crate) async fn start(
        name: &'static str,
        program: &Path,
        flags: &[&str],
        folder: &Path,
    ) -> Result<Self> {
        let ports = folder.join(format!("{name}-ports.json"));
        // Of an earlier run.
        let _ = fs::remove_file(&ports);
        let log = folder.join(format!("{name}.log"));
        let log = File::create(&log).with_context(|| log.display().to_string())?;
        let child = Command::new(program)
            .args(flags)
            .arg("--port-file")
            .arg(&ports)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.with_context(|| format!("start {}", program.display()))?;
        let mut process = Self {
            name,
            child,
            ports: Value::Null,
        };
        process.ports = process.listens(&ports).await?;
        Ok(process)
    }

    async fn listens(&mut self, ports: &Path) -> Result<Value> {
        let begin = Instant::now();
        loop {
            let text = fs::read_to_string(ports).unwrap_or_default();
            // It may be half written.
            if let Ok(ports) = serde_json::from_str(&text) {
                return Ok(ports);
            }
            self.check()?;
            ensure!(begin.elapsed() < START, "{} does not come up", self.name);
            sleep(POLL).await;
        }
    }

    /// Where it listens for what.
    ///
    /// # Errors
    /// When it did not say so.
    pub(crate) fn address(&self, what: &str) -> Result<SocketAddr> {
        let port = self.ports.get(what).and_then(Value::as_u64);
        let port = port.with_context(|| format!("no port {what:?} of {}", self.name))?;
        Ok((Ipv4Addr::LOCALHOST, u16::try_from(port)?).into())
    }

    /// Fails when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let name = self.name;
        if let Some(status) = self.child.try_wait()? {
            bail!("{name} ended: {status} (hint: its log, {name}.log beside the report)");
        }
        Ok(())
    }

    /// Tells it to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not, or badly.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let name = self.name;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, Signal::TERM)?;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{name} ended: {status}");
                return Ok(());
            }
            ensure!(begin.elapsed() < END, "{name} does not end");
            sleep(POLL).await;
        }
    }

    /// What it has used so far.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).context(path)?;
        // Of an old kernel's a hundredth of a second: whatever is measured takes long beside that.
        let ticks = rustix::param::clock_ticks_per_second();
        cpu_of(&stat, ticks).context("/proc/PID/stat is not as it was")
    }

    /// Its memory.
    pub(crate) fn running(&self) -> Running {
        Running::new(self.child.id())
    }

    /// Waits until it does next to nothing, two seconds at the most; what it has used by then.
    pub(crate) async fn rests(&self) -> Result<Cpu> {
        let mut last = self.cpu()?;
        for _ in 0..REST_LOOKS {
            sleep(REST_POLL).await;
            let now = self.cpu()?;
            let used = now.total() - last.total();
            last = now;
            if used <= REST_CPU_S {
                break;
            }
        }
        Ok(last)
    }
}

/// utime and stime are the fields 14 and 15; the second one is a name that may hold anything, in parentheses.
fn cpu_of(stat: &str, ticks_per_second: u64) -> Option<Cpu> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut seconds = || {
        let ticks: u32 = fields.next()?.parse().ok()?;
        let per_second = u32::try_from(ticks_per_second).ok()?;
        Some(f64::from(ticks) / f64::from(per_second))
    };
    Some(Cpu {
        user_s: seconds()?,
        system_s: seconds()?,
    })
}

/// Lets this process, and what it starts, have as many descriptors as it may; how many that are.
pub(crate) fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, most) {
        Ok(()) => most.current.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_told_in_ticks() {
        let stat = "17 (xds shim) 1) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1 2 3";
        let cpu = cpu_of(stat, 100).unwrap();
        assert_eq!((cpu.user_s, cpu.system_s), (2.5, 0.5));
        assert!(cpu_of("17 (x) S 1", 100).is_none());
    }
}
