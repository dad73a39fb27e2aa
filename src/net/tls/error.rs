//! Why TLS cannot be had as it is configured, with the remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong, and with which file.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// A file has something that is not PEM between its markers.
    NotPem(PathBuf),
    /// There is no certificate in it.
    NoCertificate(PathBuf),
    /// There is no private key in it.
    NoKey(PathBuf),
    /// The certificate, or the key beside it, is of a kind that cannot be used.
    Unusable(PathBuf, rustls::Error),
    /// Certificate and key belong to different pairs.
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// An upstream's name that no certificate can be for.
    Name(String),
    /// The library does not start.
    Setup(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Unreadable(path, error) => write!(
                f,
                "{}: cannot be read: {error}; tls or upstream_tls names it: correct the path, or the file's permissions",
                path.display()
            ),
            TlsError::NotPem(path) => write!(f, "{}: this is not whole PEM: write the file anew", path.display()),
            TlsError::NoCertificate(path) => {
                write!(
                    f,
                    "{}: there is no \"-----BEGIN CERTIFICATE-----\" in it: name a file of certificates in PEM",
                    path.display()
                )
            }
            TlsError::NoKey(path) => {
                write!(f, "{}: there is no private key in it, or one that is encrypted: decrypt it", path.display())
            }
            TlsError::Unusable(path, error) => write!(f, "{}: cannot be used: {error}", path.display()),
            TlsError::Mismatch { certificate, key } => write!(
                f,
                "{}: this key does not belong to the certificate in {}: name the two that were made together",
                key.display(),
                certificate.display()
            ),
            TlsError::Name(name) => {
                write!(f, "no certificate can be for the name {name:?}: set upstream_tls.server_name of its route")
            }
            TlsError::Setup(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl TlsError {
    /// The file that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            TlsError::Unreadable(path, _)
            | TlsError::NotPem(path)
            | TlsError::NoCertificate(path)
            | TlsError::NoKey(path)
            | TlsError::Unusable(path, _)
            | TlsError::Mismatch { key: path, .. } => Some(path),
            TlsError::Name(_) | TlsError::Setup(_) => None,
        }
    }
}
