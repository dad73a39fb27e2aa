//! One heap of deadlines per worker, updated lazily (rule M10).
//!
//! Deadlines mostly move into the future: every byte pushes a time-out a little further away. So the heap is not told.
//! Each owner of deadlines keeps an [`TimerHandle`], the earliest entry that it has in the heap; when that entry comes up, the
//! owner is asked for its real deadline and, if that is still ahead, gets a new entry. Only a deadline that is earlier
//! than the timer costs a push. In the steady state of a keep-alive connection that is none per request.
//!
//! All instants are monotonic (rule E11). This file reads no clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mio::Token;

use crate::mono_time::MonoTime;

/// The earliest entry that an owner has in the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerHandle(Option<MonoTime>);

impl TimerHandle {
    /// Whether it comes up after `deadline`, or never: then it has to be set anew.
    pub fn is_after(self, deadline: MonoTime) -> bool {
        self.0.is_none_or(|earliest| deadline < earliest)
    }

    /// Whether the entry that just came up is the one that counts: only then is the owner asked for its deadline. Older
    /// entries of the same owner are left-overs.
    pub fn take_if_current(&mut self, at: MonoTime) -> bool {
        let rings = self.is_current(at);
        if rings {
            self.0 = None;
        }
        rings
    }

    /// Whether that entry counts.
    pub fn is_current(self, at: MonoTime) -> bool {
        self.0 == Some(at)
    }
}

/// So many entries that do not count are always left in the heap.
const LEFT_OVERS: usize = 1024;

/// The heap.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(MonoTime, Token)>>,
}

impl Timers {
    /// Makes sure that `token` comes up at `deadline` at the latest.
    pub fn set(&mut self, timer: &mut TimerHandle, deadline: MonoTime, token: Token) {
        if timer.is_after(deadline) {
            timer.0 = Some(deadline);
            self.heap.push(Reverse((deadline, token)));
        }
    }

    /// When the next entry comes up.
    pub fn next(&self) -> Option<MonoTime> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out an entry whose time has come.
    pub fn pop(&mut self, now: MonoTime) -> Option<(MonoTime, Token)> {
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

    /// Forgets the entries that do not count: those of owners that are gone, and those that an earlier deadline has replaced.
    /// They would otherwise stay until their time comes, which for tunnels is an hour. Only where they are the most: of
    /// `owners` each has at most one that counts, so after a sweep as many have to be added before the next one. Tells
    /// whether it was done.
    pub fn sweep(&mut self, owners: usize, mut is_current: impl FnMut(MonoTime, Token) -> bool) -> bool {
        let is_due = self.heap.len() > 2 * owners + LEFT_OVERS;
        if is_due {
            self.heap.retain(|Reverse((at, token))| is_current(*at, *token));
        }
        is_due
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
    fn m10_a_later_deadline_does_not_touch_the_heap() {
        let start = MonoTime::now();
        let (mut timers, mut timer) = (Timers::default(), TimerHandle::default());
        timers.set(&mut timer, seconds(start, 60), A);
        for request in 0..1000 {
            timers.set(&mut timer, seconds(start, 60 + request), A);
        }
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn m10_an_earlier_deadline_comes_up_first_and_the_older_entry_is_a_left_over() {
        let start = MonoTime::now();
        let (mut timers, mut timer) = (Timers::default(), TimerHandle::default());
        timers.set(&mut timer, seconds(start, 60), A);
        timers.set(&mut timer, seconds(start, 10), A);
        assert_eq!(timers.next(), Some(seconds(start, 10)));
        assert_eq!(timers.pop(seconds(start, 9)), None);
        let (at, token) = timers.pop(seconds(start, 10)).expect("due");
        assert_eq!((at, token), (seconds(start, 10), A));
        assert!(timer.take_if_current(at));
        // The real deadline has moved on in the meantime: a new entry.
        timers.set(&mut timer, seconds(start, 70), A);
        let (at, _) = timers.pop(seconds(start, 60)).expect("due");
        assert!(!timer.take_if_current(at), "the left-over does not count");
        let (at, _) = timers.pop(seconds(start, 70)).expect("due");
        assert!(timer.take_if_current(at));
        assert!(timers.is_empty());
    }

    #[test]
    fn m10_entries_come_up_in_the_order_of_time() {
        let start = MonoTime::now();
        let mut timers = Timers::default();
        timers.set(&mut TimerHandle::default(), seconds(start, 3), A);
        timers.set(&mut TimerHandle::default(), seconds(start, 1), B);
        assert_eq!(timers.pop(seconds(start, 5)), Some((seconds(start, 1), B)));
        assert_eq!(timers.pop(seconds(start, 5)), Some((seconds(start, 3), A)));
        assert_eq!(timers.pop(seconds(start, 5)), None);
    }

    #[test]
    fn m10_a_sweep_is_rare_and_forgets_what_does_not_count_of_the_living_too() {
        const OWNERS: usize = 500;
        let start = MonoTime::now();
        let (mut timers, mut timers_of) = (Timers::default(), vec![TimerHandle::default(); OWNERS]);
        let (mut sweeps, mut most) = (0, 0);
        // Ten minutes of clients whose every request connects anew, which has an earlier deadline than all that follows.
        for turn in 0..6000 {
            let now = start + Duration::from_millis(100) * turn;
            while let Some((at, token)) = timers.pop(now) {
                if timers_of[token.0].take_if_current(at) {
                    timers.set(&mut timers_of[token.0], now + Duration::from_secs(3600), token);
                }
            }
            for (owner, timer) in timers_of.iter_mut().enumerate() {
                timers.set(timer, now + Duration::from_secs(3), Token(owner));
            }
            sweeps += u32::from(timers.sweep(OWNERS, |at, token| timers_of[token.0].is_current(at)));
            most = most.max(timers.len());
        }
        assert!(most <= 2 * OWNERS + LEFT_OVERS, "{most} entries for {OWNERS} owners");
        assert!((1..200).contains(&sweeps), "{sweeps} sweeps in 6000 turns");
        // And those who are gone.
        timers_of.iter_mut().take(OWNERS / 2).for_each(|timer| *timer = TimerHandle::default());
        (0..2000).for_each(|at| timers.set(&mut TimerHandle::default(), seconds(start, at), A));
        assert!(timers.sweep(OWNERS, |at, token| timers_of[token.0].is_current(at)));
        assert_eq!(timers.len(), OWNERS / 2);
    }
}
