//! In the place of `tls` where the feature is off: the same names, and no way to make one of them. The configuration has
//! refused whatever would need it.

use std::fmt;

use crate::config::Config;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::ConnectError;
use crate::proxy::runtime::{Runtime, UpstreamId};

use super::socket::{ReadOutcome, Socket, WriteOutcome};

/// What a handshake failed of.
#[derive(Debug)]
pub enum Failure {}

impl Failure {
    /// For the exchange.
    pub fn verdict(&self) -> ConnectError {
        match *self {}
    }

    /// A word for the counters.
    pub fn reason(&self) -> &'static str {
        match *self {}
    }

    /// What can be done about it.
    pub fn remedy(&self) -> &'static str {
        match *self {}
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// How a handshake that we began stands.
#[derive(Debug)]
pub enum Handshake {
    /// It is complete: the peer is who we wanted.
    Done,
    /// An event will tell.
    Waiting,
    /// There is more to do at once.
    Busy,
    /// It failed.
    Failed(Failure),
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Something moved.
    Moved,
    /// Nothing did.
    Still,
    /// The peer takes no more, ever.
    Failed,
}

/// A byte stage between socket and exchange.
#[derive(Debug)]
pub enum Stage {}

#[expect(missing_docs, reason = "see tls::stage")]
impl Stage {
    pub fn is_handshaking(&self) -> bool {
        match *self {}
    }
    pub fn take_effort(&mut self) -> bool {
        match *self {}
    }
    pub fn handshake(&mut self, _: &mut Socket) -> Handshake {
        match *self {}
    }
    pub fn take_handshake_failure(&mut self) -> Option<Failure> {
        match *self {}
    }
    pub fn can_read(&self, _: &Socket) -> bool {
        match *self {}
    }
    pub fn can_write(&self, _: &Socket) -> bool {
        match *self {}
    }
    pub fn read(&mut self, _: &mut Socket, _: &mut [u8]) -> ReadOutcome {
        match *self {}
    }
    pub fn write(&mut self, _: &mut Socket, _: &[u8]) -> WriteOutcome {
        match *self {}
    }
    pub fn flush(&mut self, _: &mut Socket) -> Flushed {
        match *self {}
    }
    pub fn has_write_failure(&self) -> bool {
        match *self {}
    }
    pub fn take_read_failure(&mut self) -> bool {
        match *self {}
    }
    pub fn has_unsent(&self, _: &Socket) -> bool {
        match *self {}
    }
    pub fn shutdown_write(&mut self, _: &mut Socket) {
        match *self {}
    }
    pub fn say_goodbye(&mut self, _: &mut Socket) {
        match *self {}
    }
}

/// Why TLS cannot be had as it is configured.
#[derive(Debug)]
pub enum TlsError {}

impl TlsError {
    /// The file that it is about.
    pub fn path(&self) -> Option<&std::path::Path> {
        match *self {}
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// Everything that is needed to speak TLS: nothing.
#[derive(Clone, Debug, Default)]
pub struct Tls;

impl Tls {
    /// Nothing can fail.
    pub fn prepare(_: &Config) -> Result<Tls, TlsError> {
        Ok(Tls)
    }

    /// Nobody is trusted.
    pub fn trusted(&self) -> &[String] {
        &[]
    }

    /// There are no certificates.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Nothing can change.
    pub fn renewed(&self, _: &Config) -> Result<Tls, TlsError> {
        Ok(Tls)
    }

    /// There are no certificates.
    pub fn certificates(&self) -> usize {
        0
    }
}

/// One worker's share.
#[derive(Debug)]
pub struct TlsContext;

impl TlsContext {
    /// For one worker.
    pub fn new(_: Tls, _: &Runtime) -> TlsContext {
        TlsContext
    }

    /// The one for another configuration.
    pub fn succeeded_by(&self, _: Tls, _: &Runtime) -> TlsContext {
        TlsContext
    }

    /// Nothing can fail.
    pub fn tells_failure(&self, _: MonoTime) -> Option<u64> {
        None
    }

    /// Nobody is spoken to.
    pub fn connect(&self, _: UpstreamId) -> Option<Stage> {
        None
    }

    /// Nobody is listened to.
    pub fn accept(&self) -> Option<Stage> {
        None
    }
}
