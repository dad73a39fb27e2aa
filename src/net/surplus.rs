//! Memory that the allocator keeps for later: given back to the kernel every few seconds while there is work, and once
//! after it.
//!
//! glibc keeps what was freed, in each thread's arena, unless it is at the very end of it. Buffers that come and go among
//! smaller things leave holes: a proxy that owned 2 MiB after minutes of mixed traffic had 7 MiB resident and kept them.
//! Other allocators give back by themselves; for them nothing is done here.
#![allow(unsafe_code, reason = "a function of the C library that no crate offers safely")]

use std::time::Duration;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator {
    // SAFETY: the prototype of malloc_trim(3). It takes the allocator's own locks and may be called at any time.
    unsafe extern "C" {
        safe fn malloc_trim(keep: usize) -> std::ffi::c_int;
    }

    pub const KEEPS: bool = true;

    pub fn give_back() {
        malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod allocator {
    pub const KEEPS: bool = false;

    pub fn give_back() {}
}

/// Whether the allocator has to be asked.
pub const IS_KEPT: bool = allocator::KEEPS;

/// How long what was freed may lie idle: short enough for a small host, long enough that nobody notices the system calls.
pub const EVERY: Duration = Duration::from_secs(5);

/// Gives free pages of all threads back.
pub fn give_back() {
    allocator::give_back();
}
