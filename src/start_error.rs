//! Why the proxy cannot start, or why a reload changes nothing.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A message with the remedy.
#[derive(Debug)]
pub struct StartError {
    message: String,
    /// What is at fault, as the configuration names it: a file, or a plugin.
    pub path: Option<PathBuf>,
}

impl StartError {
    /// One about something that the configuration names.
    pub fn about(path: impl Into<PathBuf>, message: String) -> StartError {
        StartError { message, path: Some(path.into()) }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<String> for StartError {
    fn from(message: String) -> StartError {
        StartError { message, path: None }
    }
}

/// The system refuses a thread or a descriptor.
impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        format!("cannot start: {error}; raise the limits on descriptors and threads, or lower workers").into()
    }
}
