//! The mesh's certificate authority, as istiod is one: all certificates of a run are from it.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The authority.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// The certificate.
    pub(crate) certificate: String,
    /// Its private key.
    pub(crate) key: String,
}

/// The same in files, and the root to verify it with.
#[derive(Debug, Clone)]
pub(crate) struct ServerFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) root: PathBuf,
}

impl Authority {
    /// One that nobody knows yet.
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        // Not that of the certificates it issues, which would look as if they had issued themselves.
        params
            .distinguished_name
            .push(DnType::CommonName, "demo root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Its own certificate, PEM.
    pub(crate) fn root(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a workload.
    pub(crate) fn workload(&self, spiffe: &str) -> Result<Issued> {
        self.issue(SanType::URI(spiffe.try_into()?))
    }

    /// A certificate for what listens on an address of the machine, as files in `dir`.
    pub(crate) fn server(&self, address: IpAddr, dir: &Path) -> Result<ServerFiles> {
        let issued = self.issue(SanType::IpAddress(address))?;
        let write = |name: &str, text: &str| {
            let file = dir.join(name);
            std::fs::write(&file, text).with_context(|| file.display().to_string())?;
            anyhow::Ok(file)
        };
        Ok(ServerFiles {
            certificate: write("server.pem", &issued.certificate)?,
            key: write("server-key.pem", &issued.key)?,
            root: write("root.pem", &self.root())?,
        })
    }

    fn issue(&self, name: SanType) -> Result<Issued> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}
