//! Bodies that need no new framing go from socket to socket through a pipe, with `splice(2)`: the kernel hands their pages on,
//! and no byte is copied through us. An extra: without it bodies are copied, as they are where pipes are not to be had.
//!
//! ```text
//!   socket ──fill──► pipe ──drain──► socket        empty again: the pipe is free, at once
//!                      │ receiver is full
//!                      └─► it stays with the connection, and nothing more is read from the sender
//!                             │ drained later: free          │ not within [`MAX_PIPE_HOLD`]
//!                             ▼                              ▼
//!                              no more than one read is inside: the proxy connection is given it, and the pipe is free
//!                              more: the proxy connection is given a part, the rest stays in the pipe
//! ```
//!
//! While bytes rest in a pipe the proxy connection does not know of them, so none of its time-outs is carried out before it
//! has got some of them.
//!
//! What a pipe holds is the kernel's memory, and must not become ours: 1 MiB for each receiver that was fast and stalls
//! (rule E4). So what is more than one read stays in the pipe, and only half of the pipes is ever filled with that much.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::Side;

use super::conn::{Conn, ReadOutcome, Readiness, Socket, WriteOutcome};

/// So many bytes through a pipe take the time of one that is copied.
pub(super) const SPLICE_COST: usize = 4;
/// So long may bytes rest in a pipe.
const MAX_PIPE_HOLD: Duration = Duration::from_secs(1);
/// What the proxy connection may be given at once after that: as much as a read brings it.
const ONE_READ: usize = 72 * 1024;
/// What it is given of more than that: as much as makes it stop reading.
const HOLD_PART: usize = 16 * 1024;
/// A piece that is worth a trip through a pipe: for less, two calls cost more than copying.
const MIN_PIPE_READ: usize = 16 * 1024;
/// A rest of a body that is smaller is copied.
const MIN_SPLICE: u64 = 16 * 1024;
/// What a pipe is to hold: the most that Linux allows everybody by default.
const PIPE_SIZE: usize = 1024 * 1024;
/// With less, copying is better.
const MIN_PIPE_SIZE: usize = 64 * 1024;

/// A pipe, and how much is inside.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    len: usize,
}

impl Pipe {
    /// A new one; `None` where none is to be had, or only one so small that copying is better.
    fn open() -> Option<Pipe> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Refused where the user has many large pipes already; then the usual size does, but not the two pages that
        // are left to somebody who has far too many.
        let size = fcntl_setpipe_size(&writer, PIPE_SIZE).or_else(|_| fcntl_getpipe_size(&writer)).ok()?;
        (size >= MIN_PIPE_SIZE).then_some(Pipe { reader, writer, len: 0 })
    }

    /// Reads once from a socket, at most `max` bytes. Only into an empty pipe: then `WouldBlock` can but mean that the socket
    /// has nothing.
    fn fill(&mut self, from: &mut Socket, max: usize) -> ReadOutcome {
        let outcome = from.read_with(max, |fd| Ok(splice(fd, None, &self.writer, None, max, SpliceFlags::NONBLOCK)?));
        if let ReadOutcome::Bytes(len) = outcome {
            self.len += len;
            // A pipe may also be full before it holds as much as was asked for: only `WouldBlock` says drained.
            from.on_event(Readiness::READABLE);
            if len >= MIN_PIPE_READ {
                from.on_event(Readiness::READ_FULL);
            }
        }
        outcome
    }

    /// Writes once to a socket. Only from a pipe that is not empty: then `WouldBlock` can but mean that the socket is full.
    fn drain(&mut self, to: &mut Socket) -> WriteOutcome {
        let len = self.len;
        let outcome = to.write_with(len, |fd| Ok(splice(&self.reader, None, fd, None, len, SpliceFlags::NONBLOCK)?));
        self.len -= outcome.written();
        // Less than a window that was taken does not say how much more would have been.
        if outcome != WriteOutcome::Failed && (self.len > 0 || len >= to.splice_window()) {
            to.adapt_window(self.len == 0);
        }
        outcome
    }

    /// Takes bytes out into memory; nothing when there are none.
    fn read<'a>(&mut self, buf: &'a mut [u8]) -> &'a [u8] {
        let len = retry_on_intr(|| rustix::io::read(&self.reader, &mut *buf)).unwrap_or(0);
        self.len -= len;
        &buf[..len]
    }
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    free: Vec<Pipe>,
    in_use: usize,
    /// How many there may be, those in use included.
    max: usize,
}

impl Pipes {
    /// At most so many, each of which is made when it is first needed; none where the system cannot splice.
    pub fn new(max: usize) -> Pipes {
        Pipes { free: Vec::new(), in_use: 0, max: if try_splice().is_ok() { max } else { 0 } }
    }

    /// An empty pipe, if there is one to be had.
    fn take(&mut self) -> Option<Pipe> {
        if self.in_use >= self.max {
            return None;
        }
        let pipe = self.free.pop().or_else(Pipe::open)?;
        self.in_use += 1;
        Some(pipe)
    }

    /// Whether more than half of them are in use.
    fn are_short(&self) -> bool {
        self.in_use > self.max / 2
    }

    /// Takes a pipe back. One that is not empty is closed: its bytes belong to nothing.
    pub fn release(&mut self, pipe: Pipe) {
        self.in_use -= 1;
        if pipe.len == 0 {
            self.free.push(pipe);
        }
    }

    /// Closes those that nobody uses: their descriptors are needed. Says whether there were any.
    pub fn close_free(&mut self) -> bool {
        let had_some = !self.free.is_empty();
        self.free.clear();
        had_some
    }
}

/// Moves a byte from socket to socket. An old kernel or a sandbox may not do that.
fn try_splice() -> io::Result<usize> {
    let (mut one, other) = UnixStream::pair()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    one.write_all(b"x")?;
    splice(&other, None, &writer, None, 1, SpliceFlags::NONBLOCK)?;
    Ok(splice(&reader, None, &other, None, 1, SpliceFlags::NONBLOCK)?)
}

/// A pipe with bytes that one side sent and the other has not taken yet.
#[derive(Debug)]
pub(super) struct PendingSplice {
    pub pipe: Pipe,
    /// The sender.
    pub from: Side,
    /// How long they may stay in it; `None` where that is over, and the proxy connection knows that its receiver is late.
    pub until: Option<MonoTime>,
}

/// What became of an attempt to move bytes.
#[derive(Debug)]
pub(super) enum SpliceResult {
    /// Nothing was read: the bytes are to be copied.
    Copy,
    /// Nothing was moved; reading ended so.
    Read(ReadOutcome),
    /// So many bytes were taken from the sender, and so many given to the receiver, which ended so.
    Moved {
        /// From the sender.
        taken: usize,
        /// To the receiver.
        given: usize,
        /// How that ended.
        outcome: WriteOutcome,
    },
}

/// Moves what `from` has, at most `left` bytes, on to `to`, if that is worthwhile and possible. What the receiver does not
/// take stays in `pending`, which has to be empty.
pub(super) fn splice_body(
    now: MonoTime,
    (side, from): (Side, &mut Conn),
    to: &mut Conn,
    left: u64,
    pipes: &mut Pipes,
    pending: &mut Option<Box<PendingSplice>>,
) -> SpliceResult {
    if from.tls.is_some() || to.tls.is_some() {
        return SpliceResult::Copy;
    }
    let (from, to) = (&mut from.socket, &mut to.socket);
    // A receiver that left bytes behind would leave them in the pipe, and the pipes are few.
    if left < MIN_SPLICE || !from.has(Readiness::READ_FULL) || to.is_slow() {
        return SpliceResult::Copy;
    }
    let Some(mut pipe) = pipes.take() else { return SpliceResult::Copy };
    let window = if pipes.are_short() { to.splice_window().min(ONE_READ) } else { to.splice_window() };
    let max = usize::try_from(left).map_or(window, |left| left.min(window));
    let taken = match pipe.fill(from, max) {
        ReadOutcome::Bytes(taken) => taken,
        outcome => {
            pipes.release(pipe);
            return SpliceResult::Read(outcome);
        }
    };
    let outcome = pipe.drain(to);
    let given = taken - pipe.len;
    if pipe.len == 0 {
        pipes.release(pipe);
    } else {
        *pending = Some(Box::new(PendingSplice { pipe, from: side, until: Some(now + MAX_PIPE_HOLD) }));
    }
    SpliceResult::Moved { taken, given, outcome }
}

impl PendingSplice {
    /// How many bytes are inside.
    pub fn held(&self) -> usize {
        self.pipe.len
    }

    /// Gives the receiver what it takes.
    pub fn drain(&mut self, now: MonoTime, to: &mut Conn) -> WriteOutcome {
        let outcome = self.pipe.drain(&mut to.socket);
        if self.until.is_none() && outcome.written() > 0 {
            self.until = Some(now + MAX_PIPE_HOLD);
        }
        outcome
    }

    /// Takes bytes out into memory; nothing when there are none.
    pub fn read<'a>(&mut self, buf: &'a mut [u8]) -> &'a [u8] {
        self.pipe.read(buf)
    }

    /// The time is over: takes a part into memory, where more than one read is inside. `None`: all of it is to leave this way.
    pub fn read_part<'a>(&mut self, buf: &'a mut [u8]) -> Option<&'a [u8]> {
        if self.held() <= ONE_READ {
            return None;
        }
        self.until = None;
        let len = buf.len().min(HOLD_PART);
        Some(self.read(&mut buf[..len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        ours.set_nonblocking(true).expect("a socket");
        theirs.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    }

    fn socket(stream: UnixStream) -> Socket {
        Socket::accepted(stream.into())
    }

    #[test]
    fn bytes_go_from_socket_to_socket_and_the_pipe_knows_how_many_it_holds() {
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        let (mut from, mut to) = (socket(from), socket(to));
        let mut pipe = Pipes::new(1).take().expect("a pipe");
        assert_eq!(pipe.fill(&mut from, 100), ReadOutcome::Blocked);
        sender.write_all(b"0123456789").expect("room");
        assert_eq!((pipe.fill(&mut from, 6), pipe.len), (ReadOutcome::Bytes(6), 6));
        assert_eq!((pipe.drain(&mut to), pipe.len), (WriteOutcome::Bytes(6), 0));
        assert_eq!(pipe.fill(&mut from, 100), ReadOutcome::Bytes(4), "the rest");
        assert!(from.can_read(), "a pipe that is full of small pieces does not say that the socket is drained");
        assert_eq!(pipe.read(&mut [0; 3]), b"678");
        assert_eq!((pipe.drain(&mut to), pipe.len), (WriteOutcome::Bytes(1), 0));
        let mut got = [0; 7];
        receiver.read_exact(&mut got).expect("bytes");
        assert_eq!(&got, b"0123459");
        drop(sender);
        assert_eq!(pipe.fill(&mut from, 100), ReadOutcome::Eof);
    }

    #[test]
    fn e3_pipes_are_limited_and_used_again_unless_bytes_are_left_in_them() {
        let (from, mut sender) = pair();
        let mut pipes = Pipes::new(2);
        let (first, mut second) = (pipes.take().expect("a pipe"), pipes.take().expect("a pipe"));
        assert!(pipes.take().is_none() && pipes.are_short());
        pipes.release(first);
        assert!(!pipes.are_short());
        assert_eq!(pipes.free.len(), 1);
        sender.write_all(b"x").expect("room");
        assert_eq!(second.fill(&mut socket(from), 1), ReadOutcome::Bytes(1));
        pipes.release(second);
        assert_eq!((pipes.free.len(), pipes.in_use), (1, 0), "the other one is closed");
        assert!(pipes.close_free());
        assert!(!pipes.close_free());
    }

    const LEFT: u64 = 1 << 20;

    fn conn(stream: UnixStream) -> Conn {
        Conn::from(socket(stream))
    }

    /// A connection from which more is likely to come, and its sender.
    fn abundant() -> (Conn, UnixStream) {
        let (ours, mut sender) = pair();
        let mut conn = conn(ours);
        sender.write_all(b"x").expect("room");
        assert_eq!(conn.read(&mut [0; 1]), ReadOutcome::Bytes(1));
        (conn, sender)
    }

    fn read_all(receiver: &mut UnixStream) -> Vec<u8> {
        let (mut all, mut buf) = (Vec::new(), [0; 4096]);
        while let Ok(len @ 1..) = receiver.read(&mut buf) {
            all.extend_from_slice(&buf[..len]);
        }
        all
    }

    #[test]
    fn what_a_receiver_does_not_take_rests_and_follows_in_order() {
        let now = MonoTime::now();
        let ((mut from, mut sender), (mut ours, mut receiver)) = (abundant(), pair());
        while ours.write(&[b'.'; 4096]).is_ok() {}
        let mut to = conn(ours);
        let body: Vec<u8> = (0..16 * 1024).map(|at| (at % 251) as u8).collect();
        sender.write_all(&body).expect("room");
        let (mut pipes, mut pending) = (Pipes::new(1), None);

        let passed = splice_body(now, (Side::Upstream, &mut from), &mut to, LEFT, &mut pipes, &mut pending);
        assert!(
            matches!(passed, SpliceResult::Moved { taken: 16384, given: 0, outcome: WriteOutcome::Blocked }),
            "{passed:?}"
        );
        let mut rests = pending.take().expect("it rests");
        assert_eq!((rests.from, rests.held(), rests.until), (Side::Upstream, body.len(), Some(now + MAX_PIPE_HOLD)));
        assert!(pipes.take().is_none(), "the only one is lent");
        assert_eq!(rests.drain(now, &mut to), WriteOutcome::Blocked);

        assert!(read_all(&mut receiver).iter().all(|byte| *byte == b'.'));
        // The first bytes to memory, the others to the receiver.
        assert_eq!(rests.read(&mut [0; 4]), &body[..4]);
        assert_eq!(rests.drain(now, &mut to), WriteOutcome::Bytes(body.len() - 4));
        assert_eq!(rests.held(), 0);
        assert!(read_all(&mut receiver) == body[4..]);
        pipes.release(rests.pipe);
        assert!(pipes.take().is_some(), "it is back");
    }

    #[test]
    fn what_is_not_worthwhile_or_not_possible_is_left_to_copying() {
        let now = MonoTime::now();
        let (slow, _idle) = pair();
        let mut slow = conn(slow);
        while let WriteOutcome::Bytes(_) = slow.write(&[0; 4096]) {}
        let (trickle, mut sender) = pair();
        let mut trickle = conn(trickle);
        sender.write_all(b"x").expect("room");
        assert_eq!(trickle.read(&mut [0; 2]), ReadOutcome::Bytes(1));
        let ((mut rich, mut sender), (ours, mut receiver)) = (abundant(), pair());
        let mut to = conn(ours);
        sender.write_all(b"all of it").expect("room");
        let refused = |name: &str, from: &mut Conn, to: &mut Conn, left, pipes| {
            let passed = splice_body(now, (Side::Client, from), to, left, &mut Pipes::new(pipes), &mut None);
            assert!(matches!(passed, SpliceResult::Copy), "{name}: {passed:?}");
        };
        refused("a small rest", &mut rich, &mut to, MIN_SPLICE - 1, 1);
        refused("a slow receiver", &mut rich, &mut slow, LEFT, 1);
        refused("no pipe", &mut rich, &mut to, LEFT, 0);
        refused("a sender of single bytes", &mut trickle, &mut to, LEFT, 1);
        let passed = splice_body(now, (Side::Client, &mut rich), &mut to, LEFT, &mut Pipes::new(1), &mut None);
        assert!(matches!(passed, SpliceResult::Moved { taken: 9, given: 9, .. }), "{passed:?}");
        assert_eq!(read_all(&mut receiver), b"all of it");
    }
}
