//! Who we are: certificates and their keys, and the choice among them. A reload makes another [`Chooser`].

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use crate::config::CertificateFiles;
use crate::net::clock::date_text;

use super::error::TlsError;
use super::x509::{self, Validity};

/// Chooses the certificate for a client: the first that has the name which the client asks for, or the first of all where
/// none has it; and of several with that name the first that the client can use. One for all workers.
pub struct Chooser {
    /// Never empty.
    keys: Vec<Arc<CertifiedKey>>,
    /// Their files and dates.
    dates: Vec<(PathBuf, Validity)>,
}

impl Chooser {
    /// Reads all pairs.
    pub(super) fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Chooser, TlsError> {
        let keys: Result<Vec<_>, _> = files.iter().map(|pair| read_pair(pair, provider).map(Arc::new)).collect();
        let keys = keys?;
        let dates = files.iter().zip(&keys).filter_map(|(pair, key)| {
            let dates = x509::validity(key.end_entity_cert().ok()?)?;
            Some((pair.certificate.clone(), dates))
        });
        Ok(Chooser { dates: dates.collect(), keys })
    }

    /// A sentence for each certificate that clients will refuse at this time, in seconds since 1970.
    pub(super) fn warnings(&self, now: i64) -> impl Iterator<Item = String> {
        self.dates.iter().filter_map(move |(path, dates)| {
            let path = path.display();
            if now > dates.not_after {
                let end = date_text(dates.not_after);
                Some(format!("{path}: this certificate has expired, on {end}: get a new one and reload"))
            } else if now < dates.not_before {
                let begin = date_text(dates.not_before);
                Some(format!("{path}: this certificate is not valid before {begin}: is the clock of this host right?"))
            } else {
                None
            }
        })
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
        let [first, .., _] = &*self.keys else { return self.keys.first().cloned() };
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let has_name = |key: &CertifiedKey| name.as_ref().is_none_or(|name| is_for(key, name));
        // rustls has left out what none of the client's cipher suites goes with.
        let is_usable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named: Vec<_> = self.keys.iter().filter(|key| has_name(key)).collect();
        let candidates = if named.is_empty() { self.keys.iter().collect() } else { named };
        let usable = candidates.iter().find(|key| is_usable(key));
        Some(Arc::clone(usable.or(candidates.first()).map_or(first, |key| key)))
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
