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

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::Side;

use super::conn::{Conn, ReadOutcome, Socket, WriteOutcome};

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

    /// How many bytes are inside.
    pub fn held(&self) -> usize {
        self.len
    }

    /// Takes at most `max` bytes from a socket. Only into an empty pipe: then `WouldBlock` can but mean that the
    /// socket has nothing.
    pub fn fill(&mut self, from: impl AsFd, max: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK;
        let len = retry_on_intr(|| splice(from.as_fd(), None, &self.writer, None, max, flags))?;
        self.len += len;
        Ok(len)
    }

    /// Gives to a socket as much as it takes. Only from a pipe that is not empty: then `WouldBlock` can but mean
    /// that the socket is full.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK;
        let len = retry_on_intr(|| splice(&self.reader, None, to.as_fd(), None, self.len, flags))?;
        self.len -= len;
        Ok(len)
    }

    /// Reads once from a socket into an empty pipe, at most `max` bytes. `None`: that is impossible here, and nothing was read.
    fn fill_from(&mut self, from: &mut Socket, max: usize) -> Option<ReadOutcome> {
        let mut is_unsupported = false;
        let outcome = from.read_with(max, |fd| note_unsupported(self.fill(fd, max), &mut is_unsupported));
        match outcome {
            _ if is_unsupported => from.keep_readable(false),
            // A pipe may also be full before it holds as much as was asked for: only `WouldBlock` says drained.
            ReadOutcome::Bytes(len) => from.keep_readable(len >= MIN_PIPE_READ),
            _ => {}
        }
        (!is_unsupported).then_some(outcome)
    }

    /// Writes once to a socket, from a pipe that is not empty. `None`: that is impossible here, and nothing was written.
    fn drain_to(&mut self, to: &mut Socket) -> Option<WriteOutcome> {
        let (len, mut is_unsupported) = (self.len, false);
        let outcome = to.write_with(len, |fd| note_unsupported(self.drain(fd), &mut is_unsupported));
        match outcome {
            _ if is_unsupported => to.keep_writable(),
            WriteOutcome::Bytes(taken) if taken == len && len < to.splice_window() => {}
            WriteOutcome::Bytes(_) | WriteOutcome::Blocked => to.adapt_window(outcome.written() == len),
            WriteOutcome::Failed => {}
        }
        (!is_unsupported).then_some(outcome)
    }

    /// Takes bytes out into memory.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = retry_on_intr(|| rustix::io::read(&self.reader, &mut *buf))?;
        self.len -= len;
        Ok(len)
    }
}

/// Whether the error says that sockets of this kind, or this system, cannot do it: an old kernel, a sandbox.
fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Copying finds out by itself what the socket has.
fn note_unsupported(result: io::Result<usize>, is_so: &mut bool) -> io::Result<usize> {
    *is_so = result.as_ref().is_err_and(is_unsupported);
    if *is_so { Err(io::ErrorKind::WouldBlock.into()) } else { result }
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    free: Vec<Pipe>,
    in_use: usize,
    /// How many there may be, those in use included; 0 once splicing has turned out to be impossible.
    max: usize,
}

impl Pipes {
    /// At most so many, each of which is made when it is first needed.
    pub fn new(max: usize) -> Pipes {
        Pipes { free: Vec::new(), in_use: 0, max }
    }

    /// An empty pipe, if there is one to be had.
    pub fn take(&mut self) -> Option<Pipe> {
        if self.in_use >= self.max {
            return None;
        }
        let pipe = self.free.pop().or_else(Pipe::open)?;
        self.in_use += 1;
        Some(pipe)
    }

    /// Whether more than half of them are in use.
    pub fn are_short(&self) -> bool {
        self.in_use > self.max / 2
    }

    /// Takes a pipe back. One that is not empty is closed: its bytes are nobody's.
    pub fn release(&mut self, pipe: Pipe) {
        self.in_use -= 1;
        if pipe.held() == 0 && self.max > 0 {
            self.free.push(pipe);
        }
    }

    /// Closes those that nobody uses: their descriptors are needed. Says whether there were any.
    pub fn close_free(&mut self) -> bool {
        let had_some = !self.free.is_empty();
        self.free.clear();
        had_some
    }

    /// Splicing has turned out to be impossible: from now on there is no pipe.
    pub fn give_up(&mut self) {
        self.max = 0;
        self.free.clear();
    }
}

/// A pipe with bytes that one side sent and the other has not taken yet.
#[derive(Debug)]
pub(super) struct PendingSplice {
    pipe: Pipe,
    from: Side,
    /// Until then; `None` where the time is over, and the proxy connection knows that its receiver is late.
    until: Option<MonoTime>,
    /// The bytes cannot leave this way.
    is_blocked: bool,
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
    let (Some(from), Some(to)) = (from.bare(), to.bare()) else { return SpliceResult::Copy };
    // A receiver that left bytes behind would leave them in the pipe, and the pipes are few.
    if left < MIN_SPLICE || !from.is_read_full() || to.is_slow() {
        return SpliceResult::Copy;
    }
    let Some(mut pipe) = pipes.take() else { return SpliceResult::Copy };
    let window = if pipes.are_short() { to.splice_window().min(ONE_READ) } else { to.splice_window() };
    let max = usize::try_from(left).map_or(window, |left| left.min(window));
    let taken = match pipe.fill_from(from, max) {
        Some(ReadOutcome::Bytes(taken)) => taken,
        Some(outcome) => {
            pipes.release(pipe);
            return SpliceResult::Read(outcome);
        }
        None => {
            pipes.give_up();
            pipes.release(pipe);
            return SpliceResult::Copy;
        }
    };
    let outcome = pipe.drain_to(to);
    if outcome.is_none() {
        pipes.give_up();
    }
    let given = taken - pipe.held();
    if pipe.held() == 0 {
        pipes.release(pipe);
    } else {
        *pending =
            Some(Box::new(PendingSplice { pipe, from: side, until: Some(now + MAX_PIPE_HOLD), is_blocked: false }));
    }
    SpliceResult::Moved { taken, given, outcome: outcome.unwrap_or(WriteOutcome::Blocked) }
}

impl PendingSplice {
    /// The sender.
    pub fn from(&self) -> Side {
        self.from
    }

    /// How many bytes are inside.
    pub fn held(&self) -> usize {
        self.pipe.held()
    }

    /// How long the bytes may stay in it, if that is not over.
    pub fn until(&self) -> Option<MonoTime> {
        self.until
    }

    /// Gives the receiver what it takes.
    pub fn drain(&mut self, now: MonoTime, to: &mut Conn) -> WriteOutcome {
        let outcome = to.bare().and_then(|to| self.pipe.drain_to(to));
        match outcome {
            Some(WriteOutcome::Bytes(_)) if self.until.is_none() => self.until = Some(now + MAX_PIPE_HOLD),
            Some(_) => {}
            None => {
                self.until = Some(now);
                self.is_blocked = true;
            }
        }
        outcome.unwrap_or(WriteOutcome::Blocked)
    }

    /// Takes bytes out into memory; nothing when there are none.
    pub fn read<'a>(&mut self, buf: &'a mut [u8]) -> &'a [u8] {
        match self.pipe.read(buf) {
            Ok(len) => &buf[..len],
            Err(_) => b"",
        }
    }

    /// The time is over: takes a part into memory, where more than one read is inside. `None`: all of it is to leave this way.
    pub fn read_part<'a>(&mut self, buf: &'a mut [u8]) -> Option<&'a [u8]> {
        if self.is_blocked || self.held() <= ONE_READ {
            return None;
        }
        self.until = None;
        let len = buf.len().min(HOLD_PART);
        Some(self.read(&mut buf[..len]))
    }

    /// Frees the pipe.
    pub fn discard(self, pipes: &mut Pipes) {
        pipes.release(self.pipe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        ours.set_nonblocking(true).expect("a socket");
        theirs.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    }

    #[test]
    fn bytes_go_from_socket_to_socket_and_the_pipe_knows_how_many_it_holds() {
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        let mut pipe = Pipes::new(1).take().expect("a pipe");
        assert_eq!(pipe.fill(&from, 100).expect_err("nothing is there").kind(), ErrorKind::WouldBlock);
        sender.write_all(b"0123456789").expect("room");
        assert_eq!(pipe.fill(&from, 6).expect("six bytes"), 6);
        assert_eq!(pipe.held(), 6);
        assert_eq!(pipe.drain(&to).expect("room"), 6);
        assert_eq!(pipe.held(), 0);
        assert_eq!(pipe.fill(&from, 100).expect("the rest"), 4);
        let mut buf = [0; 3];
        assert_eq!(pipe.read(&mut buf).expect("bytes"), 3);
        assert_eq!((&buf, pipe.held()), (b"678", 1));
        assert_eq!(pipe.drain(&to).expect("room"), 1);
        let mut got = [0; 7];
        receiver.read_exact(&mut got).expect("bytes");
        assert_eq!(&got, b"0123459");
        drop(sender);
        assert_eq!(pipe.fill(&from, 100).expect("the end"), 0);
    }

    #[test]
    fn what_cannot_be_spliced_says_so() {
        let (ours, _theirs) = pair();
        let mut pipe = Pipes::new(1).take().expect("a pipe");
        // A file that has nothing to splice: the kernel answers EINVAL, as it does for sockets in some sandboxes.
        let error = pipe.fill(File::open("/proc/self/mem").expect("Linux"), 10).expect_err("no such read");
        assert!(is_unsupported(&error), "{error}");
        assert!(!is_unsupported(&pipe.fill(&ours, 10).expect_err("nothing is there")));
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
        assert_eq!(second.fill(&from, 1).expect("a byte"), 1);
        pipes.release(second);
        assert_eq!((pipes.free.len(), pipes.in_use), (1, 0), "the other one is closed");
        assert!(pipes.close_free());
        assert!(!pipes.close_free());
        let pipe = pipes.take().expect("a new one");
        pipes.give_up();
        pipes.release(pipe);
        assert!(pipes.take().is_none() && pipes.free.is_empty());
    }

    const LEFT: u64 = 1 << 20;

    fn conn(stream: UnixStream) -> Conn {
        Conn::accepted(stream.into())
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
        assert_eq!(
            (rests.from(), rests.held(), rests.until()),
            (Side::Upstream, body.len(), Some(now + MAX_PIPE_HOLD))
        );
        assert!(pipes.take().is_none(), "the only one is lent");
        assert_eq!(rests.drain(now, &mut to), WriteOutcome::Blocked);

        assert!(read_all(&mut receiver).iter().all(|byte| *byte == b'.'));
        // The first bytes to memory, the others to the receiver.
        assert_eq!(rests.read(&mut [0; 4]), &body[..4]);
        assert_eq!(rests.drain(now, &mut to), WriteOutcome::Bytes(body.len() - 4));
        assert_eq!(rests.held(), 0);
        assert!(read_all(&mut receiver) == body[4..]);
        rests.discard(&mut pipes);
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
