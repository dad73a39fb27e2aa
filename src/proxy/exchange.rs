//! One client connection with the upstream connection that it currently borrows.
//!
//! It owns no socket and reads no clock: bytes and events go in ([`Exchange::handle`]), bytes and commands come out
//! ([`Exchange::output`], [`Exchange::poll_command`]). The event loop, the tests and the fuzzers drive the same code.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::site::{Site, UpstreamId};

/// One end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards the client.
    Downstream,
    /// Towards the origin.
    Upstream,
}

/// Why no connection to an upstream could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The name does not resolve (now).
    DnsFail,
    /// Every address refused.
    Refused,
    /// No address answered in time.
    TimedOut,
    /// Anything else: unreachable, out of descriptors.
    Failed,
}

/// What happened outside.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// These bytes were read from that side. All of them are taken.
    Bytes(Side, &'a [u8]),
    /// So many bytes were read from that side and written to the other, unseen: at most [`Exchange::relayable`].
    Relayed(Side, u64),
    /// That side sends no more (FIN).
    Eof(Side),
    /// That side is gone (RST, or any other error of reading).
    Reset(Side),
    /// That side takes no more bytes (a write failed); what it sent may still be read.
    Unwritable(Side),
    /// The answer to [`Command::Connect`].
    Connected { reused: bool },
    /// The other answer to [`Command::Connect`].
    ConnectFailed(ConnectError),
    /// A deadline may have passed.
    Tick,
}

/// What is to be done outside. Commands are carried out in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Lend a connection to this upstream: one from the pool, or a new one; `fresh`: not from the pool.
    /// Answered by `Input::Connected` or `Input::ConnectFailed`, at once or later.
    Connect { upstream: UpstreamId, fresh: bool },
    /// The borrowed upstream connection (or the attempt at one) is not needed any more; it may serve others.
    Park,
    /// Close that side's socket; the kernel still delivers what was written. For `Upstream` also: give up an attempt to
    /// connect. After `Close(Downstream)` the exchange is over.
    Close(Side),
    /// Close that side with a reset, so that the peer can tell that the message is cut.
    Abort(Side),
    /// Send no more to that side (shutdown of the write half), reading goes on.
    Shutdown(Side),
}

/// The moment, as told by whoever owns the clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic: all deadlines are made of it (rule E11).
    pub instant: Instant,
    /// The Date field's value (RFC 9110 section 5.6.7).
    pub date: [u8; 29],
}

/// Who is at the other end of a client connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// `None` on a unix socket.
    pub address: Option<SocketAddr>,
    /// Whether the client speaks TLS to us.
    pub secure: bool,
}

/// Hears of finished requests; all it is given is borrowed.
pub trait Observer {
    /// A request is over.
    fn access(&mut self, record: &AccessRecord<'_>);
    /// A plugin or a peer did something that the operator should know of.
    fn warn(&mut self, message: std::fmt::Arguments<'_>);
}

/// One line of the access log.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    pub client: Option<SocketAddr>,
    /// Empty where the request line was not understood.
    pub method: &'a [u8],
    /// The client's target without the query; empty likewise.
    pub path: &'a [u8],
    /// `None` where no route was chosen.
    pub prefix: Option<&'a str>,
    pub upstream: Option<&'a str>,
    /// The final status; 499 when the client went away first; 0 when it was never answered.
    pub status: u16,
    /// Body bytes received from the client and sent to it (bytes in framing not counted).
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub reused: bool,
    pub retries: u32,
    /// Milliseconds-able durations since the first byte of the head: head read, connected, first byte of the response, end.
    pub head: std::time::Duration,
    pub connect: Option<std::time::Duration>,
    pub first_byte: Option<std::time::Duration>,
    pub total: std::time::Duration,
    /// `None` for a plain success.
    pub why: Option<&'static str>,
}

/// Recycled memory of exchanges that are over, one set per worker.
#[derive(Default)]
pub struct Spares {
    _boxes: (),
}

/// What an exchange is lent for the length of a call.
pub struct Env<'a> {
    pub now: &'a Now,
    pub site: &'a Rc<Site>,
    pub spares: &'a mut Spares,
    pub observer: &'a mut dyn Observer,
}

/// One client connection.
pub struct Exchange {
    _state: (),
}

impl Exchange {
    /// A connection that was just accepted.
    pub fn new(now: &Now, peer: Peer) -> Exchange {
        todo!("{now:?} {peer:?}")
    }
    /// Takes an event. Then: carry out all commands, write all output, ask again what it wants.
    pub fn handle(&mut self, env: &mut Env<'_>, input: Input<'_>) {
        let _ = (env.now, input);
        todo!()
    }
    /// The next thing to do.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        todo!()
    }
    /// Bytes that wait to be written to `side`. Upstream's may be written only between Connected and Park/Close/Abort.
    pub fn output(&self, side: Side) -> &[u8] {
        todo!("{side:?}")
    }
    /// The first `len` bytes of that output were written. More commands, output and wishes may follow.
    pub fn sent(&mut self, env: &mut Env<'_>, side: Side, len: usize) {
        let _ = (env.now, side, len);
        todo!()
    }
    /// Whether reading from `side` now makes sense. The whole of backpressure.
    pub fn wants_read(&self, side: Side) -> bool {
        todo!("{side:?}")
    }
    /// How many bytes may be moved from `side` to the other one unseen; 0 while output waits on the other side.
    /// What could not be written after reading is given back as `Input::Bytes`, after `Relayed` for the part that was.
    pub fn relayable(&self, side: Side) -> u64 {
        todo!("{side:?}")
    }
    /// When to call `handle(Tick)` at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        todo!()
    }
    /// The process is going to stop: finish what runs, answer with `Connection: close`; close at once when idle.
    pub fn drain(&mut self, env: &mut Env<'_>) {
        let _ = env.now;
        todo!()
    }
    /// Whether no request is being read or answered.
    pub fn is_idle(&self) -> bool {
        todo!()
    }
}
