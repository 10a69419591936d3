//! TLS whose certificates and roots follow the files they come from. A broken new file never replaces a good old one.

mod client;
mod follow;
mod server;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem;
use thiserror::Error;

pub use client::ClientTls;
pub use server::ServerTls;

/// How often files are looked at unless said otherwise. A mounted Secret changes within a minute or so anyway.
pub const POLL_PERIOD: Duration = Duration::from_secs(5);

/// The protocol every connection speaks.
const ALPN_H2: &[u8] = b"h2";

/// What can be wrong with certificates.
#[derive(Debug, Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not PEM, or has not what is looked for.
    #[error("{path}: no {wanted} in PEM form: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// Why it is not.
        source: pem::Error,
    },
    /// The certificate and key do not fit each other, or are of an unknown kind.
    #[error("certificate {cert} with key {key}: {source}")]
    Pair {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A root certificate cannot be used.
    #[error("{path}: not a usable root: {source}")]
    Root {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS settings: {0}")]
    Settings(rustls::Error),
}

/// The one crypto provider, given by hand: a process default could be set by anyone, or by nobody.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
