//! What a second worker brings, on a machine where the load generator needs the other core.
//!
//! Requests in a second would show how load generator and proxy share the cores, and nothing else. So the yardstick is two
//! separate processes with one worker each, one on each core: they share nothing, and each can do what one worker can. The
//! same connections send the same requests to one process with two workers on the same cores, interleaved.
//!
//! What two workers can do is what the one allows that suffers more: what they share makes requests dearer, and unevenly
//! spread connections make one of them busier. Twice as much as one is perfect.

use std::time::Duration;

use crate::bench::{Bench, PROXIES, keep_alive, left_out};
use crate::cores::pin_thread;
use crate::load::{Load, Session};
use crate::origin::SMALL;
use crate::peer::{Peer, Running, Tool};
use crate::row::{Row, Unit};
use crate::scenario::Scenario;
use crate::setup::Setup;
use crate::wire::get;

/// To both workers together.
const CONNECTIONS: usize = 256;

/// Two workers over one; and what a request costs there over what it costs where nothing is shared.
pub fn workers(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut capacity = Row::new(scenario.name, "requests that two workers can do, over one", Unit::Ratio);
    let mut cost = Row::new(scenario.name, "CPU a request, two workers over two processes", Unit::Ratio);
    let rounds = bench.extent.requests(60_000).div_ceil(CONNECTIONS as u64);
    let cores = [bench.workshop.cores.proxy, bench.workshop.cores.load];
    for peer in bench.taking_part(&PROXIES) {
        let measured = (|| {
            let apart = [start(bench, peer, 1, &cores[..1])?, start(bench, peer, 1, &cores[1..])?];
            let together = start(bench, peer, 2, &cores)?;
            let mut to_apart = open(&[&apart[0], &apart[1]])?;
            let mut to_together = open(&[&together])?;
            let workers = busiest(&together, || run(&mut to_together, rounds.div_ceil(10)))?;
            for (worker, core) in workers.iter().zip(cores) {
                pin_thread(*worker, core);
            }
            for _ in 0..bench.extent.repeat {
                let alone = used(|| apart.each_ref().map(Running::cpu_time), || run(&mut to_apart, rounds))?;
                let shared = used(|| of_threads(&together, &workers), || run(&mut to_together, rounds))?;
                let worst = (0..2).map(|at| shared[at] / alone[at]).fold(0.0, f64::max);
                capacity.add(peer, 2.0 / worst);
                cost.add(peer, (shared[0] + shared[1]) / (alone[0] + alone[1]));
            }
            Ok::<_, String>(())
        })();
        if let Err(error) = measured {
            left_out(peer, scenario.name, &error);
            capacity.forget(peer);
            cost.forget(peer);
        }
    }
    capacity.at_least_value(1.95);
    Ok(vec![capacity, cost])
}

fn start(bench: &Bench, peer: Peer, workers: usize, cores: &[usize]) -> Result<Running, String> {
    bench.workshop.start_on(peer, &Setup { workers, ..Setup::default() }, cores, &Tool::default())
}

fn open(all: &[&Running]) -> Result<Session, String> {
    let addresses = all.iter().map(|running| running.address).collect();
    Session::open(Load { addresses, ..keep_alive(all[0], CONNECTIONS, get("/app/small", SMALL)) })
}

/// In rounds, so that each connection sends as much as any other: else a worker that has a core for itself would take work
/// from the one that shares its core with the load generator.
fn run(session: &mut Session, rounds: u64) -> Result<(), String> {
    (0..rounds).try_for_each(|_| session.run(CONNECTIONS as u64).map(drop))
}

/// The two threads that take most of `work`: the workers, whatever else a proxy has.
fn busiest(running: &Running, work: impl FnOnce() -> Result<(), String>) -> Result<[u32; 2], String> {
    let before = running.cpu_time_by_thread();
    work()?;
    let used = |(thread, after): (u32, Duration)| (after - before.get(&thread).copied().unwrap_or_default(), thread);
    let mut threads: Vec<_> = running.cpu_time_by_thread().into_iter().map(used).collect();
    threads.sort_unstable();
    match threads[..] {
        [.., (_, second), (_, first)] => Ok([first, second]),
        [] | [_] => Err("it has no two threads".to_owned()),
    }
}

fn of_threads(running: &Running, threads: &[u32; 2]) -> [Duration; 2] {
    let times = running.cpu_time_by_thread();
    threads.map(|thread| times.get(&thread).copied().unwrap_or_default())
}

/// Seconds of processor time for `work`.
fn used(times: impl Fn() -> [Duration; 2], work: impl FnOnce() -> Result<(), String>) -> Result<[f64; 2], String> {
    let before = times();
    work()?;
    let after = times();
    Ok([0, 1].map(|at| (after[at] - before[at]).as_secs_f64()))
}
