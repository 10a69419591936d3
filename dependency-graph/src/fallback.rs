//! What the global proxy and a caller's Envoy say to each other in headers, and what a namespace may choose.
//!
//! The global proxy and the EnvoyFilter that the controller writes must agree on these names. None of them is ever seen
//! by a server: the route removes them, or the global proxy does.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How the headers of ours begin. The global proxy strips whatever begins so and is not expected.
pub const HEADER_PREFIX: &str = "x-lazymesh-";

/// To the global proxy: the address and port that the application called.
pub const ORIGINAL_DESTINATION: &str = "x-lazymesh-original-dst";

/// To the global proxy: the name of the caller's pod, as its Envoy has it.
pub const POD: &str = "x-lazymesh-pod";

/// In a redirect: how many of them this request has had. Envoy copies it to the request that it makes of the redirect.
pub const TRY: &str = "x-lazymesh-try";

/// To the global proxy: [`TRY`] as the fallback route hands it on. It has another name because the route config removes
/// that one from every request, so that a server which is reached directly does not see it.
pub const TRIES: &str = "x-lazymesh-tries";

/// In a redirect: the name is none of the mesh's; the request is to pass the fallback by.
pub const PLAIN: &str = "x-lazymesh-plain";

/// In a relayed response: the server's own `location`. Under that name Envoy does not follow it; the fallback route
/// gives it its name back.
pub const LOCATION: &str = "x-lazymesh-location";

/// To the global proxy, in a tunnel: the identity in the caller's certificate, written by the global proxy's own sidecar.
pub const CALLER: &str = "x-lazymesh-caller";

/// From the global proxy to its own sidecar, in what is relayed: the name and port of the service that the controller found,
/// or else the address that was called, by which the sidecar chooses where the request goes. Not by the host: a name such as `reviews` means another service in the global proxy's
/// namespace, or none, and then the request would be passed on in plain text.
pub const ROUTE: &str = "x-lazymesh-route";

/// Envoy's header on a request that it made of a redirect: the URL it had before.
pub const ORIGINAL_URL: &str = "x-envoy-original-url";

/// The name of the route by which a call falls back, in the virtual hosts that take what no other does.
pub const FALLBACK_ROUTE: &str = "lazymesh";

/// The name of the filter chain by which a connection falls back.
pub const FALLBACK_CHAIN: &str = "lazymesh-tcp";

/// How often Envoy follows a redirect of ours within one request. The global proxy ends before that.
pub const MAX_REDIRECTS: u32 = 8;

/// The largest body, in bytes, that Envoy keeps to send again after a redirect.
pub const MAX_BODY: u32 = 65_536;

/// What a first call to a service gets that the caller's sidecar does not have yet.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Policy {
    /// Redirected, so that the caller's own Envoy goes there; relayed where that cannot be.
    #[default]
    PreferRedirect,
    /// Redirected or refused: never carried under the global proxy's identity.
    RedirectOnly,
    /// Relayed.
    RelayOnly,
}

/// The annotation on a namespace whose value is a [`Policy`].
pub const POLICY_ANNOTATION: &str = "lazymesh.dev/fallback";

/// A text that is no policy.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("fallback policy {0:?} is none of prefer-redirect, redirect-only, relay-only")]
pub struct Error(pub String);

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::PreferRedirect, Self::RedirectOnly, Self::RelayOnly];

    /// The annotation's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreferRedirect => "prefer-redirect",
            Self::RedirectOnly => "redirect-only",
            Self::RelayOnly => "relay-only",
        }
    }
}

/// The policy that a namespace's annotation says, and what is wrong with it. A value that is no policy counts as the
/// strictest: a misspelt `redirect-only` must not let calls be carried under another identity.
#[must_use]
pub fn annotated(value: Option<&str>) -> (Policy, Option<Error>) {
    match value.map(str::parse) {
        None => (Policy::default(), None),
        Some(Ok(policy)) => (policy, None),
        Some(Err(error)) => (Policy::RedirectOnly, Some(error)),
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| Error(text.chars().take(63).collect()))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_said_and_read_alike() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for bad in ["", "redirect", "Relay-only"] {
            assert_eq!(bad.parse::<Policy>(), Err(Error(bad.into())));
        }
    }

    #[test]
    fn an_annotation_that_is_no_policy_is_the_strictest() {
        assert_eq!(annotated(None), (Policy::PreferRedirect, None));
        assert_eq!(annotated(Some("relay-only")), (Policy::RelayOnly, None));
        for bad in ["", "redirect_only", "Relay-only"] {
            let wrong = Some(Error(bad.into()));
            assert_eq!(annotated(Some(bad)), (Policy::RedirectOnly, wrong));
        }
    }

    #[test]
    fn headers_of_ours_are_lower_case_begin_alike_and_differ() {
        let ours = [
            ORIGINAL_DESTINATION,
            POD,
            TRY,
            TRIES,
            PLAIN,
            LOCATION,
            CALLER,
            ROUTE,
        ];
        for header in ours {
            assert!(header.starts_with(HEADER_PREFIX), "{header}");
            assert_eq!(header, header.to_ascii_lowercase());
        }
        let distinct: std::collections::BTreeSet<_> = ours.into_iter().collect();
        assert_eq!(distinct.len(), ours.len());
    }
}
