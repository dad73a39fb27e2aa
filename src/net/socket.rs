//! One non-blocking socket with what is known of its readiness.
//!
//! A socket is registered once, edge-triggered, and a client's once more when it is first full; after that this file
//! remembers what `epoll` said. A bit is set by an event and cleared only by `WouldBlock`, or by a read that got less than
//! it asked for: then the socket is drained, and the next byte brings a new event (rule M1). Every event may be spurious
//! and every call may be interrupted (rule M3). What the peer's closing looks like to the poller is only a hint; the truth
//! is a read of nothing, or an error (rule M8).

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{SockRef, Socket as AnySocket, TcpKeepalive};

use super::splice::{self, Pipe};
use super::unsent::unsent;

/// A connected (or connecting) socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, either family.
    Tcp(TcpStream),
    /// A local socket.
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A piece that is worth a trip through a pipe: for less, two calls cost more than copying.
const WORTHWHILE: usize = 16 * 1024;

/// What a receiver is first given through a pipe at once. After every [`STEPS`] times that it took all it is given twice
/// as much, each time that it did not half.
const FIRST_REACH: usize = 16 * 1024;
const STEPS: u8 = 4;
/// Up to 1 MiB. Measured with a body of 1 GiB: CPU is 0.27 s with pieces of up to 1 MiB, 0.30 s with 512 KiB, and 0.50 s
/// with 256 KiB and the kernel's queue as short as it is for everybody else.
const MOST_STEPS: u8 = 6 * STEPS;

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

/// How an attempt to connect stands.
#[derive(Debug)]
pub enum ConnectOutcome {
    /// It succeeded.
    Connected,
    /// Not decided yet: the event was spurious.
    Waiting,
    /// It failed.
    Failed(io::Error),
}

/// What is remembered of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bits(u16);

impl Bits {
    const READABLE: u16 = 1;
    const WRITABLE: u16 = 1 << 1;
    /// The poller saw the peer's end: a short read does not mean drained any more, the end comes right behind it.
    const END_IN_SIGHT: u16 = 1 << 2;
    /// The end was read, or reading failed.
    const READ_OVER: u16 = 1 << 3;
    /// Writing failed, or we said that we write no more.
    const WRITE_OVER: u16 = 1 << 4;
    /// The poller saw an error.
    const TROUBLE: u16 = 1 << 5;
    const REGISTERED: u16 = 1 << 6;
    /// Registered for writing too.
    const REGISTERED_TO_WRITE: u16 = 1 << 8;
    /// It is to be closed with a reset.
    const RESET: u16 = 1 << 9;
    /// The last read brought as much as it asked for: more is likely to wait.
    const ABUNDANT: u16 = 1 << 7;

    fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }
    fn set(&mut self, bits: u16) {
        self.0 |= bits;
    }
    fn clear(&mut self, bits: u16) {
        self.0 &= !bits;
    }
}

/// What the poller says of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(Bits);

impl Readiness {
    /// Everything at once; it may be wrong (rule M3).
    #[cfg(test)]
    pub const ALL: Readiness = Readiness(Bits(Bits::READABLE | Bits::WRITABLE | Bits::END_IN_SIGHT | Bits::TROUBLE));

    /// What `event` says.
    pub fn of(event: &Event) -> Readiness {
        let mut bits = Bits::default();
        if event.is_readable() {
            bits.set(Bits::READABLE);
        }
        if event.is_writable() {
            bits.set(Bits::WRITABLE);
        }
        if event.is_read_closed() {
            bits.set(Bits::READABLE | Bits::END_IN_SIGHT);
        }
        if event.is_error() {
            bits.set(Bits::READABLE | Bits::WRITABLE | Bits::END_IN_SIGHT | Bits::TROUBLE);
        }
        Readiness(bits)
    }
}

/// A socket and its readiness.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    bits: Bits,
    /// How far it has come from [`FIRST_REACH`].
    steps: u8,
    /// Writes that went through whole since the last one that did not.
    streak: u8,
    /// What had not arrived when a write was last left unfinished, or when [`Socket::has_drained`] was last asked.
    unsent: u32,
}

/// After so many whole writes a receiver counts as one that keeps up.
const KEEPS_UP: u8 = 64;

impl Socket {
    /// A socket that was just accepted: worth a try in both directions before anyone asks the poller.
    pub fn accepted(stream: Stream) -> Socket {
        Socket { stream, bits: Bits(Bits::READABLE | Bits::WRITABLE), steps: 0, streak: 1, unsent: 0 }
    }

    /// Begins to connect. The socket is of no use before [`Socket::finish_connect`] says so.
    pub fn connect(address: SocketAddr) -> io::Result<Socket> {
        #[cfg(test)]
        if let Some(stream) = super::loop_faults::dial(address) {
            return Ok(Socket { stream: stream?, bits: Bits::default(), steps: 0, streak: 1, unsent: 0 });
        }
        Ok(Socket {
            stream: Stream::Tcp(TcpStream::connect(address)?),
            bits: Bits::default(),
            steps: 0,
            streak: 1,
            unsent: 0,
        })
    }

    /// Tells whether the attempt to connect is over. An error waits in the socket; without one, only an address of the
    /// peer proves that there is a connection (rule M7).
    pub fn finish_connect(&mut self) -> ConnectOutcome {
        let Stream::Tcp(stream) = &self.stream else { return ConnectOutcome::Connected };
        match stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return ConnectOutcome::Failed(error),
        }
        match stream.peer_addr() {
            Ok(_) => {
                // A small request must not wait for the acknowledgement of the one before it. Where the option is
                // refused the connection still works.
                let _ = stream.set_nodelay(true);
                limit_unsent(&SockRef::from(stream));
                probe_when_idle(&SockRef::from(stream));
                self.bits.set(Bits::WRITABLE);
                ConnectOutcome::Connected
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => ConnectOutcome::Waiting,
            Err(error) => ConnectOutcome::Failed(error),
        }
    }

    /// Registers for reading, and for writing where that would not succeed now: a fresh client's socket is writable, and
    /// the poller would say so in an event that nobody needs.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = if self.can_write() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let is_registered = self.is_registered();
        match (&mut self.stream, is_registered) {
            (Stream::Tcp(stream), false) => registry.register(stream, token, interest)?,
            (Stream::Unix(stream), false) => registry.register(stream, token, interest)?,
            (Stream::Tcp(stream), true) => registry.reregister(stream, token, interest)?,
            (Stream::Unix(stream), true) => registry.reregister(stream, token, interest)?,
        }
        self.bits.set(Bits::REGISTERED);
        #[cfg(test)]
        super::loop_faults::registered(&self.stream, token);
        if interest.is_writable() {
            self.bits.set(Bits::REGISTERED_TO_WRITE);
        }
        Ok(())
    }

    /// Whether an event that is waited for would not come without [`Socket::register`]. Once it is registered for both
    /// directions it stays so: a slow peer costs one call more, and never two.
    pub fn needs_registering(&self) -> bool {
        let is_blocked = !self.bits.has(Bits::WRITABLE | Bits::WRITE_OVER);
        !self.is_registered() || (is_blocked && !self.bits.has(Bits::REGISTERED_TO_WRITE))
    }

    fn is_registered(&self) -> bool {
        self.bits.has(Bits::REGISTERED)
    }

    /// Remembers what the poller said.
    pub fn on_event(&mut self, Readiness(bits): Readiness) {
        self.bits.set(bits.0);
    }

    /// Whether a read may bring something.
    pub fn can_read(&self) -> bool {
        self.bits.has(Bits::READABLE) && !self.bits.has(Bits::READ_OVER)
    }

    /// Whether a write may succeed.
    pub fn can_write(&self) -> bool {
        self.bits.has(Bits::WRITABLE) && !self.bits.has(Bits::WRITE_OVER)
    }

    /// Whether the poller saw the peer's end: what waits in the kernel is all that comes.
    pub fn is_end_in_sight(&self) -> bool {
        self.bits.has(Bits::END_IN_SIGHT)
    }

    /// Whether anything will ever be written again.
    pub fn is_write_over(&self) -> bool {
        self.bits.has(Bits::WRITE_OVER)
    }

    /// Whether the peer has left a write unfinished since the last one that went through.
    pub fn is_slow(&self) -> bool {
        self.streak == 0
    }

    /// Whether the peer has taken everything for a while.
    pub fn keeps_up(&self) -> bool {
        self.streak >= KEEPS_UP
    }

    /// How much to give it through a pipe at once.
    pub fn reach(&self) -> usize {
        FIRST_REACH << (self.steps / STEPS)
    }

    /// Whether the last read brought as much as it asked for.
    pub fn is_abundant(&self) -> bool {
        self.bits.has(Bits::ABUNDANT)
    }

    /// Reads once.
    pub fn read(&mut self, buf: &mut [u8]) -> ReadOutcome {
        let len = buf.len();
        self.read_with(len, |stream| Ok(recv(stream, &mut *buf, RecvFlags::empty())?.0))
    }

    /// Looks at what comes next without taking it. Of no use on a local socket: nobody is introduced there.
    pub fn peek(&mut self, buf: &mut [u8]) -> ReadOutcome {
        let (before, len) = (self.bits, buf.len());
        let outcome = self.read_with(len, |stream| match stream {
            Stream::Tcp(stream) => stream.peek(buf),
            Stream::Unix(_) => Err(ErrorKind::Unsupported.into()),
        });
        if outcome != ReadOutcome::Blocked {
            // It is still there, or what is left of it: after an error, the end.
            self.bits = before;
        }
        outcome
    }

    /// Reads once, at most so many bytes into an empty pipe. `None`: that is impossible here, and nothing was read.
    pub fn read_into(&mut self, pipe: &mut Pipe, most: usize) -> Option<ReadOutcome> {
        let mut is_unsupported = false;
        let outcome = self.read_with(most, |stream| {
            let result = match stream {
                Stream::Tcp(stream) => pipe.fill(&*stream, most),
                Stream::Unix(stream) => pipe.fill(&*stream, most),
            };
            is_unsupported = result.as_ref().is_err_and(splice::is_unsupported);
            // Whoever reads in the other way finds out by himself.
            if is_unsupported { Err(ErrorKind::WouldBlock.into()) } else { result }
        });
        if is_unsupported {
            self.bits.set(Bits::READABLE);
            return None;
        }
        if let ReadOutcome::Bytes(len) = outcome {
            // A pipe may also be full before it holds as much as was asked for: only `WouldBlock` says drained.
            self.bits.set(Bits::READABLE);
            if len >= WORTHWHILE {
                self.bits.set(Bits::ABUNDANT);
            }
        }
        Some(outcome)
    }

    fn read_with(&mut self, most: usize, mut read: impl FnMut(&mut Stream) -> io::Result<usize>) -> ReadOutcome {
        loop {
            let result = match self.strike() {
                Some(error) => Err(error),
                None => read(&mut self.stream),
            };
            match result {
                Ok(0) => {
                    self.bits.set(Bits::READ_OVER);
                    return ReadOutcome::Eof;
                }
                Ok(len) if len < most => {
                    self.bits.clear(Bits::ABUNDANT);
                    if !self.bits.has(Bits::END_IN_SIGHT) {
                        self.bits.clear(Bits::READABLE);
                    }
                    return ReadOutcome::Bytes(len);
                }
                Ok(len) => {
                    self.bits.set(Bits::ABUNDANT);
                    return ReadOutcome::Bytes(len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.bits.clear(Bits::READABLE);
                    return ReadOutcome::Blocked;
                }
                Err(_) => {
                    self.bits.set(Bits::READ_OVER);
                    return ReadOutcome::Failed;
                }
            }
        }
    }

    /// Writes once. After a failure nothing is written any more, and a read is due: it tells what became of the peer.
    pub fn write(&mut self, bytes: &[u8]) -> WriteOutcome {
        self.write_with(bytes.len(), |stream| Ok(send(stream, bytes, SendFlags::NOSIGNAL)?))
    }

    /// The same with bytes that lie in several places.
    pub fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> WriteOutcome {
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.write_with(len, |stream| match stream {
            Stream::Tcp(stream) => stream.write_vectored(slices),
            Stream::Unix(stream) => stream.write_vectored(slices),
        })
    }

    /// Writes once, from a pipe that is not empty. `None`: that is impossible here, and nothing was written.
    pub fn write_from(&mut self, pipe: &mut Pipe) -> Option<WriteOutcome> {
        let len = pipe.held();
        let mut is_unsupported = false;
        let outcome = self.write_with(len, |stream| {
            let result = match stream {
                Stream::Tcp(stream) => pipe.drain(&*stream),
                Stream::Unix(stream) => pipe.drain(&*stream),
            };
            is_unsupported = result.as_ref().is_err_and(splice::is_unsupported);
            if is_unsupported { Err(ErrorKind::WouldBlock.into()) } else { result }
        });
        if is_unsupported {
            self.bits.set(Bits::WRITABLE);
            return None;
        }
        match outcome {
            WriteOutcome::Bytes(taken) if taken == len && len >= self.reach() => self.set_steps(self.steps + 1),
            WriteOutcome::Bytes(taken) if taken == len => {}
            WriteOutcome::Bytes(_) | WriteOutcome::Blocked => self.set_steps(self.steps.saturating_sub(STEPS)),
            WriteOutcome::Failed => {}
        }
        Some(outcome)
    }

    /// Who takes the largest pieces is given a long queue too, until it takes only the smallest again.
    fn set_steps(&mut self, steps: u8) {
        let steps = steps.min(MOST_STEPS);
        let most_unsent = match (self.steps, steps) {
            (before, MOST_STEPS) if before < MOST_STEPS => Some(MOST_UNSENT_IN_BULK),
            (before, 0) if before > 0 => Some(MOST_UNSENT),
            _ => None,
        };
        self.steps = steps;
        if let Some(most_unsent) = most_unsent
            && let Stream::Tcp(stream) = &self.stream
        {
            set_most_unsent(&SockRef::from(stream), most_unsent);
        }
    }

    fn write_with(&mut self, len: usize, mut write: impl FnMut(&mut Stream) -> io::Result<usize>) -> WriteOutcome {
        loop {
            let result = match self.strike() {
                Some(error) => Err(error),
                None => write(&mut self.stream),
            };
            match result {
                Ok(taken) if taken > 0 || len == 0 => {
                    self.streak = self.streak.saturating_add(1);
                    if taken < len {
                        self.left_unfinished();
                    }
                    return WriteOutcome::Bytes(taken);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.bits.clear(Bits::WRITABLE);
                    self.left_unfinished();
                    return WriteOutcome::Blocked;
                }
                Ok(_) | Err(_) => {
                    self.bits.set(Bits::WRITE_OVER | Bits::READABLE);
                    return WriteOutcome::Failed;
                }
            }
        }
    }

    fn left_unfinished(&mut self) {
        self.streak = 0;
        self.unsent = self.unsent();
    }

    /// Whether closing it now would take back bytes that were written: a reset does.
    pub fn would_lose_bytes(&self) -> bool {
        self.bits.has(Bits::RESET) && self.unsent() > 0
    }

    /// How many bytes that were written have not arrived, as far as the system says it.
    pub fn unsent(&self) -> u32 {
        unsent(&self.stream).unwrap_or(0)
    }

    /// Whether any have arrived since a write was left unfinished, or since this was last asked.
    pub fn has_drained(&mut self) -> bool {
        let now = self.unsent();
        std::mem::replace(&mut self.unsent, now) > now
    }

    /// In tests: now and then the error that a call might give as well.
    fn strike(&self) -> Option<io::Error> {
        #[cfg(test)]
        return super::loop_faults::strike(&self.stream);
        #[cfg(not(test))]
        None
    }

    /// Whether the poller saw an error that nobody has looked at.
    pub fn may_be_broken(&self) -> bool {
        self.bits.has(Bits::TROUBLE)
    }

    /// Whether the connection is known to be broken, without reading: asked when the poller saw an error and nobody
    /// wants to read. The error is taken out of the socket, so this says yes once.
    pub fn is_broken(&mut self) -> bool {
        if !self.bits.has(Bits::TROUBLE) {
            return false;
        }
        self.bits.clear(Bits::TROUBLE);
        let error = match &self.stream {
            Stream::Tcp(stream) => stream.take_error(),
            Stream::Unix(stream) => stream.take_error(),
        };
        let is_broken = !matches!(error, Ok(None));
        if is_broken {
            self.bits.set(Bits::READ_OVER | Bits::WRITE_OVER);
        }
        is_broken
    }

    /// Whether the peer's end is all that there is left to read. It counts as read then.
    pub fn has_ended(&mut self) -> bool {
        if !self.bits.has(Bits::END_IN_SIGHT) || self.bits.has(Bits::READ_OVER) {
            return false;
        }
        let has_ended = matches!(recv(&self.stream, &mut [0; 1][..], RecvFlags::PEEK), Ok((0, _)));
        if has_ended {
            self.bits.set(Bits::READ_OVER);
        }
        has_ended
    }

    /// Sends FIN; reading goes on.
    pub fn shutdown_write(&mut self) {
        // It fails where the peer is gone already: that is known from reading.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        self.bits.set(Bits::WRITE_OVER);
    }

    /// Makes the closing a reset, so that the peer can tell that something is missing.
    pub fn reset_on_close(&mut self) {
        if let Stream::Tcp(_) = self.stream {
            self.bits.set(Bits::RESET);
        }
        // A socket that does not know the option (a unix one) just closes.
        let _ = match &self.stream {
            Stream::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            Stream::Unix(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
        };
    }
}

/// What the kernel may hold of what was not even sent yet.
///
/// Left alone it takes some megabytes for each connection that was fast once, and calls the socket writable again only
/// when a third of them is gone. A reader that has become slow but reads on would look as if it did not, and slow readers
/// would cost memory that nobody counts (rule E4).
const MOST_UNSENT: u32 = 128 * 1024;

/// The same for a receiver that takes large pieces through a pipe. With the shorter queue a body of 1 GiB costs half as
/// much again: the pipe is full before the queue is empty.
const MOST_UNSENT_IN_BULK: u32 = 1024 * 1024;

/// Lets the kernel ask whether an idle peer is still there: a tunnel or a stream of events may be silent for hours, and who
/// is switched off says no word. So it is noticed within two minutes.
pub fn probe_when_idle(socket: &AnySocket) {
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    // Without it the connection works all the same.
    let _ = socket.set_tcp_keepalive(&probes);
}

/// Applies the limit for a connection of which nothing is known yet.
pub fn limit_unsent(socket: &AnySocket) {
    set_most_unsent(socket, MOST_UNSENT);
}

/// Where the system knows such a thing.
fn set_most_unsent(socket: &AnySocket, most: u32) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // Without it the connection works all the same.
    let _ = socket.set_tcp_notsent_lowat(most);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, most);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream as StdStream};

    const TOKEN: Token = Token(7);

    fn pair() -> (Socket, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peer = StdStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nonblocking(true).expect("a socket");
        (Socket::accepted(Stream::Tcp(TcpStream::from_std(stream))), peer)
    }

    /// Waits until `done`, feeding events to `conn`.
    fn wait(poll: &mut Poll, conn: &mut Socket, done: impl Fn(&Socket) -> bool) {
        let mut events = Events::with_capacity(8);
        while !done(conn) {
            poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
            assert!(!events.is_empty(), "no event in five seconds");
            events.iter().for_each(|event| conn.on_event(Readiness::of(event)));
        }
    }

    #[test]
    fn m1_a_short_read_or_would_block_clears_readable_and_a_new_byte_sets_it() {
        let (mut conn, mut peer) = pair();
        let mut buf = [0; 8];
        assert_eq!(conn.read(&mut buf), ReadOutcome::Blocked, "fresh: tried without an event");
        assert!(!conn.can_read());
        let mut poll = Poll::new().expect("poll");
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
        let mut conn = Socket::accepted(Stream::Tcp(TcpStream::from_std(stream.into())));
        let mut poll = Poll::new().expect("poll");
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
        events.iter().for_each(|event| conn.on_event(Readiness::of(event)));
        assert!(!conn.can_write(), "no event says it");
    }

    #[test]
    fn m3_a_spurious_event_costs_one_look() {
        let (mut conn, mut peer) = pair();
        let mut poll = Poll::new().expect("poll");
        conn.register(poll.registry(), TOKEN).expect("register");
        for _ in 0..3 {
            conn.bits.set(Bits::READABLE | Bits::WRITABLE | Bits::TROUBLE);
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
        let mut poll = Poll::new().expect("poll");
        peer.write_all(b"last words").expect("write");
        peer.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(conn.bits.0 & Bits::END_IN_SIGHT, 0);
        conn.register(poll.registry(), TOKEN).expect("register");
        wait(&mut poll, &mut conn, |conn| conn.bits.has(Bits::END_IN_SIGHT));
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
        let mut poll = Poll::new().expect("poll");
        assert!(!conn.has_ended());
        conn.register(poll.registry(), TOKEN).expect("register");
        peer.shutdown(Shutdown::Write).expect("shutdown");
        wait(&mut poll, &mut conn, |conn| conn.bits.has(Bits::END_IN_SIGHT));
        assert!(conn.has_ended());
        assert!(!conn.has_ended() && !conn.can_read());
    }

    #[test]
    fn m1_would_block_clears_writable_until_the_peer_reads() {
        let (mut conn, mut peer) = pair();
        let mut poll = Poll::new().expect("poll");
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
        let mut poll = Poll::new().expect("poll");
        conn.register(poll.registry(), TOKEN).expect("register");
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(peer);
        wait(&mut poll, &mut conn, |conn| conn.bits.has(Bits::TROUBLE));
        assert!(conn.is_broken());
        assert!(!conn.is_broken(), "told once");
        assert!(!conn.can_read() && !conn.can_write());
    }

    #[test]
    fn m8_a_failed_write_leads_to_a_read_that_tells_why() {
        let (mut conn, peer) = pair();
        let mut poll = Poll::new().expect("poll");
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
        let address = listener.local_addr().expect("bound");
        let mut poll = Poll::new().expect("poll");
        let mut conn = Socket::connect(address).expect("a socket");
        conn.register(poll.registry(), TOKEN).expect("register");
        wait(&mut poll, &mut conn, |conn| conn.bits.has(Bits::WRITABLE));
        assert!(matches!(conn.finish_connect(), ConnectOutcome::Connected));
        drop(listener);
        // Nobody listens there any more.
        let mut conn = Socket::connect(address).expect("a socket");
        conn.register(poll.registry(), TOKEN).expect("register");
        let mut events = Events::with_capacity(8);
        let refused = loop {
            match conn.finish_connect() {
                ConnectOutcome::Waiting => poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll"),
                ConnectOutcome::Connected => break false,
                ConnectOutcome::Failed(error) => break error.kind() == ErrorKind::ConnectionRefused,
            }
        };
        assert!(refused);
    }
}
