//! What the kernel says that processes used: processor time and memory.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// User and system time of each thread of these processes, to the nanosecond, by the thread's number.
///
/// `/proc/PID/stat` counts in ticks of 10 ms; `schedstat` is what the scheduler itself goes by.
pub fn cpu_time_by_thread(processes: &[u32]) -> BTreeMap<u32, Duration> {
    let mut times = BTreeMap::new();
    for process in processes {
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads.flatten() {
            let Some(number) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            times.insert(number, Duration::from_nanos(first_number(&text)));
        }
    }
    times
}

/// Resident bytes of these processes, libraries included.
///
/// `VmRSS` is a counter that may lag by some hundred KiB on each core; `smaps_rollup` walks the page tables.
pub fn resident(processes: &[u32]) -> u64 {
    sum_of(processes, "Rss:")
}

/// Those of them that no file holds: what the processes have written. The rest are pages of program and libraries, which
/// all processes share and which the kernel can drop and read again.
pub fn anonymous(processes: &[u32]) -> u64 {
    sum_of(processes, "Anonymous:")
}

fn sum_of(processes: &[u32], key: &str) -> u64 {
    let of = |process: &u32| {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(key)).map_or(0, |rest| first_number(rest) * 1024)
    };
    processes.iter().map(of).sum()
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// How many descriptors a process may open; raised to the hard limit on the way.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}
