//! What a failed handshake is called.

use std::borrow::Cow;

use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::proxy::proxy_connection::{CertificateError, ConnectError};

use super::HandshakeError;

/// What a certificate is refused for, in an alert.
const CERTIFICATE_ALERTS: [AlertDescription; 6] = [
    AlertDescription::UnknownCA,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
];

impl HandshakeError {
    fn new(reason: &'static str, message: impl Into<Cow<'static, str>>) -> HandshakeError {
        let hint = "see whether it speaks TLS 1.2 or 1.3 on that port";
        HandshakeError { cause: ConnectError::TlsFailed, reason, message: message.into(), hint }
    }

    /// The peer ended the connection.
    pub(super) fn cut_off() -> HandshakeError {
        HandshakeError::new("cut_off", "the connection ended within the handshake")
    }

    /// We ended it.
    pub(super) fn unfinished() -> HandshakeError {
        HandshakeError::new("unfinished", "the handshake was not finished in time")
    }

    pub(super) fn plain_http() -> HandshakeError {
        HandshakeError::new("plain_http", "it speaks plain HTTP on a port for TLS")
    }

    /// `is_agreed`: both sides have agreed on a cipher suite before.
    pub(super) fn of(error: Error, is_agreed: bool) -> HandshakeError {
        let (reason, message) = match &error {
            Error::InvalidCertificate(why) => {
                let why = certificate_error(why);
                let (cause, hint) = (ConnectError::Untrusted(why), why.message());
                return HandshakeError { cause, hint, ..HandshakeError::new("other", error.to_string()) };
            }
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => return no_common_cipher(),
            // A server says no more than that where it finds none.
            Error::AlertReceived(AlertDescription::HandshakeFailure) if !is_agreed => return no_common_cipher(),
            Error::AlertReceived(alert) if CERTIFICATE_ALERTS.contains(alert) => {
                ("certificate_refused", format!("the certificate is refused (alert {alert:?})"))
            }
            Error::AlertReceived(_) => ("alert", error.to_string()),
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
                ("not_tls", format!("it does not speak TLS ({error})"))
            }
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                // It came with TLS 1.2.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            ) => ("old_version", "it offers no version from TLS 1.2 on".to_owned()),
            Error::PeerIncompatible(_) => ("incompatible", error.to_string()),
            _ => ("other", error.to_string()),
        };
        HandshakeError::new(reason, message)
    }
}

fn no_common_cipher() -> HandshakeError {
    let hint = "TLS 1.3 is needed, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305: cipher suites with CBC are not \
                spoken here";
    HandshakeError { hint, ..HandshakeError::new("no_common_cipher", "there is no common cipher suite") }
}

fn certificate_error(error: &rustls::CertificateError) -> CertificateError {
    use rustls::CertificateError as Given;
    match error {
        Given::Expired | Given::ExpiredContext { .. } => CertificateError::Expired,
        Given::NotValidYet | Given::NotValidYetContext { .. } => CertificateError::NotYetValid,
        Given::NotValidForName | Given::NotValidForNameContext { .. } => CertificateError::WrongName,
        // The latter is an issuer of the right name with another key: an authority that was made anew.
        Given::UnknownIssuer | Given::BadSignature => CertificateError::UnknownIssuer,
        // Not our own enum: whatever else there is, and will be.
        _ => CertificateError::Unacceptable,
    }
}
