//! A program that runs beside the demo, its output in a file.

use anyhow::{Context, Result, bail};
use mesh_tests::running::Running;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(15);

/// A running program; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it writes is added to `NAME.log` in `logs`.
    pub(crate) fn spawn(name: &str, command: Command, logs: &Path) -> Result<Self> {
        let mut command = command;
        let log = logs.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let err = out
            .try_clone()
            .with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child
            .id()
            .with_context(|| format!("{} has ended", self.name))
    }

    /// Fails when the program has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}); see {}", self.name, self.log.display());
        }
        Ok(())
    }

    /// Asks the program to end and waits for it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.pid()?;
        run(Command::new("kill").arg("-TERM").arg(pid.to_string())).await?;
        let ended = tokio::time::timeout(GRACE, self.child.wait()).await;
        ended.with_context(|| format!("{} does not end when asked to", self.name))??;
        Ok(())
    }

    /// Its memory in use, in bytes.
    pub(crate) fn rss(&self) -> Result<u64> {
        Running::new(self.pid()?).rss()
    }
}

/// Runs a short command to its end.
///
/// # Errors
/// With what it wrote, when it fails.
pub(crate) async fn run(command: &mut Command) -> Result<()> {
    let line = format!("{:?}", command.as_std());
    let output = command
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| line.clone())?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
