//! Lazymesh itself: the real controller on a folder of YAML, and the real shim.

use crate::args::Args;
use crate::network::MACHINE;
use crate::process::Process;
use crate::wait::until;
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;

/// How long a part may take to listen.
const LIMIT: Duration = Duration::from_secs(20);
const SHIM: SocketAddr = at(MACHINE, 15012);
const SHIM_ADMIN: SocketAddr = at(Ipv4Addr::LOCALHOST, 15014);
/// The controller does without TLS on loopback alone; the shim is its only caller.
const CONTROLLER: SocketAddr = at(Ipv4Addr::LOCALHOST, 15020);
const CONTROLLER_ADMIN: SocketAddr = at(Ipv4Addr::LOCALHOST, 15021);

const fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address), port)
}

/// Where the two run, and what they share.
#[derive(Debug)]
pub(crate) struct Parts {
    args: Args,
    /// The controller's folder.
    pub(crate) store: PathBuf,
    token: PathBuf,
    /// What callers of the controller show.
    secret: String,
}

impl Parts {
    /// Makes the controller's folder, with `namespace` in mode on-demand, and the token.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn prepare(args: &Args, dir: &std::path::Path, namespace: &str) -> Result<Self> {
        // Kept after the run, to be looked at; what an earlier run learned goes.
        let store = args.out.join("store");
        if store.exists() {
            std::fs::remove_dir_all(&store).with_context(|| store.display().to_string())?;
        }
        std::fs::create_dir_all(&store).with_context(|| store.display().to_string())?;
        let write = |file: PathBuf, text: &str| {
            std::fs::write(&file, text).with_context(|| file.display().to_string())
        };
        let labelled = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels:\n    lazymesh.dev/mode: on-demand\n"
        );
        write(store.join(format!("namespace-{namespace}.yaml")), &labelled)?;
        // Only to tell callers apart on this machine; it never leaves the sandbox.
        let secret = format!("demo-{}", std::process::id());
        let token = dir.join("token");
        write(token.clone(), &secret)?;
        Ok(Self {
            args: args.clone(),
            store,
            token,
            secret,
        })
    }

    /// Starts the controller and waits until it takes calls.
    ///
    /// # Errors
    /// When it ends or does not listen.
    pub(crate) async fn controller(&self) -> Result<Process> {
        let mut command = Command::new(self.args.program("lazyload-controller")?);
        command
            .arg("--store")
            .arg(format!("file:{}", self.store.display()));
        command.args(["--listen", &CONTROLLER.to_string(), "--plaintext"]);
        command
            .arg("--auth")
            .arg(format!("token-file={}", self.token.display()));
        command.args(["--admin-listen", &CONTROLLER_ADMIN.to_string()]);
        self.start("lazyload-controller", command, CONTROLLER).await
    }

    /// Starts the shim in front of the control plane at `upstream`, and waits until it takes calls.
    ///
    /// # Errors
    /// When it ends or does not listen.
    pub(crate) async fn shim(&self, upstream: SocketAddr) -> Result<Process> {
        let mut command = Command::new(self.args.program("xds-shim")?);
        command.args(["--listen", &SHIM.to_string(), "--plaintext"]);
        command.args(["--upstream", &upstream.to_string(), "--upstream-plaintext"]);
        command.args(["--controller", &self.controller_url()]);
        command.arg("--controller-token").arg(&self.token);
        command.args(["--admin-listen", &SHIM_ADMIN.to_string()]);
        self.start("xds-shim", command, SHIM).await
    }

    /// Where sidecars find the shim.
    pub(crate) fn discovery(&self) -> SocketAddr {
        SHIM
    }

    /// Where the graph API is.
    pub(crate) fn controller_url(&self) -> String {
        format!("http://{CONTROLLER}")
    }

    /// What to show there.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The documents in the controller's folder, sorted.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.store).context("the controller's folder")?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            Ok(entry?.file_name().to_string_lossy().into_owned())
        };
        let mut names = entries.map(name).collect::<Result<Vec<_>>>()?;
        names.retain(|name| name.ends_with(".yaml"));
        names.sort_unstable();
        Ok(names)
    }

    async fn start(&self, name: &str, command: Command, address: SocketAddr) -> Result<Process> {
        let mut process = Process::spawn(name, command, &self.args.logs())?;
        let what = format!("{name} to listen on {address}");
        until(&what, LIMIT, async || {
            if let Err(error) = process.check() {
                return Ok(Some(Err(error)));
            }
            TcpStream::connect(address).await?;
            Ok(Some(Ok(())))
        })
        .await??;
        Ok(process)
    }
}
