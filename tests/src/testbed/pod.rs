//! One pod: a network namespace, a Pod object that istiod believes, an application and, mostly, a sidecar.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::envoy::Envoy;
use super::mesh::Mesh;
use super::network::PodNetwork;
use super::process::{self, Process};
use super::sidecar::{self, Owner, SidecarOptions};
use super::tools;
use crate::running::Running;

/// The port of `mesh-app` that tells what it has seen. It is not intercepted.
pub const CONTROL_PORT: u16 = 19999;
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What a pod is started from.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// The namespace.
    pub namespace: String,
    /// The Deployment it is said to be of.
    pub workload: String,
    /// The pod's own name.
    pub name: String,
    /// Labels, as the injector leaves them.
    pub labels: BTreeMap<String, String>,
    /// The service account.
    pub service_account: String,
    /// None for a pod outside the mesh.
    pub sidecar: Option<SidecarOptions>,
    /// What runs in it; none for a pod that only calls.
    pub app: Option<App>,
}

/// What runs in a pod.
#[derive(Clone, Debug)]
pub enum App {
    /// `mesh-app serve`, on these ports.
    Mesh(AppPorts),
    /// One of our own programs.
    Own(Program),
}

/// One of our own programs, as an application in a pod with a sidecar.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its flags.
    pub args: Vec<String>,
    /// Its admin port, which is asked on the pod's own loopback.
    pub admin: u16,
}

/// The ports of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppPorts {
    /// HTTP/1.1, WebSocket, HTTP/2 with prior knowledge and gRPC.
    pub http: Vec<u16>,
    /// TCP, the client speaks first.
    pub tcp: Vec<u16>,
    /// TCP, the server speaks first.
    pub tcp_server_first: Vec<u16>,
    /// TLS with the application's own certificate, inside it as over TCP.
    pub tls: Vec<u16>,
}

impl Default for AppPorts {
    fn default() -> Self {
        Self {
            http: vec![8080, 8082, 7070],
            tcp: vec![9000],
            tcp_server_first: vec![9001],
            tls: Vec::new(),
        }
    }
}

/// A running pod. Clones are the same pod. Its processes end when the last clone and its namespace are dropped.
#[derive(Clone, Debug)]
pub struct Pod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mesh: Mesh,
    spec: PodSpec,
    network: PodNetwork,
    app: Mutex<Option<Process>>,
    agent: Mutex<Option<Process>>,
    deleted: AtomicBool,
}

impl Pod {
    /// Starts a pod; comes back when its sidecar is ready and it is in the endpoints of its services.
    ///
    /// # Errors
    /// When a part does not start, naming its log.
    pub(super) async fn start(mesh: &Mesh, spec: PodSpec) -> Result<Self> {
        let what = format!("pod {}.{}", spec.name, spec.namespace);
        let network = PodNetwork::create(mesh.next_pod_index()?).await?;
        let pod = Self(Arc::new(Inner {
            mesh: mesh.clone(),
            spec,
            network,
            app: Mutex::default(),
            agent: Mutex::default(),
            deleted: AtomicBool::new(false),
        }));
        pod.bring_up().await.context(what)?;
        Ok(pod)
    }

    async fn bring_up(&self) -> Result<()> {
        let Inner {
            mesh,
            spec,
            network,
            ..
        } = &*self.0;
        let begin = Instant::now();
        let step = |done| tracing::debug!(pod = self.name(), after = ?begin.elapsed(), "{done}");
        self.register().await?;
        step("registered");
        let intercepts =
            |options: &&SidecarOptions| options.proxy_type == sidecar::ProxyType::Sidecar;
        if spec.sidecar.as_ref().filter(intercepts).is_some() {
            // Before anything runs: it would tear connections that are there.
            network
                .intercept(&mesh.tools().pilot_agent, &[CONTROL_PORT])
                .await?;
            step("intercepted");
        }
        if let Some(App::Mesh(ports)) = &spec.app {
            *self.0.app.lock().await = Some(self.start_app(ports)?);
        }
        if let Some(options) = &spec.sidecar {
            self.start_sidecar(options).await?;
            step("sidecar ready");
        }
        if let Some(App::Own(program)) = &spec.app {
            *self.0.app.lock().await = Some(self.start_own(program)?);
        }
        self.wait_app().await?;
        self.set_ready(true).await?;
        step("in its services");
        Ok(())
    }

    async fn start_sidecar(&self, options: &SidecarOptions) -> Result<()> {
        let Inner {
            mesh,
            spec,
            network,
            ..
        } = &*self.0;
        let owner = Owner {
            namespace: &spec.namespace,
            pod: &spec.name,
            workload: &spec.workload,
            service_account: &spec.service_account,
            labels: &spec.labels,
        };
        let context = (mesh.tools(), mesh.places(), mesh.resources());
        let mut agent = sidecar::start(context, owner, network, options, mesh.istio_root()).await?;
        let ready = sidecar::wait_ready(&mut agent, network.address, options.ready_limit).await;
        *self.0.agent.lock().await = Some(agent);
        ready
    }

    fn start_app(&self, ports: &AppPorts) -> Result<Process> {
        let Inner {
            mesh,
            spec,
            network,
            ..
        } = &*self.0;
        let mut command = network.command(&tools::own_program("mesh-app")?);
        command
            .arg("serve")
            .args(["--pod", &spec.name, "--namespace", &spec.namespace]);
        command.args([
            "--service-account",
            &spec.service_account,
            "--workload",
            &spec.workload,
        ]);
        if let Some(version) = spec.labels.get("version") {
            command.args(["--version-label", version]);
        }
        command.arg("--control").arg(CONTROL_PORT.to_string());
        for (flag, ports) in [
            ("--http", &ports.http),
            ("--tcp", &ports.tcp),
            ("--tcp-server-first", &ports.tcp_server_first),
            ("--tls", &ports.tls),
        ] {
            for port in ports {
                command.arg(flag).arg(port.to_string());
            }
        }
        Process::spawn(
            "mesh-app",
            command,
            &mesh
                .places()
                .log(&format!("{}.{}-app", spec.name, spec.namespace)),
        )
    }

    fn start_own(&self, program: &Program) -> Result<Process> {
        let Inner { mesh, spec, .. } = &*self.0;
        let mut command = self.0.network.command(&tools::own_program(program.name)?);
        command
            .args(&program.args)
            .env_clear()
            .env("RUST_BACKTRACE", "1");
        let log = format!("{}.{}-app", spec.name, spec.namespace);
        Process::spawn(program.name, command, &mesh.places().log(&log))
    }

    async fn wait_app(&self) -> Result<()> {
        let url = format!("http://{}:{CONTROL_PORT}/_ready", self.address());
        let mut app = self.0.app.lock().await;
        let (Some(app), Some(what)) = (app.as_mut(), &self.0.spec.app) else {
            return Ok(());
        };
        let ready = || async {
            match what {
                App::Mesh(_) => super::http::get(&url).await.map(drop),
                App::Own(program) => self.admin(program.admin, "/healthz/ready").await.map(drop),
            }
        };
        app.wait_for("the application", READY_LIMIT, ready).await
    }

    /// GETs a page of a port on the pod's own loopback.
    pub(super) async fn admin(&self, port: u16, path: &str) -> Result<String> {
        let stream = self.0.network.connect(Ipv4Addr::LOCALHOST, port).await?;
        let answer = super::http::over(stream, http::Method::GET, path).await?;
        let said = answer.body.trim();
        anyhow::ensure!(answer.status == 200, "{path}: {}: {said}", answer.status);
        Ok(answer.body)
    }

    /// SIGTERM to the application alone; comes back when it has ended.
    ///
    /// # Errors
    /// When there is none, or it does not end well in time.
    pub(super) async fn stop_app(&self, limit: Duration) -> Result<()> {
        let app = self.0.app.lock().await.take();
        let mut app = app.with_context(|| format!("pod {} has no application", self.name()))?;
        let status = app.terminate(limit).await?;
        anyhow::ensure!(status.success(), "{}: {status} after SIGTERM", self.name());
        Ok(())
    }

    /// Kills all that runs in it at once, as the end of its node would; only then is it taken out of its services.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn crash(&self) -> Result<()> {
        self.kill_all().await?;
        self.delete().await
    }

    async fn kill_all(&self) -> Result<()> {
        let Inner { app, agent, .. } = &*self.0;
        for process in [agent.lock().await.take(), app.lock().await.take()]
            .iter_mut()
            .flatten()
        {
            process.kill().await?;
        }
        Ok(())
    }

    /// Writes the Pod object with its address, not ready yet.
    async fn register(&self) -> Result<()> {
        let Inner { mesh, spec, .. } = &*self.0;
        // The ReplicaSet between a Deployment and its pods, as far as istiod looks at it.
        let replica_set = spec
            .name
            .rsplit_once('-')
            .map_or(spec.workload.as_str(), |(replica_set, _)| replica_set);
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": spec.name, "namespace": spec.namespace, "labels": spec.labels,
                // By this the injector, and who reads as it does, tells a pod of a controller from one made by hand.
                "generateName": format!("{replica_set}-"),
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set,
                                     "uid": "00000000-0000-0000-0000-000000000000", "controller": true}],
            },
            "spec": {
                "serviceAccountName": spec.service_account, "nodeName": "node-1",
                "containers": [{"name": "app", "image": "mesh-app"}],
            },
        });
        if spec.sidecar.as_ref().is_some_and(|sidecar| !sidecar.owner)
            && let Some(metadata) = object["metadata"].as_object_mut()
        {
            metadata.remove("ownerReferences");
            metadata.remove("generateName");
        }
        mesh.resources()
            .apply(&spec.namespace, &object.to_string())
            .await?;
        self.patch_status(false).await
    }

    async fn patch_status(&self, ready: bool) -> Result<()> {
        let Inner { mesh, spec, .. } = &*self.0;
        let ip = self.address().to_string();
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.20.0.1",
            "conditions": [{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready}],
        }});
        let api: Api<core::Pod> =
            Api::namespaced(mesh.resources().client().clone(), &spec.namespace);
        api.patch_status(&spec.name, &PatchParams::default(), &Patch::Merge(status))
            .await?;
        Ok(())
    }

    /// Makes it ready, and so an endpoint of its services, or takes that back.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn set_ready(&self, ready: bool) -> Result<()> {
        let Inner { mesh, spec, .. } = &*self.0;
        self.patch_status(ready).await?;
        let (cluster, resources) = (mesh.cluster(), mesh.resources());
        if ready {
            cluster
                .pod_ready(
                    resources,
                    (&spec.namespace, &spec.name),
                    &spec.labels,
                    self.address(),
                )
                .await
        } else {
            cluster
                .pod_gone(resources, &spec.namespace, &spec.name)
                .await
        }
    }

    /// What it was started from.
    pub fn spec(&self) -> &PodSpec {
        &self.0.spec
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.0.network.address
    }

    /// Its network namespace.
    pub fn network(&self) -> &PodNetwork {
        &self.0.network
    }

    /// The mesh it is in.
    pub fn mesh(&self) -> &Mesh {
        &self.0.mesh
    }

    /// `spiffe://cluster.local/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, which a server must see as the caller.
    pub fn spiffe_id(&self) -> String {
        format!(
            "spiffe://cluster.local/ns/{}/sa/{}",
            self.0.spec.namespace, self.0.spec.service_account
        )
    }

    /// Its Envoy.
    ///
    /// # Errors
    /// When it has no sidecar, or that is stopped.
    pub async fn envoy(&self) -> Result<Envoy> {
        let agent = self.0.agent.lock().await;
        let agent = agent
            .as_ref()
            .with_context(|| format!("pod {} has no running sidecar", self.name()))?;
        Ok(Envoy::new(self.0.network.clone(), agent.pid()))
    }

    /// Its pilot-agent.
    ///
    /// # Errors
    /// When it has no sidecar, or that is stopped.
    pub async fn agent(&self) -> Result<Running> {
        let agent = self.0.agent.lock().await;
        let agent = agent
            .as_ref()
            .with_context(|| format!("pod {} has no running sidecar", self.name()))?;
        Ok(agent.running())
    }

    /// Runs a command in the pod (as root, so that its connections are intercepted) and gives back its output.
    ///
    /// # Errors
    /// When it fails, with its standard error.
    pub async fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        process::output(self.command(Path::new(program)).args(args), "").await
    }

    /// A command that will run in the pod.
    pub fn command(&self, program: &Path) -> Command {
        self.0.network.command(program)
    }

    /// The log of its sidecar so far.
    ///
    /// # Errors
    /// When it has none.
    pub fn log(&self) -> Result<String> {
        let Inner { mesh, spec, .. } = &*self.0;
        let path = mesh
            .places()
            .log(&format!("{}.{}-proxy", spec.name, spec.namespace));
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Kills the sidecar (agent and Envoy) and starts it again in the same pod, as a kubelet would a crashed container.
    ///
    /// # Errors
    /// When there is none or it does not come back.
    pub async fn restart_sidecar(&self) -> Result<()> {
        let Some(options) = &self.0.spec.sidecar else {
            bail!("pod {} has no sidecar", self.name())
        };
        if let Some(mut agent) = self.0.agent.lock().await.take() {
            agent.kill().await?;
        }
        let dir = self
            .0
            .mesh
            .places()
            .work
            .join("pods")
            .join(&self.0.network.name);
        tokio::fs::remove_dir_all(&dir).await?;
        self.start_sidecar(options).await
    }

    /// Takes the pod out of its services, kills it and removes all of it. A second time does nothing.
    ///
    /// # Errors
    /// When a write fails.
    pub async fn delete(&self) -> Result<()> {
        let Inner {
            mesh,
            spec,
            network,
            deleted,
            ..
        } = &*self.0;
        if deleted.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        mesh.cluster()
            .pod_gone(mesh.resources(), &spec.namespace, &spec.name)
            .await?;
        let api: Api<core::Pod> =
            Api::namespaced(mesh.resources().client().clone(), &spec.namespace);
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        match api.delete(&spec.name, &at_once).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        self.kill_all().await?;
        network.remove().await
    }
}
