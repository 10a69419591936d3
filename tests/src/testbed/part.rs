//! Lazymesh's own programs as the mesh sees them: some replicas behind a Kubernetes service, started, stopped and
//! killed by the test. What is particular to the shim and the controller is in their modules.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex as PlainMutex;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::http;
use super::namespace::Namespace;
use super::network;
use super::pki::ServerCertificate;
use super::process::Process;
use super::tools;
use crate::running::Running;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(40);
const ADMIN_PORT: u16 = 15014;

/// Replicas of one program behind one service of a test's namespace. Clones are the same.
#[derive(Clone, Debug)]
pub struct Parts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    namespace: Namespace,
    program: &'static str,
    port: u16,
    certificate: ServerCertificate,
    in_service: Mutex<Vec<Ipv4Addr>>,
    numbers: PlainMutex<u32>,
}

impl Parts {
    /// Makes the service, its certificate and its service account; no replica yet. Both carry the program's name.
    pub(super) async fn create(
        namespace: &Namespace,
        program: &'static str,
        port: u16,
    ) -> Result<Self> {
        let service = namespace
            .service(program)
            .selector(&[])
            // Bytes to whatever sidecar they pass: the name's beginning says so.
            .port("tls-grpc", port, port);
        service.create().await?;
        namespace.ensure_service_account(program).await?;
        let mesh = namespace.mesh();
        let host = format!("{program}.{}.svc", namespace.name());
        let vip = mesh
            .cluster()
            .resolve("", &host)
            .await
            .context("a service without a ClusterIP")?;
        mesh.add_host(vip, &host)?;
        let file = format!("{program}-{}", namespace.name());
        let certificate = mesh.root().issue(&file, &[&host], &[])?;
        let parts = Self(Arc::new(Inner {
            namespace: namespace.clone(),
            program,
            port,
            certificate,
            in_service: Mutex::default(),
            numbers: PlainMutex::default(),
        }));
        parts.write_endpoints(&[]).await?;
        Ok(parts)
    }

    /// The service's name, as in a `discoveryAddress`: `xds-shim.NAMESPACE.svc:15012`.
    pub fn address(&self) -> String {
        let Inner {
            namespace,
            program,
            port,
            ..
        } = &*self.0;
        format!("{program}.{}.svc:{port}", namespace.name())
    }

    /// The namespace it is in.
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// A file with a token of its service account, for the audience given.
    ///
    /// # Errors
    /// When the API server issues none.
    pub async fn token(&self, audience: &str) -> Result<PathBuf> {
        let Inner {
            namespace, program, ..
        } = &*self.0;
        namespace.token(program, audience).await
    }

    /// Starts a replica with the given flags besides those for its addresses and certificate; comes back when it says
    /// it is ready and the service leads to it.
    pub(super) async fn start(&self, args: Vec<String>) -> Result<Replica> {
        let Inner {
            namespace,
            program,
            port,
            certificate,
            numbers,
            ..
        } = &*self.0;
        let address = network::add_part(namespace.mesh().next_part_index()?).await?;
        let number = {
            let mut numbers = numbers.lock();
            *numbers += 1;
            *numbers
        };
        let mut all = vec![
            format!("--listen={address}:{port}"),
            format!("--tls-cert={}", certificate.certificate.display()),
            format!("--tls-key={}", certificate.key.display()),
            format!("--admin-listen={address}:{ADMIN_PORT}"),
        ];
        all.extend(args);
        let replica = Replica(Arc::new(ReplicaInner {
            parts: self.clone(),
            name: format!("{program}-{number}"),
            address,
            args: all,
            process: Mutex::default(),
        }));
        namespace.keep_replica(replica.clone());
        replica.start().await?;
        Ok(replica)
    }

    /// Makes the service lead to exactly these replicas, whatever state they are in. New connections are spread over
    /// them one after the other.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn lead_to(&self, replicas: &[&Replica]) -> Result<()> {
        let addresses: Vec<_> = replicas.iter().map(|replica| replica.address()).collect();
        self.write_endpoints(&addresses).await
    }

    async fn write_endpoints(&self, addresses: &[Ipv4Addr]) -> Result<()> {
        let mut in_service = self.0.in_service.lock().await;
        self.write_locked(&mut in_service, addresses.to_vec()).await
    }

    async fn change_endpoints(&self, change: impl FnOnce(&mut Vec<Ipv4Addr>)) -> Result<()> {
        let mut in_service = self.0.in_service.lock().await;
        let mut addresses = in_service.clone();
        change(&mut addresses);
        self.write_locked(&mut in_service, addresses).await
    }

    async fn write_locked(
        &self,
        in_service: &mut Vec<Ipv4Addr>,
        addresses: Vec<Ipv4Addr>,
    ) -> Result<()> {
        let Inner {
            namespace, program, ..
        } = &*self.0;
        let mesh = namespace.mesh();
        mesh.cluster()
            .set_endpoints(mesh.resources(), (namespace.name(), program), &addresses)
            .await?;
        *in_service = addresses;
        Ok(())
    }
}

/// One replica. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Replica(Arc<ReplicaInner>);

#[derive(Debug)]
struct ReplicaInner {
    parts: Parts,
    name: String,
    address: Ipv4Addr,
    args: Vec<String>,
    process: Mutex<Option<Process>>,
}

impl Replica {
    /// Starts it (again); comes back when it says it is ready and the service leads to it.
    ///
    /// # Errors
    /// When it does not become ready, naming its log.
    pub async fn start(&self) -> Result<()> {
        let ReplicaInner {
            parts,
            args,
            process,
            ..
        } = &*self.0;
        let mut process = process.lock().await;
        anyhow::ensure!(process.is_none(), "{} is running already", self.0.name);
        let mut command = Command::new(tools::own_program(parts.0.program)?);
        command.args(args).env_clear().env("RUST_BACKTRACE", "1");
        let started = process.insert(Process::spawn(&self.0.name, command, &self.log_file())?);
        let url = format!("http://{}:{ADMIN_PORT}/healthz/ready", self.address());
        let ready = || async {
            let answer = http::get(&url).await?;
            anyhow::ensure!(
                answer.status == 200,
                "{}: {}",
                answer.status,
                answer.body.trim()
            );
            Ok(())
        };
        started
            .wait_for("it to be ready", START_LIMIT, ready)
            .await?;
        drop(process);
        let address = self.address();
        parts
            .change_endpoints(|addresses| addresses.push(address))
            .await
    }

    /// As a rolling update does: takes it out of the service, then SIGTERM; comes back when it has ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&self) -> Result<()> {
        self.leave_service().await?;
        let process = self.0.process.lock().await.take();
        let mut process = process.with_context(|| format!("{} is not running", self.0.name))?;
        let status = process.terminate(STOP_LIMIT).await?;
        anyhow::ensure!(
            status.success(),
            "{} ended with {status} after SIGTERM",
            self.0.name
        );
        Ok(())
    }

    /// As a crash does: SIGKILL, and only then is it taken out of the service.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&self) -> Result<()> {
        let process = self.0.process.lock().await.take();
        process
            .with_context(|| format!("{} is not running", self.0.name))?
            .kill()
            .await?;
        self.leave_service().await
    }

    async fn leave_service(&self) -> Result<()> {
        let address = self.address();
        self.0
            .parts
            .change_endpoints(|addresses| addresses.retain(|other| *other != address))
            .await
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// Its process.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn running(&self) -> Result<Running> {
        let process = self.0.process.lock().await;
        let process = process
            .as_ref()
            .with_context(|| format!("{} is not running", self.0.name))?;
        Ok(process.running())
    }

    /// Where its admin port is.
    pub fn admin_url(&self) -> String {
        format!("http://{}:{ADMIN_PORT}", self.address())
    }

    /// GETs a page of its admin port.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let answer = http::get(&(self.admin_url() + path)).await?;
        anyhow::ensure!(
            answer.status == 200,
            "{}: {path}: {}",
            self.0.name,
            answer.status
        );
        Ok(answer.body)
    }

    /// The sum of a metric over all label sets that contain `labels` (such as `type="cds"`; empty for all).
    ///
    /// # Errors
    /// When its admin port does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        Ok(sum_of(&self.admin("/metrics").await?, name, labels))
    }

    /// Its log so far.
    ///
    /// # Errors
    /// When it was never started.
    pub fn log(&self) -> Result<String> {
        let file = self.log_file();
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    fn log_file(&self) -> PathBuf {
        let namespace = &self.0.parts.0.namespace;
        namespace
            .mesh()
            .places()
            .log(&format!("{}.{}", self.0.name, namespace.name()))
    }

    /// Ends it for good.
    pub(super) async fn remove(&self) -> Result<()> {
        match self.0.process.lock().await.take() {
            Some(mut process) => process.kill().await,
            None => Ok(()),
        }
    }
}

/// The sum of a metric in Prometheus' text format.
pub(super) fn sum_of(text: &str, name: &str, labels: &str) -> f64 {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (set, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            set.contains(labels)
                .then(|| value.trim().parse::<f64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::sum_of;

    #[test]
    fn a_metric_is_summed_over_the_label_sets_asked_for() {
        let text =
            "# TYPE a counter\na{type=\"cds\",x=\"}\"} 2\na{type=\"eds\"} 3\na_total 7\nb 1\n";
        assert!((sum_of(text, "a", "") - 5.0).abs() < f64::EPSILON);
        assert!((sum_of(text, "a", "type=\"eds\"") - 3.0).abs() < f64::EPSILON);
        assert!((sum_of(text, "b", "") - 1.0).abs() < f64::EPSILON);
        assert!((sum_of(text, "c", "")).abs() < f64::EPSILON);
    }
}
