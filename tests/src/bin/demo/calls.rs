//! First and later calls to a set of services, over HTTP and TCP.

use crate::client::{Client, Reply};
use crate::report::{PerProtocol, milliseconds};
use anyhow::{Context, Result, ensure};
use mesh_tests::embedded::{MeshShape, Protocol, Service};
use std::net::SocketAddrV4;
use std::time::Duration;

/// Services that are called with each protocol.
const SERVICES: usize = 15;

/// The services to call.
#[derive(Debug)]
pub(crate) struct Targets {
    http: Vec<Service>,
    tcp: Vec<Service>,
}

impl Targets {
    /// Spread over the mesh, none in both lists.
    pub(crate) fn of(shape: &MeshShape) -> Self {
        let has_tcp = |service: &&Service| service.port(Protocol::Tcp).is_some();
        let (tcp, http): (Vec<_>, Vec<_>) = shape.services.values().partition(has_tcp);
        let spread = |from: Vec<&Service>| {
            let step = (from.len() / SERVICES).max(1);
            from.into_iter()
                .step_by(step)
                .take(SERVICES)
                .cloned()
                .collect()
        };
        Self {
            http: spread(http),
            tcp: spread(tcp),
        }
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
        let mut times = Times::default();
        for service in &self.http {
            times
                .http
                .push(call(client, service, Protocol::Http).await?);
        }
        for service in &self.tcp {
            times.tcp.push(call(client, service, Protocol::Tcp).await?);
        }
        Ok(times)
    }
}

/// How long the calls of one round took.
#[derive(Debug, Default)]
pub(crate) struct Times {
    http: Vec<Duration>,
    tcp: Vec<Duration>,
}

impl Times {
    /// The median of each protocol.
    pub(crate) fn medians(&self) -> PerProtocol {
        PerProtocol {
            http: median(&self.http),
            tcp: median(&self.tcp),
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.http.len() + self.tcp.len()
    }
}

/// One call, by ClusterIP as an application does it; checks that an endpoint of that very service answered.
async fn call(client: &Client, service: &Service, protocol: Protocol) -> Result<Duration> {
    let host = service.host();
    let port = service
        .port(protocol)
        .with_context(|| format!("{host} has no such port"))?;
    let address = SocketAddrV4::new(service.cluster_ip, port.number);
    let Reply { text, took } = match protocol {
        Protocol::Http => client.http(address, &host, "/").await?,
        Protocol::Tcp => client.tcp(address).await?,
    };
    let answered: SocketAddrV4 = text
        .parse()
        .with_context(|| format!("{host} answered {text:?}"))?;
    ensure!(
        service.endpoints.contains(answered.ip()) && answered.port() == port.target,
        "a call to {host}:{} was answered by {answered}, which is none of its endpoints",
        port.number
    );
    Ok(took)
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
    fn the_median_is_the_middle_one() {
        let times = [9, 1, 5].map(Duration::from_millis);
        assert!((median(&times) - 5.0).abs() < 1e-9);
    }
}
