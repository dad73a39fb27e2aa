//! The memory budget: how much the buffers of a worker may take, and what waits when it is used up (rule E4).
//!
//! Each worker has an equal share of `limits.memory_budget` and counts what its exchanges own, after each time that one
//! was driven. Of the share an eighth is for recycled memory; the rest is what exchanges may own:
//!
//! | owned | new connections | new requests | what is under way |
//! |---|---|---|---|
//! | less than three quarters | are let in | are read | goes at full speed |
//! | three quarters or more | wait in the kernel's queue | wait, up to `timeouts.request_head` | goes on in small pieces, one at a time |
//! | all | wait | wait | waits until something ends or is written |
//!
//! The last quarter is kept for what is under way: there is room for the small piece of each connection, because the
//! budget also limits their number. So what has begun ends, and memory comes free again; nothing is ever thrown away.
//! Bodies that are buffered whole, because a plugin reads them, are no exception: their memory is reserved, and counted,
//! before they are read. They get at most half of what exchanges may own; then such requests are answered with 503.
//! Only after responses with large heads, all at once, the last line of the table is reached; then the time-outs do it.
//!
//! What does not grow with what peers send (the code, stacks, the routing table, one read buffer for each worker, the log's
//! queue) is not counted, nor are the kernel's socket buffers.

use crate::proxy::proxy_connection::ReadPurpose;

/// What is read at once where memory is plentiful. Bodies move in pieces of this size; with 16 KiB they would cost 30 to
/// 50 percent more. A body of 64 KiB and its head come in one piece.
const READ: usize = 72 * 1024;
/// What is read at once where it is scarce.
const SMALL_READ: usize = 4 * 1024;
/// What a worker keeps for later where there is no budget: enough for 64 exchanges with small messages. Without a bound,
/// 64 that have once seen slow peers and large bodies would keep 9 MiB.
const SPARES: usize = 1024 * 1024;
/// What the budget has to have for each connection: so that a quarter of it has room for a small read of everyone, twice,
/// because vectors grow by doubling.
const PER_CONNECTION: usize = 4 * 2 * SMALL_READ;

/// How many connections a budget has room for.
pub fn connections(budget: usize) -> usize {
    (budget / PER_CONNECTION).max(1)
}

/// What a worker may own, and what it does.
#[derive(Clone, Copy, Debug)]
pub struct MemoryBudget {
    /// The most that exchanges may own; `usize::MAX` is no limit.
    most: usize,
    owned: usize,
    read: usize,
}

/// How much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Enough.
    Plenty,
    /// What is left is for what is under way.
    Scarce,
    /// Nothing.
    Exhausted,
}

/// Whether to read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadGrant {
    /// At most so many bytes.
    Read(usize),
    /// When what waits has been written.
    AfterWriting,
    /// When there is more memory.
    AfterOthers,
}

impl MemoryBudget {
    /// One of `workers` shares of `budget`; `None` is no limit.
    pub fn new(budget: Option<usize>, workers: usize) -> MemoryBudget {
        match budget {
            None => MemoryBudget { most: usize::MAX, owned: 0, read: READ },
            Some(budget) => {
                let share = budget / workers.max(1);
                MemoryBudget { most: share - share / 8, owned: 0, read: (share / 32).clamp(SMALL_READ, READ) }
            }
        }
    }

    /// How much recycled memory may be kept: a seventh of the rest is an eighth of the whole.
    pub fn transactions(&self) -> usize {
        if self.is_limited() { self.most / 7 } else { SPARES }
    }

    /// What is read at once at most.
    pub fn largest_read(&self) -> usize {
        self.read
    }

    /// Whether there is a budget at all; where there is none, nobody needs to count.
    pub fn is_limited(&self) -> bool {
        self.most < usize::MAX
    }

    /// An exchange that owned `before` bytes owns `now` bytes now.
    pub fn count(&mut self, before: usize, now: usize) {
        self.owned = self.owned.saturating_sub(before).saturating_add(now);
    }

    /// How much is left.
    pub fn level(&self) -> Level {
        if self.owned < self.most - self.most / 4 {
            Level::Plenty
        } else if self.owned < self.most {
            Level::Scarce
        } else {
            Level::Exhausted
        }
    }

    /// How much of what exchanges may own bodies may take that are buffered whole, for plugins. With as much again of other
    /// things new requests are still read.
    pub fn bodies(&self) -> usize {
        if self.is_limited() { self.most / 2 } else { usize::MAX }
    }

    /// Whether to read for `read_interest` now.
    pub fn grant(&self, read_interest: ReadPurpose) -> ReadGrant {
        match (self.level(), read_interest) {
            // It was counted when it was reserved.
            (Level::Plenty | Level::Scarce | Level::Exhausted, ReadPurpose::Reserved) => ReadGrant::Read(self.read),
            (Level::Plenty, ReadPurpose::NewRequest | ReadPurpose::InFlight | ReadPurpose::Backlogged) => {
                ReadGrant::Read(self.read)
            }
            (Level::Scarce, ReadPurpose::InFlight) => ReadGrant::Read(SMALL_READ),
            (Level::Scarce | Level::Exhausted, ReadPurpose::Backlogged) => ReadGrant::AfterWriting,
            (Level::Scarce, ReadPurpose::NewRequest)
            | (Level::Exhausted, ReadPurpose::NewRequest | ReadPurpose::InFlight) => ReadGrant::AfterOthers,
        }
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
            assert_eq!(MemoryBudget::new(budget, workers).largest_read(), expected, "{budget:?} for {workers}");
        }
    }

    #[test]
    fn e4_shares_and_spares_are_no_more_than_the_budget() {
        for workers in 1..9 {
            let memory = MemoryBudget::new(Some(8 * MIB), workers);
            assert!(workers * (memory.most + memory.transactions()) <= 8 * MIB, "{workers}");
            assert!(workers * (memory.most + memory.transactions()) > 8 * MIB - 64 * KIB, "{workers}");
        }
        assert_eq!(MemoryBudget::new(None, 2).transactions(), MIB, "without a budget too there is an end");
    }

    #[test]
    fn e4_what_is_new_waits_before_what_is_under_way() {
        use ReadPurpose::*;
        let share = MemoryBudget::new(Some(8 * MIB), 1).most;
        let table = [
            (0, [ReadGrant::Read(READ), ReadGrant::Read(READ), ReadGrant::Read(READ)]),
            (share / 4 * 3 - 1, [ReadGrant::Read(READ), ReadGrant::Read(READ), ReadGrant::Read(READ)]),
            (share / 4 * 3, [ReadGrant::AfterOthers, ReadGrant::Read(SMALL_READ), ReadGrant::AfterWriting]),
            (share - 1, [ReadGrant::AfterOthers, ReadGrant::Read(SMALL_READ), ReadGrant::AfterWriting]),
            (share, [ReadGrant::AfterOthers, ReadGrant::AfterOthers, ReadGrant::AfterWriting]),
            (share + MIB, [ReadGrant::AfterOthers, ReadGrant::AfterOthers, ReadGrant::AfterWriting]),
        ];
        for (owned, expected) in table {
            let mut memory = MemoryBudget::new(Some(8 * MIB), 1);
            memory.count(0, owned);
            assert_eq!(memory.grant(Reserved), ReadGrant::Read(READ), "{owned}: it is counted already");
            assert_eq!(
                [NewRequest, InFlight, Backlogged].map(|read_interest| memory.grant(read_interest)),
                expected,
                "{owned}"
            );
            memory.count(owned, 0);
            assert_eq!(memory.level(), Level::Plenty, "and back from {owned}");
        }
    }

    #[test]
    fn without_a_budget_nothing_waits() {
        let mut memory = MemoryBudget::new(None, 1);
        memory.count(0, usize::MAX / 2);
        assert_eq!(memory.grant(ReadPurpose::NewRequest), ReadGrant::Read(READ));
        assert!(!memory.is_limited());
    }
}
