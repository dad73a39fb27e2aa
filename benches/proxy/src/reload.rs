//! What clients notice of a reload: a configuration with 1,000 routes gets one more while requests come, and the signal is given by
//! which each proxy reads it. Envoy has none: it is told of new routes by another program.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::Bench;
use crate::origin::SMALL;
use crate::peer::{Peer, Running, ask};
use crate::row::{Row, Unit};
use crate::scenario::Scenario;
use crate::setup::{Extra, Setup, route};
use crate::steady::{Seen, SteadyClients};
use crate::wire::get;

const ROUTES: usize = 1_000;
const CLIENTS: u32 = 16;
/// Of each client: all together send 1,600 requests in a second.
const EVERY: Duration = Duration::from_millis(10);
/// How long clients go on before and after a reload, and how long they are watched without one.
const BESIDE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest pause without and with a reload, requests that had to be repeated, and how long it takes.
pub fn reload(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut rows = [
        ("longest response time during a reload of 1,000 routes", Unit::Milliseconds),
        ("the same without a reload", Unit::Milliseconds),
        ("requests whose connection ended without a response", Unit::Count),
        ("from the signal until a new route answers", Unit::Milliseconds),
    ]
    .map(|(what, unit)| Row::new(scenario.name, what, unit));
    let peers = bench.taking_part(&[Peer::HaProxy, Peer::Nginx, Peer::Ours]);
    bench.repeat(bench.extent.repeat, &mut rows, peers, |peer| measure(bench, peer));
    Ok(rows.into())
}

fn measure(bench: &Bench, peer: Peer) -> Result<[f64; 4], String> {
    let setup = Setup { routes: ROUTES, extra: Extra::Reload, ..Setup::default() };
    let fleet = bench.fleet(&[peer], &setup);
    let running = fleet.get(&peer).ok_or("it does not run")?;
    let (without, _) = watch(bench, running, || Ok(Duration::ZERO))?;
    let more = Setup { routes: ROUTES + 1, ..setup };
    bench.workshop.write_config(peer, &more, running.address.port(), running.tls_address.port())?;
    let (with, took) = watch(bench, running, || {
        let began = Instant::now();
        tell(peer, running)?;
        // It was not there before, so this is the new configuration. The old one of HAProxy sends it to the origin, too, but
        // strips less of it; then the origin answers with what it saw.
        let path = format!("{}/small", route(ROUTES));
        let is_new = |(_, content): (_, Vec<u8>)| content.len() as u64 == SMALL;
        while !ask(running.address, &path).is_ok_and(is_new) {
            if began.elapsed() > PATIENCE {
                return Err(format!("the new configuration is not in use after {} s", PATIENCE.as_secs()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(began.elapsed())
    })?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok([milliseconds(with.longest), milliseconds(without.longest), with.again as f64, milliseconds(took)])
}

/// What clients see while something is done, and what that gives.
fn watch(
    bench: &Bench,
    running: &Running,
    work: impl FnOnce() -> Result<Duration, String>,
) -> Result<(Seen, Duration), String> {
    let exchange = get(&format!("{}/small", route(ROUTES / 2)), SMALL);
    let clients = SteadyClients::start(running.address, &exchange, CLIENTS, EVERY, bench.workshop.cores.load);
    thread::sleep(BESIDE);
    let worked = work();
    thread::sleep(BESIDE);
    Ok((clients.stop()?, worked?))
}

/// The signal by which a proxy reads its configuration again.
fn tell(peer: Peer, running: &Running) -> Result<(), String> {
    let signal = if peer == Peer::HaProxy { Signal::USR2 } else { Signal::HUP };
    let pid = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw).ok_or("it has no number")?;
    kill_process(pid, signal).map_err(|error| format!("cannot send a signal: {error}"))
}
