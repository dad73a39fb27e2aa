//! Returns free memory of the allocator to the kernel, every few seconds while there is work and once after it.
//!
//! glibc keeps freed memory in each thread's arena unless it is at the very end of it: a proxy that owned 2 MiB after minutes
//! of mixed traffic had 7 MiB resident. Other allocators return memory by themselves; for them nothing is done here.
#![allow(unsafe_code, reason = "a function of the C library that no crate offers safely")]

use std::sync::Mutex;
use std::time::Duration;

use crate::mono_time::MonoTime;

/// How long freed memory may stay: short enough for a small host, long enough that the system calls cost nothing.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Whether the allocator keeps freed memory.
pub const IS_NEEDED: bool = cfg!(target_env = "gnu");

/// When any worker last did it.
static LAST: Mutex<Option<MonoTime>> = Mutex::new(None);

/// Returns free pages of all threads, for a worker that last had something to do at `worked`. It locks the allocator for
/// all threads, so one worker does it for all: returns when to ask again where it was done too lately.
pub fn trim(now: MonoTime, worked: MonoTime) -> Option<MonoTime> {
    // Another worker is doing it now.
    let Ok(mut last) = LAST.try_lock() else { return Some(now + INTERVAL) };
    let later = due(*last, now, worked)?;
    if later > now {
        return Some(later);
    }
    *last = Some(now);
    #[cfg(target_env = "gnu")]
    malloc_trim(0);
    None
}

/// When memory is to be returned; `None` where that was done after this worker's last work.
fn due(last: Option<MonoTime>, now: MonoTime, worked: MonoTime) -> Option<MonoTime> {
    match last {
        Some(last) if last > worked => None,
        Some(last) => Some(now.max(last + INTERVAL)),
        None => Some(now),
    }
}

// SAFETY: the prototype of malloc_trim(3). It takes the allocator's own locks and may be called at any time.
#[cfg(target_env = "gnu")]
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
            ("the first time", None, 5, 3, Some(at(5))),
            ("another one has just done it, after this one's work", Some(at(4)), 5, 3, None),
            ("another one has just done it, before this one's work", Some(at(2)), 5, 3, Some(at(7))),
            ("long ago", Some(at(2)), 9, 8, Some(at(9))),
            ("long ago, and nothing was done since", Some(at(2)), 9, 1, None),
        ] {
            assert_eq!(due(last, at(now), at(worked)), expected, "{name}");
        }
    }
}
