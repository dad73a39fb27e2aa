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
#[derive(Debug, Default)]
struct Backend {
    /// Leases that are out.
    in_flight: Cell<u32>,
    /// The number of the choice that last fell on it.
    chosen: Cell<u64>,
    /// Failures since the last answer.
    failures: Cell<u32>,
    /// `None` while it is up.
    ejection: Cell<Option<Ejection>>,
    /// How often it was ejected: what began before the last time says nothing about now.
    epoch: Cell<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: MonoTime,
    span: Duration,
    /// How often in a row, without an answer in between.
    times: u32,
    /// One request is finding out. If it comes to no result, another one may.
    is_probed: bool,
}

/// Which one is chosen first: the smallest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The client has logged in there.
    Preferred,
    /// Somebody has to find out, and this request may be repeated elsewhere, or such a one has not come for as long again.
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

impl Balance {
    /// Chooses one of `upstreams`, of which there are at most 64, whose bit is not set in `tried`, and sets it; `None` where
    /// all are. `repeatable`: the request may be sent to another one when it fails on this one. `preferred` is chosen if it
    /// is up.
    pub fn choose(
        &mut self,
        now: MonoTime,
        upstreams: &[UpstreamId],
        tried: &mut u64,
        repeatable: bool,
        preferred: Option<UpstreamId>,
    ) -> Option<(usize, Lease)> {
        let (backends, extra_spans) = (&mut self.backends, u32::from(!repeatable));
        let (_, nth, backend) = upstreams
            .iter()
            .enumerate()
            .filter(|(nth, _)| *tried & 1 << nth == 0)
            .map(|(nth, id)| {
                let backend = backends.entry(*id).or_default();
                let rank = match backend.ejection.get() {
                    None if preferred == Some(*id) => Rank::Preferred,
                    None => Rank::Up(backend.in_flight.get(), backend.chosen.get()),
                    Some(Ejection { until, span, is_probed: false, .. }) if until + span * extra_spans <= now => {
                        Rank::Probe(until)
                    }
                    Some(Ejection { until, .. }) => Rank::LastResort(until),
                };
                (rank, nth, Rc::clone(backend))
            })
            .min_by(|one, other| one.0.cmp(&other.0))?;
        *tried |= 1 << nth;
        self.choices += 1;
        backend.chosen.set(self.choices);
        backend.in_flight.set(backend.in_flight.get() + 1);
        let due = backend.ejection.get().filter(|ejection| ejection.until <= now && !ejection.is_probed);
        if let Some(ejection) = due {
            backend.ejection.set(Some(Ejection { is_probed: true, ..ejection }));
        }
        Some((nth, Lease { epoch: backend.epoch.get(), is_probe: due.is_some(), backend }))
    }

    /// Forgets upstreams that are gone.
    pub fn retain(&mut self, is_there: impl Fn(UpstreamId) -> bool) {
        self.backends.retain(|id, _| is_there(*id));
    }
}

impl Lease {
    /// The upstream could not be reached, or did not answer. For how long it is ejected now, where that is news.
    pub fn failed(&mut self, now: MonoTime, health: &Health) -> Option<Duration> {
        let Backend { failures, ejection, epoch, .. } = &*self.backend;
        if self.epoch != epoch.get() {
            return None;
        }
        failures.set(failures.get().saturating_add(1));
        let times = match ejection.get() {
            None if failures.get() >= health.failures => 0,
            Some(Ejection { times, .. }) if self.is_probe => times,
            // A try as a last resort has shown nothing new.
            _ => return None,
        };
        // 2^31 times the shortest one, a millisecond, are 24 days.
        let span = health.eject.saturating_mul(1 << times.min(31)).min(health.max_eject);
        ejection.set(Some(Ejection { until: now + span, span, times: times + 1, is_probed: false }));
        epoch.set(epoch.get().wrapping_add(1));
        Some(span)
    }

    /// The upstream answered. Whether it had been ejected and gets requests again.
    pub fn answered(&mut self) -> bool {
        let is_current = self.epoch == self.backend.epoch.get();
        if is_current {
            self.backend.failures.set(0);
        }
        is_current && self.backend.ejection.take().is_some()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.in_flight.set(self.backend.in_flight.get() - 1);
        if let (Some(ejection), true) = (self.backend.ejection.get(), self.is_probe) {
            self.backend.ejection.set(Some(Ejection { is_probed: false, ..ejection }));
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
            self.balance.choose(self.now, upstreams, &mut 0, true, None).expect("one")
        }

        fn wait(&mut self, seconds: u64) {
            self.now = self.now + Duration::from_secs(seconds);
        }

        /// One request that fails on `upstream`.
        fn fail(&mut self, upstream: UpstreamId) -> Option<Duration> {
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
            play.balance.choose(play.now, &ALL, &mut 0, true, preferred).map(|(nth, _)| nth)
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
        assert_eq!(play.fail(ALL[0]), None);
        assert!(!play.choose(&ALL[..1]).1.answered());
        assert_eq!(play.fail(ALL[0]), None);
        assert_eq!(play.fail(ALL[0]), Some(HEALTH.eject));
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
        assert!(probe.answered());
        drop(probe);
        assert_eq!(play.next(3), [0, 1, 2]);
        assert_eq!(play.fail(ALL[0]), None, "failures count anew");
    }

    #[test]
    fn failed_probes_make_the_ejection_grow_up_to_a_cap() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        let mut seconds = 1;
        for expected in [1, 2, 4, 5, 5] {
            assert_eq!(play.fail(ALL[0]), Some(Duration::from_secs(expected)));
            assert_eq!(play.next(2).iter().filter(|nth| **nth == 0).count(), 0);
            play.wait(expected);
            seconds += expected;
        }
        assert_eq!(seconds, 18);
        let (_, mut lease) = play.choose(&ALL[..1]);
        assert!(lease.answered());
        drop(lease);
        play.fail(ALL[0]);
        assert_eq!(play.fail(ALL[0]), Some(HEALTH.eject), "an answer forgives");
    }

    #[test]
    fn however_short_the_first_ejection_is_the_cap_is_reached() {
        let health = Health { failures: 1, eject: Duration::from_millis(1), max_eject: Duration::from_secs(600) };
        let mut play = Play::new();
        let mut spans = (0..22).map(|_| {
            play.wait(600);
            let (_, mut lease) = play.choose(&ALL[..1]);
            lease.failed(play.now, &health).expect("it fails each time that it is tried")
        });
        assert_eq!(spans.nth(16), Some(Duration::from_millis(1 << 16)));
        assert_eq!(spans.last(), Some(health.max_eject));
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
        let chosen = play.balance.choose(play.now, &ALL, &mut 0, false, None).map(|(nth, _)| nth);
        assert_eq!(chosen, Some(1));
        assert_eq!(play.choose(&ALL).0, 0);
    }

    #[test]
    fn g17_where_nothing_can_be_repeated_something_has_to_probe_in_the_end() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        play.fail(ALL[0]);
        play.wait(2);
        let chosen = play.balance.choose(play.now, &ALL, &mut 0, false, None).map(|(nth, _)| nth);
        assert_eq!(chosen, Some(0), "twice its time is over");
    }

    #[test]
    fn when_all_are_ejected_the_one_whose_time_ends_first_is_tried() {
        let mut play = Play::new();
        for id in [ALL[2], ALL[0], ALL[1]] {
            play.fail(id);
            play.fail(id);
            play.now = play.now + Duration::from_millis(100);
        }
        let mut tried = 0;
        let mut order = Vec::new();
        while let Some((nth, mut lease)) = play.balance.choose(play.now, &ALL, &mut tried, true, None) {
            order.push(nth);
            assert_eq!(lease.failed(play.now, &HEALTH), None, "nothing new");
        }
        assert_eq!(order, [2, 0, 1], "each once");
        let (_, mut lease) = play.choose(&ALL);
        assert!(lease.answered(), "it was worth the try");
    }

    #[test]
    fn what_began_before_an_ejection_says_nothing_about_now() {
        let mut play = Play::new();
        let (_, mut slow) = play.choose(&ALL[..1]);
        let (_, mut slower) = play.choose(&ALL[..1]);
        play.fail(ALL[0]);
        play.fail(ALL[0]);
        assert!(!slow.answered(), "it finishes what it has, and takes no more");
        assert_eq!(play.choose(&ALL[..2]).0, 1);
        play.wait(1);
        let (_, mut probe) = play.choose(&ALL);
        assert_eq!(slower.failed(play.now, &HEALTH), None);
        assert!(probe.answered());
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut play = Play::new();
        play.fail(ALL[0]);
        let (_, held) = play.choose(&ALL[..1]);
        play.balance.retain(|id| id != ALL[0]);
        drop(held);
        assert_eq!(play.fail(ALL[0]), None, "a new one of that number starts anew");
    }
}
