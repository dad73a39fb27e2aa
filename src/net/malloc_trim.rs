//! Returns free memory of the allocator to the kernel, every few seconds while there is work and once after it.
//!
//! glibc keeps freed memory in each thread's arena unless it is at the very end of it: a proxy that owned 2 MiB after minutes
//! of mixed traffic had 7 MiB resident. Other allocators return memory by themselves; for them nothing is done here.
#![allow(unsafe_code, reason = "a function of the C library that no crate offers safely")]

use std::time::Duration;

/// How long freed memory may stay: short enough for a small host, long enough that the system calls cost nothing.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Whether the allocator keeps freed memory.
pub const IS_NEEDED: bool = cfg!(target_env = "gnu");

/// Returns free pages of all threads.
pub fn trim() {
    // SAFETY: malloc_trim(3) takes the allocator's own locks and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
