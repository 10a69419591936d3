//! One program of the mesh: started with a log file, ended with everything it started.

use std::fs::OpenOptions;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::wait;
use crate::running::Running;

/// A running program, the leader of a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    group: Pid,
}

impl Process {
    /// Starts `command`, both of its outputs appended to the file `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub(super) fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {:?}", command.as_std()))?;
        let id = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let group = id.with_context(|| format!("{name} has no process id"))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            group,
        })
    }

    /// The process id, which is its group's as well.
    pub(super) fn pid(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// What the kernel says of it.
    pub(super) fn running(&self) -> Running {
        Running::new(self.pid().unsigned_abs())
    }

    /// Waits, as [`wait::until`] does, for something that this program must do, but not beyond its end.
    ///
    /// # Errors
    /// When it does not happen in time or the program ends, naming the log.
    pub(super) async fn wait_for<T, F>(
        &mut self,
        what: &str,
        limit: Duration,
        attempt: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let ended = tokio::select! {
            done = wait::until(what, limit, attempt) => {
                return done.with_context(|| format!("see {}", self.log.display()));
            }
            ended = self.child.wait() => ended?,
        };
        anyhow::bail!(
            "{} ended ({ended}) before {what}, see {}",
            self.name,
            self.log.display()
        )
    }

    /// SIGTERM to the program alone; waits for its end for at most `grace`, then kills what is left.
    ///
    /// # Errors
    /// When it did not end in time (it is killed all the same).
    pub(super) async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus> {
        // A process that is already gone is what we want.
        let _ = rustix::process::kill_process(self.group, Signal::TERM);
        let ended = timeout(grace, self.child.wait()).await;
        self.kill_group();
        match ended {
            Ok(status) => Ok(status?),
            Err(_) => {
                self.child.wait().await?;
                anyhow::bail!(
                    "{} was still there {grace:?} after SIGTERM, see {}",
                    self.name,
                    self.log.display()
                )
            }
        }
    }

    /// SIGKILL to the program and everything it started; comes back when the program is gone.
    ///
    /// # Errors
    /// When waiting fails.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.kill_group();
        self.child.wait().await?;
        Ok(())
    }

    fn kill_group(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Runs a short command to its end and gives back its standard output.
///
/// # Errors
/// When it fails, with the command line and its standard error.
pub(super) async fn output(command: &mut Command, stdin: &str) -> Result<String> {
    use tokio::io::AsyncWriteExt;
    let line = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {line}"))?;
    let pipe = child.stdin.take();
    let feed = async {
        if let Some(mut pipe) = pipe {
            // A program that does not read its input may have closed it.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
    };
    // At once: a program may wait with reading until what it has printed is taken.
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{line} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
