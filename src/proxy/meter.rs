//! What one worker has counted. Only that worker writes, anybody may read: no counter is shared on the request path.
//!
//! A counter is an atomic number that is read and written in two plain steps, which is right because there is one writer
//! only and costs no more than an ordinary addition. Where there are no 64-bit atomics (MIPS, PowerPC) it is a number
//! behind a lock: 32 bits of bytes or nanoseconds are used up within seconds. Whoever reads many of them gets no snapshot of one moment, which
//! nobody needs who looks every few seconds.

use std::sync::OnceLock;
use std::time::Duration;

use super::events::{AccessRecord, UpstreamEvent};
use super::labels::Label;

/// A number that one thread counts up, or sets.
#[derive(Debug, Default)]
pub struct Count(number::Number);

impl Count {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more. To be called by the one writer only.
    pub fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    /// One less than before, for what comes and goes.
    pub fn decrement(&self) {
        self.set(self.get().wrapping_sub(1));
    }

    /// This many, for what comes and goes.
    pub fn set(&self, number: u64) {
        self.0.store(number);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load()
    }
}

/// With 64-bit atomics.
#[cfg(target_has_atomic = "64")]
mod number {
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    pub(super) struct Number(AtomicU64);

    impl Number {
        pub(super) fn load(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        pub(super) fn store(&self, number: u64) {
            self.0.store(number, Ordering::Relaxed);
        }
    }
}

/// Without. Nothing panics while the lock is held, so it is never poisoned.
#[cfg(not(target_has_atomic = "64"))]
mod number {
    use std::sync::{Mutex, PoisonError};

    #[derive(Debug, Default)]
    pub(super) struct Number(Mutex<u64>);

    impl Number {
        pub(super) fn load(&self) -> u64 {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(super) fn store(&self, number: u64) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = number;
        }
    }
}

/// The upper bounds of the latency histogram, in microseconds; what is slower than all of them is counted behind them.
pub const BOUNDS: [u64; 10] = [500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000];

/// The classes of status codes: `1xx` to `5xx` at their first digit, and everything else at 0.
pub const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What is counted for each route.
#[derive(Debug, Default)]
pub struct RouteMeter {
    /// Finished requests by [`CLASSES`].
    pub classes: [Count; CLASSES.len()],
    /// Finished requests by duration: not above each of [`BOUNDS`] but above the one before; then all others.
    pub durations: [Count; BOUNDS.len() + 1],
    /// All durations together, in microseconds.
    pub micros: Count,
}

/// What is counted for each plugin.
#[derive(Debug, Default)]
pub struct PluginMeter {
    /// What its hooks took, in nanoseconds.
    pub nanos: Count,
    /// How often it failed.
    pub faults: Count,
}

/// What is counted for each upstream that is one of several.
#[derive(Debug, Default)]
pub struct UpstreamMeter {
    /// Attempts at a request.
    pub requests: Count,
    /// Those that got no answer.
    pub failures: Count,
    /// How often it was left alone.
    pub ejections: Count,
    /// 1 while it is left alone.
    pub ejected: Count,
}

/// Counters for words that are written in the code, or kept for as long as the process lives: each gets a place when it
/// first comes up. The last place is for all that come after the others are taken.
#[derive(Debug)]
pub struct LabeledCounters<T, const PLACES: usize> {
    places: [OnceLock<(&'static str, T)>; PLACES],
}

impl<T, const PLACES: usize> Default for LabeledCounters<T, PLACES> {
    fn default() -> Self {
        LabeledCounters { places: [const { OnceLock::new() }; PLACES] }
    }
}

impl<T: Default, const PLACES: usize> LabeledCounters<T, PLACES> {
    /// The place of `word`.
    pub fn of(&self, word: &'static str) -> &T {
        let (last, places) = self.places.split_last().expect("there are places");
        for place in places {
            let (taken_by, counter) = place.get_or_init(|| (word, T::default()));
            if *taken_by == word {
                return counter;
            }
        }
        &last.get_or_init(|| ("other", T::default())).1
    }

    /// The words that came up.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.places.iter().filter_map(OnceLock::get).map(|(word, counter)| (*word, counter))
    }
}

/// All counters of one worker.
#[derive(Debug)]
pub struct Meter {
    /// By [`Label`]; made when a route is first used.
    routes: Box<[OnceLock<Box<RouteMeter>>]>,
    /// By [`Label`] too; most proxies have no such upstreams, and then not even the table is there.
    upstreams: OnceLock<Box<[OnceLock<Box<UpstreamMeter>>]>>,
    /// Why requests were no plain success: the words of `Cause`.
    pub causes: LabeledCounters<Count, 96>,
    /// By the plugin's name.
    pub plugins: LabeledCounters<PluginMeter, 33>,
    /// TLS handshakes with clients that failed, by reason.
    pub handshake_failures: LabeledCounters<Count, 16>,
    /// Requests that were sent again.
    pub retries: Count,
    /// Heads that would have been too large when mapped.
    pub unmapped: Count,
    /// Body bytes received from clients.
    pub bytes_in: Count,
    /// Body bytes given to clients.
    pub bytes_out: Count,
    /// Clients that were let in.
    pub accepted: Count,
    /// Those of them who are gone.
    pub closed: Count,
    /// Clients that were turned away.
    pub refused: Count,
    /// How many may be inside at once, beside the operator's.
    pub max_clients: Count,
    /// How often the last of these places was taken.
    pub limit_reached: Count,
    /// Client connections on which a request is under way: goes up and down.
    pub busy: Count,
    /// Upstream connections that were lent from the pool.
    pub reused: Count,
    /// Upstream connections that were asked for because the pool had none.
    pub dialed: Count,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            routes: table(),
            upstreams: OnceLock::new(),
            causes: LabeledCounters::default(),
            plugins: LabeledCounters::default(),
            handshake_failures: LabeledCounters::default(),
            retries: Count::default(),
            unmapped: Count::default(),
            bytes_in: Count::default(),
            bytes_out: Count::default(),
            accepted: Count::default(),
            closed: Count::default(),
            refused: Count::default(),
            max_clients: Count::default(),
            limit_reached: Count::default(),
            busy: Count::default(),
            reused: Count::default(),
            dialed: Count::default(),
        }
    }
}

/// An empty place for each label.
fn table<T>() -> Box<[OnceLock<T>]> {
    (0..Label::COUNT).map(|_| OnceLock::new()).collect()
}

impl Meter {
    /// What was counted for a route, if it was ever used.
    pub fn route(&self, label: Label) -> Option<&RouteMeter> {
        self.routes[label.index()].get().map(Box::as_ref)
    }

    /// What was counted for one of several upstreams, if it was ever used.
    pub fn upstream(&self, label: Label) -> Option<&UpstreamMeter> {
        self.upstreams.get()?[label.index()].get().map(Box::as_ref)
    }

    /// Counts what happened to one of several upstreams.
    pub fn count_upstream(&self, label: Label, event: UpstreamEvent) {
        let upstream = self.upstreams.get_or_init(table)[label.index()].get_or_init(Box::default);
        match event {
            UpstreamEvent::Asked => upstream.requests.increment(),
            UpstreamEvent::Failed => upstream.failures.increment(),
            UpstreamEvent::Ejected(..) => {
                upstream.ejections.increment();
                upstream.ejected.set(1);
            }
            UpstreamEvent::Returned => upstream.ejected.set(0),
        }
    }

    /// The upstreams that are one of several are others now: who is gone is not left alone any more.
    pub fn keep_upstreams(&self, is_there: impl Fn(Label) -> bool) {
        let all = self.upstreams.get().into_iter().flat_map(|table| table.iter());
        for (label, upstream) in Label::all().zip(all) {
            if let Some(upstream) = upstream.get()
                && !is_there(label)
            {
                upstream.ejected.set(0);
            }
        }
    }

    /// Counts a finished request.
    pub fn count(&self, record: &AccessRecord<'_>) {
        let route = self.routes[record.label.index()].get_or_init(Box::default);
        let class = usize::from(record.status / 100);
        route.classes[if class < CLASSES.len() { class } else { 0 }].increment();
        // How long a tunnel stays open says nothing about anybody's speed.
        if record.status != 101 {
            let micros = whole_micros(record.total);
            let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
            route.durations[bucket].increment();
            route.micros.add(micros);
        }
        self.bytes_in.add(record.bytes_in);
        self.bytes_out.add(record.bytes_out);
        self.retries.add(record.retries.into());
        if let Some(why) = record.why {
            self.causes.of(why).increment();
        }
        for stint in record.plugins {
            let plugin = self.plugins.of(stint.plugin);
            plugin.nanos.add(u64::try_from(stint.time.as_nanos()).unwrap_or(u64::MAX));
            plugin.faults.add(stint.faults.into());
        }
    }
}

fn whole_micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::hooks::PluginTiming;
    use crate::proxy::labels::Labels;

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
            let meter = Meter::default();
            meter.count(&record(status, Duration::from_micros(micros)));
            let route = meter.route(Label::NONE).expect("it was used");
            let counted = |counts: &[Count]| counts.iter().position(|count| count.get() == 1);
            assert_eq!(counted(&route.classes), Some(class), "{name}");
            assert_eq!(counted(&route.durations), bucket, "{name}");
            assert_eq!(route.micros.get(), bucket.map_or(0, |_| micros), "{name}");
        }
    }

    #[test]
    fn routes_that_nobody_used_own_nothing() {
        let meter = Meter::default();
        let labels = Labels::default().assign(["/a", "/b"]);
        let mut record = record(200, Duration::ZERO);
        record.label = labels[1];
        meter.count(&record);
        meter.count(&record);
        assert!(meter.route(labels[0]).is_none() && meter.route(Label::NONE).is_none());
        assert_eq!(meter.route(labels[1]).map(|route| route.classes[2].get()), Some(2));
    }

    #[test]
    fn s23_causes_are_counted_by_their_word() {
        let meter = Meter::default();
        for why in ["client_gone", "S8", "client_gone"] {
            meter.count(&AccessRecord { why: Some(why), ..AccessRecord::default() });
        }
        let all: Vec<_> = meter.causes.all().map(|(word, count)| (word, count.get())).collect();
        assert_eq!(all, [("client_gone", 2), ("S8", 1)]);
    }

    #[test]
    fn words_beyond_the_places_share_the_last_one() {
        let words: LabeledCounters<Count, 3> = LabeledCounters::default();
        for word in ["a", "b", "c", "d", "b"] {
            words.of(word).increment();
        }
        let all: Vec<_> = words.all().map(|(word, count)| (word, count.get())).collect();
        assert_eq!(all, [("a", 1), ("b", 2), ("other", 2)]);
    }

    #[test]
    fn an_upstream_that_is_gone_is_not_left_alone_any_more() {
        let meter = Meter::default();
        meter.keep_upstreams(|_| true);
        let labels = Labels::default().assign(["http://stays", "http://goes"]);
        for label in labels.iter() {
            meter.count_upstream(*label, UpstreamEvent::Ejected(Duration::from_secs(1), "connect_refused"));
        }
        meter.keep_upstreams(|label| label == labels[0]);
        let ejected = labels.iter().map(|label| meter.upstream(*label).map(|upstream| upstream.ejected.get()));
        assert_eq!(ejected.collect::<Vec<_>>(), [Some(1), Some(0)]);
    }

    #[test]
    fn plugins_bytes_and_retries_add_up() {
        let meter = Meter::default();
        let stints = [
            PluginTiming { plugin: "one", time: Duration::from_nanos(1500), faults: 0 },
            PluginTiming { plugin: "two", time: Duration::from_nanos(1), faults: 1 },
        ];
        for _ in 0..2 {
            meter.count(&AccessRecord {
                bytes_in: 3,
                bytes_out: 5,
                retries: 1,
                plugins: &stints,
                ..AccessRecord::default()
            });
        }
        assert_eq!((meter.bytes_in.get(), meter.bytes_out.get(), meter.retries.get()), (6, 10, 2));
        let all: Vec<_> =
            meter.plugins.all().map(|(name, plugin)| (name, plugin.nanos.get(), plugin.faults.get())).collect();
        assert_eq!(all, [("one", 3000, 0), ("two", 2, 2)]);
    }
}
