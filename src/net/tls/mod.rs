//! TLS on both sides: rustls between the socket and the proxy connection.
//!
//! | file | one job |
//! |---|---|
//! | here | what the rest of the loop sees of TLS, also in builds without it |
//! | `handshake_error` | what a failed handshake is called |
//! | `certificates` | our certificates and keys, and the choice among them by SNI |
//! | `trust` | roots, and the verification of upstreams |
//! | `subject` | the subject of a client's certificate as text |
//! | `stream` | handshake and records of one connection |
//! | `config` | what is made of the configuration at the start and at a reload |
//! | `disabled` | the same in builds without TLS: nothing |
//!
//! The proxy connection only knows whether its client speaks TLS.

#[cfg(feature = "tls")]
mod handshake_error;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(feature = "tls")]
mod trust;
#[cfg(feature = "tls")]
mod subject;
#[cfg(feature = "tls")]
mod stream;
#[cfg_attr(not(feature = "tls"), path = "disabled.rs")]
mod config;

use std::collections::BTreeSet;
use std::fmt;
use std::task::Poll;

use crate::proxy::proxy_connection::{ConnectError, PeerDetails};

use super::socket::{ReadOutcome, Socket, WriteOutcome};

pub use config::Tls;

/// TLS between a socket and its users, who see plain bytes. One type implements it, and none in builds without TLS.
pub trait TlsLayer: fmt::Debug {
    /// Whether the handshake is neither complete nor failed.
    fn is_handshaking(&self) -> bool;

    /// Continues a handshake that we began, as far as the socket goes.
    fn handshake(&mut self, socket: &mut Socket) -> Poll<Result<(), HandshakeError>>;

    /// What is known of the peer: all but its addresses.
    fn session_details(&self) -> PeerDetails;

    /// Why the handshake was never complete, where it had begun. Asked once, when the connection is closed.
    fn take_handshake_error(&mut self) -> Option<HandshakeError>;

    /// Whether a read may bring something.
    fn can_read(&self, socket: &Socket) -> bool;

    /// Whether a write may succeed. Not while something of the last one waits: that bounds what waits here.
    fn can_write(&self, socket: &Socket) -> bool;

    /// Reads once: what is decrypted already, or what one read of the socket brings.
    fn read(&mut self, socket: &mut Socket, buf: &mut [u8]) -> ReadOutcome;

    /// Encrypts and writes. What is taken counts as sent, but for a last byte while the socket has not taken all: it is to be
    /// given again, and tells when that has left.
    fn write(&mut self, socket: &mut Socket, bytes: &[u8]) -> WriteOutcome;

    /// Writes encrypted bytes that wait, as far as the socket takes them (rule M11). Also tells, once, of a failure that
    /// another call met: that call took the error out of the socket, so no one else will see it (rule G12).
    fn flush(&mut self, socket: &mut Socket) -> WriteOutcome;

    /// Whether [`TlsLayer::flush`] has something to write or to tell.
    fn needs_flush(&self, socket: &Socket) -> bool;

    /// Sends close_notify, then FIN. Reading goes on: a tunnel may be open in one direction only.
    fn shutdown_write(&mut self, socket: &mut Socket);
}

/// What the configuration makes of TLS, for the log and the metrics.
#[derive(Clone, Debug, Default)]
pub struct TlsReport {
    /// What upstreams are verified against: a phrase for each set of roots. Policies that differ in our own certificate alone
    /// trust the same.
    pub trusted: BTreeSet<String>,
    /// One warning for each of our certificates that peers refuse now. A pair of files may be read for several policies.
    pub warnings: BTreeSet<String>,
    /// Of each file of ours when its certificate expires, in seconds since 1970.
    pub expiries: BTreeSet<(String, u64)>,
    /// How many certificates we have.
    pub certificates: usize,
}

/// Why a handshake failed.
#[derive(Debug)]
pub struct HandshakeError {
    /// For the proxy connection.
    pub cause: ConnectError,
    /// A word for the counters.
    pub reason: &'static str,
    /// For the log.
    pub message: String,
}
