//! How many connections the descriptor limit and the memory allow, and how many pipes (rule E3).

use rustix::process::{Resource, getrlimit};

/// What a client connection with its upstream may need of the memory, ours and the kernel's. Containers often have a
/// descriptor limit of a thousand million: there memory would run out first.
const MEMORY_PER_CONNECTION: u64 = 64 * 1024;
/// However little memory there is.
const MIN_CONNECTIONS: usize = 64;
/// Where neither limit is known.
const UNKNOWN: usize = 1024;

/// Descriptors left for listeners, pollers, idle upstream connections, log and plugins.
const RESERVED: usize = 64;

/// One pipe for so many descriptors, and at most [`MAX_PIPES`] for one worker.
const DESCRIPTORS_PER_PIPE: usize = 64;
const MAX_PIPES: usize = 32;

/// The descriptor limit of this process; `None` where there is none.
pub fn limit() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok())
}

/// How many client connections may be open at once, and by what: half of what the descriptor limit leaves, because each
/// client may need a connection to an upstream, or what the memory has room for.
pub fn max_connections(limit: Option<usize>, memory: Option<u64>) -> (usize, &'static str) {
    let by_descriptors = limit.map(|limit| match limit < 2 * RESERVED {
        // Too low for the reserve: run with few connections rather than not at all.
        true => (limit / 4).max(1),
        false => (limit - RESERVED - 2 * (limit / DESCRIPTORS_PER_PIPE)) / 2,
    });
    let by_memory = memory.map(|memory| usize::try_from(memory / MEMORY_PER_CONNECTION).unwrap_or(usize::MAX));
    let bounds =
        [by_descriptors.map(|most| (most, "descriptors")), by_memory.map(|most| (most.max(MIN_CONNECTIONS), "memory"))];
    bounds.into_iter().flatten().min().unwrap_or((UNKNOWN, "default"))
}

/// How many pipes a worker may have, each with two descriptors. None where descriptors are few.
pub fn pipes(limit: Option<usize>, workers: usize) -> usize {
    limit.map_or(MAX_PIPES, |limit| (limit / DESCRIPTORS_PER_PIPE / workers).min(MAX_PIPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_the_connection_limit_is_derived_from_descriptors_and_memory() {
        const MIB: u64 = 1024 * 1024;
        for (name, limit, memory, expected) in [
            ("usual", Some(1024), Some(1024 * MIB), (464, "descriptors")),
            ("many", Some(20_000), Some(4096 * MIB), (9656, "descriptors")),
            ("docker", Some(1_073_741_816), Some(512 * MIB), (8192, "memory")),
            ("no limit", None, Some(16 * MIB), (256, "memory")),
            ("little memory", Some(1024), Some(MIB), (64, "memory")),
            ("nothing is known", None, None, (1024, "default")),
            ("low", Some(256), Some(MIB), (64, "memory")),
            ("low", Some(256), None, (92, "descriptors")),
            ("just enough", Some(128), None, (30, "descriptors")),
            ("very low", Some(40), Some(MIB), (10, "descriptors")),
            ("absurd", Some(3), None, (1, "descriptors")),
        ] {
            assert_eq!(max_connections(limit, memory), expected, "{name}");
        }
    }

    #[test]
    fn e3_pipes_are_few_and_their_descriptors_are_left_free() {
        for (limit, workers, expected) in [
            (Some(1024), 2, 8),
            (Some(1024), 32, 0),
            (Some(64), 1, 1),
            (Some(20_000), 2, 32),
            (None, 4, 32),
            (Some(63), 1, 0),
        ] {
            assert_eq!(pipes(limit, workers), expected, "{limit:?} for {workers}");
        }
        for limit in [64, 128, 129, 1024, 2000] {
            let (connections, _) = max_connections(Some(limit), None);
            assert!(2 * connections + 2 * pipes(Some(limit), 1) <= limit, "{limit}");
        }
    }

    #[test]
    fn the_limit_of_this_process_can_be_read() {
        assert!(limit().is_none_or(|limit| limit > 2));
    }
}
