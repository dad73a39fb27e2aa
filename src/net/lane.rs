//! The relay lane through a pipe: bytes of a body that needs no new framing go from socket to socket without being read.
//!
//! ```text
//!   socket ──fill──► pipe ──drain──► socket        empty again: the pipe goes back, at once
//!                      │ receiver is full
//!                      └─► it rests with the connection, and nothing more is taken from the sender
//!                             │ drained later: goes back     │ not within [`LEASE`]
//!                             ▼                              ▼
//!                              no more than one read is inside: it is given to the exchange, and the pipe goes back
//!                              more: a part is given to the exchange, the rest stays in the pipe
//! ```
//!
//! So a pipe is lent for a moment. A receiver that stalls has the exchange's time-outs; while a pipe rests the exchange
//! does not know of the bytes in it, so none of its deadlines passes before it has got some of them.
//!
//! What a pipe holds is the kernel's memory, and must not become ours: 1 MiB for each receiver that was fast and stalls
//! (rule E4). So what is more than one read stays in the pipe until the receiver goes on or its time is over, and only one
//! half of the pipes is ever filled with that much; the others come back after each lease.

use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::Side;

use super::conn::{Conn, ReadOutcome, WriteOutcome};
use super::splice::{Pipe, Pipes};

/// So long may a pipe rest.
const LEASE: Duration = Duration::from_secs(1);

/// What an exchange may be given at once when the lease is over: as much as a read brings it.
pub const ONE_READ: usize = 72 * 1024;

/// A rest of a body that is smaller is copied.
const LEAST: u64 = 16 * 1024;

/// A pipe with bytes that one side sent and the other has not taken yet.
#[derive(Debug)]
pub struct Lane {
    pipe: Pipe,
    from: Side,
    /// The end of the lease; `None` where it is over, and the exchange knows that its receiver is late.
    until: Option<MonoTime>,
    /// The bytes cannot leave this way.
    is_blocked: bool,
}

/// What became of an attempt to move bytes.
#[derive(Debug)]
pub enum Passed {
    /// Copying is to do it: nothing was read.
    Not,
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
/// take rests in `lane`, which has to be empty.
pub fn pass(
    now: MonoTime,
    (side, from): (Side, &mut Conn),
    to: &mut Conn,
    left: u64,
    pipes: &mut Pipes,
    lane: &mut Option<Box<Lane>>,
) -> Passed {
    let (Some(from), Some(to)) = (from.bare(), to.bare()) else { return Passed::Not };
    // A receiver that left bytes behind would leave them in the pipe, and the pipes are few.
    if left < LEAST || !from.is_abundant() || to.is_slow() {
        return Passed::Not;
    }
    let Some(mut pipe) = pipes.take() else { return Passed::Not };
    let reach = if pipes.are_short() { to.reach().min(ONE_READ) } else { to.reach() };
    let most = usize::try_from(left).map_or(reach, |left| left.min(reach));
    let taken = match from.read_into(&mut pipe, most) {
        Some(ReadOutcome::Bytes(taken)) => taken,
        Some(outcome) => {
            pipes.give_back(pipe);
            return Passed::Read(outcome);
        }
        None => {
            pipes.give_up();
            pipes.give_back(pipe);
            return Passed::Not;
        }
    };
    let outcome = to.write_from(&mut pipe);
    if outcome.is_none() {
        pipes.give_up();
    }
    let given = taken - pipe.held();
    if pipe.held() == 0 {
        pipes.give_back(pipe);
    } else {
        *lane = Some(Box::new(Lane { pipe, from: side, until: Some(now + LEASE), is_blocked: false }));
    }
    Passed::Moved { taken, given, outcome: outcome.unwrap_or(WriteOutcome::Blocked) }
}

impl Lane {
    /// Whose bytes it holds.
    pub fn from(&self) -> Side {
        self.from
    }

    /// How many.
    pub fn held(&self) -> usize {
        self.pipe.held()
    }

    /// When the lease ends, if it has not.
    pub fn until(&self) -> Option<MonoTime> {
        self.until
    }

    /// The lease is over, and the exchange has got some of the bytes.
    pub fn end_lease(&mut self) {
        self.until = None;
    }

    /// Whether the exchange is to get all of it when the lease is over.
    pub fn ends_with_lease(&self) -> bool {
        self.is_blocked || self.held() <= ONE_READ
    }

    /// Gives the receiver what it takes.
    pub fn drain(&mut self, now: MonoTime, to: &mut Conn) -> WriteOutcome {
        let outcome = to.bare().and_then(|to| to.write_from(&mut self.pipe));
        match outcome {
            Some(WriteOutcome::Bytes(_)) if self.until.is_none() => self.until = Some(now + LEASE),
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

    /// Its pipe goes back.
    pub fn end(self, pipes: &mut Pipes) {
        pipes.give_back(self.pipe);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::super::conn::Stream;

    const LEFT: u64 = 1 << 20;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        ours.set_nonblocking(true).expect("a socket");
        theirs.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    }

    fn conn(stream: UnixStream) -> Conn {
        Conn::accepted(Stream::Unix(mio::net::UnixStream::from_std(stream)))
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
        let (mut pipes, mut lane) = (Pipes::new(1), None);

        let passed = pass(now, (Side::Upstream, &mut from), &mut to, LEFT, &mut pipes, &mut lane);
        assert!(
            matches!(passed, Passed::Moved { taken: 16384, given: 0, outcome: WriteOutcome::Blocked }),
            "{passed:?}"
        );
        let mut rests = lane.take().expect("it rests");
        assert_eq!((rests.from(), rests.held(), rests.until()), (Side::Upstream, body.len(), Some(now + LEASE)));
        assert!(pipes.take().is_none(), "the only one is lent");
        assert_eq!(rests.drain(now, &mut to), WriteOutcome::Blocked);

        assert!(read_all(&mut receiver).iter().all(|byte| *byte == b'.'));
        // The first bytes to memory, the others to the receiver.
        assert_eq!(rests.read(&mut [0; 4]), &body[..4]);
        assert_eq!(rests.drain(now, &mut to), WriteOutcome::Bytes(body.len() - 4));
        assert_eq!(rests.held(), 0);
        assert!(read_all(&mut receiver) == body[4..]);
        rests.end(&mut pipes);
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
            let passed = pass(now, (Side::Client, from), to, left, &mut Pipes::new(pipes), &mut None);
            assert!(matches!(passed, Passed::Not), "{name}: {passed:?}");
        };
        refused("a small rest", &mut rich, &mut to, LEAST - 1, 1);
        refused("a slow receiver", &mut rich, &mut slow, LEFT, 1);
        refused("no pipe", &mut rich, &mut to, LEFT, 0);
        refused("a sender of single bytes", &mut trickle, &mut to, LEFT, 1);
        let passed = pass(now, (Side::Client, &mut rich), &mut to, LEFT, &mut Pipes::new(1), &mut None);
        assert!(matches!(passed, Passed::Moved { taken: 9, given: 9, .. }), "{passed:?}");
        assert_eq!(read_all(&mut receiver), b"all of it");
    }
}
