//! One non-blocking socket with what is known of its readiness.
//!
//! A socket is registered once, edge-triggered, and a client's once more when it is first full; after that this file
//! remembers what `epoll` said. A flag is set by an event and cleared only by `WouldBlock`, or by a read that got less than
//! it asked for: then the socket is drained, and the next byte brings a new event (rule M1). Every event may be spurious
//! and every call may be interrupted (rule M3). What the peer's closing looks like to the poller is only a hint; the truth
//! is a read of nothing, or an error (rule M8).

use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bitflags::bitflags;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Socket as AnySocket, TcpKeepalive};

/// What the kernel may hold of what was not even sent yet.
///
/// Left alone it takes some megabytes for each connection that was fast once, and calls the socket writable again only
/// when a third of them is gone. A reader that has become slow but reads on would look as if it did not, and slow readers
/// would cost memory that nobody counts (rule E4).
const MAX_UNSENT: u32 = 128 * 1024;
/// The same for a receiver that takes large pieces through a pipe. With the shorter queue a body of 1 GiB costs half as
/// much again: the pipe is full before the queue is empty.
const MAX_UNSENT_BULK: u32 = 1024 * 1024;

/// A receiver is first given so much through a pipe at once; after every `WINDOW_STEPS` times that it took all, twice as much,
/// and each time that it did not, half.
const FIRST_WINDOW: usize = 16 * 1024;
const WINDOW_STEPS: u8 = 4;
/// Up to 1 MiB. Measured with a body of 1 GiB: CPU is 0.27 s with pieces of up to 1 MiB, 0.30 s with 512 KiB, and 0.50 s
/// with 256 KiB and the shorter queue in the kernel.
const MAX_STEPS: u8 = 6 * WINDOW_STEPS;
/// After so many whole writes a receiver counts as fast.
const FAST_WRITES: u8 = 64;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Blocked,
    /// So many bytes came, but none for the reader: they belong to a handshake, or to a record that is not complete.
    Overhead(usize),
    /// The peer sends no more.
    Eof,
    /// The connection is broken.
    Failed,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// So many bytes were taken, at least one.
    Bytes(usize),
    /// None now.
    Blocked,
    /// The peer takes no more, ever.
    Failed,
}

impl WriteOutcome {
    /// How many bytes were taken.
    pub fn written(self) -> usize {
        if let WriteOutcome::Bytes(len) = self { len } else { 0 }
    }
}

bitflags! {
    /// What is remembered of a socket, and what the poller says of it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SocketFlags: u16 {
        /// A read may bring something.
        const READABLE = 1;
        /// A write may succeed.
        const WRITABLE = 1 << 1;
        /// The poller saw the peer's end: what waits in the kernel is all that comes, and a short read does not mean drained
        /// any more, the end comes right behind it.
        const RDHUP = 1 << 2;
        /// The poller saw an error that was not looked at.
        const ERROR = 1 << 3;
        /// The end was read, or reading failed.
        const READ_CLOSED = 1 << 4;
        /// Writing failed, or we said that we write no more.
        const WRITE_CLOSED = 1 << 5;
        /// The last read brought as much as it asked for: more is likely to wait.
        const READ_FULL = 1 << 6;
        /// Registered for reading.
        const REGISTERED = 1 << 7;
        /// Registered for writing too.
        const REGISTERED_TO_WRITE = 1 << 8;
        /// It is to be closed with a reset.
        const RESET = 1 << 9;
    }
}

impl SocketFlags {
    /// What `event` says.
    pub fn of(event: &Event) -> SocketFlags {
        let mut flags = SocketFlags::empty();
        flags.set(SocketFlags::READABLE, event.is_readable() || event.is_read_closed() || event.is_error());
        flags.set(SocketFlags::WRITABLE, event.is_writable() || event.is_error());
        flags.set(SocketFlags::RDHUP, event.is_read_closed() || event.is_error());
        flags.set(SocketFlags::ERROR, event.is_error());
        flags
    }
}

/// What can be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// In a network.
    Tcp(SocketAddr),
    /// The path of a unix stream socket.
    Unix(Arc<str>),
}

impl Address {
    /// `None` for a unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        if let Address::Tcp(address) = self { Some(*address) } else { None }
    }
}

/// A socket, TCP or local, and its readiness.
#[derive(Debug)]
pub struct Socket {
    fd: AnySocket,
    flags: SocketFlags,
    /// How far its window has come from [`FIRST_WINDOW`].
    window_steps: u8,
    /// Whole writes since the last one that was not.
    full_writes: u8,
    /// What had not arrived when a write was last left unfinished, or when [`Socket::has_drained`] was last asked.
    unacked: u32,
}

impl Socket {
    fn new(fd: OwnedFd, flags: SocketFlags) -> Socket {
        Socket { fd: fd.into(), flags, window_steps: 0, full_writes: 1, unacked: 0 }
    }

    /// A socket that was just accepted: worth a try in both directions before the poller is asked.
    pub fn accepted(fd: OwnedFd) -> Socket {
        Socket::new(fd, SocketFlags::READABLE | SocketFlags::WRITABLE)
    }

    /// The address of our end; `None` on a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.fd.local_addr().ok()?.as_socket()
    }

    /// Begins to connect. The socket is of no use before [`Socket::finish_connect`] says so.
    pub fn connect(address: &Address) -> io::Result<Socket> {
        #[cfg(test)]
        if let Some(fd) = super::loop_faults::connect() {
            return Ok(Socket::new(fd?, SocketFlags::empty()));
        }
        let fd = match address {
            Address::Tcp(address) => mio::net::TcpStream::connect(*address)?.into(),
            Address::Unix(path) => mio::net::UnixStream::connect(&**path)?.into(),
        };
        Ok(Socket::new(fd, SocketFlags::empty()))
    }

    /// Whether the attempt to connect is over; pending where the event was spurious. An error waits in the socket; without
    /// one, only an address of the peer proves that there is a connection (rule M7).
    pub fn finish_connect(&mut self) -> Poll<io::Result<()>> {
        let result = match self.fd.take_error() {
            Ok(None) => self.fd.peer_addr().map(drop),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
            Ok(()) => {}
        }
        set_tcp_options(&self.fd);
        self.flags |= SocketFlags::WRITABLE;
        Poll::Ready(Ok(()))
    }

    /// Registers for reading, and for writing where that would not succeed now: a fresh client's socket is writable, and
    /// the poller would say so in an event that nobody needs.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = if self.can_write() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let fd = self.fd.as_raw_fd();
        if self.has(SocketFlags::REGISTERED) {
            registry.reregister(&mut SourceFd(&fd), token, interest)?;
        } else {
            registry.register(&mut SourceFd(&fd), token, interest)?;
        }
        self.flags |= SocketFlags::REGISTERED;
        self.flags.set(SocketFlags::REGISTERED_TO_WRITE, interest.is_writable());
        #[cfg(test)]
        super::loop_faults::registered(fd, token);
        Ok(())
    }

    /// Whether an event that is waited for would not come without [`Socket::register`]. Once it is registered for both
    /// directions it stays so: a slow peer costs one call more, and never two.
    pub fn needs_registering(&self) -> bool {
        let is_blocked = !self.flags.intersects(SocketFlags::WRITABLE | SocketFlags::WRITE_CLOSED);
        !self.has(SocketFlags::REGISTERED) || (is_blocked && !self.has(SocketFlags::REGISTERED_TO_WRITE))
    }

    /// Remembers what the poller said.
    pub fn on_event(&mut self, readiness: SocketFlags) {
        self.flags |= readiness;
    }

    /// Whether a read may bring something.
    pub fn can_read(&self) -> bool {
        self.flags & (SocketFlags::READABLE | SocketFlags::READ_CLOSED) == SocketFlags::READABLE
    }

    /// Whether a write may succeed.
    pub fn can_write(&self) -> bool {
        self.flags & (SocketFlags::WRITABLE | SocketFlags::WRITE_CLOSED) == SocketFlags::WRITABLE
    }

    /// Whether that is known of it.
    pub fn has(&self, flag: SocketFlags) -> bool {
        self.flags.contains(flag)
    }

    /// Whether the peer has left a write unfinished since the last one that went through.
    pub fn is_slow(&self) -> bool {
        self.full_writes == 0
    }

    /// Whether the peer has taken everything for a while.
    pub fn is_fast(&self) -> bool {
        self.full_writes >= FAST_WRITES
    }

    /// How much to give it through a pipe at once.
    pub fn splice_window(&self) -> usize {
        FIRST_WINDOW << (self.window_steps / WINDOW_STEPS)
    }

    /// Reads once.
    pub fn read(&mut self, buf: &mut [u8]) -> ReadOutcome {
        let len = buf.len();
        self.read_with(len, |fd| Ok(recv(fd, &mut *buf, RecvFlags::empty())?.0))
    }

    /// Looks at what comes next without taking it.
    pub fn peek(&mut self, buf: &mut [u8]) -> ReadOutcome {
        let (before, len) = (self.flags, buf.len());
        let outcome = self.read_with(len, |fd| Ok(recv(fd, &mut *buf, RecvFlags::PEEK)?.0));
        if outcome != ReadOutcome::Blocked {
            // It is still there, or what is left of it: after an error, the end.
            self.flags = before;
        }
        outcome
    }

    /// Reads once with `read`, which is asked for at most `max` bytes.
    pub fn read_with(&mut self, max: usize, mut read: impl FnMut(&AnySocket) -> io::Result<usize>) -> ReadOutcome {
        loop {
            match self.inject_fault().and_then(|()| read(&self.fd)) {
                Ok(0) => {
                    self.flags |= SocketFlags::READ_CLOSED;
                    return ReadOutcome::Eof;
                }
                Ok(len) => {
                    self.flags.set(SocketFlags::READ_FULL, len >= max);
                    if len < max && !self.has(SocketFlags::RDHUP) {
                        self.flags -= SocketFlags::READABLE;
                    }
                    return ReadOutcome::Bytes(len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.flags -= SocketFlags::READABLE;
                    return ReadOutcome::Blocked;
                }
                Err(_) => {
                    self.flags |= SocketFlags::READ_CLOSED;
                    return ReadOutcome::Failed;
                }
            }
        }
    }

    /// Writes once. After a failure nothing is written any more, and a read is due: it tells what became of the peer.
    pub fn write(&mut self, bytes: &[u8]) -> WriteOutcome {
        self.write_with(bytes.len(), |fd| Ok(send(fd, bytes, SendFlags::NOSIGNAL)?))
    }

    /// The same with bytes that lie in several places.
    pub fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> WriteOutcome {
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.write_with(len, |mut fd| fd.write_vectored(slices))
    }

    /// Writes `len` bytes once with `write`.
    pub fn write_with(&mut self, len: usize, mut write: impl FnMut(&AnySocket) -> io::Result<usize>) -> WriteOutcome {
        loop {
            match self.inject_fault().and_then(|()| write(&self.fd)) {
                Ok(taken) if taken > 0 || len == 0 => {
                    self.full_writes = self.full_writes.saturating_add(1);
                    if taken < len {
                        self.left_unfinished();
                    }
                    return WriteOutcome::Bytes(taken);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.flags -= SocketFlags::WRITABLE;
                    self.left_unfinished();
                    return WriteOutcome::Blocked;
                }
                Ok(_) | Err(_) => {
                    self.flags |= SocketFlags::WRITE_CLOSED | SocketFlags::READABLE;
                    return WriteOutcome::Failed;
                }
            }
        }
    }

    /// A receiver that takes whole windows is given larger ones, and then a long queue in the kernel too, until it takes only
    /// the smallest again.
    pub fn adapt_window(&mut self, has_taken_all: bool) {
        let before = self.window_steps;
        self.window_steps =
            if has_taken_all { (before + 1).min(MAX_STEPS) } else { before.saturating_sub(WINDOW_STEPS) };
        let max_unsent = match self.window_steps {
            MAX_STEPS if before < MAX_STEPS => MAX_UNSENT_BULK,
            0 if before > 0 => MAX_UNSENT,
            _ => return,
        };
        let _ = self.fd.set_tcp_notsent_lowat(max_unsent);
    }

    fn left_unfinished(&mut self) {
        self.full_writes = 0;
        self.unacked = self.unacked();
    }

    /// Whether closing it now would take back bytes that were written: a reset does.
    pub fn would_lose_bytes(&self) -> bool {
        self.has(SocketFlags::RESET) && self.unacked() > 0
    }

    /// How many bytes that were written have not arrived: not acknowledged (TCP) or not read (a local socket), as far as the
    /// system says it. A reader of 2 kB/s makes room for the next write once a minute; whether it reads on, only the kernel
    /// knows.
    #[allow(unsafe_code, reason = "no crate offers this request of ioctl(2) safely")]
    fn unacked(&self) -> u32 {
        let mut count: libc::c_int = 0;
        // SAFETY: for a socket this request (SIOCOUTQ, which has the same number) writes one int to where the pointer leads,
        // and keeps nothing of it; the descriptor is ours, and so open.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
        if result == 0 { u32::try_from(count).unwrap_or(0) } else { 0 }
    }

    /// Whether any have arrived since a write was left unfinished, or since this was last asked.
    pub fn has_drained(&mut self) -> bool {
        let now = self.unacked();
        std::mem::replace(&mut self.unacked, now) > now
    }

    /// In tests: now and then the error that a call might give as well.
    fn inject_fault(&self) -> io::Result<()> {
        #[cfg(test)]
        return super::loop_faults::inject_fault(self.fd.as_raw_fd()).map_or(Ok(()), Err);
        #[cfg(not(test))]
        Ok(())
    }

    /// Whether the connection is known to be broken, without reading: asked when the poller saw an error and nothing is to
    /// be read. The error is taken out of the socket, so this says yes once.
    pub fn is_broken(&mut self) -> bool {
        if !self.has(SocketFlags::ERROR) {
            return false;
        }
        self.flags -= SocketFlags::ERROR;
        let is_broken = !matches!(self.fd.take_error(), Ok(None));
        if is_broken {
            self.flags |= SocketFlags::READ_CLOSED | SocketFlags::WRITE_CLOSED;
        }
        is_broken
    }

    /// Whether the peer's end is all that there is left to read. It counts as read then.
    pub fn has_ended(&mut self) -> bool {
        let has_ended = self.has(SocketFlags::RDHUP)
            && !self.has(SocketFlags::READ_CLOSED)
            && matches!(recv(&self.fd, &mut [0; 1][..], RecvFlags::PEEK), Ok((0, _)));
        if has_ended {
            self.flags |= SocketFlags::READ_CLOSED;
        }
        has_ended
    }

    /// Sends FIN; reading goes on.
    pub fn shutdown_write(&mut self) {
        // It fails where the peer is gone already: that is known from reading.
        let _ = self.fd.shutdown(Shutdown::Write);
        self.flags |= SocketFlags::WRITE_CLOSED;
    }

    /// Makes the closing a reset, so that the peer can tell that something is missing. A local socket just closes.
    pub fn reset_on_close(&mut self) {
        let is_local = self.fd.domain().is_ok_and(|domain| domain == Domain::UNIX);
        self.flags.set(SocketFlags::RESET, !is_local);
        let _ = self.fd.set_linger(Some(Duration::ZERO));
    }
}

/// The options of every connection; those from clients inherit them from the listening socket. Where one is refused, the
/// connection works all the same.
pub fn set_tcp_options(socket: &AnySocket) {
    // A small request must not wait for the acknowledgement of the one before it.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT);
    // A tunnel or a stream of events may be silent for hours, and a host that is switched off says nothing: so the kernel asks
    // an idle peer whether it is still there, and within two minutes that is known.
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    let _ = socket.set_tcp_keepalive(&probes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::Events;
    use socket2::SockRef;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream as StdStream};

    const TOKEN: Token = Token(7);

    fn pair() -> (Socket, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peer = StdStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nonblocking(true).expect("a socket");
        (Socket::accepted(stream.into()), peer)
    }

    /// Waits until `done`, feeding events to `conn`.
    fn wait(poll: &mut mio::Poll, conn: &mut Socket, done: impl Fn(&Socket) -> bool) {
        let mut events = Events::with_capacity(8);
        while !done(conn) {
            poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
            assert!(!events.is_empty(), "no event in five seconds");
            events.iter().for_each(|event| conn.on_event(SocketFlags::of(event)));
        }
    }

    #[test]
    fn m1_a_short_read_or_would_block_clears_readable_and_a_new_byte_sets_it() {
        let (mut conn, mut peer) = pair();
        let mut buf = [0; 8];
        assert_eq!(conn.read(&mut buf), ReadOutcome::Blocked, "fresh: tried without an event");
        assert!(!conn.can_read());
        let mut poll = mio::Poll::new().expect("poll");
        conn.register(poll.registry(), TOKEN).expect("register");
        peer.write_all(b"abcdefghij").expect("write");
        wait(&mut poll, &mut conn, Socket::can_read);
        assert_eq!(conn.read(&mut buf), ReadOutcome::Bytes(8));
        assert!(conn.can_read(), "a full buffer: more may wait");
        assert_eq!(conn.read(&mut buf), ReadOutcome::Bytes(2));
        assert!(!conn.can_read(), "a short read: drained");
        peer.write_all(b"k").expect("write");
        wait(&mut poll, &mut conn, Socket::can_read);
        assert_eq!(conn.read(&mut buf), ReadOutcome::Bytes(1));
    }

    /// A write time-out depends on it: a slow reader takes bytes for a long time before the socket is writable again.
    #[test]
    fn a_slow_reader_is_noticed_although_the_socket_is_not_writable() {
        let listener = AnySocket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(1).expect("a listener");
        let peer = AnySocket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        peer.set_recv_buffer_size(16 * 1024).expect("an option");
        peer.connect(&listener.local_addr().expect("bound")).expect("loopback");
        let mut peer = StdStream::from(peer);
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_send_buffer_size(200 * 1024).expect("an option");
        stream.set_nonblocking(true).expect("a socket");
        let mut conn = Socket::accepted(stream.into());
        let mut poll = mio::Poll::new().expect("poll");
        while conn.write(&[b'x'; 16 * 1024]) != WriteOutcome::Blocked {}
        conn.register(poll.registry(), TOKEN).expect("register");
        assert!(!conn.has_drained(), "nobody has read");

        let until = std::time::Instant::now() + Duration::from_secs(5);
        let mut taken = 0;
        while !conn.has_drained() {
            assert!(std::time::Instant::now() < until, "nothing was noticed in five seconds");
            if taken < 24 * 1024 {
                taken += peer.read(&mut [0; 4096]).expect("it was sent");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).expect("poll");
        events.iter().for_each(|event| conn.on_event(SocketFlags::of(event)));
        assert!(!conn.can_write(), "no event says it");
    }

    #[test]
    fn what_the_peer_has_not_taken_is_counted_for_local_sockets_too() {
        let (one, mut other) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        let mut conn = Socket::accepted(one.into());
        assert_eq!(conn.unacked(), 0);
        assert_eq!(conn.write(b"hello"), WriteOutcome::Bytes(5));
        assert!(conn.unacked() > 0);
        other.read_exact(&mut [0; 5]).expect("five bytes");
        assert_eq!(conn.unacked(), 0);
    }

    #[test]
    fn m3_a_spurious_event_costs_one_look() {
        let (mut conn, mut peer) = pair();
        let mut poll = mio::Poll::new().expect("poll");
        conn.register(poll.registry(), TOKEN).expect("register");
        for _ in 0..3 {
            conn.on_event(SocketFlags::READABLE | SocketFlags::WRITABLE | SocketFlags::ERROR);
            assert_eq!(conn.read(&mut [0; 8]), ReadOutcome::Blocked);
            assert!(!conn.can_read());
            assert!(!conn.is_broken());
        }
        peer.write_all(b"x").expect("write");
        wait(&mut poll, &mut conn, Socket::can_read);
        assert_eq!(conn.read(&mut [0; 8]), ReadOutcome::Bytes(1));
    }

    #[test]
    fn m8_bytes_and_end_in_one_event_are_both_read() {
        let (mut conn, mut peer) = pair();
        let mut buf = [0; 64];
        let mut poll = mio::Poll::new().expect("poll");
        peer.write_all(b"last words").expect("write");
        peer.shutdown(Shutdown::Write).expect("shutdown");
        assert!(!conn.has(SocketFlags::RDHUP));
        conn.register(poll.registry(), TOKEN).expect("register");
        wait(&mut poll, &mut conn, |conn| conn.has(SocketFlags::RDHUP));
        assert!(!conn.has_ended(), "there are bytes before it");
        assert_eq!(conn.read(&mut buf), ReadOutcome::Bytes(10));
        assert!(conn.can_read(), "the short read does not hide the end");
        assert_eq!(conn.read(&mut buf), ReadOutcome::Eof);
        assert!(!conn.can_read(), "the end is read once");
        assert!(conn.can_write(), "a half-closed peer still listens");
    }

    #[test]
    fn e4_an_end_with_nothing_before_it_is_noticed_without_reading_and_told_once() {
        let (mut conn, peer) = pair();
        let mut poll = mio::Poll::new().expect("poll");
        assert!(!conn.has_ended());
        conn.register(poll.registry(), TOKEN).expect("register");
        peer.shutdown(Shutdown::Write).expect("shutdown");
        wait(&mut poll, &mut conn, |conn| conn.has(SocketFlags::RDHUP));
        assert!(conn.has_ended());
        assert!(!conn.has_ended() && !conn.can_read());
    }

    #[test]
    fn m1_would_block_clears_writable_until_the_peer_reads() {
        let (mut conn, mut peer) = pair();
        let mut poll = mio::Poll::new().expect("poll");
        assert!(conn.needs_registering());
        conn.register(poll.registry(), TOKEN).expect("register");
        assert!(!conn.needs_registering());
        let block = vec![0; 1 << 20];
        let mut total = 0;
        while conn.can_write() {
            if let WriteOutcome::Bytes(len) = conn.write(&block) {
                total += len;
            }
        }
        assert!(conn.is_slow());
        let mut read = vec![0; 1 << 20];
        while total > 0 {
            total -= peer.read(&mut read).expect("read");
        }
        // That there is room again already does not matter: registering looks (rule M2).
        assert!(conn.needs_registering(), "for reading only until now");
        conn.register(poll.registry(), TOKEN).expect("register");
        wait(&mut poll, &mut conn, Socket::can_write);
        assert_eq!(conn.write(b"x"), WriteOutcome::Bytes(1));
        assert!(!conn.is_slow());
        while conn.can_write() {
            conn.write(&block);
        }
        assert!(!conn.needs_registering(), "for both directions now, and for good");
    }

    #[test]
    fn m8_a_reset_is_not_an_end() {
        let (mut conn, peer) = pair();
        let mut poll = mio::Poll::new().expect("poll");
        conn.register(poll.registry(), TOKEN).expect("register");
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(peer);
        wait(&mut poll, &mut conn, |conn| conn.has(SocketFlags::ERROR));
        assert!(conn.is_broken());
        assert!(!conn.is_broken(), "told once");
        assert!(!conn.can_read() && !conn.can_write());
    }

    #[test]
    fn m8_a_failed_write_leads_to_a_read_that_tells_why() {
        let (mut conn, peer) = pair();
        let mut poll = mio::Poll::new().expect("poll");
        conn.register(poll.registry(), TOKEN).expect("register");
        assert_eq!(conn.read(&mut [0; 8]), ReadOutcome::Blocked);
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(peer);
        wait(&mut poll, &mut conn, Socket::can_read);
        assert_eq!(conn.write(b"x"), WriteOutcome::Failed);
        assert!(!conn.can_write());
        assert!(conn.can_read());
    }

    #[test]
    fn m7_a_refused_attempt_is_told_from_one_that_waits_and_one_that_succeeded() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = Address::Tcp(listener.local_addr().expect("bound"));
        let mut poll = mio::Poll::new().expect("poll");
        let mut conn = Socket::connect(&address).expect("a socket");
        conn.register(poll.registry(), TOKEN).expect("register");
        wait(&mut poll, &mut conn, |conn| conn.has(SocketFlags::WRITABLE));
        assert!(matches!(conn.finish_connect(), Poll::Ready(Ok(()))));
        drop(listener);
        // Nobody listens there any more.
        let mut conn = Socket::connect(&address).expect("a socket");
        conn.register(poll.registry(), TOKEN).expect("register");
        let mut events = Events::with_capacity(8);
        let refused = loop {
            match conn.finish_connect() {
                Poll::Pending => poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll"),
                Poll::Ready(Ok(())) => break false,
                Poll::Ready(Err(error)) => break error.kind() == ErrorKind::ConnectionRefused,
            }
        };
        assert!(refused);
    }
}
