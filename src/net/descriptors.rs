//! How many connections and pipes the descriptor limit allows (rule E3).

use rustix::process::{Resource, getrlimit};

/// The most connections that are derived from a descriptor limit. Containers often have a limit of a thousand million, and
/// memory would run out first.
const MAX_CONNECTIONS: usize = 1024;

/// Descriptors left for listeners, pollers, idle upstream connections, log and plugins.
const RESERVED: usize = 64;

/// One pipe for so many descriptors, and at most [`MAX_PIPES`] for one worker.
const DESCRIPTORS_PER_PIPE: usize = 64;
const MAX_PIPES: usize = 32;

/// The descriptor limit of this process; `None` where there is none.
pub fn limit() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok())
}

/// How many client connections may be open at once: as configured, or half of what the limit leaves, because each client
/// may need a connection to an upstream.
pub fn max_connections(configured: Option<usize>, limit: Option<usize>) -> usize {
    configured.unwrap_or_else(|| match limit {
        // Too low for the reserve: run with few connections rather than not at all.
        Some(limit) if limit < 2 * RESERVED => (limit / 4).max(1),
        Some(limit) => ((limit - RESERVED - 2 * (limit / DESCRIPTORS_PER_PIPE)) / 2).min(MAX_CONNECTIONS),
        None => MAX_CONNECTIONS,
    })
}

/// How many pipes a worker may have, each with two descriptors. None where descriptors are few.
pub fn pipes(limit: Option<usize>, workers: usize) -> usize {
    limit.map_or(MAX_PIPES, |limit| (limit / DESCRIPTORS_PER_PIPE / workers).min(MAX_PIPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_the_connection_limit_is_derived_and_capped() {
        for (name, configured, limit, expected) in [
            ("usual", None, Some(1024), 464),
            ("high", None, Some(20_000), 1024),
            ("docker", None, Some(1_073_741_816), 1024),
            ("no limit", None, None, 1024),
            ("low", None, Some(256), 92),
            ("just enough", None, Some(128), 30),
            ("very low", None, Some(40), 10),
            ("absurd", None, Some(3), 1),
            ("configured", Some(5000), Some(1024), 5000),
        ] {
            assert_eq!(max_connections(configured, limit), expected, "{name}");
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
            let connections = max_connections(None, Some(limit));
            assert!(2 * connections + 2 * pipes(Some(limit), 1) <= limit, "{limit}");
        }
    }

    #[test]
    fn the_limit_of_this_process_can_be_read() {
        assert!(limit().is_none_or(|limit| limit > 2));
    }
}
