//! One certificate for everybody who speaks TLS here, made anew for each run.
//!
//! Everybody negotiates the same: TLS 1.3 with AES-128-GCM and X25519, P-256 for the signature.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name in the certificate.
pub const NAME: &str = "localhost";

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, which is its own authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both in one file, as HAProxy wants it.
    pub both: PathBuf,
}

impl Certificate {
    /// The files in this folder, whether they are there or not.
    pub fn at(folder: &Path) -> Certificate {
        Certificate {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            both: folder.join("cert-and-key.pem"),
        }
    }

    /// Makes the files.
    pub fn make(&self) -> Result<(), String> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])
            .map_err(|error| format!("cannot make a certificate: {error}"))?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        for (path, text) in
            [(&self.certificate, certificate.clone()), (&self.key, key.clone()), (&self.both, certificate + &key)]
        {
            fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// A client that trusts it. It resumes no session, as if each of its connections were another client's.
    pub fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.read()?).map_err(|error| format!("the certificate is not one: {error}"))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| format!("TLS 1.3 is not there: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// A server that has it.
    pub fn server(&self) -> Result<Arc<ServerConfig>, String> {
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| format!("cannot read {}: {error}", self.key.display()))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| format!("TLS 1.3 is not there: {error}"))?
            .with_no_client_auth()
            .with_single_cert(vec![self.read()?], key)
            .map_err(|error| format!("the certificate and its key do not fit: {error}"))?;
        Ok(Arc::new(config))
    }

    fn read(&self) -> Result<CertificateDer<'static>, String> {
        CertificateDer::from_pem_file(&self.certificate)
            .map_err(|error| format!("cannot read {}: {error}", self.certificate.display()))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}
