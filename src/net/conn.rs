//! One connection as the rest of the loop sees it: a socket, and where the peer speaks TLS a layer in front of it.
//!
//! ```text
//!   exchange ◄── plain bytes ──► [ TLS layer ] ◄── cipher bytes ──► socket
//! ```
//!
//! Everyone else asks the same questions of both kinds: may I read, may I write, read, write, say that no more comes. What
//! TLS adds is that bytes may wait between the two (rule M11): decrypted ones that nobody has read, and encrypted ones
//! that the socket did not take. So "can read" and "can write" are answered here and not by the socket's readiness alone,
//! and [`Conn::flush`] has to be called whenever the socket may have become writable, whether or not anybody has
//! something to say.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::Poll;

use mio::{Registry, Token};

pub use super::socket::{ConnectOutcome, ReadOutcome, Readiness, Socket, WriteOutcome, limit_unsent, probe_when_idle};

use super::tls::{HandshakeError, TlsLayer};

/// What a TLS session owns while it rests, and what waits in it for a slow peer.
const SESSION: usize = 12 * 1024;
const UNSENT: usize = 32 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// What is asked of it passes the TLS session by.
    pub(super) socket: Socket,
    /// Boxed: most connections are idle, and many are plain.
    tls: Option<Box<dyn TlsLayer>>,
}

impl Conn {
    /// A socket that was just accepted: worth a try in both directions before anyone asks the poller.
    pub fn accepted(fd: OwnedFd) -> Conn {
        Conn { socket: Socket::accepted(fd), tls: None }
    }

    /// Begins to connect. The socket is of no use before [`Conn::finish_connect`] says so.
    pub fn connect(address: SocketAddr) -> io::Result<Conn> {
        Ok(Conn { socket: Socket::connect(address)?, tls: None })
    }

    /// Tells whether the attempt to connect is over (rule M7).
    pub fn finish_connect(&mut self) -> ConnectOutcome {
        self.socket.finish_connect()
    }

    /// From now on nothing passes but through `tls`.
    pub fn secure(&mut self, tls: Box<dyn TlsLayer>) {
        self.tls = Some(tls);
    }

    /// Whether TLS is spoken.
    pub fn is_secured(&self) -> bool {
        self.tls.is_some()
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

    /// Registers for reading, and for writing where that would not succeed now.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token)
    }

    /// Remembers what the poller said.
    pub fn on_event(&mut self, readiness: Readiness) {
        self.socket.on_event(readiness);
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

    /// Looks at what comes next on the socket, without taking it and past TLS.
    pub fn peek(&mut self, buf: &mut [u8]) -> ReadOutcome {
        self.socket.peek(buf)
    }

    /// Whether what waits in the kernel is all that comes.
    pub fn is_end_in_sight(&self) -> bool {
        self.socket.is_end_in_sight()
    }

    /// Reads once, past TLS: what stands before a handshake.
    pub fn read_raw(&mut self, buf: &mut [u8]) -> ReadOutcome {
        self.socket.read(buf)
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

    /// The socket itself, where nothing stands in front of it.
    pub fn bare(&mut self) -> Option<&mut Socket> {
        match self.tls {
            None => Some(&mut self.socket),
            Some(_) => None,
        }
    }

    /// Writes once what lies in two places; for a bare socket.
    pub fn write_both(&mut self, first: &[u8], second: &[u8]) -> WriteOutcome {
        self.socket.write_slices(&[IoSlice::new(first), IoSlice::new(second)])
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
        match (self.is_secured(), self.needs_flush()) {
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
    pub fn say_goodbye(&mut self) {
        if self.is_secured() {
            self.shutdown_write();
        }
    }
}
