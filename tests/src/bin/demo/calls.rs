//! First and later calls to a set of services, over HTTP and TCP.

use crate::client::{Client, Reply};
use crate::report::{PerProtocol, milliseconds};
use anyhow::{Context, Result, ensure};
use mesh_tests::embedded::{MeshShape, Protocol, Service};
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::time::Duration;

/// Services that are called with each protocol.
const SERVICES: usize = 15;
/// The same in act two, where first calls take longer.
const OTHERS: usize = 10;
/// What is added to a port where mutual TLS is taken.
const TLS_PORTS: u16 = 10_000;

/// The services to call.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    http: Vec<Service>,
    tcp: Vec<Service>,
}

impl Targets {
    /// Spread over the mesh, none in both lists.
    pub(crate) fn of(shape: &MeshShape) -> Self {
        Self::spread(shape.services.values(), SERVICES)
    }

    /// The same of services that are not among these, fewer of them.
    pub(crate) fn others(&self, shape: &MeshShape) -> Self {
        let has = |service: &&Service| !self.http.contains(service) && !self.tcp.contains(service);
        Self::spread(shape.services.values().filter(has), OTHERS)
    }

    fn spread<'a>(all: impl Iterator<Item = &'a Service>, count: usize) -> Self {
        let has_tcp = |service: &&Service| service.port(Protocol::Tcp).is_some();
        let (tcp, http): (Vec<_>, Vec<_>) = all.partition(has_tcp);
        let spread = |from: Vec<&Service>| {
            let step = (from.len() / count).max(1);
            let spread = from.into_iter().step_by(step).take(count);
            spread.cloned().collect()
        };
        Self {
            http: spread(http),
            tcp: spread(tcp),
        }
    }

    /// The same services, their pods having sidecars: they take mutual TLS, on ports of their own.
    pub(crate) fn with_sidecars(mut self) -> Self {
        for service in self.http.iter_mut().chain(&mut self.tcp) {
            service.account = Some("default".to_owned());
            for port in &mut service.ports {
                port.target += TLS_PORTS;
            }
        }
        self
    }

    /// The services.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.http.iter().chain(&self.tcp)
    }

    /// The addresses that TCP calls go to, as Envoy names the listeners for them.
    pub(crate) fn tcp_listeners(&self) -> impl Iterator<Item = String> {
        self.tcp.iter().filter_map(|service| {
            let port = service.port(Protocol::Tcp)?.number;
            Some(format!("{}_{port}", service.cluster_ip))
        })
    }

    /// Host and port of each.
    pub(crate) fn names(&self) -> impl Iterator<Item = (String, u16)> {
        let named = |protocol| {
            move |service: &Service| Some((service.host(), service.port(protocol)?.number))
        };
        let http = self.http.iter().filter_map(named(Protocol::Http));
        http.chain(self.tcp.iter().filter_map(named(Protocol::Tcp)))
    }

    /// Calls each service once, one after the other.
    ///
    /// # Errors
    /// When a call fails, or somebody else answers.
    pub(crate) async fn call(&self, client: &Client) -> Result<Times> {
        let mut times = self.call_http(client).await?;
        times.tcp = self.call_tcp(client).await?.tcp;
        Ok(times)
    }

    /// The same over HTTP alone.
    pub(crate) async fn call_http(&self, client: &Client) -> Result<Times> {
        let mut times = Times::default();
        for service in &self.http {
            let answer = call(client, service, Protocol::Http).await?;
            times.http.push(answer.took);
            times.callers.extend(answer.caller);
        }
        Ok(times)
    }

    /// The same over TCP alone.
    pub(crate) async fn call_tcp(&self, client: &Client) -> Result<Times> {
        let mut times = Times::default();
        for service in &self.tcp {
            let answer = call(client, service, Protocol::Tcp).await?;
            times.tcp.push(answer.took);
            times.callers.extend(answer.caller);
        }
        Ok(times)
    }
}

/// How long the calls of one round took.
#[derive(Debug, Default)]
pub(crate) struct Times {
    http: Vec<Duration>,
    tcp: Vec<Duration>,
    /// Who the servers say called, where they take mutual TLS.
    pub(crate) callers: BTreeSet<String>,
}

struct Answer {
    took: Duration,
    caller: Option<String>,
}

impl Times {
    /// The median of each protocol.
    pub(crate) fn medians(&self) -> PerProtocol {
        PerProtocol {
            http: median(&self.http),
            tcp: median(&self.tcp),
        }
    }

    /// Of both rounds.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.http.extend(other.http);
        self.tcp.extend(other.tcp);
        self.callers.extend(other.callers);
        self
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.http.len() + self.tcp.len()
    }
}

/// One call, by ClusterIP as an application does it; checks that an endpoint of that very service answered.
async fn call(client: &Client, service: &Service, protocol: Protocol) -> Result<Answer> {
    let host = service.host();
    let port = service
        .port(protocol)
        .with_context(|| format!("{host} has no such port"))?;
    let address = SocketAddrV4::new(service.cluster_ip, port.number);
    let Reply { text, took } = match protocol {
        Protocol::Http => client.http(address, &host, "/").await?,
        Protocol::Tcp => client.tcp(address).await?,
    };
    let (server, caller) = match text.split_once(' ') {
        Some((server, caller)) => (server, Some(caller.to_owned())),
        None => (text.as_str(), None),
    };
    let answered: SocketAddrV4 = server
        .parse()
        .with_context(|| format!("{host} answered {text:?}"))?;
    ensure!(
        service.endpoints.contains(answered.ip()) && answered.port() == port.target,
        "a call to {host}:{} was answered by {answered}, which is none of its endpoints",
        port.number
    );
    Ok(Answer { took, caller })
}

/// In milliseconds; 0 for none.
fn median(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .copied()
        .map_or(0.0, milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_spread_and_disjoint() {
        let targets = Targets::of(&MeshShape::with_services(200));
        assert_eq!(
            (targets.http.len(), targets.tcp.len()),
            (SERVICES, SERVICES)
        );
        assert!(
            targets
                .http
                .iter()
                .all(|service| service.port(Protocol::Tcp).is_none())
        );
        assert_eq!(targets.names().count(), 2 * SERVICES);
    }

    #[test]
    fn others_are_none_of_them() {
        let shape = MeshShape::with_services(1000);
        let targets = Targets::of(&shape);
        let others = targets.others(&shape);
        assert_eq!((others.http.len(), others.tcp.len()), (OTHERS, OTHERS));
        let all = targets.services().chain(others.services());
        let hosts: BTreeSet<_> = all.map(Service::host).collect();
        assert_eq!(hosts.len(), 2 * (SERVICES + OTHERS));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let times = [9, 1, 5].map(Duration::from_millis);
        assert!((median(&times) - 5.0).abs() < 1e-9);
    }
}
