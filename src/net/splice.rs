//! Bodies that need no new framing go from socket to socket through a pipe, with `splice(2)`: the kernel hands their pages on,
//! and no byte is copied through us. An extra: without it bodies are copied, as they are where pipes are not to be had.
//!
//! ```text
//!   socket ──fill──► pipe ──drain──► socket        empty again: the pipe is free, at once
//!                      │ receiver is full
//!                      └─► the proxy connection is given a part; the rest stays in the pipe, and nothing more is read
//! ```
//!
//! While bytes wait in a pipe the proxy connection always has some of them as output. So it knows that their receiver is
//! late, and whose time-out counts; and when that output is written, the pipe is drained further.
//!
//! What a pipe holds is the kernel's memory, and must not become ours: 1 MiB for each receiver that was fast and stalls
//! (rule E4). So the rest stays in the pipe; but where pipes are short they are filled with no more than one read, and all of
//! the rest is taken out, so that the other half of the pipes is for those who take their bytes.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

use crate::proxy::proxy_connection::Side;

use super::conn::{Conn, ReadOutcome, Socket, SocketFlags, WriteOutcome};

/// So many bytes through a pipe take the time of one that is copied.
pub(super) const SPLICE_COST: usize = 4;
/// What a pipe holds at most where pipes are short: as much as a read brings.
const ONE_READ: usize = 72 * 1024;
/// What the proxy connection is given of bytes that were not taken: as much as makes it stop reading.
const PART: usize = 16 * 1024;
/// A piece that is worth a trip through a pipe: for less, two calls cost more than copying.
const MIN_SPLICE: usize = 16 * 1024;
/// What a pipe is to hold: the most that Linux allows everybody by default.
const PIPE_SIZE: usize = 1024 * 1024;
/// With less, copying is better.
const MIN_PIPE_SIZE: usize = 64 * 1024;

/// A pipe, and how much is inside.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// How many bytes are inside.
    pub len: usize,
    /// Who sent them.
    pub from: Side,
}

impl Pipe {
    /// A new one; `None` where none is to be had, or only one so small that copying is better.
    fn open() -> Option<Pipe> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Refused where the user has many large pipes already; then the usual size does, but not the two pages that
        // are left to somebody who has far too many.
        let size = fcntl_setpipe_size(&writer, PIPE_SIZE).or_else(|_| fcntl_getpipe_size(&writer)).ok()?;
        (size >= MIN_PIPE_SIZE).then_some(Pipe { reader, writer, len: 0, from: Side::Client })
    }

    /// Reads once from a socket, at most `max` bytes. Only into an empty pipe: then `WouldBlock` can but mean that the socket
    /// has nothing.
    fn fill(&mut self, from: &mut Socket, max: usize) -> ReadOutcome {
        let outcome = from.read_with(max, |fd| Ok(splice(fd, None, &self.writer, None, max, SpliceFlags::NONBLOCK)?));
        if let ReadOutcome::Bytes(len) = outcome {
            self.len += len;
            // A pipe may also be full before it holds as much as was asked for: only `WouldBlock` says drained.
            from.on_event(SocketFlags::READABLE);
            if len >= MIN_SPLICE {
                from.on_event(SocketFlags::READ_FULL);
            }
        }
        outcome
    }

    /// Writes once to a socket. Only from a pipe that is not empty: then `WouldBlock` can but mean that the socket is full.
    pub fn drain(&mut self, to: &mut Socket) -> WriteOutcome {
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
    pub fn read<'a>(&mut self, buf: &'a mut [u8]) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        let len = retry_on_intr(|| rustix::io::read(&self.reader, &mut *buf)).expect("a pipe that holds bytes");
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

    /// How much of what its receiver did not take is taken out of a pipe.
    pub fn part(&self) -> usize {
        if self.are_short() { ONE_READ } else { PART }
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

    /// Reads from `from`, at most `left` bytes, into a pipe that is left in `slot`, if that is possible and worthwhile for `to`.
    /// `None`: the bytes are to be copied.
    pub fn fill(
        &mut self,
        slot: &mut Option<Pipe>,
        (side, from): (Side, &mut Conn),
        to: &Conn,
        left: u64,
    ) -> Option<ReadOutcome> {
        // A receiver that left bytes behind would leave them in the pipe, and the pipes are few.
        let is_worthwhile =
            left >= MIN_SPLICE as u64 && from.socket.has(SocketFlags::READ_FULL) && !to.socket.is_slow();
        if !is_worthwhile || slot.is_some() || from.tls.is_some() || to.tls.is_some() {
            return None;
        }
        let mut pipe = self.take()?;
        let window = to.socket.splice_window().min(if self.are_short() { ONE_READ } else { usize::MAX });
        pipe.from = side;
        let outcome = pipe.fill(&mut from.socket, usize::try_from(left).map_or(window, |left| left.min(window)));
        if pipe.len == 0 {
            self.release(pipe)
        } else {
            *slot = Some(pipe)
        }
        Some(outcome)
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
        Conn { socket: socket(stream), tls: None }
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
    fn what_a_receiver_does_not_take_stays_and_follows_in_order() {
        let ((mut from, mut sender), (mut ours, mut receiver)) = (abundant(), pair());
        let body: Vec<u8> = (0..16 * 1024).map(|at| (at % 251) as u8).collect();
        sender.write_all(&body).expect("room");
        let mut pipes = Pipes::new(1);
        let mut slot = None;
        let to = conn(ours.try_clone().expect("a socket"));
        let read = pipes.fill(&mut slot, (Side::Upstream, &mut from), &to, LEFT);
        assert_eq!(read, Some(ReadOutcome::Bytes(body.len())));
        let mut pipe = slot.take().expect("it holds them");
        assert_eq!((pipe.from, pipe.len), (Side::Upstream, body.len()));
        assert!(pipes.take().is_none(), "the only one is in use");
        while ours.write(&[b'.'; 4096]).is_ok() {}
        let mut to = conn(ours);
        assert_eq!(pipe.drain(&mut to.socket), WriteOutcome::Blocked);

        assert!(read_all(&mut receiver).iter().all(|byte| *byte == b'.'));
        // The first bytes to memory, the others to the receiver.
        assert_eq!(pipe.read(&mut [0; 4]), &body[..4]);
        assert_eq!(pipe.drain(&mut to.socket), WriteOutcome::Bytes(body.len() - 4));
        assert_eq!((pipe.len, pipe.read(&mut [0; 4])), (0, &b""[..]));
        assert!(read_all(&mut receiver) == body[4..]);
        pipes.release(pipe);
        assert!(pipes.take().is_some(), "it is back");
    }

    #[test]
    fn what_is_not_worthwhile_or_not_possible_is_left_to_copying() {
        let (slow, _idle) = pair();
        let mut slow = conn(slow);
        while let WriteOutcome::Bytes(_) = slow.write(&[0; 4096]) {}
        let (trickle, mut sender) = pair();
        let mut trickle = conn(trickle);
        sender.write_all(b"x").expect("room");
        assert_eq!(trickle.read(&mut [0; 2]), ReadOutcome::Bytes(1));
        let ((mut rich, mut sender), (ours, _receiver)) = (abundant(), pair());
        let to = conn(ours);
        sender.write_all(b"all of it").expect("room");
        let fill =
            |from: &mut Conn, to: &Conn, left, pipes| Pipes::new(pipes).fill(&mut None, (Side::Client, from), to, left);
        assert_eq!(fill(&mut rich, &to, MIN_SPLICE as u64 - 1, 1), None, "a small rest");
        assert_eq!(fill(&mut rich, &slow, LEFT, 1), None, "a slow receiver");
        assert_eq!(fill(&mut rich, &to, LEFT, 0), None, "no pipe");
        assert_eq!(fill(&mut trickle, &to, LEFT, 1), None, "a sender of single bytes");
        assert_eq!(fill(&mut rich, &to, LEFT, 1), Some(ReadOutcome::Bytes(9)));
    }
}
