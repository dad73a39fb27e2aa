//! Who we are: certificates and their keys, the choice among them, and reading them anew.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use crate::config::CertificateFiles;

use super::error::TlsError;

/// Chooses the certificate for a client: the first that has the name which the client asks for, else the first.
///
/// One for all workers. They ask it once for each handshake, so that the lock costs nothing that could be noticed, and
/// reloading is one assignment.
pub struct Chooser {
    files: Vec<CertificateFiles>,
    provider: Arc<CryptoProvider>,
    /// Never empty.
    keys: RwLock<Vec<Arc<CertifiedKey>>>,
}

impl Chooser {
    /// Reads all pairs.
    pub(super) fn load(files: &[CertificateFiles], provider: Arc<CryptoProvider>) -> Result<Chooser, TlsError> {
        let keys = read_all(files, &provider)?;
        Ok(Chooser { files: files.to_vec(), provider, keys: RwLock::new(keys) })
    }

    /// Reads all pairs again. If there is anything wrong with one of them, all old ones stay.
    pub(super) fn reload(&self) -> Result<usize, TlsError> {
        let keys = read_all(&self.files, &self.provider)?;
        let count = keys.len();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(count)
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
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

fn read_all(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    files.iter().map(|pair| read_pair(pair, provider).map(Arc::new)).collect()
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

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Unreadable(path.to_owned(), error))
}
