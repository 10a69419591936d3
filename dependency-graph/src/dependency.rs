//! What a workload calls.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use thiserror::Error;

use crate::host::Host;

/// A service port, 1 to 65535.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Port(NonZeroU16);

/// A number that is no port.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("port {0} is not in 1 to 65535")]
pub struct PortError(pub u32);

impl Port {
    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u32> for Port {
    type Error = PortError;

    fn try_from(port: u32) -> Result<Self, PortError> {
        u16::try_from(port)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or(PortError(port))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How the sidecar carries the call.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// By an HTTP connection manager: HTTP/1.1, HTTP/2 and gRPC.
    Http,
    /// By a TCP proxy, whatever it is.
    Tcp,
}

/// A text that is no protocol.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("protocol {0:?} is neither \"HTTP\" nor \"TCP\"")]
pub struct ProtocolError(pub String);

impl Protocol {
    /// `HTTP` or `TCP`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tcp => "TCP",
        }
    }
}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "HTTP" => Ok(Self::Http),
            "TCP" => Ok(Self::Tcp),
            other => Err(ProtocolError(other.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing a workload calls.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Dependency {
    /// The service.
    pub host: Host,
    /// Its port.
    pub port: Port,
    /// How it is called.
    pub protocol: Protocol,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.protocol)
    }
}

/// A host that someone wants known from the start, learned or not.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pin {
    /// The service.
    pub host: Host,
    /// Its ports; empty stands for all of them.
    pub ports: BTreeSet<Port>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_in_range() {
        assert_eq!(Port::try_from(65_535).unwrap().get(), 65_535);
        for bad in [0, 65_536, u32::MAX] {
            assert_eq!(Port::try_from(bad), Err(PortError(bad)));
        }
    }

    #[test]
    fn protocols_are_said_and_read_alike() {
        for protocol in [Protocol::Http, Protocol::Tcp] {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
        }
        assert!("http".parse::<Protocol>().is_err());
    }
}
