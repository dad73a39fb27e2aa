//! What a failed handshake is called: for the exchange, for the log, for the counters.

use std::fmt;

use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::proxy::proxy_connection::{CertificateError, ConnectError};

/// What a handshake failed of, with either side.
#[derive(Debug)]
pub enum Failure {
    /// The peer ended the connection before it was complete.
    CutOff,
    /// It was not complete when we ended the connection.
    Unfinished,
    /// A client speaks plain HTTP.
    PlainHttp,
    /// There is no cipher suite that both know.
    NoCommonCipher,
    /// One of the two did not like what the other said.
    Refused(Error),
}

/// What a certificate is refused for, in an alert.
const ABOUT_CERTIFICATE: [AlertDescription; 6] = [
    AlertDescription::UnknownCA,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
];

impl Failure {
    /// What rustls says. `is_agreed`: the two have agreed on a cipher suite before.
    pub(super) fn of(error: Error, is_agreed: bool) -> Failure {
        match error {
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => Failure::NoCommonCipher,
            // A server says no more than that where it finds none.
            Error::AlertReceived(AlertDescription::HandshakeFailure) if !is_agreed => Failure::NoCommonCipher,
            error => Failure::Refused(error),
        }
    }

    /// For the exchange.
    pub fn verdict(&self) -> ConnectError {
        match self {
            Failure::Refused(Error::InvalidCertificate(error)) => ConnectError::Untrusted(certificate_error(error)),
            _ => ConnectError::TlsFailed,
        }
    }

    /// A word for the counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::CutOff => "cut_off",
            Failure::Unfinished => "unfinished",
            Failure::PlainHttp => "plain_http",
            Failure::NoCommonCipher => "no_common_cipher",
            Failure::Refused(error) => match error {
                Error::AlertReceived(alert) if ABOUT_CERTIFICATE.contains(alert) => "certificate_refused",
                Error::AlertReceived(_) => "alert",
                Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "not_tls",
                Error::PeerIncompatible(what) if is_about_version(what) => "old_version",
                Error::PeerIncompatible(_) => "incompatible",
                _ => "other",
            },
        }
    }

    /// What can be done about it, where that can be said.
    pub fn remedy(&self) -> &'static str {
        match self {
            Failure::Refused(Error::InvalidCertificate(error)) => certificate_error(error).message(),
            Failure::NoCommonCipher => {
                "TLS 1.3 is needed, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305: cipher suites with CBC are \
                 not spoken here"
            }
            _ => "see whether it speaks TLS 1.2 or 1.3 on that port",
        }
    }
}

fn is_about_version(what: &PeerIncompatible) -> bool {
    matches!(
        what,
        PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // It came with TLS 1.2.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
    )
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::CutOff => f.write_str("the connection ended within the handshake"),
            Failure::Unfinished => f.write_str("the handshake was not finished in time"),
            Failure::PlainHttp => f.write_str("it speaks plain HTTP on a port for TLS"),
            Failure::NoCommonCipher => f.write_str("there is no common cipher suite"),
            Failure::Refused(Error::AlertReceived(alert)) if ABOUT_CERTIFICATE.contains(alert) => {
                write!(f, "the certificate is refused (alert {alert:?})")
            }
            Failure::Refused(Error::PeerIncompatible(what)) if is_about_version(what) => {
                f.write_str("it offers no version from TLS 1.2 on")
            }
            Failure::Refused(error @ (Error::InvalidMessage(_) | Error::InappropriateMessage { .. })) => {
                write!(f, "it does not speak TLS ({error})")
            }
            Failure::Refused(error) => error.fmt(f),
        }
    }
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
