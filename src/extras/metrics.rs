//! What is counted. Each worker has counters of its own, so that nothing is shared on the request path; [`Registry`]
//! adds them up when somebody asks.
//!
//! The lock is a worker's own and nearly always free: it costs a few nanoseconds, is right on processors without 64-bit
//! atomics, and lets a reader see one moment. Tables are bounded however many routes there are: see [`MAX_NAMES`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;

use crate::config::{Config, UpstreamUrl};
use crate::proxy::events::UpstreamEvent;
use crate::proxy::request_log::AccessRecord;

/// So many names of a [`LabeledCounters`] have counters of their own. The others share some.
pub const MAX_NAMES: usize = 1000;

/// The name for those others: no prefix and no authority is empty.
pub const OTHER: &str = "";

/// The classes of status codes: `1xx` to `5xx` at their first digit, and everything else at 0.
pub const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The upper bounds of the latency histogram, in microseconds; what is slower than all of them is counted after them.
pub const BOUNDS: [u64; 10] = [500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000];

/// A number that a worker counts; `prometheus` says what each is.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the help of the metric says it")]
pub enum Counter {
    Retries,
    UnmappedHeads,
    BytesIn,
    BytesOut,
    Accepted,
    Closed,
    Refused,
    /// Set, not counted.
    MaxClients,
    LimitReached,
    ClientLimitReached,
    BecameBusy,
    BecameIdle,
    /// Upstream connections from the pool.
    Reused,
    /// Upstream connections that were asked for because the pool had none.
    Dialed,
}

/// The numbers of a route: finished requests by [`CLASSES`], ...
pub const ROUTE_DURATIONS: usize = CLASSES.len();
/// ... those by duration, not above each of [`BOUNDS`] but above the one before, and then all others, ...
pub const ROUTE_MICROS: usize = ROUTE_DURATIONS + BOUNDS.len() + 1;
/// ... and all durations together, in microseconds.
pub const ROUTE_NUMBERS: usize = ROUTE_MICROS + 1;

/// N numbers for each name.
#[derive(Clone, Debug, Default)]
pub struct LabeledCounters<const N: usize>(HashMap<String, [u64; N]>);

impl<const N: usize> LabeledCounters<N> {
    /// The numbers of `name`, or of [`OTHER`] where the table is full.
    fn of(&mut self, name: &str) -> &mut [u64; N] {
        let has_room = self.0.len() < MAX_NAMES || self.0.contains_key(name);
        self.0.entry_ref(if has_room { name } else { OTHER }).or_insert([0; N])
    }

    fn add_all(&mut self, other: &LabeledCounters<N>) {
        for (name, more) in &other.0 {
            let sums = self.0.entry_ref(&**name).or_insert([0; N]);
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
        }
    }

    /// In the order of the names.
    pub fn sorted(&self) -> BTreeMap<&str, &[u64; N]> {
        self.0.iter().map(|(name, numbers)| (if name == OTHER { "other" } else { name }, numbers)).collect()
    }
}

/// All counters of one worker, or those of all of them added up.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    simple: [u64; Counter::Dialed as usize + 1],
    /// Of the upstream or route that is counted: no allocation for each.
    name: String,
    /// By prefix, in front of it the first host of a route that has some; `none` for requests without a route.
    pub routes: LabeledCounters<ROUTE_NUMBERS>,
    /// By scheme and authority: attempts, those that got no answer, how often the upstream was ejected, and 1 while it is.
    pub upstreams: LabeledCounters<4>,
    /// Why requests were no plain success: the words of `Cause`.
    pub causes: LabeledCounters<1>,
    /// What a plugin's hooks took, in nanoseconds, and how often it failed.
    pub plugins: LabeledCounters<2>,
    /// TLS handshakes with clients that failed, by reason.
    pub handshake_failures: LabeledCounters<1>,
}

impl Counters {
    /// What a counter stands at.
    pub fn get(&self, counter: Counter) -> u64 {
        self.simple[counter as usize]
    }

    fn add_all(&mut self, other: &Counters) {
        self.simple.iter_mut().zip(other.simple).for_each(|(sum, more)| *sum += more);
        self.routes.add_all(&other.routes);
        self.upstreams.add_all(&other.upstreams);
        self.causes.add_all(&other.causes);
        self.plugins.add_all(&other.plugins);
        self.handshake_failures.add_all(&other.handshake_failures);
    }
}

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counters>);

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub fn increment(&self, counter: Counter) {
        self.lock().simple[counter as usize] += 1;
    }

    /// This many from now on.
    pub fn set(&self, counter: Counter, number: u64) {
        self.lock().simple[counter as usize] = number;
    }

    /// Counts a finished request.
    pub fn count_request(&self, record: &AccessRecord<'_>) {
        let (log, counters) = (record.log, &mut *self.lock());
        let route = match (record.prefix, record.route_host) {
            (None, _) => counters.routes.of("none"),
            (Some(_), _) if !record.is_counted_by_prefix => counters.routes.of(OTHER),
            (Some(prefix), None) => counters.routes.of(prefix),
            (Some(prefix), Some(host)) => {
                counters.name.clear();
                [host, prefix].into_iter().for_each(|part| counters.name.push_str(part));
                counters.routes.of(&counters.name)
            }
        };
        let class = usize::from(log.status / 100);
        route[if class < CLASSES.len() { class } else { 0 }] += 1;
        // How long a tunnel stays open says nothing about anybody's speed.
        if log.status != 101 {
            let micros = record.total().as_micros() as u64;
            let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
            route[ROUTE_DURATIONS + bucket] += 1;
            route[ROUTE_MICROS] = route[ROUTE_MICROS].wrapping_add(micros);
        }
        counters.simple[Counter::BytesIn as usize] += log.bytes_in;
        counters.simple[Counter::BytesOut as usize] += log.bytes_out;
        counters.simple[Counter::Retries as usize] += u64::from(log.retries);
        if let Some(cause) = log.cause {
            counters.causes.of(cause.why())[0] += 1;
        }
        for timing in record.plugins {
            let [nanos, faults] = counters.plugins.of(timing.plugin);
            *nanos = nanos.wrapping_add(timing.time.as_nanos() as u64);
            *faults += u64::from(timing.faults);
        }
    }

    /// Counts what happened to one of several upstreams.
    pub fn count_upstream(&self, upstream: &UpstreamUrl, event: UpstreamEvent) {
        let Counters { upstreams, name, .. } = &mut *self.lock();
        name.clear();
        upstream_name(upstream).for_each(|part| name.push_str(part));
        let [requests, failures, ejections, ejected] = upstreams.of(name);
        match event {
            UpstreamEvent::Attempted => *requests += 1,
            UpstreamEvent::Failed => *failures += 1,
            UpstreamEvent::Ejected(..) => (*ejections, *ejected) = (*ejections + 1, 1),
            UpstreamEvent::Recovered => *ejected = 0,
        }
    }

    /// A TLS handshake with a client failed.
    pub fn count_handshake_failure(&self, reason: &'static str) {
        self.lock().handshake_failures.of(reason)[0] += 1;
    }

    /// The configuration is another one now: an upstream that it does not name is not left alone any more.
    pub fn forget_ejected(&self, config: &Config) {
        let groups = config.routes.iter().filter(|route| route.upstreams().len() > 1);
        let upstreams = groups.flat_map(|route| route.upstreams());
        let names: HashSet<String> = upstreams.map(|url| upstream_name(url).collect()).collect();
        for (_, [.., ejected]) in self.lock().upstreams.0.iter_mut().filter(|(name, _)| !names.contains(*name)) {
            *ejected = 0;
        }
    }
}

fn upstream_name(upstream: &UpstreamUrl) -> impl Iterator<Item = &str> {
    [upstream.scheme.name(), "://", &upstream.authority].into_iter()
}

/// The counters of all workers.
#[derive(Debug)]
pub struct Registry {
    workers: Vec<Arc<Metrics>>,
    /// When the process began, since 1970.
    pub started: Duration,
    /// Of each of our certificates' files when it expires, in seconds since 1970.
    expiries: Mutex<BTreeSet<(String, u64)>>,
}

impl Registry {
    /// For so many workers.
    pub fn new(workers: usize, started: Duration) -> Registry {
        Registry { workers: (0..workers).map(|_| Arc::default()).collect(), started, expiries: Mutex::default() }
    }

    /// When our certificates expire.
    pub fn expiries(&self) -> MutexGuard<'_, BTreeSet<(String, u64)>> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of one worker.
    pub fn of_worker(&self, number: usize) -> &Arc<Metrics> {
        &self.workers[number]
    }

    /// All of them, added up.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.workers.iter().for_each(|worker| total.add_all(&worker.lock()));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::error::HttpError;
    use crate::proxy::cause::Cause;
    use crate::proxy::hooks::PluginTiming;
    use crate::proxy::request_log::RequestLog;

    fn record(log: &RequestLog, total: Duration) -> AccessRecord<'_> {
        AccessRecord { ended: log.started + total, ..AccessRecord::new(log) }
    }

    #[test]
    fn requests_are_counted_by_class_and_duration() {
        for (name, status, micros, class, bucket) in [
            ("at once", 200, 0, 2, Some(0)),
            ("a bound belongs to what is below it", 204, 500, 2, Some(0)),
            ("and not to what is above", 304, 501, 3, Some(1)),
            ("slow", 504, 5_000_001, 5, Some(9)),
            ("slower than all bounds", 499, 10_000_001, 4, Some(10)),
            ("for ever", 500, 1 << 50, 5, Some(10)),
            ("a tunnel has no speed", 101, 3_600_000_000, 1, None),
            ("a status of its own", 999, 1, 0, Some(0)),
            ("none", 0, 1, 0, Some(0)),
        ] {
            let metrics = Metrics::default();
            let log = RequestLog { status, ..RequestLog::default() };
            metrics.count_request(&record(&log, Duration::from_micros(micros)));
            let route = metrics.lock().routes.0["none"];
            let counted = |counts: &[u64]| counts.iter().position(|count| *count == 1);
            assert_eq!(counted(&route[..ROUTE_DURATIONS]), Some(class), "{name}");
            assert_eq!(counted(&route[ROUTE_DURATIONS..ROUTE_MICROS]), bucket, "{name}");
            assert_eq!(route[ROUTE_MICROS], bucket.map_or(0, |_| micros), "{name}");
        }
    }

    #[test]
    fn routes_beyond_the_first_and_names_beyond_the_table_share_their_counters() {
        let metrics = Metrics::default();
        let count = |prefix: &str, is_counted_by_prefix| {
            let log = RequestLog { status: 200, ..RequestLog::default() };
            let record = AccessRecord { prefix: Some(prefix), is_counted_by_prefix, ..record(&log, Duration::ZERO) };
            metrics.count_request(&record);
            metrics.lock().routes.0.get(prefix).map(|route| route[2])
        };
        assert_eq!((count("/a", true), count("/a", true), count("/late", false)), (Some(1), Some(2), None));
        for number in 0..MAX_NAMES {
            count(&format!("/{number}"), true);
        }
        assert_eq!((count("/more", true), count("/a", true)), (None, Some(3)), "as it is after many reloads");
        assert_eq!(metrics.lock().routes.0[OTHER][2], 4);
        assert!(metrics.lock().routes.0.len() <= MAX_NAMES + 1);
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
        let ejected = |name: &str| metrics.lock().upstreams.0[name][3];
        assert_eq!(["http://stays", "https://stays", "http://goes"].map(ejected), [1, 0, 0]);
    }

    #[test]
    fn s23_causes_plugins_bytes_and_retries_add_up() {
        let metrics = Metrics::default();
        let plugins = [
            PluginTiming { plugin: "one", time: Duration::from_nanos(1500), faults: 0 },
            PluginTiming { plugin: "two", time: Duration::from_nanos(1), faults: 1 },
        ];
        for cause in [Cause::ClientGone, Cause::Rule(HttpError::BareLf), Cause::ClientGone] {
            let log = RequestLog { bytes_in: 3, bytes_out: 5, retries: 1, cause: Some(cause), ..RequestLog::default() };
            metrics.count_request(&AccessRecord { plugins: &plugins, ..AccessRecord::new(&log) });
        }
        let counters = metrics.lock().clone();
        let simple = [Counter::BytesIn, Counter::BytesOut, Counter::Retries, Counter::Accepted];
        assert_eq!(simple.map(|counter| counters.get(counter)), [9, 15, 3, 0]);
        let plugins: Vec<_> = counters.plugins.sorted().into_iter().collect();
        assert_eq!(plugins, [("one", &[4500, 0]), ("two", &[3, 3])]);
        assert_eq!(counters.causes.sorted().into_iter().collect::<Vec<_>>(), [("S8", &[1]), ("client_gone", &[2])]);
    }
}
