//! Whom we believe: roots, the verification of upstreams, and what a failed handshake is called.
//!
//! The roots are those of `ca_file`; else those of the system; else, on hosts that have none, those that are built in
//! (rule E2). Which ones were taken is told at start.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::UpstreamTls;
use crate::proxy::exchange::{ConnectError, Distrust};

use super::certificates::read_certificates;
use super::error::TlsError;

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
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let builder = if *is_insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(Arc::clone(provider))))
        } else {
            let (roots, sentence) = match ca_file {
                Some(path) => roots_of(path)?,
                None => roots_of_system(),
            };
            self.sentences.push(sentence);
            builder.with_root_certificates(roots)
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
    if tls.insecure_skip_verify { (None, true) } else { (tls.ca_file.clone(), false) }
}

fn roots_of(path: &Path) -> Result<(RootCertStore, String), TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable(path.to_owned(), error))?;
    }
    let sentence = format!("the {} of {}", authorities(roots.len()), path.display());
    Ok((roots, sentence))
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

/// Believes everybody: `insecure_skip_verify`. That the peer has the key of the certificate which it shows is verified
/// all the same; it is the certificate that says nothing.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a handshake failed of.
#[derive(Debug)]
pub enum Failure {
    /// The connection ended before it was complete.
    CutOff,
    /// One of the two did not like what the other said.
    Refused(rustls::Error),
}

impl Failure {
    /// For the exchange.
    pub fn verdict(&self) -> ConnectError {
        match self {
            Failure::Refused(rustls::Error::InvalidCertificate(error)) => ConnectError::Untrusted(distrust(error)),
            Failure::Refused(_) | Failure::CutOff => ConnectError::TlsFailed,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::CutOff => f.write_str("the connection ended within the handshake"),
            Failure::Refused(error) => error.fmt(f),
        }
    }
}

fn distrust(error: &CertificateError) -> Distrust {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Distrust::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Distrust::NotYetValid,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Distrust::WrongName,
        // The latter is an issuer of the right name with another key: an authority that was made anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Distrust::UnknownIssuer,
        // Not our own enum: whatever else there is, and will be.
        _ => Distrust::Unacceptable,
    }
}
