//! Flags, and what must be there before anything starts.

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Shows a plain sidecar beside two lazy ones: what each costs, first and later calls, and what was learned. One is lazy
/// on demand, and starts warm after a restart; the other by a Sidecar that grows, with a global proxy to fall back to. Needs no root where user namespaces are allowed.
#[derive(Debug, Clone, Parser)]
#[command(name = "demo")]
pub(crate) struct Args {
    /// Services in the mesh
    #[arg(long, default_value_t = 1000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(200..=20_000))]
    pub(crate) services: u32,
    /// The Envoy to run; `tests/testbed/setup envoy` says where it is
    #[arg(long, value_name = "FILE")]
    pub(crate) envoy: PathBuf,
    /// Where xds-shim, lazyload-controller and global-proxy are, if not beside this program
    #[arg(long, value_name = "DIR")]
    pub(crate) programs: Option<PathBuf>,
    /// Where report.json and the logs go
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    pub(crate) out: PathBuf,
}

impl Args {
    /// One of our own programs.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let beside = std::env::current_exe().context("where is this program?")?;
        let dir = match &self.programs {
            Some(dir) => dir.as_path(),
            None => beside.parent().context("a program without a folder")?,
        };
        Ok(dir.join(name))
    }

    /// Fails in one line when something is missing. Makes the folder of log files, empty.
    pub(crate) fn check(&self) -> Result<()> {
        let own = [
            self.program("xds-shim")?,
            self.program("lazyload-controller")?,
            self.program("global-proxy")?,
        ];
        for file in own.iter().chain([&self.envoy]) {
            if !file.is_file() {
                bail!(
                    "{} is not there; `make demo` builds and fetches all it needs",
                    file.display()
                );
            }
        }
        for (tool, package) in [
            ("ip", "iproute2"),
            ("iptables", "iptables"),
            ("nsenter", "util-linux"),
        ] {
            if !runs(tool) {
                bail!("{tool} is missing: install the package {package}");
            }
        }
        let logs = self.logs();
        if logs.exists() {
            std::fs::remove_dir_all(&logs).with_context(|| logs.display().to_string())?;
        }
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())
    }

    /// The folder of log files.
    pub(crate) fn logs(&self) -> PathBuf {
        self.out.join("logs")
    }

    /// The file with the figures.
    pub(crate) fn report(&self) -> PathBuf {
        self.out.join("report.json")
    }
}

fn runs(tool: &str) -> bool {
    let path = Path::new(tool);
    let mut command = Command::new(path);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // What it answers does not matter: `ip` knows no such flag.
    command.status().is_ok()
}
