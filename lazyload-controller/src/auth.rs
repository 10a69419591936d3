//! Who may report and watch. A caller shows a bearer token; it is checked at the start of each call.

mod token_file;
mod token_review;

#[cfg(test)]
mod tests;

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
    #[error("{0} may not use the graph (hint: --allow-service-account)")]
    NotAllowed(String),
    /// Nobody can tell at present.
    #[error("the token cannot be checked at present: {0}")]
    Unavailable(String),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Missing | Error::Invalid(_) => Self::unauthenticated(message),
            Error::NotAllowed(_) => Self::permission_denied(message),
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
    /// Checks the caller of a call.
    ///
    /// # Errors
    /// When it is not to be served. What is told to it says no more than it knows.
    pub async fn check(&self, metadata: &MetadataMap, metrics: &Metrics) -> Result<(), Status> {
        let checked = match self {
            Self::None => Ok(()),
            Self::TokenFile(file) => bearer(metadata).and_then(|token| file.check(token)),
            Self::TokenReview(review) => match bearer(metadata) {
                Ok(token) => review.check(token).await,
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
