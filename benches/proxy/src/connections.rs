//! What connections take that are only there: memory, and for WebSockets a message through one of many.

use std::sync::Arc;

use crate::bench::{Bench, COPYING, Fleet, PROXIES, keep_alive, left_out};
use crate::load::{Load, Session, Style};
use crate::origin::SMALL;
use crate::peer::{Peer, Running};
use crate::row::{Row, Unit};
use crate::setup::{Setup, Tls};
use crate::wire::{Exchange, get, websocket};

/// They are opened so many at a time.
const AT_ONCE: usize = 50;
/// In the table it is a whole number of bytes.
const ROUNDING: f64 = 0.5;

/// Connections through a peer, and what each takes.
struct Opened {
    bytes_each: f64,
    sessions: Vec<Session>,
    /// The sessions end before it.
    fleet: Fleet,
}

/// Idle clients that each did one request.
pub fn idle(bench: &Bench, scenario: &str) -> Result<Row, String> {
    let mut row = Row::new(scenario, "10,000 idle keep-alive clients that each did one request", Unit::BytesEach);
    for peer in bench.taking_part(&COPYING) {
        // The relay has a connection to the origin for each, too.
        let descriptors = if peer == Peer::Relay { 2 } else { 1 };
        let load = |running: &Running| keep_alive(running, AT_ONCE, get("/app/small", SMALL));
        match open(bench, peer, 10_000, descriptors, &Setup::default(), load) {
            Ok(opened) => row.add(peer, opened.bytes_each),
            Err(error) => left_out(peer, scenario, &error),
        }
    }
    row.at_most_value(222.0 + ROUNDING);
    Ok(row)
}

/// The same with TLS.
pub fn tls_idle(bench: &Bench, scenario: &str) -> Result<Row, String> {
    let mut row = Row::new(scenario, "10,000 idle TLS 1.3 clients that each did one request", Unit::BytesEach);
    let tls = bench.workshop.certificate.client()?;
    for peer in bench.taking_part(&PROXIES) {
        let load = |running: &Running| Load {
            addresses: vec![running.tls_address],
            tls: Some(Arc::clone(&tls)),
            ..keep_alive(running, AT_ONCE, get("/app/small", SMALL))
        };
        match open(bench, peer, 10_000, 1, &Setup { tls: Tls::With, ..Setup::default() }, load) {
            Ok(opened) => row.add(peer, opened.bytes_each),
            Err(error) => left_out(peer, scenario, &error),
        }
    }
    row.at_most(1.0, Peer::Nginx);
    row.at_most(1.0, Peer::HaProxy);
    Ok(row)
}

/// Open WebSockets: memory, and the cost of messages that go through all of them in turn.
pub fn websockets(bench: &Bench, scenario: &str) -> Vec<Row> {
    let mut memory = Row::new(scenario, "5,000 open WebSockets", Unit::BytesEach);
    let mut message = Row::new(scenario, "echo of 100 bytes through one of 5,000 WebSockets", Unit::MicrosPerRequest);
    let exchange = Exchange { request: websocket("/app/ws"), content: 0 };
    for peer in bench.taking_part(&COPYING) {
        let measured = (|| {
            let load =
                |running: &Running| Load { style: Style::WebSocket, ..keep_alive(running, AT_ONCE, exchange.clone()) };
            let mut opened = open(bench, peer, 5_000, 2, &Setup::default(), load)?;
            memory.add(peer, opened.bytes_each);
            let each = bench.extent.requests(40_000).div_ceil(opened.sessions.len() as u64);
            for _ in 0..bench.extent.repeat {
                let before = opened.cpu_time();
                opened.sessions.iter_mut().try_for_each(|session| session.run(each).map(drop))?;
                let used = (opened.cpu_time() - before).as_secs_f64();
                message.add(peer, used * 1e6 / (each * opened.sessions.len() as u64) as f64);
            }
            Ok::<_, String>(())
        })();
        if let Err(error) = measured {
            left_out(peer, scenario, &error);
            memory.figures.remove(&peer);
            message.figures.remove(&peer);
        }
    }
    // First, so that it is the one in the picture.
    vec![message, memory]
}

impl Opened {
    fn cpu_time(&self) -> std::time::Duration {
        self.fleet.values().map(Running::cpu_time).sum()
    }
}

/// Opens so many connections through a fresh process, of which each takes so many descriptors of it.
fn open(
    bench: &Bench,
    peer: Peer,
    wanted: usize,
    descriptors: usize,
    setup: &Setup,
    load: impl Fn(&Running) -> Load,
) -> Result<Opened, String> {
    let wanted = if bench.extent.quick { wanted / 5 } else { wanted };
    let wanted = bench.extent.requests.map_or(wanted, |requests| requests as usize);
    let possible = (bench.workshop.descriptors as usize).saturating_sub(300) / descriptors;
    let count = wanted.min(possible).max(AT_ONCE) / AT_ONCE * AT_ONCE;
    if count < wanted {
        eprintln!("{}: {count} connections, because of the descriptor limit", peer.title());
    }
    let fleet = bench.fleet(&[peer], &Setup { connections: descriptors * count + 200, ..setup.clone() });
    let running = fleet.get(&peer).ok_or("it does not run")?;
    let load = load(running);
    // So that what comes once is there: the pool, code pages, first buffers.
    let _warm = Session::open(load.clone())?.run(2_000)?;
    let before = running.resident();
    let sessions: Result<Vec<_>, String> = (0..count / AT_ONCE).map(|_| Session::open(load.clone())).collect();
    let sessions = sessions?;
    let bytes_each = running.resident().saturating_sub(before) as f64 / count as f64;
    Ok(Opened { bytes_each, sessions, fleet })
}
