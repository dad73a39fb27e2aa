//! What slow readers cost others: the latency of fast clients beside them, and memory.
//!
//! A latency is a time on the clock, so that anything else on the machine disturbs it. Therefore both figures of a
//! ratio are taken right after one another, repetitions alternate between the proxies, and the bare relay is measured
//! like them.

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, COPYING, keep_alive, left_out};
use crate::load::Session;
use crate::origin::SMALL;
use crate::peer::{Peer, Running};
use crate::row::{Row, Unit};
use crate::setup::Setup;
use crate::slow::SlowReaders;
use crate::wire::get;

const FAST: usize = 100;
const SLOW: usize = 1_900;
const DOWNLOADS: usize = 256;

/// The 99th percentile of the fast clients' latency, alone and beside slow readers, and one over the other.
pub fn latency(bench: &Bench, scenario: &str) -> Vec<Row> {
    let requests = bench.extent.requests(40_000);
    let mut alone = Row::new(scenario, "p99 of 100 fast clients alone", Unit::Milliseconds);
    let mut beside = Row::new(scenario, "p99 of 100 fast clients beside 1,900 slow readers", Unit::Milliseconds);
    let mut ratio = Row::new(scenario, "the one p99 over the other", Unit::Ratio);
    // Two for each client, and room: nginx closes idle clients when less than a sixteenth is left.
    let fleet = bench.fleet(&COPYING, &Setup { connections: 3 * (FAST + SLOW), ..Setup::default() });
    for _ in 0..bench.extent.repeat {
        for (peer, running) in &fleet {
            let measured = (|| {
                let mut session = Session::open(keep_alive(running, FAST, get("/app/small", SMALL)))?;
                session.run(requests.div_ceil(4))?;
                let before = p99(&mut session, requests)?;
                let readers = SlowReaders::start(running.address, SLOW, bench.workshop.cores.load)?;
                settle(running);
                let with = p99(&mut session, requests)?;
                drop(readers);
                Ok::<_, String>((before, with))
            })();
            match measured {
                Ok((before, with)) => {
                    alone.add(*peer, before);
                    beside.add(*peer, with);
                    ratio.add(*peer, with / before);
                }
                Err(error) => left_out(*peer, scenario, &error),
            }
        }
    }
    ratio.at_most(1.0, Peer::Relay);
    vec![alone, beside, ratio]
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
pub fn memory(bench: &Bench, scenario: &str) -> Row {
    let mut memory = Row::new(scenario, "resident with 256 slow downloads", Unit::Mebibytes);
    for peer in bench.taking_part(&COPYING) {
        // A fresh process: what the fast clients left behind does not count.
        let fleet = bench.fleet(&[peer], &Setup::default());
        let Some(running) = fleet.get(&peer) else { continue };
        match SlowReaders::start(running.address, DOWNLOADS, bench.workshop.cores.load) {
            Ok(_readers) => {
                // The most of two seconds: after the first burst it does not grow any more.
                let most = (0..8).map(|_| {
                    thread::sleep(Duration::from_millis(250));
                    running.resident()
                });
                memory.add(peer, most.max().unwrap_or_default() as f64 / f64::from(1 << 20));
            }
            Err(error) => left_out(peer, scenario, &error),
        }
    }
    memory.at_most_value(8.0);
    memory
}
