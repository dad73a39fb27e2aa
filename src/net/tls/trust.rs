//! Roots, and the verification of upstreams.
//!
//! The roots are those of `ca_file`; else those of the system; else, on hosts that have none, those that are built in
//! (rule E2). Which ones were taken is logged at start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, Der, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::UpstreamTls;
use crate::start_error::StartError;

use super::certificates::{check_dates, read_certificates, setup_error, unusable};

/// What an upstream's certificate is verified against. The name belongs to the connection.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum VerifyPolicy {
    /// `insecure_skip_verify`.
    Nothing,
    CaFile(PathBuf),
    SystemRoots,
}

impl VerifyPolicy {
    pub fn of(tls: &UpstreamTls) -> VerifyPolicy {
        match &tls.ca_file {
            _ if tls.is_insecure() => VerifyPolicy::Nothing,
            Some(path) => VerifyPolicy::CaFile(path.clone()),
            None => VerifyPolicy::SystemRoots,
        }
    }
}

/// How to speak TLS to upstreams that are verified by `policy`. A phrase that describes the roots is added to `trusted`.
pub(super) fn client_config(
    policy: &VerifyPolicy,
    provider: &Arc<CryptoProvider>,
    trusted: &mut BTreeSet<String>,
) -> Result<ClientConfig, StartError> {
    let (mut roots, mut pinned) = (RootCertStore::empty(), Vec::new());
    match policy {
        VerifyPolicy::Nothing => {}
        VerifyPolicy::CaFile(path) => {
            for certificate in read_certificates(path)? {
                roots.add(certificate.clone()).map_err(|error| unusable(path, error))?;
                let subject = roots.roots.last().map_or(Der::from_slice(&[]), |root| root.subject.clone());
                pinned.push((certificate, subject));
            }
            trusted.insert(format!("the {} of {}", authorities(&roots), path.display()));
        }
        VerifyPolicy::SystemRoots => {
            // Old stores hold certificates that are of no use any more; those that can be used are enough.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let mut origin = "of this system";
            if roots.is_empty() {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
                origin = "that are built in, because this system has none; upstream_tls.ca_file names others";
            }
            trusted.insert(format!("the {} {origin}", authorities(&roots)));
        }
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let authorities = match policy {
        VerifyPolicy::Nothing => None,
        _ => Some(builder.build().map_err(setup_error)?),
    };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(setup_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { authorities, pinned }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Sessions are resumed by default, and each policy has its own memory of them: one that began without verification is
    // never continued by a connection that wants it.
    Ok(config)
}

fn authorities(roots: &RootCertStore) -> String {
    if roots.len() == 1 { "one authority".to_owned() } else { format!("{} authorities", roots.len()) }
}

/// Accepts certificates that an authority has signed, and those that are in `ca_file` themselves.
///
/// Many self-signed certificates say that they are an authority. webpki refuses such a one for a server; but who puts it
/// into `ca_file` means the server that has it.
#[derive(Debug)]
struct Verifier {
    /// `None` accepts every certificate, so its key proves nothing either: neither is looked at, and both may be of a kind
    /// that rustls cannot read.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of `ca_file`, and whose each is.
    pinned: Vec<(CertificateDer<'static>, Der<'static>)>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        let result = authorities.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match self.pinned.iter().find(|(pinned, _)| pinned == certificate) {
            Some((_, subject)) if result.is_err() => {
                let parsed = ParsedCertificate::try_from(certificate)?;
                check_dates(&parsed, now)?;
                verify_pinned_name(&parsed, subject, name)?;
                Ok(ServerCertVerified::assertion())
            }
            _ => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(authorities) = &self.authorities else { return Ok(HandshakeSignatureValid::assertion()) };
        authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(authorities) = &self.authorities else { return Ok(HandshakeSignatureValid::assertion()) };
        authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.as_ref().map_or(ALL_SCHEMES.to_vec(), |authorities| authorities.supported_verify_schemes())
    }
}

const ALL_SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::ED448,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::ECDSA_SHA1_Legacy,
    SignatureScheme::RSA_PKCS1_SHA1,
];

/// Where a certificate has no subjectAltName, its commonName counts (RFC 6125 section 6.4.4): many that were made by hand
/// have nothing else.
fn verify_pinned_name(parsed: &ParsedCertificate<'_>, subject: &[u8], name: &ServerName<'_>) -> Result<(), Error> {
    match verify_server_name(parsed, name) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
            if presented.is_empty() && has_common_name(subject, &name.to_str()) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Looks for the attribute commonName (2.5.4.3) with this very value, a UTF8String or PrintableString of DER.
fn has_common_name(subject: &[u8], name: &str) -> bool {
    let Ok(len) = u8::try_from(name.len()) else { return false };
    [0x0c, 0x13].iter().any(|&tag| {
        let start = [0x06, 3, 0x55, 0x04, 0x03, tag, len];
        let is_it = |window: &[u8]| {
            window.strip_prefix(&start).is_some_and(|value| value.eq_ignore_ascii_case(name.as_bytes()))
        };
        subject.windows(start.len() + name.len()).any(is_it)
    })
}
