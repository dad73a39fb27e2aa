//! Returns free memory of the allocator to the kernel, every few seconds while there is work and once for each worker
//! after it.
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

/// Returns free pages of all threads. That locks the allocator for all of them, so one worker does it for all: false where
/// another one does it now, or did it a moment ago.
pub fn trim(now: MonoTime) -> bool {
    static LAST: Mutex<Option<MonoTime>> = Mutex::new(None);
    let Ok(mut last) = LAST.try_lock() else { return false };
    if last.is_some_and(|last| now < last + INTERVAL) {
        return false;
    }
    *last = Some(now);
    #[cfg(target_env = "gnu")]
    malloc_trim(0);
    true
}

// SAFETY: the prototype of malloc_trim(3). It takes the allocator's own locks and may be called at any time.
#[cfg(target_env = "gnu")]
unsafe extern "C" {
    safe fn malloc_trim(keep: usize) -> std::ffi::c_int;
}
