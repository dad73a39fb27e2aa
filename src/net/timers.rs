//! The deadlines of a worker, in the order of time (rule M10).
//!
//! Deadlines mostly move into the future: every byte pushes a time-out a little further away. So an entry stays where it is
//! until it comes up; then its owner is asked for its real deadline and, if that is still ahead, gets a new entry. Only a
//! deadline that is earlier costs something. In the steady state of a keep-alive connection that is none per request.
//!
//! All times are monotonic (rule E11). This file reads no clock.

use std::collections::BTreeSet;

use mio::Token;

use crate::mono_time::MonoTime;

/// The entries, one for each owner at most.
#[derive(Default)]
pub struct Timers(BTreeSet<(MonoTime, Token)>);

impl Timers {
    /// Makes sure that `token` comes up at `deadline` at the latest. `timer` is the owner's, and tells when its entry comes up.
    pub fn set(&mut self, timer: &mut Option<MonoTime>, deadline: MonoTime, token: Token) {
        if timer.is_none_or(|at| deadline < at) {
            self.cancel(timer, token);
            *timer = Some(deadline);
            self.0.insert((deadline, token));
        }
    }

    /// Removes the entry of an owner that ends.
    pub fn cancel(&mut self, timer: &mut Option<MonoTime>, token: Token) {
        if let Some(at) = timer.take() {
            self.0.remove(&(at, token));
        }
    }

    /// When the next entry comes up.
    pub fn next(&self) -> Option<MonoTime> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out an entry whose time has come. The owner has to forget it.
    pub fn pop(&mut self, now: MonoTime) -> Option<Token> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, token)| token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: Token = Token(1);
    const B: Token = Token(2);

    fn seconds(start: MonoTime, n: u64) -> MonoTime {
        start + Duration::from_secs(n)
    }

    #[test]
    fn m10_a_later_deadline_changes_nothing() {
        let start = MonoTime::now();
        let (mut timers, mut timer) = (Timers::default(), None);
        for request in 0..1000 {
            timers.set(&mut timer, seconds(start, 60 + request), A);
        }
        assert_eq!((timers.next(), timers.0.len()), (Some(seconds(start, 60)), 1));
    }

    #[test]
    fn m10_an_earlier_deadline_replaces_the_entry_and_one_that_ends_leaves_none() {
        let start = MonoTime::now();
        let (mut timers, mut timer) = (Timers::default(), None);
        timers.set(&mut timer, seconds(start, 60), A);
        timers.set(&mut timer, seconds(start, 10), A);
        assert_eq!(timers.next(), Some(seconds(start, 10)));
        assert_eq!(timers.pop(seconds(start, 9)), None);
        assert_eq!(timers.pop(seconds(start, 10)), Some(A));
        timer = None;
        assert_eq!(timers.next(), None, "the first one was replaced");
        // The real deadline has moved on in the meantime.
        timers.set(&mut timer, seconds(start, 70), A);
        timers.cancel(&mut timer, A);
        assert_eq!(timers.pop(seconds(start, 100)), None);
        assert_eq!(timer, None);
    }

    #[test]
    fn m10_entries_come_up_in_the_order_of_time() {
        let start = MonoTime::now();
        let mut timers = Timers::default();
        timers.set(&mut None, seconds(start, 3), A);
        timers.set(&mut None, seconds(start, 1), B);
        assert_eq!(timers.pop(seconds(start, 5)), Some(B));
        assert_eq!(timers.pop(seconds(start, 5)), Some(A));
        assert_eq!(timers.pop(seconds(start, 5)), None);
    }
}
