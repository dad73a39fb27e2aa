//! One connection as the rest of the loop sees it: a socket, and where the peer speaks TLS a layer in front of it.
//!
//! ```text
//!   proxy connection ◄── plain bytes ──► [ TLS layer ] ◄── cipher bytes ──► socket
//! ```
//!
//! Everyone else asks the same questions of both kinds: may I read, may I write, read, write, say that no more comes. What
//! TLS adds is that bytes may wait between the two (rule M11): decrypted ones that nobody has read, and encrypted ones
//! that the socket did not take. So "can read" and "can write" are answered here and not by the socket's readiness alone,
//! and [`Conn::flush`] has to be called whenever the socket may have become writable, whether or not anybody has
//! something to say.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::Poll;

pub use super::socket::{ConnectOutcome, ReadOutcome, Readiness, Socket, WriteOutcome, limit_unsent, probe_when_idle};

use super::tls::{HandshakeError, TlsLayer};

/// What a TLS session owns while it rests, and what waits in it for a slow peer.
const SESSION: usize = 12 * 1024;
const UNSENT: usize = 32 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// What is asked of it passes TLS by.
    pub socket: Socket,
    /// TLS in front of it. Boxed: most connections are idle, and many are plain.
    pub tls: Option<Box<dyn TlsLayer>>,
}

impl Conn {
    /// A socket that was just accepted: worth a try in both directions before anyone asks the poller.
    pub fn accepted(fd: OwnedFd) -> Conn {
        Conn { socket: Socket::accepted(fd), tls: None }
    }

    /// Begins to connect. The socket is of no use before [`Socket::finish_connect`] says so.
    pub fn connect(address: SocketAddr) -> io::Result<Conn> {
        Ok(Conn { socket: Socket::connect(address)?, tls: None })
    }

    /// Whether it is not known yet who the peer is, and a step of finding out may be due.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Goes on with a handshake that we began.
    pub fn handshake(&mut self) -> Poll<Result<(), HandshakeError>> {
        let Conn { socket, tls } = self;
        match tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.handshake(socket),
        }
    }

    /// Why the handshake with a client that is going to be left was never complete, if it had begun.
    pub fn take_handshake_error(&mut self) -> Option<HandshakeError> {
        self.tls.as_mut().and_then(|tls| tls.take_handshake_error())
    }

    /// Whether a read may bring something.
    pub fn can_read(&self) -> bool {
        match &self.tls {
            None => self.socket.can_read(),
            Some(tls) => tls.can_read(&self.socket),
        }
    }

    /// Whether a write may succeed.
    pub fn can_write(&self) -> bool {
        match &self.tls {
            None => self.socket.can_write(),
            Some(tls) => tls.can_write(&self.socket),
        }
    }

    /// Reads once.
    pub fn read(&mut self, buf: &mut [u8]) -> ReadOutcome {
        let Conn { socket, tls } = self;
        match tls {
            None => socket.read(buf),
            Some(tls) => tls.read(socket, buf),
        }
    }

    /// Writes once. After a failure nothing is written any more, and a read is due: it tells what became of the peer.
    pub fn write(&mut self, bytes: &[u8]) -> WriteOutcome {
        let Conn { socket, tls } = self;
        match tls {
            None => socket.write(bytes),
            Some(tls) => tls.write(socket, bytes),
        }
    }

    /// Writes what TLS still holds; `Blocked` where that is nothing, or nothing can be written now.
    pub fn flush(&mut self) -> WriteOutcome {
        let Conn { socket, tls } = self;
        tls.as_mut().map_or(WriteOutcome::Blocked, |tls| tls.flush(socket))
    }

    /// Whether [`Conn::flush`] has something to write, or a failure to tell.
    pub fn needs_flush(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.needs_flush(&self.socket))
    }

    /// How many bytes of memory it owns beside its own slot. A TLS session does not tell what it owns; what is said here
    /// for it was measured.
    pub fn memory(&self) -> usize {
        match (self.tls.is_some(), self.needs_flush()) {
            (false, _) => 0,
            (true, false) => SESSION,
            (true, true) => SESSION + UNSENT,
        }
    }

    /// Sends the end; reading goes on.
    pub fn shutdown_write(&mut self) {
        let Conn { socket, tls } = self;
        match tls {
            None => socket.shutdown_write(),
            Some(tls) => tls.shutdown_write(socket),
        }
    }

    /// Says that the end is meant, before the connection is closed. For a plain one closing says it.
    pub fn send_close_notify(&mut self) {
        if self.tls.is_some() {
            self.shutdown_write();
        }
    }
}
