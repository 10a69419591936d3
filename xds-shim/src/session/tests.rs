//! The session against messages, without a socket. `Stream` plays istiod and the proxy.

use super::*;
use crate::envoy::config::cluster::v3 as cds;
use crate::envoy::config::core::v3 as core;
use crate::envoy::config::endpoint::v3::ClusterLoadAssignment;
use crate::envoy::config::listener::v3 as lds;
use crate::envoy::config::route::v3 as rds;
use crate::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use crate::envoy::google::protobuf::Any;
use crate::envoy::google::rpc::Status;
use crate::envoy::service::discovery::v3 as pb;
use prost::{Message, Name};
use std::time::Duration;

mod ahead;
mod connections;
mod endpoints;
mod keeping;
mod model;
mod on_demand;
mod reconnect;
mod settling;
mod stand_ins;

const A: &str = "outbound|80||a.shop.svc.cluster.local";
const A_V1: &str = "outbound|80|v1|a.shop.svc.cluster.local";
const A_OTHER_PORT: &str = "outbound|81||a.shop.svc.cluster.local";
const B: &str = "outbound|80||b.shop.svc.cluster.local";
const SPECIAL: &str = "PassthroughCluster";

fn a() -> ServicePort {
    ServicePort::new("a.shop.svc.cluster.local", 80)
}

/// What came out of the session, decoded.
#[derive(Debug, Default)]
struct Seen {
    to_proxy: Vec<pb::DeltaDiscoveryResponse>,
    to_istiod: Vec<pb::DeltaDiscoveryRequest>,
    asks: Vec<Ask>,
    nacks: Vec<String>,
}

impl Seen {
    fn of(outputs: Vec<Output>) -> Self {
        let mut seen = Self::default();
        for output in outputs {
            match output {
                Output::ToProxy(raw) => {
                    seen.to_proxy
                        .push(pb::DeltaDiscoveryResponse::decode(raw).unwrap());
                }
                Output::ToIstiod(raw) => {
                    seen.to_istiod
                        .push(pb::DeltaDiscoveryRequest::decode(raw).unwrap());
                }
                Output::Asked(ask) => seen.asks.push(ask),
                Output::Nack(_, why) => seen.nacks.push(why),
            }
        }
        seen
    }

    /// Names given to the proxy, in the order they went out.
    fn given(&self) -> Vec<&str> {
        self.to_proxy
            .iter()
            .flat_map(|r| &r.resources)
            .map(|r| r.name.as_str())
            .collect()
    }

    /// The types of the responses, in order.
    fn order(&self) -> Vec<&str> {
        self.to_proxy
            .iter()
            .map(|r| r.type_url.rsplit('.').next().unwrap())
            .collect()
    }

    fn removed(&self) -> Vec<&str> {
        self.to_proxy
            .iter()
            .flat_map(|r| &r.removed_resources)
            .map(String::as_str)
            .collect()
    }

    /// Names istiod was asked for.
    fn subscribed(&self) -> Vec<&str> {
        let names = self
            .to_istiod
            .iter()
            .flat_map(|r| &r.resource_names_subscribe);
        names.map(String::as_str).collect()
    }

    /// Nonces istiod was acknowledged, with whether it was a refusal.
    fn acknowledged(&self) -> Vec<(&str, bool)> {
        let of = |r: &pb::DeltaDiscoveryRequest| r.error_detail.is_some();
        let acks = self
            .to_istiod
            .iter()
            .filter(|r| !r.response_nonce.is_empty());
        acks.map(|r| (r.response_nonce.as_str(), of(r))).collect()
    }
}

struct Stream {
    session: Session,
}

fn cluster(name: &str) -> pb::Resource {
    cluster_with(name, |_| {})
}

fn cluster_with(name: &str, change: impl FnOnce(&mut cds::Cluster)) -> pb::Resource {
    let mut cluster = cds::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(
            if name == SPECIAL { 4 } else { 3 },
        )),
        ..Default::default()
    };
    change(&mut cluster);
    resource(name, &cluster)
}

fn endpoints(name: &str, generation: u32) -> pb::Resource {
    let policy = crate::envoy::config::endpoint::v3::cluster_load_assignment::Policy {
        overprovisioning_factor: Some(crate::envoy::google::protobuf::UInt32Value {
            value: generation,
        }),
        ..Default::default()
    };
    let load = ClusterLoadAssignment {
        cluster_name: name.into(),
        policy: Some(policy),
        ..Default::default()
    };
    resource(name, &load)
}

fn resource<M: Message + Name>(name: &str, message: &M) -> pb::Resource {
    let any = Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    };
    pb::Resource {
        name: name.into(),
        resource: Some(any),
        ..Default::default()
    }
}

/// A listener whose HTTP goes by the route configuration `rds`.
fn http_listener(name: &str, rds: &str) -> pb::Resource {
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(
            hcm::Rds {
                route_config_name: rds.into(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let any = Any {
        type_url: format!(
            "type.googleapis.com/{}",
            hcm::HttpConnectionManager::full_name()
        ),
        value: manager.encode_to_vec(),
    };
    let filter = lds::Filter {
        config_type: Some(lds::filter::ConfigType::TypedConfig(any)),
        ..Default::default()
    };
    resource(
        name,
        &lds::Listener {
            name: name.into(),
            traffic_direction: core::TrafficDirection::Outbound as i32,
            filter_chains: vec![lds::FilterChain {
                filters: vec![filter],
                ..Default::default()
            }],
            ..Default::default()
        },
    )
}

/// A route configuration that routes to one cluster and mirrors to others.
fn routes(name: &str, to: &str, mirrors: &[&str]) -> pb::Resource {
    let mirrors = mirrors
        .iter()
        .map(|m| rds::route_action::RequestMirrorPolicy {
            cluster: (*m).into(),
            ..Default::default()
        });
    let action = rds::RouteAction {
        cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster(to.into())),
        request_mirror_policies: mirrors.collect(),
        ..Default::default()
    };
    let route = rds::Route {
        action: Some(rds::route::Action::Route(action)),
        ..Default::default()
    };
    let host = rds::VirtualHost {
        name: "h".into(),
        routes: vec![route],
        ..Default::default()
    };
    resource(
        name,
        &rds::RouteConfiguration {
            name: name.into(),
            virtual_hosts: vec![host],
            ..Default::default()
        },
    )
}

/// What is given under a name that istiod does not have.
fn stand_in(name: &str) -> Option<Any> {
    pb::Resource::decode(&*crate::cluster::stand_in(name))
        .unwrap()
        .resource
}

impl Stream {
    fn new(known: &[ServicePort]) -> Self {
        let config = OnDemandConfig::new(Duration::from_secs(5));
        Self {
            session: Session::new(Store::default(), config, known.iter().cloned()),
        }
    }

    /// A stream whose proxy has asked for clusters for the first time and been answered.
    fn started(known: &[ServicePort], clusters: &[pb::Resource]) -> Self {
        let mut stream = Self::new(known);
        stream.asks(ads::CDS, &[]);
        stream.pushes(ads::CDS, "c1", clusters);
        stream
    }

    fn request(&mut self, request: &pb::DeltaDiscoveryRequest) -> Seen {
        Seen::of(
            self.session
                .on_request(&request.encode_to_vec().into())
                .unwrap(),
        )
    }

    fn asks(&mut self, type_url: &str, names: &[&str]) -> Seen {
        self.asks_holding(type_url, names, &[])
    }

    fn asks_holding(&mut self, type_url: &str, names: &[&str], held: &[(&str, &str)]) -> Seen {
        self.request(&pb::DeltaDiscoveryRequest {
            node: Some(core::Node {
                id: "n".into(),
                ..Default::default()
            }),
            type_url: type_url.into(),
            resource_names_subscribe: names.iter().map(|n| (*n).into()).collect(),
            initial_resource_versions: held
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            ..Default::default()
        })
    }

    fn acks(&mut self, response: &pb::DeltaDiscoveryResponse) -> Seen {
        self.request(&pb::DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        })
    }

    fn refuses(&mut self, response: &pb::DeltaDiscoveryResponse) -> Seen {
        self.request(&refusal(response, "broken"))
    }

    /// What follows once the proxy has what was asked for: endpoints come, and it says that it took them.
    fn takes(&mut self, asked: &Seen) -> Seen {
        let names = asked.subscribed();
        let endpoints: Vec<_> = names.iter().map(|n| endpoints(n, 1)).collect();
        let came = self.pushes(ads::EDS, "e", &endpoints);
        assert_eq!(came.order(), ["ClusterLoadAssignment"]);
        self.acks(&came.to_proxy[0])
    }

    fn pushes(&mut self, type_url: &str, nonce: &str, resources: &[pb::Resource]) -> Seen {
        self.push(type_url, nonce, resources, &[])
    }

    fn push(
        &mut self,
        type_url: &str,
        nonce: &str,
        resources: &[pb::Resource],
        removed: &[&str],
    ) -> Seen {
        let response = pb::DeltaDiscoveryResponse {
            type_url: type_url.into(),
            nonce: nonce.into(),
            resources: resources.to_vec(),
            removed_resources: removed.iter().map(|n| (*n).into()).collect(),
            system_version_info: "v".into(),
            ..Default::default()
        };
        Seen::of(
            self.session
                .on_response(&response.encode_to_vec().into())
                .unwrap(),
        )
    }
}

fn refusal(response: &pb::DeltaDiscoveryResponse, why: &str) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: Some(Status {
            code: 13,
            message: why.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
