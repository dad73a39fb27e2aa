//! How long requests take where nothing is at its limit: an open loop, in which requests come at fixed times.
//!
//! A closed loop hides what it is meant to show: while a proxy stops, nothing is sent to it, and the requests that would have
//! waited are missing from the percentiles ("coordinated omission"). Here each request has its time, and what it takes counts
//! from that.
//!
//! All proxies get the same rate, which depends on none of them: a sixteenth of what the bare relay could do with its core. One
//! that needs eight times as much processor time as the relay uses half of its own. Where load generator and origin would use more
//! than half of theirs, the rate is halved: else it would be their latency.

use std::time::Duration;

use crate::bench::{Bench, COPYING, keep_alive};
use crate::load::Session;
use crate::origin::SMALL;
use crate::peer::Peer;
use crate::row::{Row, Unit};
use crate::scenario::Scenario;
use crate::setup::Setup;
use crate::wire::get;

const CONNECTIONS: usize = 64;
const MOST_LOAD: f64 = 0.5;

/// The percentiles, a row each; the rate, and how busy those were that made it.
pub fn latency(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let fleet = bench.fleet(&COPYING, &Setup::default());
    let mut cost = Row::new(scenario.name, "", Unit::MicrosPerRequest);
    let load = |running: &_| keep_alive(running, CONNECTIONS, get("/app/small", SMALL));
    bench.cost(&mut cost, &fleet, 10_000, load);
    let Some(relay) = cost.figures.get(&Peer::Relay) else { return Ok(Vec::new()) };
    let requests = bench.extent.requests(50_000);
    let measure = |peer: Peer, every| {
        let mut session = Session::open(load(&fleet[&peer]))?;
        let before = bench.workshop.load_time();
        let outcome = session.run_at(requests, every)?;
        let seconds = outcome.elapsed.as_secs_f64();
        let used = (bench.workshop.load_time() - before).as_secs_f64() / seconds;
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| outcome.percentile(share).as_secs_f64() * 1e6);
        Ok::<_, String>([p50, p99, p999, requests as f64 / seconds, used])
    };
    let mut every = Duration::from_secs_f64(16.0 * relay.median() / 1e6);
    while measure(Peer::Relay, every).is_ok_and(|[.., used]| used > MOST_LOAD) {
        every *= 2;
    }
    let mut rows = [
        ("p50 of requests that come at fixed times", Unit::Microseconds),
        ("p99 of them", Unit::Microseconds),
        ("p99.9 of them", Unit::Microseconds),
        ("how many came", Unit::PerSecond),
        ("how much of their core load generator and origin used", Unit::Ratio),
    ]
    .map(|(what, unit)| Row::new(scenario.name, what, unit));
    let peers = cost.figures.keys().copied().collect();
    bench.repeat(bench.extent.repeat, &mut rows, peers, |peer| measure(peer, every));
    rows[..3].iter_mut().for_each(|row| row.at_most_best_peer(1.0));
    Ok(rows.into())
}
