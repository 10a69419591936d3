//! Certificates made for one test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// A certificate authority and the folder it writes to.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self {
            issuer,
            folder: folder.to_owned(),
        }
    }

    pub(crate) fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes `root.pem`.
    pub(crate) fn write_root(&self) -> PathBuf {
        let path = self.folder.join("root.pem");
        std::fs::write(&path, self.root_pem()).unwrap();
        path
    }

    /// Writes `cert.pem` and `key.pem`, good for `name`.
    pub(crate) fn write_pair(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let paths = (self.folder.join("cert.pem"), self.folder.join("key.pem"));
        std::fs::write(&paths.0, cert.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }
}
