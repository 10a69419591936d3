//! A service: one of Kubernetes', or one host of a ServiceEntry.

use std::net::IpAddr;

use ipnet::IpNet;
use kube::core::DynamicObject;
use serde::Deserialize;

use super::object::{Labels, Name, annotation, list, part};

/// What can be called by a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// The namespace of the object it is from.
    pub namespace: String,
    /// The full name, in lower case; of a ServiceEntry it may be a wildcard such as `*.example.com`.
    pub host: String,
    /// Its ports. Those of UDP are left out: no sidecar carries them.
    pub ports: Vec<ServicePort>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Ranges of addresses, which a ServiceEntry may have.
    pub networks: Vec<IpNet>,
    /// What it stands for.
    pub form: Form,
    /// The labels of the pods behind it; empty if it does not say.
    pub selector: Labels,
    /// `exportTo`; empty if it does not say.
    pub export_to: Vec<String>,
}

/// What a service stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Form {
    /// Pods behind addresses of its own.
    Cluster,
    /// Pods, called by their own addresses (`clusterIP: None`).
    Headless,
    /// Another name (`ExternalName`).
    Alias(String),
    /// A ServiceEntry.
    Entry(Name),
}

/// A port of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// Its number.
    pub number: u16,
    /// What istiod takes it for.
    pub protocol: PortProtocol,
}

/// What istiod takes a port for, as far as listeners go.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PortProtocol {
    /// HTTP, HTTP/2, gRPC: carried by the listener that all services share which say HTTP on that port.
    Http,
    /// TCP, TLS, HTTPS and protocols of databases: carried by a listener of its own.
    Tcp,
    /// Not said: found out by looking at the first bytes, on a listener of its own.
    Auto,
}

/// Istio's annotation on Kubernetes services, as ServiceEntries have a field.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    r#type: String,
    external_name: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<PortSpec>,
    selector: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortSpec {
    name: String,
    port: u16,
    protocol: String,
    app_protocol: Option<String>,
}

pub(super) fn read(object: &DynamicObject, cluster_domain: &str) -> Result<Service, String> {
    let spec: Spec = part(object, "spec")?;
    let name = Name::of(&object.metadata);
    let form = if spec.r#type == "ExternalName" && !spec.external_name.is_empty() {
        let target = spec.external_name.trim_end_matches('.');
        Form::Alias(target.to_ascii_lowercase())
    } else if spec.cluster_ip == "None" {
        Form::Headless
    } else {
        Form::Cluster
    };
    let ips = if spec.cluster_ips.is_empty() {
        vec![spec.cluster_ip]
    } else {
        spec.cluster_ips
    };
    Ok(Service {
        host: format!("{}.{}.svc.{cluster_domain}", name.name, name.namespace),
        namespace: name.namespace,
        ports: ports(&spec.ports),
        addresses: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        networks: Vec::new(),
        form,
        selector: spec.selector,
        export_to: list(annotation(object, EXPORT_TO)),
    })
}

fn ports(specs: &[PortSpec]) -> Vec<ServicePort> {
    let tcp = specs
        .iter()
        .filter(|spec| spec.protocol != "UDP" && spec.protocol != "SCTP");
    tcp.map(|spec| ServicePort {
        number: spec.port,
        protocol: protocol(spec.port, &spec.name, spec.app_protocol.as_deref()),
    })
    .collect()
}

/// What istiod takes a port of a Kubernetes service for (`pkg/config/kube/conversion.go`, ConvertProtocol).
fn protocol(port: u16, name: &str, app_protocol: Option<&str>) -> PortProtocol {
    match app_protocol {
        Some("kubernetes.io/h2c" | "kubernetes.io/ws") => return PortProtocol::Http,
        Some("kubernetes.io/wss") => return PortProtocol::Tcp,
        _ => {}
    }
    let name = app_protocol.unwrap_or(name).to_ascii_lowercase();
    let first = if name.starts_with("grpc-web") {
        "grpc-web"
    } else {
        name.split('-').next().unwrap_or_default()
    };
    match said(first) {
        // SMTP, DNS, MySQL and MongoDB, where the server speaks first or looking would break the client.
        PortProtocol::Auto if matches!(port, 25 | 53 | 3306 | 27017) => PortProtocol::Tcp,
        protocol => protocol,
    }
}

/// What istiod takes the name of a protocol for (`pkg/config/protocol/instance.go`).
pub(super) fn said(name: &str) -> PortProtocol {
    match name.to_ascii_lowercase().as_str() {
        "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" => PortProtocol::Http,
        "tcp" | "https" | "tls" | "mongo" | "redis" | "mysql" => PortProtocol::Tcp,
        _ => PortProtocol::Auto,
    }
}

impl Service {
    /// A port by its number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether its host is a wildcard.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.host.starts_with('*')
    }
}
