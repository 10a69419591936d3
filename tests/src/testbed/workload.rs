//! A workload as a test writes it down: a Deployment's name, labels and service account, and how its pods are made.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use futures::future::try_join_all;

use super::namespace::Namespace;
use super::pod::{App, AppPorts, Pod, PodSpec, Program};
use super::shim::Shims;
use super::sidecar::{ProxyType, SidecarOptions};

/// A workload being written down. [`Workload::start`] makes a pod of it, as often as it is called.
#[derive(Clone, Debug)]
pub struct Workload {
    namespace: Namespace,
    name: String,
    labels: BTreeMap<String, String>,
    service_account: String,
    sidecar: Option<SidecarOptions>,
    app: Option<App>,
    hash: u32,
}

static NEXT: AtomicU32 = AtomicU32::new(1);

impl Workload {
    /// A workload with a sidecar straight at istiod and the application on its usual ports; its service account has
    /// its name.
    pub(super) fn new(namespace: &Namespace, name: &str) -> Self {
        Self {
            namespace: namespace.clone(),
            name: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            service_account: name.to_owned(),
            sidecar: Some(SidecarOptions::default()),
            app: Some(App::Mesh(AppPorts::default())),
            hash: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Adds or replaces a label of its pods (`app` is there).
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Another service account than the one of its own name.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Other ports for the application.
    #[must_use]
    pub fn app(mut self, ports: AppPorts) -> Self {
        self.app = Some(App::Mesh(ports));
        self
    }

    /// One of our own programs in place of the application.
    #[must_use]
    pub(super) fn program(mut self, program: Program) -> Self {
        self.app = Some(App::Own(program));
        self
    }

    /// Pods that only call.
    #[must_use]
    pub fn no_app(mut self) -> Self {
        self.app = None;
        self
    }

    /// Pods outside the mesh.
    #[must_use]
    pub fn no_sidecar(mut self) -> Self {
        self.sidecar = None;
        self
    }

    /// Changes how the sidecar is started.
    #[must_use]
    pub fn sidecar(mut self, change: impl FnOnce(&mut SidecarOptions)) -> Self {
        change(self.sidecar.get_or_insert_with(SidecarOptions::default));
        self
    }

    /// `proxyMetadata` of the sidecar, such as `ISTIO_DELTA_XDS=false`.
    #[must_use]
    pub fn proxy_metadata(self, name: &str, value: &str) -> Self {
        self.sidecar(|sidecar| {
            sidecar.env.insert(name.to_owned(), value.to_owned());
        })
    }

    /// More arguments of Envoy.
    #[must_use]
    pub fn envoy_args(self, args: &str) -> Self {
        self.sidecar(|sidecar| args.clone_into(&mut sidecar.envoy_args))
    }

    /// Envoy keeps all statistics, not only those that Istio's bootstrap lets through.
    #[must_use]
    pub fn all_stats(self) -> Self {
        self.sidecar(|sidecar| sidecar.all_stats = true)
    }

    /// A gateway: no interception, and istiod is told so.
    #[must_use]
    pub fn gateway(self) -> Self {
        self.sidecar(|sidecar| sidecar.proxy_type = ProxyType::Router)
    }

    /// Nobody is told which workload the pods are of.
    #[must_use]
    pub fn no_owner(self) -> Self {
        self.sidecar(|sidecar| sidecar.owner = false)
    }

    /// Points the sidecar at these shims.
    #[must_use]
    pub fn via(self, shims: &Shims) -> Self {
        let root = self.namespace.mesh().root_certificate();
        self.sidecar(|sidecar| {
            sidecar.discovery_address = shims.address();
            sidecar.discovery_root = Some(root);
        })
    }

    /// Starts a pod of it and waits until it is ready.
    ///
    /// # Errors
    /// When a part does not start, naming its log.
    pub async fn start(&self) -> Result<Pod> {
        self.namespace
            .ensure_service_account(&self.service_account)
            .await?;
        let hash = format!("{:x}", 0x9c5f_0000_u32.wrapping_add(self.hash));
        let mut labels = self.labels.clone();
        labels.insert("pod-template-hash".to_owned(), hash.clone());
        if self.sidecar.is_some() {
            // As the injector does: what istiod sees of the pod, and how it learns that it speaks mTLS.
            labels.insert("security.istio.io/tlsMode".to_owned(), "istio".to_owned());
            labels
                .entry("service.istio.io/canonical-name".to_owned())
                .or_insert_with(|| self.name.clone());
            labels
                .entry("service.istio.io/canonical-revision".to_owned())
                .or_insert_with(|| "latest".to_owned());
        }
        let spec = PodSpec {
            namespace: self.namespace.name().to_owned(),
            workload: self.name.clone(),
            name: format!(
                "{}-{hash}-{:05x}",
                self.name,
                NEXT.fetch_add(1, Ordering::Relaxed)
            ),
            labels,
            service_account: self.service_account.clone(),
            sidecar: self.sidecar.clone(),
            app: self.app.clone(),
        };
        let pod = Pod::start(self.namespace.mesh(), spec).await?;
        self.namespace.keep(pod.clone());
        Ok(pod)
    }

    /// Starts several pods at once.
    ///
    /// # Errors
    /// As [`Workload::start`].
    pub async fn pods(&self, count: usize) -> Result<Vec<Pod>> {
        try_join_all((0..count).map(|_| self.start())).await
    }
}

/// A service being written down.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    namespace: Namespace,
    name: String,
    selector: BTreeMap<String, String>,
    ports: Vec<serde_json::Value>,
    headless: bool,
    cluster_ip: Option<Ipv4Addr>,
}

impl ServiceSpec {
    pub(super) fn new(namespace: &Namespace, name: &str) -> Self {
        Self {
            namespace: namespace.clone(),
            name: name.to_owned(),
            selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            headless: false,
            cluster_ip: None,
        }
    }

    /// Adds a port. Its name tells Istio the protocol (`http`, `grpc-web`, `tcp`, ...).
    #[must_use]
    pub fn port(mut self, name: &str, number: u16, target: u16) -> Self {
        self.ports.push(serde_json::json!({"name": name, "port": number, "targetPort": target, "protocol": "TCP"}));
        self
    }

    /// The usual ports of `mesh-app`: `http` 80, `http2` 8082, `grpc` 7070, `tcp` 9000, `tcp-server-first` 9001.
    #[must_use]
    pub fn usual_ports(self) -> Self {
        self.port("http", 80, 8080)
            .port("http2", 8082, 8082)
            .port("grpc", 7070, 7070)
            .port("tcp", 9000, 9000)
            .port("tcp-server-first", 9001, 9001)
    }

    /// The pods behind it (at first, those labelled `app` = the service's name).
    #[must_use]
    pub fn selector(mut self, labels: &[(&str, &str)]) -> Self {
        self.selector = labels
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        self
    }

    /// No ClusterIP.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    /// A ClusterIP of the test's choice.
    #[must_use]
    pub fn cluster_ip(mut self, address: Ipv4Addr) -> Self {
        self.cluster_ip = Some(address);
        self
    }

    /// Makes the service, or changes the one that is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create(&self) -> Result<()> {
        let cluster_ip = match self.cluster_ip {
            _ if self.headless => Some("None".to_owned()),
            address => address.map(|address| address.to_string()),
        };
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name},
            "spec": {"clusterIP": cluster_ip, "selector": self.selector, "ports": self.ports},
        });
        self.namespace.apply(&object.to_string()).await
    }
}
