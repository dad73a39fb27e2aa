//! What happens to new clients when a proxy has as many connections as it may: are they refused, or served when others have
//! gone?
//!
//! Clients up to the limit send half a request head and wait. Then as many new ones come, each with a whole request. After a
//! second the first ones complete their requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, PROXIES, left_out};
use crate::cores::pin;
use crate::peer::{Running, ask_for};
use crate::row::{Row, Unit};
use crate::setup::{Extra, Setup};
use crate::wire::last_get;

const LIMIT: u64 = 500;
const HOLD: Duration = Duration::from_secs(1);
/// Who is answered later than this was kept waiting until there was room.
const LATE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

/// How many were refused, served late, served at once, and how many of the first ones were lost.
pub fn overload(bench: &Bench, scenario: &str) -> Vec<Row> {
    let limit = bench.extent.requests(LIMIT) as usize;
    let mut rows = [
        format!("of {limit} new clients at a limit of {limit} connections: refused or reset"),
        "of them served, but only when others had gone".to_owned(),
        "of them served at once".to_owned(),
        format!("of the {limit} clients before them: refused or reset"),
    ]
    .map(|what| Row::new(scenario, &what, Unit::Count));
    for _ in 0..bench.extent.repeat {
        for peer in bench.taking_part(&PROXIES) {
            // A fresh process, so that no connection of an earlier check counts.
            let fleet = bench.fleet(&[peer], &Setup { connections: limit, extra: Extra::Limit, ..Setup::default() });
            let Some(running) = fleet.get(&peer) else { continue };
            match measure(bench, running, limit) {
                Ok(figures) => rows.iter_mut().zip(figures).for_each(|(row, figure)| row.add(peer, figure as f64)),
                Err(error) => left_out(peer, scenario, &error),
            }
        }
    }
    rows.into()
}

fn measure(bench: &Bench, running: &Running, limit: usize) -> Result<[usize; 4], String> {
    let request = last_get("/app/small", 0).request;
    let (first, rest) = request.split_at(request.len() / 2);
    let address = running.address;
    let held: Result<Vec<TcpStream>, _> = (0..limit).map(|_| begin(address, first)).collect();
    let held = held.map_err(|error| format!("cannot connect: {error}"))?;
    let core = bench.workshop.cores.load;
    let newcomers: Result<Vec<_>, _> = (0..limit)
        .map(|_| {
            let request = request.clone();
            // A thread for each, so that each can wait by itself; it needs next to no stack.
            thread::Builder::new().stack_size(128 << 10).spawn(move || {
                pin(&[core]);
                let began = Instant::now();
                ask_for(address, "/app/small", &request).map(|_| began.elapsed())
            })
        })
        .collect();
    let newcomers = newcomers.map_err(|error| format!("cannot start a thread: {error}"))?;
    thread::sleep(HOLD);
    let lost = held.into_iter().filter_map(|stream| end(stream, rest).err()).count();
    let (mut refused, mut late, mut at_once) = (0, 0, 0);
    for newcomer in newcomers {
        match newcomer.join().map_err(|_| "a client has panicked")? {
            Err(_) => refused += 1,
            Ok(took) if took > LATE => late += 1,
            Ok(_) => at_once += 1,
        }
    }
    Ok([refused, late, at_once, lost])
}

fn begin(address: SocketAddr, first: &[u8]) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // It may have been refused already; that shows in the end.
    let _ = stream.write_all(first);
    Ok(stream)
}

fn end(mut stream: TcpStream, rest: &[u8]) -> Result<(), String> {
    let mut response = Vec::new();
    stream.write_all(rest).and_then(|()| stream.read_to_end(&mut response)).map_err(|error| error.to_string())?;
    if response.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err("another answer".to_owned()) }
}
