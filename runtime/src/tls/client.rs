//! The dialing side: roots that can change between dials.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;

use super::{ALPN_H2, Error, POLL_PERIOD, follow, provider, read};

/// Verifies servers against the roots that are in its file now. Presents no certificate of its own: callers
/// authenticate by token. Clones share it.
#[derive(Clone, Debug)]
pub struct ClientTls {
    current: Arc<ArcSwap<ClientConfig>>,
    _following: Arc<AbortOnDropHandle<()>>,
}

impl ClientTls {
    /// Loads PEM roots and follows their file. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the file cannot be read or holds no usable root.
    pub fn load(roots: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_polling(roots, POLL_PERIOD)
    }

    /// [`ClientTls::load`] with a period of one's own between looks at the file.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_polling(roots: impl AsRef<Path>, every: Duration) -> Result<Self, Error> {
        let path = roots.as_ref().to_owned();
        let first = vec![read(&path)?];
        let current = Arc::new(ArcSwap::from_pointee(config(&path, &first)?));
        let following = follow::follow(vec![path.clone()], first, every, {
            let current = current.clone();
            move |contents| {
                current.store(Arc::new(config(&path, contents)?));
                Ok(())
            }
        });
        Ok(Self {
            current,
            _following: Arc::new(following),
        })
    }

    /// The settings for a dial made now.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.current.load_full()
    }
}

fn config(path: &Path, contents: &[Vec<u8>]) -> Result<ClientConfig, Error> {
    let not_pem = |source| Error::Pem {
        path: path.to_owned(),
        wanted: "certificate",
        source,
    };
    let mut roots = RootCertStore::empty();
    for root in contents
        .iter()
        .flat_map(|pem| CertificateDer::pem_slice_iter(pem))
    {
        let root = root.map_err(not_pem)?;
        roots.add(root).map_err(|source| Error::Root {
            path: path.to_owned(),
            source,
        })?;
    }
    if roots.is_empty() {
        return Err(not_pem(pem::Error::NoItemsFound));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(Error::Settings)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}
