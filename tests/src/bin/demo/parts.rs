//! Lazymesh itself: the real controller on a folder of YAML, the real shim and the real global proxy.

use crate::args::Args;
use crate::authority::{Authority, ServerFiles};
use crate::network::MACHINE;
use crate::process::Process;
use crate::sidecar::Place;
use crate::wait::until;
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;

/// How long a part may take to listen.
const LIMIT: Duration = Duration::from_secs(20);
const SHIM: SocketAddr = at(MACHINE, 15012);
const SHIM_ADMIN: SocketAddr = at(Ipv4Addr::LOCALHOST, 15014);
const CONTROLLER: SocketAddr = at(MACHINE, 15020);
const CONTROLLER_ADMIN: SocketAddr = at(Ipv4Addr::LOCALHOST, 15021);
/// In its own pod.
const GLOBAL_PROXY_ADMIN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 15023);

const fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address), port)
}

/// Where they run, and what they share.
#[derive(Debug)]
pub(crate) struct Parts {
    args: Args,
    /// The controller's folder.
    pub(crate) store: PathBuf,
    token: PathBuf,
    /// What callers of the controller show.
    secret: String,
    tls: ServerFiles,
}

impl Parts {
    /// Makes the controller's folder, empty, its certificate, and the token.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn prepare(args: &Args, dir: &Path, authority: &Authority) -> Result<Self> {
        // Kept after the run, to be looked at; what an earlier run learned goes.
        let store = args.out.join("store");
        if store.exists() {
            std::fs::remove_dir_all(&store).with_context(|| store.display().to_string())?;
        }
        std::fs::create_dir_all(&store).with_context(|| store.display().to_string())?;
        // Only to tell callers apart on this machine; it never leaves the sandbox.
        let secret = format!("demo-{}", std::process::id());
        let token = dir.join("token");
        std::fs::write(&token, &secret).with_context(|| token.display().to_string())?;
        Ok(Self {
            args: args.clone(),
            store,
            token,
            secret,
            tls: authority.server(CONTROLLER.ip(), dir)?,
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
        command.args(["--listen", &CONTROLLER.to_string()]);
        command.arg("--tls-cert").arg(&self.tls.certificate);
        command.arg("--tls-key").arg(&self.tls.key);
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
        self.of_controller(&mut command);
        command.args(["--admin-listen", &SHIM_ADMIN.to_string()]);
        self.start("xds-shim", command, SHIM).await
    }

    /// Starts the global proxy in its pod, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not get ready.
    pub(crate) async fn global_proxy(&self, place: &Place) -> Result<Process> {
        let mut command = place.command(&self.args.program("global-proxy")?);
        self.of_controller(&mut command);
        command.args(["--workers", "2"]);
        let mut process = Process::spawn("global-proxy", command, &self.args.logs())?;
        until("the global proxy to be ready", LIMIT, async || {
            if let Err(error) = process.check() {
                return Ok(Some(Err(error)));
            }
            let path = "/healthz/ready";
            place
                .client
                .http(GLOBAL_PROXY_ADMIN, "localhost", path)
                .await?;
            Ok(Some(Ok(())))
        })
        .await??;
        Ok(process)
    }

    /// The flags by which a part finds the controller.
    fn of_controller(&self, command: &mut Command) {
        command.args(["--controller", &self.controller_url()]);
        command.arg("--controller-ca").arg(&self.tls.root);
        command.arg("--controller-token").arg(&self.token);
    }

    /// Where sidecars find the shim.
    pub(crate) fn discovery(&self) -> SocketAddr {
        SHIM
    }

    /// Where the graph API is.
    pub(crate) fn controller_url(&self) -> String {
        format!("https://{CONTROLLER}")
    }

    /// What its certificate is verified with, PEM.
    pub(crate) fn root(&self) -> Result<String> {
        let file = &self.tls.root;
        std::fs::read_to_string(file).with_context(|| file.display().to_string())
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
