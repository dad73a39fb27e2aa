//! One heap of deadlines per worker, updated lazily (rule M10).
//!
//! Deadlines mostly move into the future: every byte pushes a time-out a little further away. So the heap is not told.
//! Each owner of deadlines keeps an [`Alarm`], the earliest entry that it has in the heap; when that entry comes up, the
//! owner is asked for its real deadline and, if that is still ahead, gets a new entry. Only a deadline that is earlier
//! than the alarm costs a push. In the steady state of a keep-alive connection that is none per request.
//!
//! All instants are monotonic (rule E11). This file reads no clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mio::Token;

use crate::instant::Instant;

/// The earliest entry that an owner has in the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarm(Option<Instant>);

impl Alarm {
    /// Whether it comes up after `deadline`, or never: then it has to be set anew.
    pub fn is_after(self, deadline: Instant) -> bool {
        self.0.is_none_or(|earliest| deadline < earliest)
    }

    /// Whether the entry that just came up is the one that counts: only then is the owner asked for its deadline. Older
    /// entries of the same owner are left-overs.
    pub fn rings(&mut self, at: Instant) -> bool {
        let rings = self.0 == Some(at);
        if rings {
            self.0 = None;
        }
        rings
    }
}

/// The heap.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Token)>>,
}

impl Timers {
    /// Makes sure that `token` comes up at `deadline` at the latest.
    pub fn set(&mut self, alarm: &mut Alarm, deadline: Instant, token: Token) {
        if alarm.is_after(deadline) {
            alarm.0 = Some(deadline);
            self.heap.push(Reverse((deadline, token)));
        }
    }

    /// When the next entry comes up.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out an entry whose time has come.
    pub fn pop(&mut self, now: Instant) -> Option<(Instant, Token)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// How many entries there are, those of owners long gone included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Forgets the entries of owners that are gone. Many short connections would otherwise leave theirs here until the
    /// time comes, which for tunnels is an hour.
    pub fn sweep(&mut self, mut is_alive: impl FnMut(Token) -> bool) {
        self.heap.retain(|Reverse((_, token))| is_alive(*token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: Token = Token(1);
    const B: Token = Token(2);

    fn seconds(start: Instant, n: u64) -> Instant {
        start + Duration::from_secs(n)
    }

    #[test]
    fn m10_a_later_deadline_does_not_touch_the_heap() {
        let start = Instant::now();
        let (mut timers, mut alarm) = (Timers::default(), Alarm::default());
        timers.set(&mut alarm, seconds(start, 60), A);
        for request in 0..1000 {
            timers.set(&mut alarm, seconds(start, 60 + request), A);
        }
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn m10_an_earlier_deadline_comes_up_first_and_the_older_entry_is_a_left_over() {
        let start = Instant::now();
        let (mut timers, mut alarm) = (Timers::default(), Alarm::default());
        timers.set(&mut alarm, seconds(start, 60), A);
        timers.set(&mut alarm, seconds(start, 10), A);
        assert_eq!(timers.next(), Some(seconds(start, 10)));
        assert_eq!(timers.pop(seconds(start, 9)), None);
        let (at, token) = timers.pop(seconds(start, 10)).expect("due");
        assert_eq!((at, token), (seconds(start, 10), A));
        assert!(alarm.rings(at));
        // The real deadline has moved on in the meantime: a new entry.
        timers.set(&mut alarm, seconds(start, 70), A);
        let (at, _) = timers.pop(seconds(start, 60)).expect("due");
        assert!(!alarm.rings(at), "the left-over does not count");
        let (at, _) = timers.pop(seconds(start, 70)).expect("due");
        assert!(alarm.rings(at));
        assert!(timers.is_empty());
    }

    #[test]
    fn m10_entries_come_up_in_the_order_of_time() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(&mut Alarm::default(), seconds(start, 3), A);
        timers.set(&mut Alarm::default(), seconds(start, 1), B);
        assert_eq!(timers.pop(seconds(start, 5)), Some((seconds(start, 1), B)));
        assert_eq!(timers.pop(seconds(start, 5)), Some((seconds(start, 3), A)));
        assert_eq!(timers.pop(seconds(start, 5)), None);
    }

    #[test]
    fn m10_the_sweep_forgets_those_who_are_gone() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(&mut Alarm::default(), seconds(start, 1), A);
        timers.set(&mut Alarm::default(), seconds(start, 2), B);
        timers.sweep(|token| token == B);
        assert_eq!(timers.next(), Some(seconds(start, 2)));
        assert_eq!(timers.len(), 1);
    }
}
