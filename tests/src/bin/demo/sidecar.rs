//! A sidecar: Envoy in a pod, what it costs, and what it has.

use crate::authority::Authority;
use crate::bootstrap::{self, ADMIN_PORT, Identity};
use crate::client::Client;
use crate::network::Pod;
use crate::process::Process;
use crate::report::Costs;
use crate::secrets;
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a sidecar may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A pod that a sidecar can be started in, again and again.
#[derive(Debug)]
pub(crate) struct Place {
    pod: Pod,
    /// The application in the pod.
    pub(crate) client: Client,
    /// Who the sidecar is.
    pub(crate) identity: Identity,
    sds: PathBuf,
    dir: PathBuf,
}

impl Place {
    /// Makes pod number `index` of `namespace/workload`; its files go below `dir`.
    ///
    /// # Errors
    /// When a right is missing.
    pub(crate) async fn create(
        index: u8,
        namespace: &str,
        workload: &str,
        dir: &Path,
        authority: &Authority,
    ) -> Result<Self> {
        let pod = Pod::create(index, &format!("{workload}-{namespace}")).await?;
        let identity = Identity {
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            address: pod.address,
        };
        let dir = dir.join(&pod.name);
        std::fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self {
            client: Client::enter(&pod.path())?,
            sds: secrets::serve(&dir, authority, &identity.spiffe())?,
            pod,
            identity,
            dir,
        })
    }

    /// A program in the pod, beside its sidecar.
    pub(crate) fn command(&self, program: &Path) -> tokio::process::Command {
        self.pod.command(program)
    }
}

/// A running sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    process: Process,
    client: Client,
    /// From the start of the process until its config was in and its workers ran.
    ready: Duration,
}

#[derive(Deserialize)]
struct Memory {
    allocated: String,
}

impl Sidecar {
    /// Starts Envoy with its config from `discovery`, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub(crate) async fn start(
        place: &Place,
        discovery: SocketAddr,
        envoy: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let config = bootstrap::bootstrap(&place.identity, discovery, &place.sds);
        let file = place.dir.join("bootstrap.json");
        std::fs::write(&file, config.to_string()).with_context(|| file.display().to_string())?;
        let mut command = place.command(envoy);
        // As pilot-agent's own environment has it.
        command.env("POD_NAME", place.identity.pod());
        command.arg("-c").arg(&file);
        command.args([
            "--concurrency",
            "2",
            "--log-level",
            "warning",
            "--disable-hot-restart",
        ]);
        let start = Instant::now();
        let process = Process::spawn(&format!("envoy-{}", place.pod.name), command, logs)?;
        let mut sidecar = Self {
            process,
            client: place.client.clone(),
            ready: Duration::default(),
        };
        until("the sidecar to be ready", READY_LIMIT, async || {
            // Said at once: a dead process does not get ready.
            if let Err(error) = sidecar.process.check() {
                return Ok(Some(Err(error)));
            }
            sidecar.expect_ready().await?;
            Ok(Some(Ok(())))
        })
        .await??;
        sidecar.ready = start.elapsed();
        Ok(sidecar)
    }

    /// As pilot-agent's readiness probe has it, and nothing left half-way.
    async fn expect_ready(&self) -> Result<()> {
        let stats = self
            .stats("update_success|workers_started|_warming|warming_")
            .await?;
        let stat = |name: &str| stats.get(name).copied();
        let ready = stat("cluster_manager.cds.update_success") > Some(0)
            && stat("listener_manager.lds.update_success") > Some(0)
            && stat("listener_manager.workers_started") == Some(1)
            && stat("cluster_manager.warming_clusters") == Some(0)
            && stat("listener_manager.total_listeners_warming") == Some(0);
        ensure!(ready, "its statistics: {stats:?}");
        Ok(())
    }

    /// What it costs as it is now.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub(crate) async fn costs(&self) -> Result<Costs> {
        let memory: Memory = serde_json::from_str(&self.admin("/memory").await?)?;
        let received = "cluster.xds-grpc;.upstream_cx_rx_bytes_total";
        Ok(Costs {
            config_bytes: self.stat(received).await?,
            clusters: self.stat("cluster_manager.active_clusters").await?,
            heap_bytes: memory.allocated.parse().context("/memory: allocated")?,
            rss_bytes: self.process.rss()?,
            ready_ms: crate::report::milliseconds(self.ready),
        })
    }

    /// Listeners in place.
    pub(crate) async fn listeners(&self) -> Result<u64> {
        self.stat("listener_manager.total_listeners_active").await
    }

    /// Clusters that have come since it started, those of the start included.
    pub(crate) async fn clusters_added(&self) -> Result<u64> {
        self.stat("cluster_manager.cluster_added").await
    }

    /// The names of the clusters it has.
    pub(crate) async fn cluster_names(&self) -> Result<BTreeSet<String>> {
        let text = self.admin("/clusters").await?;
        Ok(text
            .lines()
            .filter_map(|line| Some(line.split_once("::")?.0.to_owned()))
            .collect())
    }

    /// The names of the listeners it has.
    pub(crate) async fn listener_names(&self) -> Result<BTreeSet<String>> {
        let text = self.admin("/listeners").await?;
        let names = text.lines().filter_map(|line| line.split_once("::"));
        Ok(names.map(|(name, _)| name.to_owned()).collect())
    }

    /// Ends Envoy.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) async fn stop(self) -> Result<()> {
        self.process.stop().await
    }

    async fn stat(&self, name: &str) -> Result<u64> {
        let stats = self.stats(name).await?;
        stats
            .get(name)
            .copied()
            .with_context(|| format!("Envoy has no statistic {name}"))
    }

    /// Counters and gauges whose name matches.
    async fn stats(&self, filter: &str) -> Result<HashMap<String, u64>> {
        let filter = filter.replace(';', "%3B").replace('|', "%7C");
        let text = self.admin(&format!("/stats?filter={filter}")).await?;
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(text.lines().filter_map(pair).collect())
    }

    async fn admin(&self, path: &str) -> Result<String> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, ADMIN_PORT);
        Ok(self.client.http(address, "localhost", path).await?.text)
    }
}
