//! Whom we believe: roots, and the verification of upstreams.
//!
//! The roots are those of `ca_file`; else those of the system; else, on hosts that have none, those that are built in
//! (rule E2). Which ones were taken is told at start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    Tls12CipherSuite,
};

use crate::config::UpstreamTls;

use super::certificates::read_certificates;
use super::error::TlsError;
use super::x509;

/// What decides whom to believe. The name is no part of it: that is asked for with each connection.
type Creed = (Option<PathBuf>, bool);

/// All ways of speaking to upstreams.
pub struct Trust {
    clients: HashMap<Creed, Arc<ClientConfig>>,
    sentences: Vec<String>,
}

impl Trust {
    /// Reads the roots for all `wanted`.
    pub(super) fn load<'a>(
        wanted: impl Iterator<Item = &'a UpstreamTls>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Trust, TlsError> {
        let mut trust = Trust { clients: HashMap::new(), sentences: Vec::new() };
        for tls in wanted {
            let creed = creed(tls);
            if !trust.clients.contains_key(&creed) {
                let client = trust.client_config(&creed, provider)?;
                trust.clients.insert(creed, Arc::new(client));
            }
        }
        Ok(trust)
    }

    /// The way that was made for `tls`.
    pub(super) fn client(&self, tls: &UpstreamTls) -> Option<Arc<ClientConfig>> {
        self.clients.get(&creed(tls)).cloned()
    }

    /// Against whom upstreams are verified.
    pub(super) fn sentences(&self) -> &[String] {
        &self.sentences
    }

    fn client_config(
        &mut self,
        (ca_file, is_insecure): &Creed,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ClientConfig, TlsError> {
        let provider = if *is_insecure { Arc::new(with_all_schemes(provider)) } else { Arc::clone(provider) };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let builder = match ca_file {
            _ if *is_insecure => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)),
            Some(path) => {
                let (verifier, sentence) = FromFile::load(path, provider)?;
                self.sentences.push(sentence);
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            None => {
                let (roots, sentence) = roots_of_system();
                self.sentences.push(sentence);
                builder.with_root_certificates(roots)
            }
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Sessions are resumed by default, and each way has its own memory of them: one that was begun without
        // verification is never continued by a connection that wants it.
        Ok(config)
    }
}

/// Where nothing is verified, no roots are needed.
fn creed(tls: &UpstreamTls) -> Creed {
    if tls.is_insecure() { (None, true) } else { (tls.ca_file.clone(), false) }
}

fn roots_of_system() -> (RootCertStore, String) {
    let mut roots = RootCertStore::empty();
    // Old stores hold certificates that nobody can use any more; those that can be used are enough.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if !roots.is_empty() {
        let sentence = format!("the {} of this system", authorities(roots.len()));
        return (roots, sentence);
    }
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let sentence = format!(
        "the {} that are built in, because this system has none; upstream_tls.ca_file names others",
        authorities(roots.len())
    );
    (roots, sentence)
}

fn authorities(count: usize) -> String {
    if count == 1 { "one authority".to_owned() } else { format!("{count} authorities") }
}

/// Believes everybody: `insecure_skip_verify`. Anybody can show any certificate, so that whoever is there has its key says
/// nothing either: the certificate is not even looked at, and may be of a kind that nobody here can read.
#[derive(Debug)]
struct Anybody;

/// What [`Anybody`] lets a server sign with: everything that has a name.
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

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALL_SCHEMES.to_vec()
    }
}

/// Those of `provider`, with suites that take every signature: in TLS 1.2 the suite has a say in it too.
fn with_all_schemes(provider: &CryptoProvider) -> CryptoProvider {
    static SUITES: OnceLock<Vec<SupportedCipherSuite>> = OnceLock::new();
    let with_all_schemes = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let Tls12CipherSuite { common, prf_provider, kx, aead_alg, .. } = suite;
            let common = CipherSuiteCommon { ..*common };
            let suite = Tls12CipherSuite {
                common,
                prf_provider: *prf_provider,
                kx: *kx,
                sign: ALL_SCHEMES,
                aead_alg: *aead_alg,
            };
            // Once for the whole process, and for as long: suites are meant to be constants.
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls13(_) => *suite,
    };
    let suites = SUITES.get_or_init(|| provider.cipher_suites.iter().map(with_all_schemes).collect());
    CryptoProvider { cipher_suites: suites.clone(), ..provider.clone() }
}

/// Believes those that a `ca_file` vouches for, and those whose very certificate stands in it.
///
/// An authority signs for others, and a certificate that says of itself that it is one is not taken as a server's by
/// webpki. But self-signed ones mostly say so, and who puts one into `ca_file` means the server that has it.
#[derive(Debug)]
struct FromFile {
    authorities: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl FromFile {
    /// With a phrase that says whom it believes.
    fn load(path: &Path, provider: Arc<CryptoProvider>) -> Result<(FromFile, String), TlsError> {
        let pinned = read_certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &pinned {
            roots.add(certificate.clone()).map_err(|error| TlsError::Unusable(path.to_owned(), error))?;
        }
        let sentence = format!("the {} of {}", authorities(roots.len()), path.display());
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
        Ok((FromFile { authorities, pinned }, sentence))
    }
}

impl ServerCertVerifier for FromFile {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.authorities.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(_) if self.pinned.contains(certificate) => verify_pinned(certificate, name, now),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// A certificate that is known needs no one to vouch for it, but it has to be valid now and for this name.
fn verify_pinned(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let dates = x509::validity(certificate).ok_or(CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < dates.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if seconds > dates.not_after {
        return Err(CertificateError::Expired.into());
    }
    if x509::only_common_name(certificate).is_some_and(|only| only.eq_ignore_ascii_case(&name.to_str())) {
        return Ok(ServerCertVerified::assertion());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}
