//! The memory budget: how much the buffers of a worker may take, and what waits when it is used up (rule E4).
//!
//! Each worker has an equal share of `limits.memory_budget` and counts what its proxy connections own, after each
//! time that one was driven. Of the share an eighth is for recycled memory; the rest is what they may own:
//!
//! | owned | new connections | new requests | what is under way |
//! |---|---|---|---|
//! | less than three quarters | are accepted | are read | goes at full speed |
//! | three quarters or more | wait in the kernel's queue | wait; when an idle connection's time is over, a small piece is read | goes on in small pieces, one at a time |
//! | all | wait | wait | waits until something ends or is written |
//!
//! The last quarter is kept for what is under way: there is room for the small piece of each connection, because the
//! budget also limits their number. So what has begun ends, and memory comes free again; nothing is ever thrown away.
//! Bodies that are buffered whole, because a plugin reads them, are no exception: their memory is reserved, and counted,
//! before they are read. They get at most half of what may be owned; then such requests are answered with 503.
//! Only after responses with large heads, all at once, the last line of the table is reached; then the time-outs do it.
//!
//! What does not grow with what peers send (the code, stacks, the routing table, one read buffer for each worker, the log's
//! queue) is not counted, nor are the kernel's socket buffers.

use std::mem::take;

use indexmap::IndexSet;

use crate::proxy::proxy_connection::ReadPurpose;

use super::slab::Key;

/// What is read at once where memory is plentiful. Bodies move in pieces of this size; with 16 KiB they would cost 30 to
/// 50 percent more. A body of 64 KiB and its head come in one piece.
const READ: usize = 72 * 1024;
/// What is read at once where it is scarce.
const SMALL_READ: usize = 4 * 1024;
/// What a worker keeps for later where there is no budget: enough for 64 requests with small messages. Without a bound,
/// 64 that have once seen slow peers and large bodies would keep 9 MiB.
const RECYCLED: usize = 1024 * 1024;
/// What the budget has to have for each connection: so that a quarter of it has room for a small read of everyone, twice,
/// because vectors grow by doubling.
const PER_CONNECTION: usize = 4 * 2 * SMALL_READ;

/// How many connections a budget has room for.
pub fn connections(budget: usize) -> usize {
    (budget / PER_CONNECTION).max(1)
}

/// What a worker may own, and what it owns; and the clients that wait for memory.
#[derive(Debug, Default)]
pub struct MemoryBudget {
    /// The most that proxy connections may own; `usize::MAX` is no limit.
    max: usize,
    owned: usize,
    /// What is read at once at most.
    pub max_read: usize,
    /// How much recycled memory may be kept.
    pub max_recycled: usize,
    /// How much bodies may take that are buffered whole, for plugins. With as much again of other things new requests are
    /// still read.
    pub max_buffered_bodies: usize,
    /// Those that wait with a new request: until memory is plentiful.
    waiting_new: IndexSet<Key>,
    /// Those that wait with a request in flight: until there is any.
    waiting_in_flight: IndexSet<Key>,
}

impl MemoryBudget {
    /// One of `workers` shares of `budget`; `None` is no limit.
    pub fn new(budget: Option<usize>, workers: usize) -> MemoryBudget {
        let (max, max_read, max_recycled) = match budget.map(|budget| budget / workers.max(1)) {
            None => (usize::MAX, READ, RECYCLED),
            Some(share) => (share - share / 8, (share / 32).clamp(SMALL_READ, READ), share / 8),
        };
        let max_buffered_bodies = if max == usize::MAX { max } else { max / 2 };
        MemoryBudget { max, max_read, max_recycled, max_buffered_bodies, ..MemoryBudget::default() }
    }

    /// Whether there is a budget at all; where there is none, nothing needs to be counted.
    pub fn is_limited(&self) -> bool {
        self.max < usize::MAX
    }

    /// Whether new clients and new requests are let in. What is left otherwise is for what is in flight.
    pub fn is_plentiful(&self) -> bool {
        self.owned < self.max - self.max / 4
    }

    fn is_exhausted(&self) -> bool {
        self.owned >= self.max
    }

    /// A client that was last counted with `counted` bytes owns `now` bytes.
    pub fn update(&mut self, counted: &mut u32, now: usize) {
        // No client owns 4 GiB: heads, queues and collected bodies all have limits.
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        self.owned = self.owned.saturating_sub(*counted as usize).saturating_add(now as usize);
        *counted = now;
    }

    /// How many bytes `client` may read now for `purpose`. `None`: it has to wait, until what waits to be written for it has
    /// been written, or until [`MemoryBudget::take_ready`] returns it.
    pub fn grant(&mut self, purpose: ReadPurpose, client: Key) -> Option<usize> {
        let waiting = match purpose {
            _ if self.is_plentiful() => return Some(self.max_read),
            // It was counted when it was reserved.
            ReadPurpose::Reserved => return Some(self.max_read),
            ReadPurpose::InFlight if !self.is_exhausted() => return Some(SMALL_READ),
            ReadPurpose::Backlogged => return None,
            ReadPurpose::NewRequest => &mut self.waiting_new,
            ReadPurpose::InFlight => &mut self.waiting_in_flight,
        };
        waiting.insert(client);
        None
    }

    /// Takes out the clients that wait for memory which there is now. Who came first is first, and keeps its place before those
    /// that come later when it has to wait again.
    pub fn take_ready(&mut self) -> impl Iterator<Item = Key> + use<> {
        let in_flight = if self.is_exhausted() { IndexSet::new() } else { take(&mut self.waiting_in_flight) };
        let new = if self.is_plentiful() { take(&mut self.waiting_new) } else { IndexSet::new() };
        in_flight.into_iter().chain(new)
    }

    /// How many clients wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting_new.len() + self.waiting_in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;

    #[test]
    fn e4_the_budget_limits_the_number_of_connections() {
        for (budget, expected) in [(MIB, 32), (8 * MIB, 256), (32 * MIB, 1024), (1, 1)] {
            assert_eq!(connections(budget), expected, "{budget}");
        }
    }

    #[test]
    fn e4_small_shares_read_less_at_once() {
        for (budget, workers, expected) in
            [(None, 2, READ), (Some(8 * MIB), 2, READ), (Some(MIB), 1, 32 * KIB), (Some(MIB), 64, 4 * KIB)]
        {
            assert_eq!(MemoryBudget::new(budget, workers).max_read, expected, "{budget:?} for {workers}");
        }
    }

    #[test]
    fn e4_shares_and_spares_are_no_more_than_the_budget() {
        for workers in 1..9 {
            let memory = MemoryBudget::new(Some(8 * MIB), workers);
            assert!(workers * (memory.max + memory.max_recycled) <= 8 * MIB, "{workers}");
            assert!(workers * (memory.max + memory.max_recycled) > 8 * MIB - 64 * KIB, "{workers}");
        }
        assert_eq!(MemoryBudget::new(None, 2).max_recycled, MIB, "without a budget too there is an end");
    }

    #[test]
    fn e4_what_is_new_waits_before_what_is_under_way() {
        use ReadPurpose::*;
        let share = MemoryBudget::new(Some(8 * MIB), 1).max;
        let table = [
            (0, [Some(READ), Some(READ), Some(READ)]),
            (share / 4 * 3 - 1, [Some(READ), Some(READ), Some(READ)]),
            (share / 4 * 3, [None, Some(SMALL_READ), None]),
            (share - 1, [None, Some(SMALL_READ), None]),
            (share, [None, None, None]),
            (share + MIB, [None, None, None]),
        ];
        for (owned, expected) in table {
            let mut memory = MemoryBudget::new(Some(8 * MIB), 1);
            let (mut counted, key) = (0, Key::from_bits(1).expect("a key"));
            memory.update(&mut counted, owned);
            assert_eq!(memory.grant(Reserved, key), Some(READ), "{owned}: it is counted already");
            let granted = [NewRequest, InFlight, Backlogged].map(|purpose| memory.grant(purpose, key));
            assert_eq!(granted, expected, "{owned}");
            let waiting = usize::from(expected[0].is_none()) + usize::from(expected[1].is_none());
            assert_eq!(memory.waiting(), waiting, "what is backlogged waits for its own output");
            memory.update(&mut counted, 0);
            assert!(memory.is_plentiful(), "and back from {owned}");
            assert_eq!(memory.take_ready().count(), waiting);
        }
    }

    #[test]
    fn m4_who_came_first_is_first() {
        let mut memory = MemoryBudget::new(Some(8 * MIB), 1);
        let mut counted = 0;
        memory.update(&mut counted, 8 * MIB);
        let came = [5, 1, 9, 1, 3].map(|bits| Key::from_bits(bits).expect("a key"));
        for key in came {
            assert_eq!(memory.grant(ReadPurpose::NewRequest, key), None);
        }
        memory.update(&mut counted, 0);
        let order: Vec<usize> = memory.take_ready().map(Key::bits).collect();
        assert_eq!(order, [5, 1, 9, 3]);
    }

    #[test]
    fn without_a_budget_nothing_waits() {
        let mut memory = MemoryBudget::new(None, 1);
        memory.update(&mut 0, usize::MAX / 2);
        let key = Key::from_bits(1).expect("a key");
        assert_eq!(memory.grant(ReadPurpose::NewRequest, key), Some(READ));
        assert!(!memory.is_limited());
    }
}
