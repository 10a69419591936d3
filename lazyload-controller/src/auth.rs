//! Who may report, watch and tell of calls. A caller shows a bearer token; it is checked at the start of each call.

mod token_file;
mod token_review;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::warn;

use crate::metrics::Metrics;

pub use token_file::TokenFile;
pub use token_review::TokenReview;

/// A Kubernetes service account.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceAccount {
    /// The user name it has towards Kubernetes.
    #[must_use]
    pub fn user_name(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceAccount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
            _ => Err("not of the form NAMESPACE/NAME".into()),
        }
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a caller may want of the graph.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Call {
    /// To say what was seen: for shims.
    Report,
    /// To be told of the graph: for shims and global proxies.
    Watch,
    /// To tell of calls that fell back: for global proxies.
    Calls,
}

impl Call {
    fn flags(self) -> &'static str {
        match self {
            Self::Report => "--allow-service-account",
            Self::Watch => "--allow-service-account, --allow-global-proxy",
            Self::Calls => "--allow-global-proxy",
        }
    }
}

/// Who may what.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allowed {
    shims: BTreeSet<String>,
    global_proxies: BTreeSet<String>,
}

impl Allowed {
    /// The accounts of shims, and those of global proxies; one may be both.
    #[must_use]
    pub fn new(shims: &[ServiceAccount], global_proxies: &[ServiceAccount]) -> Self {
        let names = |all: &[ServiceAccount]| all.iter().map(ServiceAccount::user_name).collect();
        Self {
            shims: names(shims),
            global_proxies: names(global_proxies),
        }
    }

    fn check(&self, user: &str, call: Call) -> Result<(), Error> {
        let shim = || self.shims.contains(user);
        let global_proxy = || self.global_proxies.contains(user);
        let may = match call {
            Call::Report => shim(),
            Call::Watch => shim() || global_proxy(),
            Call::Calls => global_proxy(),
        };
        let user = || user.to_owned();
        may.then_some(())
            .ok_or_else(|| Error::NotAllowed { user: user(), call })
    }
}

/// Why a caller is turned away.
#[derive(Debug, Error)]
pub enum Error {
    /// It showed nothing.
    #[error("no bearer token in the authorization header")]
    Missing,
    /// What it showed is not good.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// It is someone, but not one of those who may.
    #[error("{user} may not use {call:?} (hint: {})", call.flags())]
    NotAllowed {
        /// Who it is.
        user: String,
        /// What it wants.
        call: Call,
    },
    /// Nobody can tell at present.
    #[error("the token cannot be checked at present: {0}")]
    Unavailable(String),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Missing | Error::Invalid(_) => Self::unauthenticated(message),
            Error::NotAllowed { .. } => Self::permission_denied(message),
            Error::Unavailable(_) => Self::unavailable(message),
        }
    }
}

/// How callers are checked.
#[derive(Debug)]
pub enum Auth {
    /// Not at all; for a listener on loopback.
    None,
    /// They know what is in a file.
    TokenFile(TokenFile),
    /// Kubernetes vouches for them.
    TokenReview(Box<TokenReview>),
}

impl Auth {
    /// Checks whether a caller may make a call. A token file and no check at all tell nobody from another: all may all.
    ///
    /// # Errors
    /// When it is not to be served. What is told to it says no more than it knows.
    pub async fn check(
        &self,
        metadata: &MetadataMap,
        call: Call,
        metrics: &Metrics,
    ) -> Result<(), Status> {
        let checked = match self {
            Self::None => Ok(()),
            Self::TokenFile(file) => bearer(metadata).and_then(|token| file.check(token)),
            Self::TokenReview(review) => match bearer(metadata) {
                Ok(token) => review.check(token, call).await,
                Err(error) => Err(error),
            },
        };
        checked.map_err(|error| {
            metrics.unauthenticated.inc();
            warn!(%error, "a caller is turned away");
            error.into()
        })
    }
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Error> {
    let header = metadata
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let (scheme, token) = header
        .and_then(|header| header.split_once(' '))
        .ok_or(Error::Missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Error::Missing);
    }
    Ok(token)
}
