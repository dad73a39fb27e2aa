//! Our certificates and their keys, and the choice among them.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore};

use crate::config::{CertificateFiles, MAX_FILE_BYTES, read_file};
use crate::net::clock::date_text;
use crate::start_error::StartError;

use super::TlsReport;

/// Chooses the certificate for a client: the first that has the name which the client asks for, or the first of all where
/// none has it; and of several with that name the first that the client can use.
#[derive(Debug)]
pub(super) struct CertResolver {
    /// Never empty.
    pub keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // To look for a name is to parse the certificate anew.
        if let [only] = &*self.keys {
            return Some(Arc::clone(only));
        }
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let has_name = |key: &CertifiedKey| name.as_ref().is_none_or(|name| has_name(key, name));
        // rustls has left out the schemes that none of the client's cipher suites goes with.
        let is_usable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named: Vec<_> = self.keys.iter().filter(|key| has_name(key)).collect();
        let candidates = if named.is_empty() { self.keys.iter().collect() } else { named };
        candidates.iter().find(|key| is_usable(key)).or(candidates.first()).map(|key| Arc::clone(key))
    }
}

/// Whether a certificate has a name, wildcards included.
fn has_name(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

fn date_warning(path: &str, certificate: &ParsedCertificate<'_>) -> Option<String> {
    match check_dates(certificate, UnixTime::now()) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            let end = date_text(not_after.as_secs());
            Some(format!("{path}: this certificate has expired, on {end}: get a new one and reload"))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            let begin = date_text(not_before.as_secs());
            Some(format!("{path}: this certificate is not valid before {begin}: is the clock of this host right?"))
        }
        _ => None,
    }
}

/// In seconds since 1970.
fn not_after(certificate: &ParsedCertificate<'_>) -> Option<u64> {
    // By then all are.
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(1 << 40));
    match check_dates(certificate, end_of_time) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Some(not_after.as_secs()),
        _ => None,
    }
}

/// An error if the certificate is expired or not valid yet. rustls has no function for that alone; but the dates are what
/// webpki looks at first, and without any root it looks at nothing else but this certificate.
pub(super) fn check_dates(certificate: &ParsedCertificate<'_>, now: UnixTime) -> Result<(), Error> {
    use CertificateError::{BadEncoding, Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match verify_server_cert_signed_by_trust_anchor(certificate, &RootCertStore::empty(), &[], now, &[]) {
        Err(Error::InvalidCertificate(
            error @ (BadEncoding | Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }),
        )) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Reads a pair of ours.
pub(super) fn read_pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    report: &mut TlsReport,
) -> Result<CertifiedKey, StartError> {
    let chain = read_certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            in_file(&files.key, "there is no private key in it, or one that is encrypted: decrypt it")
        }
        _ => not_pem(&files.key),
    })?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let certificate = files.certificate.display();
            let what = format!("this key does not belong to the certificate in {certificate}");
            in_file(&files.key, format_args!("{what}: name the two that were made together"))
        }
        Error::InvalidCertificate(why) => {
            in_file(&files.certificate, format_args!("cannot be used ({why}): make one of X.509 version 3"))
        }
        _ => unusable(&files.key, error),
    })?;
    if let Ok(certificate) = key.end_entity_cert().and_then(ParsedCertificate::try_from) {
        let path = files.certificate.display().to_string();
        report.warnings.extend(date_warning(&path, &certificate));
        report.expiries.extend(not_after(&certificate).map(|end| (path, end)));
    }
    Ok(key)
}

/// All certificates of a PEM file; at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|_| not_pem(path))?;
    if all.is_empty() {
        let what = "there is no \"-----BEGIN CERTIFICATE-----\" in it: name a file of certificates in PEM";
        return Err(in_file(path, what));
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    read_file(path, MAX_FILE_BYTES).map_err(|error| {
        let remedy = "tls or upstream_tls names it: correct the path, or the file's permissions";
        in_file(path, format_args!("cannot be read: {error}; {remedy}"))
    })
}

fn not_pem(path: &Path) -> StartError {
    in_file(path, "this is not whole PEM: write the file anew")
}

/// A certificate or key of a kind that cannot be used.
pub(super) fn unusable(path: &Path, error: Error) -> StartError {
    in_file(path, format_args!("cannot be used: {error}"))
}

fn in_file(path: &Path, what: impl Display) -> StartError {
    StartError::about(path, format!("{}: {what}", path.display()))
}

pub(super) fn setup_error(error: impl Display) -> StartError {
    format!("TLS cannot be set up: {error}").into()
}
