//! Why the proxy cannot start, or why a reload changes nothing.

use std::fmt;
use std::io;

use super::activation::ActivationError;
use super::listen::ListenError;
use super::tls::TlsError;

/// Why it cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be had.
    Listen(ListenError),
    /// A socket that was handed over cannot be used.
    Activation(ActivationError),
    /// Something is wrong with the certificates.
    Tls(TlsError),
    /// The system refuses a thread or a descriptor.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(error) => error.fmt(f),
            StartError::Activation(error) => error.fmt(f),
            StartError::Tls(error) => error.fmt(f),
            StartError::System(error) => {
                write!(f, "cannot start: {error}; raise the limits on descriptors and threads, or lower workers")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> StartError {
        StartError::Listen(error)
    }
}

impl From<ActivationError> for StartError {
    fn from(error: ActivationError) -> StartError {
        StartError::Activation(error)
    }
}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> StartError {
        StartError::Tls(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::System(error)
    }
}
