//! The test root and the server certificates of everything that is not Istio: the API server, shims, controllers.
//! Workload certificates come from istiod's own CA and are none of this.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};

/// A certificate authority of one run.
pub struct TestRoot {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

/// A server's certificate and key, both PEM files.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TestRoot {
    /// Makes the root and writes its certificate into `dir`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "lazymesh test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let root = Self {
            issuer,
            dir: dir.to_owned(),
        };
        std::fs::write(root.certificate(), root.issuer.pem())?;
        Ok(root)
    }

    /// The root's certificate, a PEM file.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("root-cert.pem")
    }

    /// Issues a server certificate under the file name `name`.
    ///
    /// # Errors
    /// When a name is no DNS name, or the files cannot be written.
    pub fn issue(
        &self,
        name: &str,
        dns: &[&str],
        addresses: &[Ipv4Addr],
    ) -> Result<ServerCertificate> {
        let mut params =
            CertificateParams::new(dns.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(
            addresses
                .iter()
                .map(|&address| SanType::IpAddress(IpAddr::V4(address))),
        );
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = ServerCertificate {
            certificate: self.dir.join(format!("{name}-cert.pem")),
            key: self.dir.join(format!("{name}-key.pem")),
        };
        std::fs::write(&files.certificate, certificate.pem())?;
        std::fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }

    /// Writes a bare key pair, and gives back the files of its private and its public half.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn bare_key(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let pair = KeyPair::generate()?;
        let private = self.dir.join(format!("{name}-key.pem"));
        let public = self.dir.join(format!("{name}-public.pem"));
        std::fs::write(&private, pair.serialize_pem())?;
        std::fs::write(&public, pair.public_key_pem())?;
        Ok((private, public))
    }
}

impl std::fmt::Debug for TestRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRoot")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}
