//! What connections take that are only there: memory, and for WebSockets a message through one of many.

use std::sync::Arc;

use crate::bench::{Bench, COPYING, Fleet, PROXIES, keep_alive};
use crate::load::{Load, Session, Style};
use crate::origin::SMALL;
use crate::peer::{Peer, Running};
use crate::row::{Row, Unit, thousands};
use crate::scenario::Scenario;
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
pub fn idle(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let count = wanted(bench, 10_000);
    let what = format!("{} idle keep-alive clients that each did one request", thousands(count as f64));
    let mut rows = [Row::new(scenario.name, &what, Unit::BytesEach)];
    bench.repeat(1, &mut rows, bench.taking_part(&COPYING), |peer| {
        // The relay has a connection to the origin for each, too.
        let descriptors = if peer == Peer::Relay { 2 } else { 1 };
        let load = |running: &Running| keep_alive(running, AT_ONCE, get("/app/small", SMALL));
        Ok([open(bench, peer, count, descriptors, &Setup::default(), load)?.bytes_each])
    });
    rows[0].at_most_value(222.0 + ROUNDING);
    Ok(rows.into())
}

/// The same with TLS.
pub fn tls_idle(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let count = wanted(bench, 10_000);
    let what = format!("{} idle TLS 1.3 clients that each did one request", thousands(count as f64));
    let mut rows = [Row::new(scenario.name, &what, Unit::BytesEach)];
    let tls = bench.workshop.certificate.client()?;
    bench.repeat(1, &mut rows, bench.taking_part(&PROXIES), |peer| {
        let load = |running: &Running| Load {
            addresses: vec![running.tls_address],
            tls: Some(Arc::clone(&tls)),
            ..keep_alive(running, AT_ONCE, get("/app/small", SMALL))
        };
        Ok([open(bench, peer, count, 1, &Setup { tls: Tls::With, ..Setup::default() }, load)?.bytes_each])
    });
    rows[0].at_most(1.0, Peer::Nginx);
    rows[0].at_most(1.0, Peer::HaProxy);
    Ok(rows.into())
}

/// Open WebSockets: memory, and the cost of messages that go through all of them in turn.
pub fn websockets(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let count = wanted(bench, 5_000);
    let open_ones = format!("{} open WebSockets", thousands(count as f64));
    let exchange = Exchange { request: websocket("/app/ws"), content: 0 };
    let load = |running: &Running| Load { style: Style::WebSocket, ..keep_alive(running, AT_ONCE, exchange.clone()) };
    // The message first, so that it is the one in the picture.
    let mut rows = [
        Row::new(scenario.name, &format!("echo of 100 bytes through one of {open_ones}"), Unit::MicrosPerRequest),
        Row::new(scenario.name, &open_ones, Unit::BytesEach),
    ];
    let each = bench.extent.requests(40_000).div_ceil(count as u64);
    bench.repeat(bench.extent.repeat, &mut rows, bench.taking_part(&COPYING), |peer| {
        let mut opened = open(bench, peer, count, 2, &Setup::default(), load)?;
        // Warm: each has had a message.
        opened.send(1)?;
        let before = opened.cpu_time();
        let messages = opened.send(each)?;
        let used = (opened.cpu_time() - before).as_secs_f64();
        Ok([used * 1e6 / messages as f64, opened.bytes_each])
    });
    Ok(rows.into())
}

impl Opened {
    fn cpu_time(&self) -> std::time::Duration {
        self.fleet.values().map(Running::cpu_time).sum()
    }

    /// So many messages through each connection; how many that is.
    fn send(&mut self, each: u64) -> Result<u64, String> {
        let messages = each * AT_ONCE as u64;
        self.sessions.iter_mut().try_for_each(|session| session.run(messages).map(drop))?;
        Ok(messages * self.sessions.len() as u64)
    }
}

/// How many connections the row is about: whole sessions.
fn wanted(bench: &Bench, full: usize) -> usize {
    bench.extent.connections(full).max(AT_ONCE) / AT_ONCE * AT_ONCE
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
    let possible = (bench.workshop.descriptors as usize).saturating_sub(300) / descriptors;
    let count = wanted.min(possible).max(AT_ONCE) / AT_ONCE * AT_ONCE;
    if count < wanted {
        eprintln!("{}: {count} connections, because of the descriptor limit", peer.title());
    }
    // With less than a sixteenth of its places free, nginx closes new clients that have not sent their request yet.
    let connections = descriptors * count * 9 / 8 + 200;
    let fleet = bench.fleet(&[peer], &Setup { connections, ..setup.clone() });
    let running = fleet.get(&peer).ok_or("it does not run")?;
    let load = load(running);
    // So that what comes once is there: the pool, code pages, first buffers.
    Session::open(load.clone())?.run(2_000)?;
    let before = running.resident();
    let sessions: Result<Vec<_>, String> = (0..count / AT_ONCE).map(|_| Session::open(load.clone())).collect();
    let sessions = sessions?;
    let bytes_each = running.resident().saturating_sub(before) as f64 / count as f64;
    Ok(Opened { bytes_each, sessions, fleet })
}
