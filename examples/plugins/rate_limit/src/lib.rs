//! So many requests a second for each client address; above it 429 with Retry-After.
//!
//! Lesson: what all threads share must be safe to share, cheap to lock and bounded. The buckets stand in 16 maps with a
//! lock each; a map that is full first forgets clients whose bucket is full again (which is the same as never seen),
//! then any one. An attacker with many addresses costs memory up to the bound and no more.
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/rate_limit.so
//!     config: {per_second: 10, burst: 20, max_clients: 10000}
//! ```
//! An IPv6 client is counted by its /64 network, since it has all addresses in there. Clients of a unix socket have no
//! address and are not counted.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

// `make loom` runs the tests of `mod loom_tests` with a lock that takes its turns in every possible order.
#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(not(loom))]
use std::sync::Mutex;

use mini_rproxy_plugin::{Error, Plugin, RequestPhase, Setup, Verdict};

/// The configuration.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    per_second: f64,
    /// How many may come at once; `per_second`, but at least 1, where it is left out.
    burst: Option<u32>,
    #[serde(default = "default_clients")]
    max_clients: usize,
}

fn default_clients() -> usize {
    10_000
}

const SHARDS: usize = 16;

/// What a client may still do.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    /// When `tokens` was right, since the start.
    at: Duration,
}

/// The plugin.
#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    burst: f64,
    /// Clients in one shard.
    max_in_shard: usize,
    start: Instant,
    /// Random, so that nobody can choose addresses which all fall into one shard.
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, Bucket>>; SHARDS],
}

/// The network that is counted as one client: the address of IPv4, the /64 of IPv6.
fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        // Networks in use begin with 2, 3 or f: they never meet an IPv4 address. ::1 counts as 0.0.0.0, which nobody has.
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

impl RateLimit {
    /// Takes a token at the moment `now`; otherwise says when there will be one.
    fn take(&self, client: u64, now: Duration) -> Result<(), Duration> {
        let shard = &self.shards[self.hasher.hash_one(client) as usize % SHARDS];
        // A panic with the lock held would poison it; the numbers are good all the same.
        let mut buckets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.max_in_shard && !buckets.contains_key(&client) {
            buckets.retain(|_, bucket| self.refilled(bucket, now) < self.burst);
            if buckets.len() >= self.max_in_shard {
                let any = buckets.keys().next().copied();
                any.and_then(|any| buckets.remove(&any));
            }
        }
        let bucket = buckets.entry(client).or_insert(Bucket { tokens: self.burst, at: now });
        bucket.tokens = self.refilled(bucket, now);
        bucket.at = now.max(bucket.at);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_second))
        }
    }

    fn refilled(&self, bucket: &Bucket, now: Duration) -> f64 {
        let waited = now.saturating_sub(bucket.at).as_secs_f64();
        (bucket.tokens + waited * self.per_second).min(self.burst)
    }
}

impl Plugin for RateLimit {
    const NAME: &'static str = "rate_limit";

    fn create(_: &Setup, config: &[u8]) -> Result<Self, Error> {
        let config: Config = serde_json::from_slice(config)
            .map_err(|error| Error::new(format!("config must be a mapping with per_second: {error}")))?;
        // Less than one request in a day would make Retry-After a strange number.
        if !(1.0 / 86_400.0..=1e9).contains(&config.per_second) {
            return Err(Error::new("per_second must be a number from 0.00002 to 1e9"));
        }
        if config.burst == Some(0) || config.max_clients == 0 {
            return Err(Error::new("burst and max_clients must be at least 1"));
        }
        Ok(RateLimit {
            per_second: config.per_second,
            burst: config.burst.map_or(config.per_second.max(1.0), f64::from),
            max_in_shard: config.max_clients.div_ceil(SHARDS),
            start: Instant::now(),
            hasher: RandomState::new(),
            shards: Default::default(),
        })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let Some(address) = x.client_addr() else { return Ok(Verdict::Continue) };
        match self.take(network(address.parse()?), self.start.elapsed()) {
            Ok(()) => Ok(Verdict::Continue),
            Err(wait) => {
                // Whole seconds (RFC 9110 section 10.2.3), rounded up: a client that obeys is not refused again.
                let seconds = wait.as_secs_f64().ceil().max(1.0).to_string();
                let fields = [("Retry-After", seconds.as_str()), ("Content-Type", "text/plain")];
                Ok(x.respond(429, &fields, "too many requests\n")?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};

    fn limit(config: &str) -> RateLimit {
        let config: Config = serde_json::from_str(config).unwrap();
        RateLimit {
            per_second: config.per_second,
            burst: f64::from(config.burst.unwrap()),
            max_in_shard: config.max_clients.div_ceil(SHARDS),
            start: Instant::now(),
            hasher: RandomState::new(),
            shards: Default::default(),
        }
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let limit = limit("{\"per_second\": 2, \"burst\": 3}");
        let at = Duration::from_millis;
        let rows = [
            (0, Ok(())),
            (0, Ok(())),
            (0, Ok(())),
            (0, Err(at(500))),
            (250, Err(at(250))),
            (500, Ok(())),
            (500, Err(at(500))),
            // Long after: no more than the burst has gathered.
            (60_000, Ok(())),
            (60_000, Ok(())),
            (60_000, Ok(())),
            (60_000, Err(at(500))),
            // A clock that another thread read earlier gives nothing and takes nothing.
            (59_000, Err(at(500))),
            (60_500, Ok(())),
        ];
        for (index, (now, expected)) in rows.into_iter().enumerate() {
            assert_eq!(limit.take(1, at(now)), expected, "row {index}");
        }
        assert_eq!(limit.take(2, at(0)), Ok(()), "another client");
    }

    #[test]
    fn memory_is_bounded() {
        let limit = limit("{\"per_second\": 1, \"burst\": 2, \"max_clients\": 160}");
        for client in 0..100_000 {
            assert_eq!(limit.take(client, Duration::ZERO), Ok(()));
        }
        let count: usize = limit.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(count <= 160, "{count}");
        // Once the buckets are full again the first that comes makes room by forgetting them.
        for client in 200_000..200_100 {
            assert_eq!(limit.take(client, Duration::from_secs(10)), Ok(()));
        }
        let count: usize = limit.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(count <= 160, "{count}");
    }

    #[test]
    fn clients_are_told_when_to_come_back() {
        let plugin = Instance::<RateLimit>::new("{\"per_second\": 0.1, \"burst\": 1}").unwrap();
        let from = |client| Exchange::get("/").client(client).request(&plugin);
        assert_eq!(from(Some("192.0.2.1")), Outcome::Continue);
        let refused = from(Some("192.0.2.1"));
        assert_eq!((refused.status(), refused.field("retry-after")), (Some(429), Some("10")));
        assert_eq!(from(Some("192.0.2.2")), Outcome::Continue);
        assert_eq!(from(Some("2001:db8::1")), Outcome::Continue);
        assert_eq!(from(Some("2001:db8::ffff")).status(), Some(429), "the same /64");
        assert_eq!(from(Some("2001:db8:0:1::1")), Outcome::Continue);
        assert_eq!((from(None), from(None)), (Outcome::Continue, Outcome::Continue), "a unix socket");
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for config in [
            "",
            "10",
            "{}",
            "{\"per_second\": 0}",
            "{\"per_second\": -1}",
            "{\"per_second\": 1, \"burst\": 0}",
            "{\"per_second\": 1, \"max_clients\": 0}",
            "{\"per_second\": 1, \"bursts\": 1}",
        ] {
            assert!(Instance::<RateLimit>::new(config).is_err(), "{config}");
        }
    }
}

/// Every order in which threads can meet is tried.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn limit(hasher: &RandomState, burst: u32, max_in_shard: usize) -> RateLimit {
        RateLimit {
            per_second: 1.0,
            burst: f64::from(burst),
            max_in_shard,
            start: Instant::now(),
            // The same in every run of the model, which repeats what happened before.
            hasher: hasher.clone(),
            shards: Default::default(),
        }
    }

    /// How many of these were admitted, when each stands for a thread that takes for these clients.
    fn admitted(limit: &Arc<RateLimit>, threads: &[&'static [(u64, Duration)]]) -> usize {
        let take = |clients: &'static [(u64, Duration)]| {
            let limit = Arc::clone(limit);
            move || clients.iter().filter(|(client, now)| limit.take(*client, *now).is_ok()).count()
        };
        let (last, others) = threads.split_last().unwrap();
        let others: Vec<_> = others.iter().map(|clients| thread::spawn(take(clients))).collect();
        let own = take(last)();
        own + others.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    }

    const NOW: Duration = Duration::ZERO;
    const LATER: Duration = Duration::from_secs(1);

    #[test]
    fn loom_no_more_than_the_bucket_holds_and_no_less() {
        let hasher = RandomState::new();
        loom::model(move || {
            let limit = Arc::new(limit(&hasher, 3, 10));
            assert_eq!(admitted(&limit, &[&[(1, NOW), (1, NOW)], &[(1, NOW), (1, NOW)]]), 3);
        });
        let hasher = RandomState::new();
        loom::model(move || {
            let limit = Arc::new(limit(&hasher, 2, 10));
            assert_eq!(admitted(&limit, &[&[(1, NOW)], &[(1, NOW)], &[(1, NOW)]]), 2);
        });
    }

    #[test]
    fn loom_a_clock_read_earlier_gives_nothing_twice() {
        let hasher = RandomState::new();
        loom::model(move || {
            let limit = Arc::new(limit(&hasher, 1, 10));
            // One token at the start, one more after a second, whoever comes first.
            let count = admitted(&limit, &[&[(1, LATER), (1, LATER)], &[(1, NOW), (1, NOW)]]);
            assert!((1..=2).contains(&count), "{count}");
        });
    }

    #[test]
    fn loom_memory_stays_bounded() {
        let hasher = RandomState::new();
        loom::model(move || {
            let limit = Arc::new(limit(&hasher, 1, 1));
            assert_eq!(admitted(&limit, &[&[(1, NOW), (2, NOW)], &[(3, NOW), (4, NOW)]]), 4, "each its own bucket");
            for shard in &limit.shards {
                assert!(shard.lock().unwrap().len() <= 1);
            }
        });
    }
}
