//! The serving side: a certificate that can change under a running listener.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::{ALPN_H2, Error, POLL_PERIOD, follow, provider, read};

/// Accepts TLS with the certificate that is in its files now. Clones share it.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    _following: Arc<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServerTls {
    /// Loads a PEM certificate chain and its PEM key, and follows both files. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When a file cannot be read or the pair cannot be used.
    pub fn load(cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_polling(cert, key, POLL_PERIOD)
    }

    /// [`ServerTls::load`] with a period of one's own between looks at the files.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_polling(
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
        every: Duration,
    ) -> Result<Self, Error> {
        let (cert, key) = (cert.as_ref().to_owned(), key.as_ref().to_owned());
        let first = vec![read(&cert)?, read(&key)?];
        let current = Arc::new(Current(ArcSwap::from_pointee(pair(&cert, &key, &first)?)));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::Settings)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        let following = follow::follow(vec![cert.clone(), key.clone()], first, every, {
            move |contents| {
                current.0.store(Arc::new(pair(&cert, &key, contents)?));
                Ok(())
            }
        });
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self {
            acceptor,
            _following: Arc::new(following),
        })
    }

    /// The acceptor. Each handshake takes the certificate of its moment.
    #[must_use]
    pub fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

/// `contents`: the certificate file, then the key file. While a Secret is being swapped they may be of two generations;
/// the check that they fit catches that, and the next look finds both new.
pub(super) fn pair(cert: &Path, key: &Path, contents: &[Vec<u8>]) -> Result<CertifiedKey, Error> {
    let pem = |path: &Path, wanted| {
        let path = path.to_owned();
        move |source| Error::Pem {
            path,
            wanted,
            source,
        }
    };
    let [cert_pem, key_pem] = contents else {
        return Err(Error::Settings(rustls::Error::General(
            "expected two files".into(),
        )));
    };
    let chain = CertificateDer::pem_slice_iter(cert_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem(cert, "certificate"))?;
    if chain.is_empty() {
        return Err(pem(cert, "certificate")(
            rustls::pki_types::pem::Error::NoItemsFound,
        ));
    }
    let private = PrivateKeyDer::from_pem_slice(key_pem).map_err(pem(key, "private key"))?;
    let unfit = |source| Error::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    };
    CertifiedKey::from_der(chain, private, &provider()).map_err(unfit)
}
