//! What is counted. Each worker has counters of its own, so that nothing is shared on the request path; [`Registry`]
//! adds them up when somebody asks.
//!
//! The lock is a worker's own and nearly always free: it costs a few nanoseconds, is right on processors without 64-bit
//! atomics, and lets a reader see one moment. Tables are bounded however many routes there are: see [`MAX_NAMES`].

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;

use crate::config::{Config, Scheme, UpstreamUrl};
use crate::proxy::events::UpstreamEvent;
use crate::proxy::request_log::AccessRecord;

/// So many routes, and upstreams that are one of several, have counters of their own. The others share some.
pub const MAX_NAMES: usize = 1000;

/// The name for those others: no prefix and no authority is empty.
pub const OTHER: &str = "";

/// The upper bounds of the latency histogram, in microseconds; what is slower than all of them is counted behind them.
pub const BOUNDS: [u64; 10] = [500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000];

/// The classes of status codes: `1xx` to `5xx` at their first digit, and everything else at 0.
pub const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// A number that a worker counts.
#[derive(Clone, Copy, Debug)]
pub enum Counter {
    /// Requests that were sent again.
    Retries,
    /// Heads that would have been too large when mapped.
    UnmappedHeads,
    /// Body bytes received from clients.
    BytesIn,
    /// Body bytes given to clients.
    BytesOut,
    /// Clients that were let in.
    Accepted,
    /// Those of them that are gone.
    Closed,
    /// Clients that were turned away.
    Refused,
    /// How many may be connected at once, beside the operator's; set, not counted.
    MaxClients,
    /// How often the last of these places was taken.
    LimitReached,
    /// How often a client connection had a request under way that had none before.
    BecameBusy,
    /// How often it had none any more.
    BecameIdle,
    /// Upstream connections that were lent from the pool.
    Reused,
    /// Upstream connections that were asked for because the pool had none.
    Dialed,
}

/// What is counted for each route.
#[derive(Clone, Debug, Default)]
pub struct RouteCounters {
    /// Finished requests by [`CLASSES`].
    pub classes: [u64; CLASSES.len()],
    /// Finished requests by duration: not above each of [`BOUNDS`] but above the one before; then all others.
    pub durations: [u64; BOUNDS.len() + 1],
    /// All durations together, in microseconds.
    pub micros: u64,
}

/// What is counted for each upstream that is one of several.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamCounters {
    /// Attempts at a request.
    pub requests: u64,
    /// Those that got no answer.
    pub failures: u64,
    /// How often it was left alone.
    pub ejections: u64,
    /// 1 while it is left alone.
    pub ejected: u64,
}

impl UpstreamCounters {
    /// Adds those of another worker.
    pub fn add(&mut self, more: &UpstreamCounters) {
        self.requests += more.requests;
        self.failures += more.failures;
        self.ejections += more.ejections;
        self.ejected += more.ejected;
    }
}

/// What is counted for each plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct PluginCounters {
    /// What its hooks took, in nanoseconds.
    pub nanos: u64,
    /// How often it failed.
    pub faults: u64,
}

/// All counters of one worker, or those of all of them added up.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    simple: [u64; Counter::Dialed as usize + 1],
    /// By prefix, `none` for requests without a route, [`OTHER`] for the rest.
    pub routes: HashMap<String, RouteCounters>,
    /// By authority, [`OTHER`] for the rest, and there by scheme: http, https.
    pub upstreams: HashMap<String, [UpstreamCounters; 2]>,
    /// Why requests were no plain success: the words of `Cause`.
    pub causes: BTreeMap<&'static str, u64>,
    /// By the plugin's name.
    pub plugins: BTreeMap<&'static str, PluginCounters>,
    /// TLS handshakes with clients that failed, by reason.
    pub handshake_failures: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// What a counter stands at.
    pub fn get(&self, counter: Counter) -> u64 {
        self.simple[counter as usize]
    }

    fn add(&mut self, counter: Counter, more: u64) {
        self.simple[counter as usize] += more;
    }

    fn add_all(&mut self, other: &Counters) {
        self.simple.iter_mut().zip(other.simple).for_each(|(sum, more)| *sum += more);
        for (name, more) in &other.routes {
            let sum = self.routes.entry_ref(&**name).or_default();
            sum.classes.iter_mut().zip(more.classes).for_each(|(sum, more)| *sum += more);
            sum.durations.iter_mut().zip(more.durations).for_each(|(sum, more)| *sum += more);
            sum.micros = sum.micros.wrapping_add(more.micros);
        }
        for (name, more) in &other.upstreams {
            let sums = self.upstreams.entry_ref(&**name).or_default();
            sums.iter_mut().zip(more).for_each(|(sum, more)| sum.add(more));
        }
        other.causes.iter().for_each(|(why, more)| *self.causes.entry(why).or_default() += more);
        other
            .handshake_failures
            .iter()
            .for_each(|(why, more)| *self.handshake_failures.entry(why).or_default() += more);
        for (name, more) in &other.plugins {
            let sum = self.plugins.entry(name).or_default();
            sum.nanos = sum.nanos.wrapping_add(more.nanos);
            sum.faults += more.faults;
        }
    }
}

/// What is counted under `name`, or under [`OTHER`] where the table is full.
fn named<'a, T: Default>(table: &'a mut HashMap<String, T>, name: &str) -> &'a mut T {
    let has_room = table.len() < MAX_NAMES || table.contains_key(name);
    table.entry_ref(if has_room { name } else { OTHER }).or_default()
}

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counters>);

impl Metrics {
    fn with<T>(&self, act: impl FnOnce(&mut Counters) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One more.
    pub fn increment(&self, counter: Counter) {
        self.with(|counters| counters.add(counter, 1));
    }

    /// This many from now on.
    pub fn set(&self, counter: Counter, number: u64) {
        self.with(|counters| counters.simple[counter as usize] = number);
    }

    /// Counts a finished request.
    pub fn count_request(&self, record: &AccessRecord<'_>) {
        let name = match record.prefix {
            Some(prefix) if record.is_counted_by_prefix => prefix,
            Some(_) => OTHER,
            None => "none",
        };
        self.with(|counters| {
            let route = named(&mut counters.routes, name);
            let class = usize::from(record.status / 100);
            route.classes[if class < CLASSES.len() { class } else { 0 }] += 1;
            // How long a tunnel stays open says nothing about anybody's speed.
            if record.status != 101 {
                let micros = whole_micros(record.total);
                route.durations[BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len())] += 1;
                route.micros = route.micros.wrapping_add(micros);
            }
            counters.add(Counter::BytesIn, record.bytes_in);
            counters.add(Counter::BytesOut, record.bytes_out);
            counters.add(Counter::Retries, record.retries.into());
            if let Some(why) = record.why {
                *counters.causes.entry(why).or_default() += 1;
            }
            for timing in record.plugins {
                let plugin = counters.plugins.entry(timing.plugin).or_default();
                plugin.nanos = plugin.nanos.wrapping_add(timing.time.as_nanos() as u64);
                plugin.faults += u64::from(timing.faults);
            }
        });
    }

    /// Counts what happened to one of several upstreams.
    pub fn count_upstream(&self, upstream: &UpstreamUrl, event: UpstreamEvent) {
        self.with(|counters| {
            let by_scheme = named(&mut counters.upstreams, &upstream.authority);
            let upstream = &mut by_scheme[usize::from(upstream.scheme == Scheme::Https)];
            match event {
                UpstreamEvent::Attempted => upstream.requests += 1,
                UpstreamEvent::Failed => upstream.failures += 1,
                UpstreamEvent::Ejected(..) => {
                    upstream.ejections += 1;
                    upstream.ejected = 1;
                }
                UpstreamEvent::Recovered => upstream.ejected = 0,
            }
        });
    }

    /// A TLS handshake with a client failed.
    pub fn count_handshake_failure(&self, reason: &'static str) {
        self.with(|counters| *counters.handshake_failures.entry(reason).or_default() += 1);
    }

    /// The configuration is another one now: an upstream that it does not name is not left alone any more.
    pub fn forget_ejected(&self, config: &Config) {
        let upstreams =
            config.routes.iter().filter(|route| route.more_upstreams.is_some()).flat_map(|route| route.upstreams());
        let names: HashSet<_> =
            upstreams.map(|url| (url.authority.as_str(), usize::from(url.scheme == Scheme::Https))).collect();
        self.with(|counters| {
            for (name, by_scheme) in &mut counters.upstreams {
                for (scheme, upstream) in by_scheme.iter_mut().enumerate() {
                    upstream.ejected *= u64::from(names.contains(&(&**name, scheme)));
                }
            }
        });
    }
}

fn whole_micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
}

/// The counters of all workers.
#[derive(Debug)]
pub struct Registry {
    workers: Vec<Arc<Metrics>>,
    /// When the process began, since 1970.
    pub started: Duration,
}

impl Registry {
    /// For so many workers.
    pub fn new(workers: usize, started: Duration) -> Registry {
        Registry { workers: (0..workers).map(|_| Arc::default()).collect(), started }
    }

    /// Those of one worker.
    pub fn of_worker(&self, number: usize) -> &Arc<Metrics> {
        &self.workers[number]
    }

    /// All of them, added up.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.workers.iter().for_each(|worker| worker.with(|counters| total.add_all(counters)));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::hooks::PluginTiming;

    fn record<'a>(status: u16, total: Duration) -> AccessRecord<'a> {
        AccessRecord { status, total, ..AccessRecord::default() }
    }

    #[test]
    fn requests_are_counted_by_class_and_duration() {
        for (name, status, micros, class, bucket) in [
            ("at once", 200, 0, 2, Some(0)),
            ("a bound belongs to what is below it", 204, 500, 2, Some(0)),
            ("and not to what is above", 304, 501, 3, Some(1)),
            ("slow", 504, 5_000_001, 5, Some(9)),
            ("slower than all bounds", 499, 10_000_001, 4, Some(10)),
            ("for ever", 500, u64::MAX, 5, Some(10)),
            ("a tunnel has no speed", 101, 3_600_000_000, 1, None),
            ("a status of its own", 999, 1, 0, Some(0)),
            ("none", 0, 1, 0, Some(0)),
        ] {
            let metrics = Metrics::default();
            metrics.count_request(&record(status, Duration::from_micros(micros)));
            let route = metrics.with(|counters| counters.routes["none"].clone());
            let counted = |counts: &[u64]| counts.iter().position(|count| *count == 1);
            assert_eq!(counted(&route.classes), Some(class), "{name}");
            assert_eq!(counted(&route.durations), bucket, "{name}");
            assert_eq!(route.micros, bucket.map_or(0, |_| micros), "{name}");
        }
    }

    #[test]
    fn routes_beyond_the_first_and_names_beyond_the_table_share_their_counters() {
        let metrics = Metrics::default();
        let count = |prefix: &str, is_counted_by_prefix| {
            let record = AccessRecord { prefix: Some(prefix), is_counted_by_prefix, ..record(200, Duration::ZERO) };
            metrics.count_request(&record);
            metrics.with(|counters| counters.routes.get(prefix).map(|route| route.classes[2]))
        };
        assert_eq!((count("/a", true), count("/a", true), count("/late", false)), (Some(1), Some(2), None));
        for number in 0..MAX_NAMES {
            count(&format!("/{number}"), true);
        }
        assert_eq!((count("/more", true), count("/a", true)), (None, Some(3)), "as it is after many reloads");
        assert_eq!(metrics.with(|counters| counters.routes[OTHER].classes[2]), 4);
        assert!(metrics.with(|counters| counters.routes.len()) <= MAX_NAMES + 1);
    }

    #[test]
    fn an_upstream_that_is_gone_is_not_left_alone_any_more() {
        let metrics = Metrics::default();
        let yaml =
            "routes: [{prefix: /, upstreams: ['http://stays', 'http://other']}, {prefix: /a, upstream: 'http://goes'}]";
        let config = Config::parse(yaml, "test").expect("a valid configuration");
        for url in ["http://stays", "https://stays", "http://goes"] {
            let upstream = UpstreamUrl::parse(url).expect("a valid URL");
            metrics.count_upstream(&upstream, UpstreamEvent::Ejected(Duration::from_secs(1), "connect_refused"));
        }
        metrics.forget_ejected(&config);
        let ejected = |name: &str| metrics.with(|counters| counters.upstreams[name].map(|upstream| upstream.ejected));
        assert_eq!((ejected("stays"), ejected("goes")), ([1, 0], [0, 0]));
    }

    #[test]
    fn s23_causes_plugins_bytes_and_retries_add_up() {
        let metrics = Metrics::default();
        let plugins = [
            PluginTiming { plugin: "one", time: Duration::from_nanos(1500), faults: 0 },
            PluginTiming { plugin: "two", time: Duration::from_nanos(1), faults: 1 },
        ];
        for why in ["client_gone", "S8", "client_gone"] {
            metrics.count_request(&AccessRecord {
                bytes_in: 3,
                bytes_out: 5,
                retries: 1,
                why: Some(why),
                plugins: &plugins,
                ..AccessRecord::default()
            });
        }
        let counters = metrics.with(|counters| counters.clone());
        let simple = [Counter::BytesIn, Counter::BytesOut, Counter::Retries, Counter::Accepted];
        assert_eq!(simple.map(|counter| counters.get(counter)), [9, 15, 3, 0]);
        let plugins: Vec<_> = counters.plugins.iter().map(|(name, it)| (*name, it.nanos, it.faults)).collect();
        assert_eq!(plugins, [("one", 4500, 0), ("two", 3, 3)]);
        assert_eq!(counters.causes.into_iter().collect::<Vec<_>>(), [("S8", 1), ("client_gone", 2)]);
    }
}
