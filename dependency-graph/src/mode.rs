//! How a namespace, or a workload, is made lazy.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The value of the label [`LABEL`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Mode {
    /// Plain Istio.
    Off,
    /// The shim trims, and the sidecar asks for what it lacks.
    OnDemand,
    /// istiod trims, by a Sidecar resource that grows.
    Sidecar,
    /// Nobody trims; what is called is learned.
    Observe,
}

/// On a namespace, or on a pod template to override it; absent means off.
pub const LABEL: &str = "lazymesh.dev/mode";

/// On Lazymesh's own namespace, with the value `true`: everything is in mode off for as long as it is there.
pub const PAUSED: &str = "lazymesh.dev/paused";

/// A text that is no mode.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("mode {0:?} is none of on-demand, sidecar, observe, off")]
pub struct Error(pub String);

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Off, Self::OnDemand, Self::Sidecar, Self::Observe];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::OnDemand => "on-demand",
            Self::Sidecar => "sidecar",
            Self::Observe => "observe",
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| Error(text.chars().take(63).collect()))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_said_and_read_alike() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for bad in ["", "On-Demand", "ondemand", "true"] {
            assert_eq!(bad.parse::<Mode>(), Err(Error(bad.into())));
        }
    }
}
