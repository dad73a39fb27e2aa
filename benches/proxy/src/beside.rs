//! What slow readers cost others: the latency of fast clients beside them, and memory.
//!
//! A latency is a time on the clock, so that anything else on the machine disturbs it. Therefore both figures of a
//! ratio are taken right after one another, repetitions alternate between the proxies, and the bare relay is measured
//! like them. The fast clients are a closed loop: each sends its next request when it has its response, as fast as the proxy can.

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, COPYING, keep_alive};
use crate::load::Session;
use crate::origin::SMALL;
use crate::peer::{Peer, Running};
use crate::row::{Row, Unit};
use crate::scenario::{Scenario, mebibytes};
use crate::setup::Setup;
use crate::slow::SlowReaders;
use crate::wire::get;

const FAST: usize = 100;
const SLOW: usize = 1_900;
const DOWNLOADS: usize = 256;

/// The 99th percentile of the fast clients' latency, alone and beside slow readers, and one over the other; then memory.
pub fn slow(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let requests = bench.extent.requests(40_000);
    let mut rows = [
        ("p99 of 100 fast clients alone", Unit::Milliseconds),
        ("p99 of 100 fast clients beside 1,900 slow readers", Unit::Milliseconds),
        ("the one p99 over the other", Unit::Ratio),
    ]
    .map(|(what, unit)| Row::new(scenario.name, what, unit));
    // Two for each client, and room: nginx closes idle clients when less than a sixteenth is left.
    let fleet = bench.fleet(&COPYING, &Setup { connections: 3 * (FAST + SLOW), ..Setup::default() });
    bench.repeat(bench.extent.repeat, &mut rows, fleet.keys().copied().collect(), |peer| {
        let running = &fleet[&peer];
        let mut session = Session::open(keep_alive(running, FAST, get("/app/small", SMALL)))?;
        session.run(requests.div_ceil(4))?;
        let alone = p99(&mut session, requests)?;
        let _readers = SlowReaders::start(running.address, SLOW, bench.workshop.cores.load)?;
        settle(running);
        let beside = p99(&mut session, requests)?;
        Ok([alone, beside, beside / alone])
    });
    rows[2].at_most(1.0, Peer::Relay);
    Ok(rows.into_iter().chain([memory(bench, scenario)]).collect())
}

fn p99(session: &mut Session, requests: u64) -> Result<f64, String> {
    Ok(session.run(requests)?.percentile(0.99).as_secs_f64() * 1e3)
}

/// Waits until what slow readers have in flight is stuck, so that only their trickle is left: the proxy's core is idle but
/// for a tenth, or patience is at its end.
fn settle(running: &Running) {
    const WINDOW: Duration = Duration::from_millis(250);
    let deadline = Instant::now() + Duration::from_secs(8);
    while Instant::now() < deadline {
        let before = running.cpu_time();
        thread::sleep(WINDOW);
        if running.cpu_time() - before < WINDOW / 10 {
            break;
        }
    }
}

/// What a process takes while 256 readers of a GiB each hardly read.
fn memory(bench: &Bench, scenario: &Scenario) -> Row {
    let mut rows = [Row::new(scenario.name, "resident with 256 slow downloads", Unit::Mebibytes)];
    bench.repeat(1, &mut rows, bench.taking_part(&COPYING), |peer| {
        // A fresh process: what the fast clients left behind does not count.
        let fleet = bench.fleet(&[peer], &Setup::default());
        let running = fleet.get(&peer).ok_or("it does not run")?;
        let _readers = SlowReaders::start(running.address, DOWNLOADS, bench.workshop.cores.load)?;
        // The most of two seconds: after the first burst it does not grow any more.
        let most = (0..8).map(|_| {
            thread::sleep(Duration::from_millis(250));
            running.resident()
        });
        Ok([mebibytes(most.max().unwrap_or_default())])
    });
    let [mut memory] = rows;
    memory.at_most_value(8.0);
    memory
}
