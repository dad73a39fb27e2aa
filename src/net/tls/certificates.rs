//! Who we are: certificates and their keys, and the choice among them. A reload makes another [`Chooser`].

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use crate::config::CertificateFiles;

use super::error::TlsError;

/// Chooses the certificate for a client: the first that has the name which the client asks for, else the first. One for
/// all workers.
pub struct Chooser {
    /// Never empty.
    keys: Vec<Arc<CertifiedKey>>,
}

impl Chooser {
    /// Reads all pairs.
    pub(super) fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Chooser, TlsError> {
        let keys: Result<_, _> = files.iter().map(|pair| read_pair(pair, provider).map(Arc::new)).collect();
        Ok(Chooser { keys: keys? })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser").field("certificates", &self.keys.len()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = &self.keys;
        let named = match hello.server_name().and_then(|name| ServerName::try_from(name).ok()) {
            Some(name) if keys.len() > 1 => keys.iter().find(|key| is_for(key, &name)),
            Some(_) | None => None,
        };
        named.or_else(|| keys.first()).cloned()
    }
}

/// Whether a certificate has a name, wildcards included.
fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

fn read_pair(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey(files.key.clone()),
        _ => TlsError::NotPem(files.key.clone()),
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone() }
        }
        Error::InvalidCertificate(_) => TlsError::Unusable(files.certificate.clone(), error),
        _ => TlsError::Unusable(files.key.clone(), error),
    })
}

/// All certificates of a PEM file; at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(TlsError::NoCertificate(path.to_owned())),
        Ok(all) => Ok(all),
        Err(_) => Err(TlsError::NotPem(path.to_owned())),
    }
}

/// Whatever else the path may name, a pipe for example, may block for ever.
fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || match fs::metadata(path)?.is_file() {
        true => fs::read(path),
        false => Err(io::Error::other("it is no regular file")),
    };
    read().map_err(|error| TlsError::Unreadable(path.to_owned(), error))
}
