//! Memory that the allocator keeps for later: given back to the kernel every few seconds while there is work, and once
//! after it.
//!
//! glibc keeps what was freed, in each thread's arena, unless it is at the very end of it. Buffers that come and go among
//! smaller things leave holes: a proxy that owned 2 MiB after minutes of mixed traffic had 7 MiB resident and kept them.
//! Other allocators give back by themselves; for them nothing is done here.
#![allow(unsafe_code, reason = "a function of the C library that no crate offers safely")]

use std::time::Duration;

/// How long what was freed may lie idle: short enough for a small host, long enough that nobody notices the system calls.
pub const EVERY: Duration = Duration::from_secs(5);

/// Whether the allocator has to be asked.
pub const IS_KEPT: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// Gives free pages of all threads back.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    malloc_trim(0);
}

// SAFETY: the prototype of malloc_trim(3). It takes the allocator's own locks and may be called at any time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    safe fn malloc_trim(keep: usize) -> std::ffi::c_int;
}
