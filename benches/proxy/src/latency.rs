//! How long requests take where nothing is at its limit: an open loop, in which requests come at fixed times.
//!
//! A closed loop hides what it is meant to show: while a proxy stops, nothing is sent to it, and the requests that would have
//! waited are missing from the percentiles ("coordinated omission"). Here each request has its time, and what it takes counts
//! from that.
//!
//! All proxies get the same rate: half of what the slowest of them could do.

use std::time::Duration;

use crate::bench::{Bench, COPYING, keep_alive, left_out};
use crate::load::Session;
use crate::origin::SMALL;
use crate::row::{Row, Samples, Unit};
use crate::setup::Setup;
use crate::wire::get;

const CONNECTIONS: usize = 64;

/// The percentiles, a row each.
pub fn latency(bench: &Bench, scenario: &str) -> Result<Vec<Row>, String> {
    let fleet = bench.fleet(&COPYING, &Setup::default());
    let mut cost = Row::new(scenario, "", Unit::MicrosPerRequest);
    let load = |running: &_| keep_alive(running, CONNECTIONS, get("/app/small", SMALL));
    bench.cost(&mut cost, &fleet, 10_000, load);
    let Some(slowest) = cost.figures.values().map(Samples::median).reduce(f64::max) else { return Ok(Vec::new()) };
    let every = Duration::from_secs_f64(2.0 * slowest / 1e6);
    let rate = 1.0 / every.as_secs_f64();
    let mut rows = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)].map(|(name, share)| {
        let what = format!("{name} at {rate:.0} requests in a second, each at its time");
        (Row::new(scenario, &what, Unit::Microseconds), share)
    });
    let requests = bench.extent.requests(50_000);
    let mut sessions = Vec::new();
    for (peer, running) in &fleet {
        match Session::open(load(running)) {
            Ok(session) => sessions.push((*peer, session)),
            Err(error) => left_out(*peer, scenario, &error),
        }
    }
    for _ in 0..bench.extent.repeat {
        sessions.retain_mut(|(peer, session)| match session.run_at(requests, every) {
            Ok(outcome) => {
                for (row, share) in &mut rows {
                    row.add(*peer, outcome.percentile(*share).as_secs_f64() * 1e6);
                }
                true
            }
            Err(error) => {
                left_out(*peer, scenario, &error);
                rows.iter_mut().for_each(|(row, _)| drop(row.figures.remove(peer)));
                false
            }
        });
    }
    for (row, _) in &mut rows {
        row.at_most_best_peer(1.0);
    }
    Ok(rows.map(|(row, _)| row).into())
}
