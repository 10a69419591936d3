//! Between the graph's own types and the protocol's. What comes from a peer is checked; nothing is taken on trust.

use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::api;
use crate::dependency::{Dependency, Pin, PortError, Protocol};
use crate::fallback::Policy;
use crate::graph::{Namespace, Record};
use crate::mode::Mode;
use crate::time::Timestamp;
use crate::workload::Workload;
use crate::{Host, host, workload};

#[cfg(test)]
mod tests;

/// What is wrong with a message.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Error {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The host is none.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The workload is none.
    #[error(transparent)]
    Workload(#[from] workload::Error),
    /// The port is none.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A number that stands for no value of an enumeration that this version knows.
    #[error("{name} {value} is unknown")]
    Unknown {
        /// The enumeration.
        name: &'static str,
        /// The number.
        value: i32,
    },
    /// A moment before 1970 or after 9999.
    #[error("time {0} s is out of range")]
    Time(i64),
}

/// A call that was seen, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Observation {
    /// Who called.
    pub workload: Workload,
    /// What was called.
    pub dependency: Dependency,
    /// When; absent for a time that nobody knows.
    pub seen: Option<Timestamp>,
}

impl TryFrom<api::Observation> for Observation {
    type Error = Error;

    fn try_from(message: api::Observation) -> Result<Self, Error> {
        let seen = message
            .seen
            .map(|seen| timestamp(seen.seconds))
            .transpose()?;
        Ok(Self {
            workload: message
                .workload
                .ok_or(Error::Missing("workload"))?
                .try_into()?,
            dependency: message
                .dependency
                .ok_or(Error::Missing("dependency"))?
                .try_into()?,
            seen,
        })
    }
}

fn timestamp(seconds: i64) -> Result<Timestamp, Error> {
    let positive = u64::try_from(seconds)
        .ok()
        .filter(|s| *s <= Timestamp::MAX.seconds());
    positive
        .map(Timestamp::from_seconds)
        .ok_or(Error::Time(seconds))
}

impl From<Observation> for api::Observation {
    fn from(observation: Observation) -> Self {
        let time = |seen: Timestamp| SystemTime::UNIX_EPOCH + Duration::from_secs(seen.seconds());
        Self {
            workload: Some((&observation.workload).into()),
            dependency: Some((&observation.dependency).into()),
            seen: observation.seen.map(|seen| time(seen).into()),
        }
    }
}

impl TryFrom<api::Workload> for Workload {
    type Error = Error;

    fn try_from(message: api::Workload) -> Result<Self, Error> {
        Ok(Self::new(&message.namespace, &message.kind, &message.name)?)
    }
}

impl From<&Workload> for api::Workload {
    fn from(workload: &Workload) -> Self {
        Self {
            namespace: workload.namespace().into(),
            kind: workload.kind().into(),
            name: workload.name().into(),
        }
    }
}

impl TryFrom<api::Dependency> for Dependency {
    type Error = Error;

    /// For a dependency that was seen: one port, one protocol.
    fn try_from(message: api::Dependency) -> Result<Self, Error> {
        Ok(Self {
            host: message.host.parse()?,
            port: message.port.try_into()?,
            protocol: protocol(message.protocol)?.ok_or(Error::Missing("protocol"))?,
        })
    }
}

impl From<&Dependency> for api::Dependency {
    fn from(dependency: &Dependency) -> Self {
        Self {
            host: dependency.host.to_string(),
            port: dependency.port.get().into(),
            protocol: api::Protocol::from(dependency.protocol).into(),
        }
    }
}

impl From<Protocol> for api::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http,
            Protocol::Tcp => Self::Tcp,
        }
    }
}

/// The protocol of a message; `None` when it leaves it open.
///
/// # Errors
/// When the number stands for none.
pub fn protocol(value: i32) -> Result<Option<Protocol>, Error> {
    match api::Protocol::try_from(value) {
        Ok(api::Protocol::Unspecified) => Ok(None),
        Ok(api::Protocol::Http) => Ok(Some(Protocol::Http)),
        Ok(api::Protocol::Tcp) => Ok(Some(Protocol::Tcp)),
        Err(_) => Err(Error::Unknown {
            name: "protocol",
            value,
        }),
    }
}

/// The mode of a message; `None` when it leaves it open.
///
/// # Errors
/// When the number stands for none.
pub fn mode(value: i32) -> Result<Option<Mode>, Error> {
    match api::Mode::try_from(value) {
        Ok(api::Mode::Unspecified) => Ok(None),
        Ok(api::Mode::Off) => Ok(Some(Mode::Off)),
        Ok(api::Mode::OnDemand) => Ok(Some(Mode::OnDemand)),
        Ok(api::Mode::Sidecar) => Ok(Some(Mode::Sidecar)),
        Ok(api::Mode::Observe) => Ok(Some(Mode::Observe)),
        Err(_) => Err(Error::Unknown {
            name: "mode",
            value,
        }),
    }
}

/// A mode for a message.
#[must_use]
pub fn mode_message(mode: Option<Mode>) -> api::Mode {
    match mode {
        None => api::Mode::Unspecified,
        Some(Mode::Off) => api::Mode::Off,
        Some(Mode::OnDemand) => api::Mode::OnDemand,
        Some(Mode::Sidecar) => api::Mode::Sidecar,
        Some(Mode::Observe) => api::Mode::Observe,
    }
}

/// The fallback policy of a message; the default when it leaves it open.
///
/// # Errors
/// When the number stands for none.
pub fn policy(value: i32) -> Result<Policy, Error> {
    match api::FallbackPolicy::try_from(value) {
        Ok(api::FallbackPolicy::Unspecified) => Ok(Policy::default()),
        Ok(api::FallbackPolicy::PreferRedirect) => Ok(Policy::PreferRedirect),
        Ok(api::FallbackPolicy::RedirectOnly) => Ok(Policy::RedirectOnly),
        Ok(api::FallbackPolicy::RelayOnly) => Ok(Policy::RelayOnly),
        Err(_) => Err(Error::Unknown {
            name: "fallback policy",
            value,
        }),
    }
}

/// A fallback policy for a message. The default is left open: a namespace that says nothing has an empty message.
#[must_use]
pub fn policy_message(policy: Policy) -> api::FallbackPolicy {
    match policy {
        Policy::PreferRedirect => api::FallbackPolicy::Unspecified,
        Policy::RedirectOnly => api::FallbackPolicy::RedirectOnly,
        Policy::RelayOnly => api::FallbackPolicy::RelayOnly,
    }
}

/// What watchers are told of a namespace.
#[must_use]
pub fn namespace_mode(name: &str, says: Namespace) -> api::NamespaceMode {
    api::NamespaceMode {
        namespace: name.to_owned(),
        mode: mode_message(says.mode).into(),
        fallback: policy_message(says.fallback).into(),
    }
}

/// What a namespace says, as a watcher reads it.
///
/// # Errors
/// When the mode or the policy is unknown.
pub fn namespace(message: &api::NamespaceMode) -> Result<Namespace, Error> {
    Ok(Namespace {
        mode: mode(message.mode)?,
        fallback: policy(message.fallback)?,
        paused: false,
    })
}

/// What watchers are told of a workload: learned dependencies, then pinned ones. A pinned one leaves the protocol open,
/// and has port 0 when it stands for every port.
#[must_use]
pub fn workload_state(workload: &Workload, record: &Record) -> api::WorkloadState {
    let learned = record
        .learned
        .dependencies()
        .map(|dependency| (&dependency).into());
    let pinned = record.pinned.iter().flat_map(pinned);
    api::WorkloadState {
        workload: Some(workload.into()),
        mode: mode_message(record.mode).into(),
        dependencies: learned.chain(pinned).collect(),
    }
}

fn pinned(pin: &Pin) -> impl Iterator<Item = api::Dependency> + '_ {
    let every = pin.ports.is_empty().then_some(0);
    let ports = pin
        .ports
        .iter()
        .map(|port| u32::from(port.get()))
        .chain(every);
    ports.map(|port| api::Dependency {
        host: pin.host.to_string(),
        port,
        protocol: api::Protocol::Unspecified.into(),
    })
}

/// A dependency as a watcher reads it, learned or pinned: `(host, port, protocol)`, absent where left open.
///
/// # Errors
/// When the host is none, or the port or protocol is unknown.
pub fn watched(
    message: &api::Dependency,
) -> Result<(Host, Option<crate::Port>, Option<Protocol>), Error> {
    let port = match message.port {
        0 => None,
        port => Some(port.try_into()?),
    };
    Ok((message.host.parse()?, port, protocol(message.protocol)?))
}
