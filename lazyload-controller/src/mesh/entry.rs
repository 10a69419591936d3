//! A ServiceEntry, as one service for each of its hosts.

use ipnet::IpNet;
use kube::core::DynamicObject;
use serde::Deserialize;

use super::object::{Labels, Name, part};
use super::service::{Form, Service, ServicePort, said};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<Port>,
    export_to: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Port {
    number: u16,
    protocol: String,
}

pub(super) fn read(object: &DynamicObject) -> Result<Vec<Service>, String> {
    let spec: Spec = part(object, "spec")?;
    let name = Name::of(&object.metadata);
    if spec.hosts.is_empty() {
        return Err("spec.hosts: there are none".to_owned());
    }
    let ports: Vec<ServicePort> = spec
        .ports
        .iter()
        .filter(|port| !port.protocol.eq_ignore_ascii_case("UDP"))
        .map(|port| ServicePort {
            number: port.number,
            protocol: said(&port.protocol),
        })
        .collect();
    let mut addresses = Vec::new();
    let mut networks = Vec::new();
    for text in &spec.addresses {
        if let Ok(address) = text.parse() {
            addresses.push(address);
        } else if let Ok(network) = text.parse::<IpNet>() {
            networks.push(network.trunc());
        }
    }
    Ok(spec
        .hosts
        .iter()
        .map(|host| Service {
            namespace: name.namespace.clone(),
            host: host.to_ascii_lowercase(),
            ports: ports.clone(),
            addresses: addresses.clone(),
            networks: networks.clone(),
            form: Form::Entry(name.clone()),
            selector: Labels::new(),
            export_to: spec.export_to.clone(),
        })
        .collect())
}
