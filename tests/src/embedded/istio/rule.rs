//! A DestinationRule: in which protocol callers connect to a port.

use serde::Deserialize;

/// What callers of a port are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortSettings {
    /// `useClientProtocol`: HTTP/1.1 or HTTP/2, as the request came.
    AsCaller,
    /// `h2UpgradePolicy: UPGRADE`.
    Http2,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Rule {
    pub(super) host: String,
    traffic_policy: TrafficPolicy,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct TrafficPolicy {
    connection_pool: Pool,
    /// In place of what holds for all ports, not beside it.
    port_level_settings: Vec<PortLevel>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PortLevel {
    port: Port,
    connection_pool: Pool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    number: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pool {
    http: Http,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Http {
    use_client_protocol: bool,
    #[serde(rename = "h2UpgradePolicy")]
    h2_upgrade: Option<Upgrade>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
enum Upgrade {
    #[serde(rename = "UPGRADE")]
    Upgrade,
    #[serde(rename = "DO_NOT_UPGRADE")]
    DoNot,
}

impl Rule {
    pub(super) fn settings(&self, port: u16) -> Option<PortSettings> {
        let policy = &self.traffic_policy;
        let mut own = policy.port_level_settings.iter();
        let own = own.find(|one| one.port.number == port);
        let pool = own.map_or(&policy.connection_pool, |own| &own.connection_pool);
        let http = &pool.http;
        match http.h2_upgrade {
            Some(Upgrade::Upgrade) => Some(PortSettings::Http2),
            _ => http.use_client_protocol.then_some(PortSettings::AsCaller),
        }
    }
}
