//! One connection as the rest of the loop sees it: a socket, and where the peer speaks TLS a layer in front of it.
//!
//! ```text
//!   proxy connection ◄── plain bytes ──► [ TLS layer ] ◄── cipher bytes ──► socket
//! ```
//!
//! With TLS bytes may wait between the two (rule M11): decrypted ones that were not read, and encrypted ones that the
//! socket did not take. So "can read" and "can write" are answered here and not by the socket's readiness alone, and
//! [`Conn::flush`] has to be called whenever the socket may have become writable, whether or not there is more to write.

pub use super::socket::{Address, ReadOutcome, Socket, SocketFlags, WriteOutcome};

use super::tls::TlsLayer;
use crate::proxy::proxy_connection::PeerDetails;

/// What a TLS session owns while it rests, and what waits in it for a slow peer.
const SESSION: usize = 12 * 1024;
const UNSENT: usize = 32 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// What is asked of it passes TLS by.
    pub socket: Socket,
    /// Boxed: most connections are idle, and many are plain.
    pub tls: Option<Box<dyn TlsLayer>>,
}

impl Conn {
    /// Whether a read may bring something.
    pub fn can_read(&self) -> bool {
        if let Some(tls) = &self.tls { tls.can_read(&self.socket) } else { self.socket.can_read() }
    }

    /// Whether a write may succeed.
    pub fn can_write(&self) -> bool {
        if let Some(tls) = &self.tls { tls.can_write(&self.socket) } else { self.socket.can_write() }
    }

    /// Reads once.
    pub fn read(&mut self, buf: &mut [u8]) -> ReadOutcome {
        if let Some(tls) = &mut self.tls { tls.read(&mut self.socket, buf) } else { self.socket.read(buf) }
    }

    /// Writes once. After a failure nothing is written any more, and a read is due: it tells what became of the peer.
    pub fn write(&mut self, bytes: &[u8]) -> WriteOutcome {
        if let Some(tls) = &mut self.tls { tls.write(&mut self.socket, bytes) } else { self.socket.write(bytes) }
    }

    /// Writes what TLS still holds; `Blocked` where that is nothing, or nothing can be written now.
    pub fn flush(&mut self) -> WriteOutcome {
        self.tls.as_mut().map_or(WriteOutcome::Blocked, |tls| tls.flush(&mut self.socket))
    }

    /// Whether [`Conn::flush`] has something to write, or a failure to tell.
    pub fn needs_flush(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.needs_flush(&self.socket))
    }

    /// How many bytes of memory it owns beside its own slot. A TLS session does not tell what it owns; what is said here
    /// for it was measured.
    pub fn memory(&self) -> usize {
        let unsent = if self.needs_flush() { UNSENT } else { 0 };
        self.tls.as_ref().map_or(0, |_| SESSION + unsent)
    }

    /// What is known of the peer beside its address.
    pub fn peer_details(&self) -> PeerDetails {
        let details = self.tls.as_ref().map(|tls| tls.session_details());
        PeerDetails { local: self.socket.local_addr(), ..details.unwrap_or_default() }
    }

    /// Sends the end; reading goes on.
    pub fn shutdown_write(&mut self) {
        if let Some(tls) = &mut self.tls { tls.shutdown_write(&mut self.socket) } else { self.socket.shutdown_write() }
    }

    /// Says that the end is meant, before the connection is closed. For a plain one closing says it.
    pub fn send_close_notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.shutdown_write(&mut self.socket);
        }
    }
}
