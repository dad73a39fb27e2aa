//! Memory that the allocator keeps for later: given back to the kernel every few seconds while there is work, and once
//! after it.
//!
//! glibc keeps what was freed, in each thread's arena, unless it is at the very end of it. Buffers that come and go among
//! smaller things leave holes: a proxy that owned 2 MiB after minutes of mixed traffic had 7 MiB resident and kept them.
//! Other allocators give back by themselves; for them nothing is done here.
#![allow(unsafe_code, reason = "a function of the C library that no crate offers safely")]

use std::sync::Mutex;
use std::time::Duration;

use crate::mono_time::MonoTime;

/// How long what was freed may lie idle: short enough for a small host, long enough that nobody notices the system calls.
pub const EVERY: Duration = Duration::from_secs(5);

/// Whether the allocator has to be asked.
pub const IS_KEPT: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// When it was last done, by whichever worker.
static LAST: Mutex<Option<MonoTime>> = Mutex::new(None);

/// Gives free pages of all threads back, for a worker that last had something to do at `worked`. It locks the allocator for
/// everybody, so that one worker does it for all: returns when to ask again, where another one has done it too lately.
pub fn give_back(now: MonoTime, worked: MonoTime) -> Option<MonoTime> {
    // Where it is being done at this moment, a little later is soon enough.
    let Ok(mut last) = LAST.try_lock() else { return Some(now + EVERY) };
    match turn(*last, now, worked) {
        Turn::Now => {
            *last = Some(now);
            #[cfg(all(target_os = "linux", target_env = "gnu"))]
            malloc_trim(0);
            None
        }
        Turn::At(later) => Some(later),
        Turn::Done => None,
    }
}

/// Whose turn it is.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Now,
    At(MonoTime),
    /// Another worker has done it since this one had something to do.
    Done,
}

fn turn(last: Option<MonoTime>, now: MonoTime, worked: MonoTime) -> Turn {
    match last {
        Some(last) if last > worked => Turn::Done,
        Some(last) if last + EVERY > now => Turn::At(last + EVERY),
        Some(_) | None => Turn::Now,
    }
}

// SAFETY: the prototype of malloc_trim(3). It takes the allocator's own locks and may be called at any time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    safe fn malloc_trim(keep: usize) -> std::ffi::c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_does_it_for_all() {
        let start = MonoTime::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (name, last, now, worked, expected) in [
            ("the first time", None, 5, 3, Turn::Now),
            ("another one has just done it, after this one's work", Some(at(4)), 5, 3, Turn::Done),
            ("another one has just done it, before this one's work", Some(at(2)), 5, 3, Turn::At(at(7))),
            ("long ago", Some(at(2)), 9, 8, Turn::Now),
            ("long ago, and nothing was done since", Some(at(2)), 9, 1, Turn::Done),
        ] {
            assert_eq!(turn(last, at(now), at(worked)), expected, "{name}");
        }
    }
}
