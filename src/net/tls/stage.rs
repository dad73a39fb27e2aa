//! The byte stage of one connection: plain bytes on one side, a socket with encrypted ones on the other.
//!
//! ```text
//!   handshake ──complete──► open ──close_notify──► ended      (a true end: the peer has said so)
//!       │                     └──anything else───► broken     (cut off, or not what was agreed)
//!       ├──failed──► broken
//!       └──a client that speaks plain HTTP──► turned away     (told so in plain HTTP, then not listened to)
//! ```
//!
//! Invariants:
//! 1. Nothing that came before the handshake was complete is ever read as content (rule S19): rustls gives none out.
//! 2. An end without close_notify is a failure and not an end, so that a body which the end delimits cannot be cut
//!    unnoticed (rule G11).
//! 3. Little waits inside: decrypted bytes up to two records, encrypted ones up to what one write made.
//! 4. Whatever rustls wants to send is sent as soon as the socket takes it, whoever else has something to say (rule M11).
//! 5. A failure of the socket is told once, whichever call met it.
//!
//! Encrypted bytes are read into the worker's pad, which all its connections share: an idle one owns no buffer here.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write};
use std::rc::Rc;

use rustls::Connection;

use crate::net::socket::{ReadOutcome, Socket, WriteOutcome};

use super::failure::Failure;

/// Where encrypted bytes are read to.
pub(super) type Pad = Rc<RefCell<Box<[u8]>>>;

/// What comes out of a full pad fills the worker's read buffer.
pub(super) const PAD: usize = 65 * 1024;
/// Less is not asked for: records that are read in pieces cost more.
const LEAST_READ: usize = 8 * 1024;
/// What a record adds to its content, at most, generously.
const OVERHEAD: usize = 1024;
/// What is encrypted at once, and while the peer is slow.
const MOST_WRITTEN: usize = 64 * 1024;
const SLOW_WRITE: usize = 16 * 1024;
/// How often one step of a handshake reads.
const STEP_READS: u32 = 4;

/// What a client hears that speaks plain HTTP to us.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 87\r\n\
    Connection: close\r\n\r\n\
    This port speaks HTTPS, and this request came in plain HTTP: begin its URL with https:\n";

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

/// How far reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The peer said that it sends no more; the reader has not heard of it.
    Ended,
    /// It failed; the reader has not heard of it.
    Broken,
    /// The reader has heard of it.
    Over,
    /// The client does not speak TLS. What it sends is thrown away, so that a reset does not overtake our answer.
    TurnedAway,
}

/// How far writing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// close_notify waits to be sent; FIN follows it.
    Closing,
    /// It failed; the writer has not heard of it.
    Broken,
    Over,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Something moved.
    Moved,
    /// Nothing did.
    Still,
    /// The peer takes no more, ever. Told once.
    Failed,
}

/// A byte stage.
pub struct Stage {
    session: Connection,
    pad: Pad,
    /// Encrypted bytes that the session had no room for.
    held: Vec<u8>,
    /// Decrypted bytes in the session that nobody has read.
    unread: usize,
    reading: Reading,
    writing: Writing,
    /// Why the handshake has failed.
    failure: Option<Failure>,
    /// Nothing was read yet.
    is_fresh: bool,
    /// A step of the handshake was done.
    effort: bool,
}

impl Stage {
    pub(super) fn new(session: Connection, pad: Pad) -> Stage {
        Stage {
            session,
            pad,
            held: Vec::new(),
            unread: 0,
            reading: Reading::Open,
            writing: Writing::Open,
            failure: None,
            is_fresh: true,
            effort: false,
        }
    }

    /// Whether a step of the handshake may be due.
    pub fn is_handshaking(&self) -> bool {
        self.reading == Reading::Open && self.session.is_handshaking()
    }

    /// Whether a step of the handshake was done since this was last asked.
    pub fn take_effort(&mut self) -> bool {
        std::mem::take(&mut self.effort)
    }

    /// Goes on with a handshake that we began.
    pub fn handshake(&mut self, socket: &mut Socket) -> Handshake {
        for _ in 0..STEP_READS {
            self.send_waiting(socket);
            if !self.session.is_handshaking() {
                return Handshake::Done;
            }
            match self.read(socket, &mut []) {
                ReadOutcome::Bytes(_) | ReadOutcome::Overhead(_) => {}
                ReadOutcome::Blocked => return Handshake::Waiting,
                ReadOutcome::Eof | ReadOutcome::Failed => {
                    return Handshake::Failed(self.failure.take().unwrap_or(Failure::CutOff));
                }
            }
        }
        if self.session.is_handshaking() { Handshake::Busy } else { Handshake::Done }
    }

    /// Why the handshake with a peer that is going to be left was never complete, if it had begun; told once.
    pub fn take_handshake_failure(&mut self) -> Option<Failure> {
        let has_begun = self.session.is_handshaking() && !std::mem::replace(&mut self.is_fresh, true);
        let is_our_doing = self.reading == Reading::Open;
        let otherwise = if is_our_doing { Failure::Unfinished } else { Failure::CutOff };
        has_begun.then(|| self.failure.take().unwrap_or(otherwise))
    }

    /// Whether a read may bring something.
    pub fn can_read(&self, socket: &Socket) -> bool {
        match self.reading {
            Reading::Open => self.unread > 0 || !self.held.is_empty() || socket.can_read(),
            Reading::Ended | Reading::Broken => true,
            Reading::TurnedAway => socket.can_read(),
            Reading::Over => false,
        }
    }

    /// Whether a write may succeed. Not while there is something left of the one before: what waits here is bounded by
    /// that.
    pub fn can_write(&self, socket: &Socket) -> bool {
        self.writing == Writing::Open
            && !self.session.is_handshaking()
            && !self.session.wants_write()
            && socket.can_write()
    }

    /// Reads once: what is decrypted already, or what one read of the socket gives.
    pub fn read(&mut self, socket: &mut Socket, buf: &mut [u8]) -> ReadOutcome {
        let len = self.take_unread(buf);
        if len > 0 {
            return ReadOutcome::Bytes(len);
        }
        match self.reading {
            Reading::Open => {}
            Reading::Ended | Reading::Broken => return self.tell_end(),
            Reading::Over => return ReadOutcome::Blocked,
            Reading::TurnedAway => return self.throw_away(socket),
        }
        let pad = Rc::clone(&self.pad);
        let pad = &mut **pad.borrow_mut();
        let came = if self.held.is_empty() {
            let most = (buf.len() + OVERHEAD).clamp(LEAST_READ, pad.len());
            match socket.read(&mut pad[..most]) {
                ReadOutcome::Bytes(len) | ReadOutcome::Overhead(len) => len,
                ReadOutcome::Blocked => return ReadOutcome::Blocked,
                // Without close_notify it is no end.
                ReadOutcome::Eof | ReadOutcome::Failed => {
                    self.reading = Reading::Broken;
                    return self.tell_end();
                }
            }
        } else {
            let len = self.held.len();
            pad[..len].copy_from_slice(&self.held);
            self.held = Vec::new();
            len
        };
        if std::mem::take(&mut self.is_fresh) && self.is_plain_http(&pad[..came]) {
            self.turn_away(socket);
            return ReadOutcome::Overhead(came);
        }
        self.effort |= self.session.is_handshaking();
        let len = self.digest(&pad[..came], buf);
        // Answers of the session's own: its part of the handshake, an alert.
        self.send_waiting(socket);
        match self.reading {
            _ if len > 0 => ReadOutcome::Bytes(len),
            Reading::Ended | Reading::Broken => self.tell_end(),
            Reading::Open | Reading::Over | Reading::TurnedAway => ReadOutcome::Overhead(came),
        }
    }

    /// The reader hears of the end.
    fn tell_end(&mut self) -> ReadOutcome {
        match std::mem::replace(&mut self.reading, Reading::Over) {
            Reading::Ended => ReadOutcome::Eof,
            Reading::Broken | Reading::Open | Reading::Over | Reading::TurnedAway => ReadOutcome::Failed,
        }
    }

    /// Decrypts `bytes`, as far as there is room in `buf` and a little in the session; what is left over is held.
    fn digest(&mut self, bytes: &[u8], buf: &mut [u8]) -> usize {
        let (mut fed, mut len) = (0, 0);
        while fed < bytes.len() {
            match self.session.read_tls(&mut &bytes[fed..]) {
                // After close_notify everything is ignored.
                Ok(0) => return len,
                Ok(taken) => fed += taken,
                // It is full: the reader has to take some first.
                Err(_) => break,
            }
            match self.session.process_new_packets() {
                Ok(state) => {
                    self.unread = state.plaintext_bytes_to_read();
                    if state.peer_has_closed() {
                        self.reading = Reading::Ended;
                    }
                    len += self.take_unread(&mut buf[len..]);
                }
                Err(error) => {
                    if self.session.is_handshaking() {
                        self.failure = Some(Failure::of(error, self.session.negotiated_cipher_suite().is_some()));
                    }
                    self.reading = Reading::Broken;
                    return len + self.take_unread(&mut buf[len..]);
                }
            }
        }
        self.held.extend_from_slice(&bytes[fed..]);
        len
    }

    /// What is decrypted already.
    fn take_unread(&mut self, buf: &mut [u8]) -> usize {
        // An error says that there is nothing, or nothing any more; that is known here without it.
        let len = if buf.is_empty() { 0 } else { self.session.reader().read(buf).unwrap_or(0) };
        self.unread = self.unread.saturating_sub(len);
        len
    }

    /// Encrypts and writes. Bytes that are taken are as good as sent: what the socket does not take now, it gets as soon
    /// as it can.
    pub fn write(&mut self, socket: &mut Socket, bytes: &[u8]) -> WriteOutcome {
        if socket.is_write_over() {
            self.writing = Writing::Over;
            return WriteOutcome::Failed;
        }
        if !self.can_write(socket) {
            return WriteOutcome::Blocked;
        }
        let most = if socket.is_slow() { SLOW_WRITE } else { MOST_WRITTEN };
        let taken = self.session.writer().write(&bytes[..bytes.len().min(most)]);
        match (self.flush(socket), taken) {
            (Flushed::Moved | Flushed::Still, Ok(taken)) if taken > 0 => WriteOutcome::Bytes(taken),
            // The keys are used up, or the peer is gone.
            (Flushed::Moved | Flushed::Still | Flushed::Failed, Ok(_) | Err(_)) => WriteOutcome::Failed,
        }
    }

    /// Writes what waits, as far as the socket takes it (rule M11). That took the error out of the socket, if there was
    /// one: nobody else will see it, so this has to tell (rule G12).
    pub fn flush(&mut self, socket: &mut Socket) -> Flushed {
        let moved = self.send_waiting(socket);
        match self.writing {
            Writing::Broken => {
                self.writing = Writing::Over;
                Flushed::Failed
            }
            Writing::Open | Writing::Closing | Writing::Over if moved => Flushed::Moved,
            Writing::Open | Writing::Closing | Writing::Over => Flushed::Still,
        }
    }

    /// What [`Stage::flush`] does, but that nobody hears of a failure yet.
    fn send_waiting(&mut self, socket: &mut Socket) -> bool {
        let mut moved = false;
        while self.session.wants_write() && socket.can_write() {
            match self.session.write_tls(&mut Wire(socket)) {
                Ok(len) if len > 0 => moved = true,
                Ok(_) => break,
                Err(_) => {
                    if socket.is_write_over() {
                        self.writing = Writing::Broken;
                    }
                    break;
                }
            }
        }
        if self.writing == Writing::Closing && !self.session.wants_write() {
            socket.shutdown_write();
            self.writing = Writing::Over;
            moved = true;
        }
        moved
    }

    /// Whether something waits that the socket may still take.
    pub fn has_unsent(&self, socket: &Socket) -> bool {
        self.session.wants_write() && !socket.is_write_over()
    }

    /// Whether writing has failed, and nobody has heard of it.
    pub fn has_write_failure(&self) -> bool {
        self.writing == Writing::Broken
    }

    /// Whether reading has failed, and nobody has heard of it; told once.
    pub fn take_read_failure(&mut self) -> bool {
        let is_broken = self.reading == Reading::Broken;
        if is_broken {
            self.reading = Reading::Over;
        }
        is_broken
    }

    /// Sends close_notify, then FIN. Reading goes on: a tunnel may be open in one direction only.
    pub fn shutdown_write(&mut self, socket: &mut Socket) {
        if self.writing == Writing::Open {
            self.session.send_close_notify();
            self.writing = Writing::Closing;
            self.send_waiting(socket);
        }
    }

    /// The connection is going to be closed, and that is no accident.
    pub fn say_goodbye(&mut self, socket: &mut Socket) {
        if !self.session.is_handshaking() {
            self.shutdown_write(socket);
        }
    }

    /// A method begins with a letter, a TLS handshake with the byte 22.
    fn is_plain_http(&self, bytes: &[u8]) -> bool {
        matches!(self.session, Connection::Server(_)) && bytes.first().is_some_and(u8::is_ascii_uppercase)
    }

    fn turn_away(&mut self, socket: &mut Socket) {
        // The socket is new: it takes all of this, or there is nobody.
        let _ = socket.write(PLAIN_ANSWER);
        socket.shutdown_write();
        self.failure = Some(Failure::PlainHttp);
        self.reading = Reading::TurnedAway;
        self.writing = Writing::Over;
    }

    fn throw_away(&mut self, socket: &mut Socket) -> ReadOutcome {
        let pad = Rc::clone(&self.pad);
        match socket.read(&mut pad.borrow_mut()) {
            ReadOutcome::Bytes(len) | ReadOutcome::Overhead(len) => ReadOutcome::Overhead(len),
            ReadOutcome::Blocked => ReadOutcome::Blocked,
            ReadOutcome::Eof | ReadOutcome::Failed => {
                self.reading = Reading::Over;
                ReadOutcome::Eof
            }
        }
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage")
            .field("reading", &self.reading)
            .field("writing", &self.writing)
            .field("is_handshaking", &self.session.is_handshaking())
            .finish_non_exhaustive()
    }
}

/// A socket as rustls writes to it.
struct Wire<'a>(&'a mut Socket);

impl Wire<'_> {
    fn result(outcome: WriteOutcome) -> io::Result<usize> {
        match outcome {
            WriteOutcome::Bytes(len) => Ok(len),
            WriteOutcome::Blocked => Err(ErrorKind::WouldBlock.into()),
            WriteOutcome::Failed => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Wire::result(self.0.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            // `send` costs less than `writev`.
            [one] => self.write(one),
            many => Wire::result(self.0.write_slices(many)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
