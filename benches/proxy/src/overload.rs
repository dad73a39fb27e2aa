//! What happens to new clients when a proxy has as many connections as it may: are they refused, or served when others have
//! gone?
//!
//! Clients up to the limit send half a request head and wait. Then as many new ones come, each with a whole request. After a
//! second the first ones complete their requests.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, PROXIES};
use crate::cores::pin;
use crate::peer::{Running, ask_for, ask_on, connect};
use crate::row::{Row, Unit};
use crate::scenario::Scenario;
use crate::setup::{Extra, Setup};
use crate::wire::last_get;

const LIMIT: usize = 500;
const HOLD: Duration = Duration::from_secs(1);
/// Who is answered later than this was kept waiting until there was room.
const LATE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

/// How many were not served, served late, served at once, and how many of the first ones were not served.
pub fn overload(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let limit = bench.extent.connections(LIMIT);
    let mut rows = [
        format!("of {limit} new clients at a limit of {limit} connections: not served (refused, reset or 5xx)"),
        "of them served, but only when others had gone".to_owned(),
        "of them served at once".to_owned(),
        format!("of the {limit} clients before them: not served"),
    ]
    .map(|what| Row::new(scenario.name, &what, Unit::Count));
    bench.repeat(bench.extent.repeat, &mut rows, bench.taking_part(&PROXIES), |peer| {
        // A fresh process, so that no connection of an earlier check counts.
        let fleet = bench.fleet(&[peer], &Setup { connections: limit, extra: Extra::Limit, ..Setup::default() });
        measure(bench, fleet.get(&peer).ok_or("it does not run")?, limit)
    });
    Ok(rows.into())
}

fn measure(bench: &Bench, running: &Running, limit: usize) -> Result<[f64; 4], String> {
    let request = last_get("/app/small", 0).request;
    let (first, rest) = request.split_at(request.len() / 2);
    let (address, core) = (running.address, bench.workshop.cores.load);
    let hold = |_| {
        let mut stream = connect(address, PATIENCE)?;
        // It may have been refused already; that shows in the end.
        let _ = stream.write_all(first);
        Ok(stream)
    };
    let held: std::io::Result<Vec<TcpStream>> = (0..limit).map(hold).collect();
    let held = held.map_err(|error| format!("cannot connect: {error}"))?;
    let newcomer = || {
        pin(&[core]);
        let began = Instant::now();
        ask_for(address, &request, PATIENCE).map(|_| began.elapsed())
    };
    thread::scope(|scope| {
        // A thread for each, so that each can wait by itself; it needs next to no stack.
        let spawn = |_| thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, newcomer);
        let newcomers: Result<Vec<_>, _> = (0..limit).map(spawn).collect();
        let newcomers = newcomers.map_err(|error| format!("cannot start a thread: {error}"))?;
        thread::sleep(HOLD);
        let lost = held.into_iter().filter_map(|stream| ask_on(stream, rest).err()).count();
        let (mut refused, mut late, mut at_once) = (0, 0, 0);
        for newcomer in newcomers {
            match newcomer.join().map_err(|_| "a client has panicked")? {
                Err(_) => refused += 1,
                Ok(took) if took > LATE => late += 1,
                Ok(_) => at_once += 1,
            }
        }
        Ok([refused, late, at_once, lost].map(|count| count as f64))
    })
}
