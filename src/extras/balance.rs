//! Several upstreams for one route: which one gets the next request, and which one is left alone for a while.
//!
//! Each worker has a balance of its own and learns by itself. A choice goes to the upstream with the fewest requests of
//! this worker under way; of several, to the one that was chosen longest ago. Health is passive: nothing is asked of an
//! upstream but what clients want.
//!
//! ```text
//!        so many failures in a row          its time is over: one request tries
//!  Up ────────────────────────────► Ejected ──────────────────────────────────► Probing
//!   ▲                                  ▲            failed: for twice as long      │
//!   └─── answered ─────────────────────┴───────────────────────────────────────────┘
//! ```
//!
//! What counts as a failure is for the caller to say. Time is an argument.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use crate::config::Health;
use crate::mono_time::MonoTime;
use crate::proxy::runtime::UpstreamId;

/// What a worker knows of upstreams that share routes.
#[derive(Debug, Default)]
pub struct Balance {
    backends: HashMap<UpstreamId, Rc<Backend>>,
    /// How many choices were made.
    choices: u64,
}

/// One upstream.
#[derive(Debug)]
struct Backend {
    /// Leases that are out.
    in_flight: Cell<u32>,
    /// The number of the choice that last fell on it.
    chosen: Cell<u64>,
    /// How often it was ejected: what began before the last time says nothing about now.
    epoch: Cell<u32>,
    state: Cell<BackendState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackendState {
    /// It gets requests; so many failed since the last answer.
    Up { failures: u32 },
    /// It gets none until then; for the so-many-th time without an answer in between.
    Ejected { until: MonoTime, times: u32 },
    /// One request is finding out. If it comes to no result, another one may.
    Probing { until: MonoTime, times: u32 },
}

/// Who is chosen first: the smallest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The client has logged in there.
    Preferred,
    /// Somebody has to find out, and this request may be repeated elsewhere.
    Probe(MonoTime),
    /// Requests under way, and when it was last chosen.
    Up(u32, u64),
    /// All are ejected: better a try than an error at once, and best where the end of the ejection is next.
    LastResort(MonoTime),
}

/// The right to send a request to an upstream. Dropping it ends the request, however it ended.
#[derive(Debug)]
pub struct Lease {
    backend: Rc<Backend>,
    epoch: u32,
    is_probe: bool,
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The upstream is left alone for so long.
    Ejected(Duration),
    /// The upstream gets requests again.
    Recovered,
}

/// Which of a route's upstreams a request has tried: at most 64 of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried(u64);

impl Tried {
    fn has(self, nth: usize) -> bool {
        self.0 & (1 << nth) != 0
    }

    fn add(&mut self, nth: usize) {
        self.0 |= 1 << nth;
    }
}

impl Balance {
    /// Chooses one of `upstreams` that is not in `tried`, and puts it there; `None` where all are. `repeatable`: the
    /// request may be sent to another one when it fails on this one. `preferred` is chosen if it is up.
    pub fn choose(
        &mut self,
        now: MonoTime,
        upstreams: &[UpstreamId],
        tried: &mut Tried,
        repeatable: bool,
        preferred: Option<UpstreamId>,
    ) -> Option<(usize, Lease)> {
        let backends = &mut self.backends;
        let (_, nth, backend) = upstreams
            .iter()
            .enumerate()
            .filter(|(nth, _)| !tried.has(*nth))
            .map(|(nth, id)| {
                let backend = backends.entry(*id).or_default();
                let is_preferred = preferred == Some(*id) && backend.is_up();
                let rank = if is_preferred { Rank::Preferred } else { backend.rank(now, repeatable) };
                (rank, nth, Rc::clone(backend))
            })
            .min_by(|one, other| one.0.cmp(&other.0))?;
        tried.add(nth);
        self.choices += 1;
        backend.chosen.set(self.choices);
        Some((nth, Lease::new(backend, now)))
    }

    /// Forgets upstreams that are gone.
    pub fn retain(&mut self, is_there: impl Fn(UpstreamId) -> bool) {
        self.backends.retain(|id, _| is_there(*id));
    }
}

impl Default for Backend {
    fn default() -> Self {
        Backend {
            in_flight: Cell::new(0),
            chosen: Cell::new(0),
            epoch: Cell::new(0),
            state: Cell::new(BackendState::Up { failures: 0 }),
        }
    }
}

impl Backend {
    fn is_up(&self) -> bool {
        matches!(self.state.get(), BackendState::Up { .. })
    }

    fn rank(&self, now: MonoTime, repeatable: bool) -> Rank {
        match self.state.get() {
            BackendState::Up { .. } => Rank::Up(self.in_flight.get(), self.chosen.get()),
            BackendState::Ejected { until, .. } if until <= now && repeatable => Rank::Probe(until),
            BackendState::Ejected { until, .. } | BackendState::Probing { until, .. } => Rank::LastResort(until),
        }
    }

    fn eject(&self, now: MonoTime, times: u32, health: &Health) -> Change {
        // 2^16 times the shortest ejection is above the longest one.
        let span = health.eject.saturating_mul(1 << times.min(16)).min(health.max_eject);
        self.state.set(BackendState::Ejected { until: now + span, times: times + 1 });
        self.epoch.set(self.epoch.get().wrapping_add(1));
        Change::Ejected(span)
    }
}

impl Lease {
    fn new(backend: Rc<Backend>, now: MonoTime) -> Lease {
        backend.in_flight.set(backend.in_flight.get() + 1);
        let is_probe = match backend.state.get() {
            BackendState::Ejected { until, times } if until <= now => {
                backend.state.set(BackendState::Probing { until, times });
                true
            }
            BackendState::Up { .. } | BackendState::Ejected { .. } | BackendState::Probing { .. } => false,
        };
        Lease { epoch: backend.epoch.get(), is_probe, backend }
    }

    /// The upstream could not be reached, or did not answer.
    pub fn failed(&mut self, now: MonoTime, health: &Health) -> Change {
        if self.epoch != self.backend.epoch.get() {
            return Change::None;
        }
        match self.backend.state.get() {
            BackendState::Up { failures } if failures + 1 >= health.failures => self.backend.eject(now, 0, health),
            BackendState::Up { failures } => {
                self.backend.state.set(BackendState::Up { failures: failures + 1 });
                Change::None
            }
            BackendState::Probing { times, .. } if self.is_probe => self.backend.eject(now, times, health),
            // Who tried as a last resort has learned nothing new.
            BackendState::Probing { .. } | BackendState::Ejected { .. } => Change::None,
        }
    }

    /// The upstream answered.
    pub fn answered(&mut self) -> Change {
        if self.epoch != self.backend.epoch.get() {
            return Change::None;
        }
        match self.backend.state.replace(BackendState::Up { failures: 0 }) {
            BackendState::Up { .. } => Change::None,
            BackendState::Ejected { .. } | BackendState::Probing { .. } => Change::Recovered,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.in_flight.set(self.backend.in_flight.get() - 1);
        if let (BackendState::Probing { until, times }, true) = (self.backend.state.get(), self.is_probe) {
            self.backend.state.set(BackendState::Ejected { until, times });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: Health = Health { failures: 2, eject: Duration::from_secs(1), max_eject: Duration::from_secs(5) };
    const ALL: [UpstreamId; 3] = [UpstreamId(7), UpstreamId(3), UpstreamId(9)];

    struct Play {
        balance: Balance,
        now: MonoTime,
    }

    impl Play {
        fn new() -> Play {
            Play { balance: Balance::default(), now: MonoTime::now() }
        }

        fn choose(&mut self, upstreams: &[UpstreamId]) -> (usize, Lease) {
            self.balance.choose(self.now, upstreams, &mut Tried::default(), true, None).expect("one")
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        /// One request that fails on `upstream`.
        fn fail(&mut self, upstream: UpstreamId) -> Change {
            let (_, mut lease) = self.choose(&[upstream]);
            lease.failed(self.now, &HEALTH)
        }

        /// Whom the next requests go to when each is over before the next begins.
        fn next(&mut self, count: usize) -> Vec<usize> {
            (0..count).map(|_| self.choose(&ALL).0).collect()
        }
    }

    #[test]
    fn who_has_logged_in_somewhere_goes_there_while_it_is_up() {
        let mut play = Play::new();
        let ask = |play: &mut Play, preferred| {
            play.balance.choose(play.now, &ALL, &mut Tried::default(), true, preferred).map(|(nth, _)| nth)
        };
        assert_eq!(ask(&mut play, Some(ALL[2])), Some(2));
        assert_eq!(ask(&mut play, Some(ALL[2])), Some(2));
        assert_eq!(ask(&mut play, Some(UpstreamId(1))), Some(0), "it is not one of these");
        play.fail(ALL[2]);
        play.fail(ALL[2]);
        assert_eq!(ask(&mut play, Some(ALL[2])), Some(1), "it is left alone");
    }

    #[test]
    fn the_least_busy_is_chosen_and_ties_go_in_turn() {
        let mut play = Play::new();
        assert_eq!(play.next(6), [0, 1, 2, 0, 1, 2]);
        let (first, held) = play.choose(&ALL);
        let (second, _) = play.choose(&ALL);
        assert_eq!((first, second), (0, 1));
        assert_eq!(play.next(4), [2, 1, 2, 1], "the first is busy");
        drop(held);
        assert_eq!(play.next(2), [0, 2], "and is not any more");
    }

    #[test]
    fn load_is_shared_over_routes() {
        let mut play = Play::new();
        let (_, _held) = play.choose(&ALL[..1]);
        assert_eq!(play.choose(&ALL[..2]).0, 1, "another route keeps the first one busy");
    }

    #[test]
    fn failures_in_a_row_eject_and_an_answer_in_between_does_not() {
        let mut play = Play::new();
        for (step, expected) in [("fail", Change::None), ("answer", Change::None), ("fail", Change::None)] {
            let (_, mut lease) = play.choose(&ALL[..1]);
            let change = if step == "fail" { lease.failed(play.now, &HEALTH) } else { lease.answered() };
            assert_eq!(change, expected, "{step}");
        }
        assert_eq!(play.fail(ALL[0]), Change::Ejected(HEALTH.eject));
        assert_eq!(play.next(4), [1, 2, 1, 2]);
    }

    #[test]
    fn one_request_probes_and_brings_it_back() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        play.fail(ALL[0]);
        play.wait(1);
        let (nth, mut probe) = play.choose(&ALL);
        assert_eq!(nth, 0, "its time is over");
        assert_eq!(play.next(2), [1, 2], "one at a time");
        assert_eq!(probe.answered(), Change::Recovered);
        drop(probe);
        assert_eq!(play.next(3), [0, 1, 2]);
        assert_eq!(play.fail(ALL[0]), Change::None, "failures count anew");
    }

    #[test]
    fn failed_probes_make_the_ejection_grow_up_to_a_cap() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        let mut seconds = 1;
        for expected in [1, 2, 4, 5, 5] {
            assert_eq!(play.fail(ALL[0]), Change::Ejected(Duration::from_secs(expected)));
            assert_eq!(play.next(2).iter().filter(|nth| **nth == 0).count(), 0);
            play.wait(expected);
            seconds += expected;
        }
        assert_eq!(seconds, 18);
        let (_, mut lease) = play.choose(&ALL[..1]);
        assert_eq!(lease.answered(), Change::Recovered);
        drop(lease);
        play.fail(ALL[0]);
        assert_eq!(play.fail(ALL[0]), Change::Ejected(HEALTH.eject), "an answer forgives");
    }

    #[test]
    fn a_probe_without_a_result_leaves_the_next_one_free_to_try() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        play.fail(ALL[0]);
        play.wait(1);
        drop(play.choose(&ALL));
        assert_eq!(play.choose(&ALL).0, 0);
    }

    #[test]
    fn g17_a_request_that_cannot_be_repeated_does_not_probe() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        play.fail(ALL[0]);
        play.wait(1);
        let chosen = play.balance.choose(play.now, &ALL, &mut Tried::default(), false, None).map(|(nth, _)| nth);
        assert_eq!(chosen, Some(1));
        assert_eq!(play.choose(&ALL).0, 0);
    }

    #[test]
    fn when_all_are_ejected_the_one_whose_time_ends_first_is_tried() {
        let mut play = Play::new();
        for id in [ALL[2], ALL[0], ALL[1]] {
            play.fail(id);
            play.fail(id);
            play.now += Duration::from_millis(100);
        }
        let mut tried = Tried::default();
        let mut order = Vec::new();
        while let Some((nth, mut lease)) = play.balance.choose(play.now, &ALL, &mut tried, true, None) {
            order.push(nth);
            assert_eq!(lease.failed(play.now, &HEALTH), Change::None, "nothing new");
        }
        assert_eq!(order, [2, 0, 1], "each once");
        let (_, mut lease) = play.choose(&ALL);
        assert_eq!(lease.answered(), Change::Recovered, "it was worth the try");
    }

    #[test]
    fn what_began_before_an_ejection_says_nothing_about_now() {
        let mut play = Play::new();
        let (_, mut slow) = play.choose(&ALL[..1]);
        let (_, mut slower) = play.choose(&ALL[..1]);
        play.fail(ALL[0]);
        play.fail(ALL[0]);
        assert_eq!(slow.answered(), Change::None, "it finishes what it has, and takes no more");
        assert_eq!(play.choose(&ALL[..2]).0, 1);
        play.wait(1);
        let (_, mut probe) = play.choose(&ALL);
        assert_eq!(slower.failed(play.now, &HEALTH), Change::None);
        assert_eq!(probe.answered(), Change::Recovered);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        let (_, held) = play.choose(&ALL[..1]);
        play.balance.retain(|id| id != ALL[0]);
        drop(held);
        assert_eq!(play.fail(ALL[0]), Change::None, "a new one of that number starts anew");
    }
}
