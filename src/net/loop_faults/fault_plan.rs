//! What stands between the worker and its sockets: calls that are interrupted or told to come later, connections that are
//! refused. It decides nothing but that; who plays the far ends is told in [`peers`](super::peers).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use mio::Token;
use socket2::SockRef;

/// Marsaglia's xorshift: the same numbers on every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `bound - 1`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    pub(super) fn is_one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What stands between the worker and its sockets.
pub(super) struct FaultPlan {
    pub(super) random: Random,
    /// Who was told to come later although it need not have: an event is due to it.
    pub(super) owed: HashSet<RawFd>,
    pub(super) tokens: HashMap<RawFd, Token>,
    /// The far ends of connections that the worker has made.
    pub(super) dialed: Vec<UnixStream>,
    pub(super) is_fair: bool,
}

thread_local! {
    pub(super) static FAULT_PLAN: RefCell<Option<FaultPlan>> = const { RefCell::new(None) };
}

pub(super) fn with_fault_plan<T>(call: impl FnOnce(&mut FaultPlan) -> T) -> Option<T> {
    FAULT_PLAN.with_borrow_mut(|plan| plan.as_mut().map(call))
}

/// Instead of a call on a socket: an error that it might give at any time.
pub(in crate::net) fn inject_fault(fd: RawFd) -> Option<io::Error> {
    with_fault_plan(|plan| match plan.random.below(12) {
        0 => Some(ErrorKind::Interrupted.into()),
        1 => {
            plan.owed.insert(fd);
            Some(ErrorKind::WouldBlock.into())
        }
        _ => None,
    })?
}

/// A socket is registered.
pub(in crate::net) fn registered(fd: RawFd, token: Token) {
    with_fault_plan(|plan| plan.tokens.insert(fd, token));
}

/// Instead of a connection to an address; `None` outside of these tests.
pub(in crate::net) fn connect() -> Option<io::Result<OwnedFd>> {
    with_fault_plan(|plan| {
        if !plan.is_fair && plan.random.is_one_in(20) {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = pair()?;
        plan.dialed.push(far);
        Ok(near)
    })
}

/// Both ends of a connection. The buffers are small, so that writes go through in part.
pub(super) fn pair() -> io::Result<(OwnedFd, UnixStream)> {
    let (near, far) = UnixStream::pair()?;
    for end in [&near, &far] {
        end.set_nonblocking(true)?;
        SockRef::from(end).set_send_buffer_size(8 * 1024)?;
    }
    Ok((near.into(), far))
}
