//! What a failed handshake is called.

use rustls::{AlertDescription as Alert, CertificateError as Refused, Error, PeerIncompatible as Offer};

use crate::proxy::proxy_connection::{CertificateError, ConnectError};

use super::HandshakeError;

impl HandshakeError {
    /// `reason` is one of those that docs/operating.md lists.
    pub(super) fn new(reason: &'static str, message: &str) -> HandshakeError {
        HandshakeError { cause: ConnectError::TlsFailed, reason, message: message.to_owned() }
    }

    /// `is_agreed`: both sides have agreed on a cipher suite before.
    pub(super) fn of(error: &Error, is_agreed: bool) -> HandshakeError {
        let (reason, meaning) = match error {
            // A server says no more than that where it finds none.
            Error::AlertReceived(Alert::HandshakeFailure) if !is_agreed => NO_COMMON_CIPHER,
            Error::PeerIncompatible(Offer::NoCipherSuitesInCommon) => NO_COMMON_CIPHER,
            Error::AlertReceived(
                Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown,
            ) => ("certificate_refused", "the certificate is refused"),
            Error::NoCertificatesPresented => (TLS_CLIENT_CERT, "it shows no certificate"),
            Error::InvalidCertificate(_) => (TLS_CLIENT_CERT, "its certificate is not accepted"),
            Error::AlertReceived(_) => ("alert", "the handshake is refused"),
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => ("not_tls", "it does not speak TLS"),
            // The last one came with TLS 1.2.
            Error::PeerIncompatible(
                Offer::Tls12NotOffered
                | Offer::Tls12NotOfferedOrEnabled
                | Offer::SupportedVersionsExtensionRequired
                | Offer::SignatureAlgorithmsExtensionRequired,
            ) => ("old_version", "it offers no version of TLS that is spoken here"),
            Error::PeerIncompatible(_) => ("incompatible", "there is nothing in common"),
            _ => ("other", "the handshake failed"),
        };
        let cause = match error {
            Error::InvalidCertificate(why) => ConnectError::Untrusted(certificate_error(why)),
            _ => ConnectError::TlsFailed,
        };
        HandshakeError { cause, reason, message: format!("{meaning} ({error})") }
    }
}

/// Of clients. Upstreams are told of by their cause.
const TLS_CLIENT_CERT: &str = "tls_client_cert";

const NO_COMMON_CIPHER: (&str, &str) = (
    "no_common_cipher",
    "there is no common cipher suite: TLS 1.3 is needed, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, not CBC",
);

fn certificate_error(error: &Refused) -> CertificateError {
    match error {
        Refused::Expired | Refused::ExpiredContext { .. } => CertificateError::Expired,
        Refused::NotValidYet | Refused::NotValidYetContext { .. } => CertificateError::NotYetValid,
        Refused::NotValidForName | Refused::NotValidForNameContext { .. } => CertificateError::WrongName,
        // The latter is an issuer of the right name with another key: an authority that was made anew.
        Refused::UnknownIssuer | Refused::BadSignature => CertificateError::UnknownIssuer,
        // Not our own enum: whatever else there is, and will be.
        _ => CertificateError::Unacceptable,
    }
}
