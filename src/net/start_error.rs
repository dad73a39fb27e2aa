//! Why the proxy cannot start, or why a reload changes nothing.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::activation::ActivationError;
use super::tls::TlsError;

/// Why nothing can listen there, with the remedy.
#[derive(Debug)]
pub struct ListenError(String);

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ListenError {}

impl ListenError {
    /// About this address.
    pub fn new(address: impl fmt::Display, error: io::Error) -> ListenError {
        let other;
        let cause = match error.kind() {
            ErrorKind::AddrInUse => {
                "address in use; stop the other program, choose another listen_addr, or take over from an older instance \
                 with -takeover"
            }
            ErrorKind::PermissionDenied => {
                "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE, a unix socket needs a folder \
                 that this user may write to; or choose another listen_addr"
            }
            ErrorKind::AddrNotAvailable => "this host has no such address; choose one of its own in listen_addr",
            ErrorKind::NotFound => "the folder does not exist; make it or choose another listen_addr",
            _ => {
                other = error.to_string();
                &other
            }
        };
        ListenError(format!("cannot listen on {address}: {cause}"))
    }

    /// About a unix socket.
    pub fn of_path(path: &Path, error: io::Error) -> ListenError {
        ListenError::new(format_args!("unix:{}", path.display()), error)
    }
}

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
