//! The scenarios: each sets up what it needs, measures, and gives rows with their targets.

use std::sync::Arc;

use crate::bench::{Bench, COPYING, Fleet, PROXIES, keep_alive, left_out};
use crate::beside;
use crate::counted;
use crate::load::{Load, Session, Style};
use crate::origin::{CHUNKED, SMALL};
use crate::peer::{Marking, PEERS, Peer, Setup, Tls, route};
use crate::row::{Row, Unit};
use crate::scaling;
use crate::wire::{self, Exchange, browser_get, get, last_get, upload};

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// Does it.
    pub run: fn(&Bench, &Scenario) -> Result<Vec<Row>, String>,
}

/// In the order of the table.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "small", about: "small keep-alive requests, 64 connections", run: small },
    Scenario { name: "browser", about: "heads as browsers send them: 700 bytes, and 12 response fields", run: browser },
    Scenario { name: "new", about: "a new connection for each request, 64 at a time", run: new_connections },
    Scenario { name: "chunked", about: "chunked responses, 16 x 1 KiB, 64 connections", run: chunked },
    Scenario { name: "down-64k", about: "downloads of 64 KiB, 16 connections", run: down_64k },
    Scenario { name: "down-1m", about: "downloads of 1 MiB, 16 connections", run: down_1m },
    Scenario { name: "down-1g", about: "downloads of 1 GiB, 1 connection", run: down_1g },
    Scenario { name: "up-64k", about: "uploads of 64 KiB, 16 connections", run: up_64k },
    Scenario { name: "idle", about: "10,000 idle keep-alive clients that each did one request", run: idle },
    Scenario { name: "routes", about: "one of 10, 1,000, 100,000 routes", run: routes },
    Scenario { name: "tls-front", about: "small requests, clients speak TLS 1.3, 64 connections", run: tls_front },
    Scenario {
        name: "tls-behind",
        about: "small requests, the origin speaks TLS 1.3, 64 connections",
        run: tls_behind,
    },
    Scenario { name: "plugin", about: "a field set on requests and responses, in ours by a plugin", run: plugin },
    Scenario { name: "wasm", about: "a WebAssembly filter that sets a field on requests and responses", run: wasm },
    Scenario { name: "websocket", about: "WebSocket echo of 100 bytes, 64 connections", run: websocket },
    Scenario { name: "slow", about: "100 fast clients beside 1,900 slow readers; 256 slow downloads", run: slow },
    Scenario { name: "start", about: "the start, with one route", run: start },
    Scenario { name: "instructions", about: "instructions of a request, by callgrind", run: instructions },
    Scenario { name: "calls", about: "system calls of a request, by strace", run: calls },
    Scenario { name: "workers", about: "two workers on two cores against one", run: workers },
];

const GIB: u64 = 1 << 30;

fn small(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = cost(bench, scenario, &COPYING, 30_000, 64, get("/app/small", SMALL));
    row.at_most(1.12, Peer::Relay);
    row.at_most(0.90, Peer::Nginx);
    row.at_most(0.82, Peer::HaProxy);
    Ok(vec![row])
}

fn browser(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = cost(bench, scenario, &COPYING, 25_000, 64, browser_get("/app/fields", SMALL));
    row.at_most(1.2, Peer::Relay);
    row.at_most_better_peer(0.78);
    Ok(vec![row])
}

fn chunked(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = cost(bench, scenario, &COPYING, 15_000, 64, get("/app/chunked", CHUNKED));
    row.at_most(1.3, Peer::Relay);
    row.at_most_better_peer(0.7);
    Ok(vec![row])
}

fn new_connections(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&COPYING, &Setup::default());
    bench.cost(&mut row, &fleet, 5_000, |_, running| Load {
        style: Style::NewConnection,
        ..keep_alive(running, 64, last_get("/app/small", SMALL))
    });
    row.at_most_better_peer(0.9);
    Ok(vec![row])
}

fn down_64k(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 8_000, 16, get("/app/body/65536", 65_536));
    row.at_most(1.1, Peer::Relay);
    row.at_most(0.65, Peer::HaProxy);
    Ok(vec![row])
}

fn down_1m(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 1_000, 16, get("/app/body/1048576", 1 << 20));
    row.at_most(0.7, Peer::Relay);
    row.at_most(0.85, Peer::SplicingHaProxy);
    Ok(vec![row])
}

fn down_1g(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 1, 1, get("/app/body/1073741824", GIB));
    row.at_most(0.7, Peer::Relay);
    row.at_most(0.85, Peer::SplicingHaProxy);
    Ok(vec![row])
}

fn up_64k(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 8_000, 16, upload("/app/upload", 65_536, SMALL));
    row.at_most(0.7, Peer::Relay);
    row.at_most(0.85, Peer::SplicingHaProxy);
    Ok(vec![row])
}

/// What a keep-alive request costs these peers.
fn cost(
    bench: &Bench,
    scenario: &Scenario,
    peers: &[Peer],
    requests: u64,
    connections: usize,
    exchange: Exchange,
) -> Row {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(peers, &Setup::default());
    bench.cost(&mut row, &fleet, requests, |_, running| keep_alive(running, connections, exchange.clone()));
    row
}

/// What a GiB costs all peers, with and without splicing.
fn bodies(bench: &Bench, scenario: &Scenario, requests: u64, connections: usize, exchange: Exchange) -> Row {
    let mut row = Row::new(scenario.name, scenario.about, Unit::SecondsPerGibibyte);
    let fleet = bench.fleet(&PEERS, &Setup::default());
    bench.cost(&mut row, &fleet, requests, |_, running| keep_alive(running, connections, exchange.clone()));
    row
}

fn tls_front(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&PROXIES, &Setup { tls: Tls::With, ..Setup::default() });
    let client = bench.workshop.certificate.client()?;
    bench.cost(&mut row, &fleet, 15_000, |_, running| Load {
        addresses: vec![running.tls_address],
        tls: Some(Arc::clone(&client)),
        ..keep_alive(running, 64, get("/app/small", SMALL))
    });
    Ok(vec![row])
}

fn tls_behind(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&PROXIES, &Setup { tls: Tls::With, ..Setup::default() });
    bench.cost(&mut row, &fleet, 15_000, |_, running| keep_alive(running, 64, get("/tls/small", SMALL)));
    Ok(vec![row])
}

fn plugin(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&PROXIES, &Setup { marking: Marking::On, ..Setup::default() });
    bench.cost(&mut row, &fleet, 20_000, |_, running| keep_alive(running, 64, get("/marked/small", SMALL)));
    Ok(vec![row])
}

/// What one filter more costs each request, and in memory. With and without it are measured in turn.
fn wasm(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    const MANY: usize = 17;
    let requests = bench.extent.requests(20_000);
    let mut rows = ["a request without a filter", "with one", "what the filter costs it"]
        .map(|what| Row::new(scenario.name, what, Unit::MicrosPerRequest));
    let fleets = [0, 1].map(|filters| bench.fleet(&[Peer::Ours], &Setup { filters, ..Setup::default() }));
    let mut sessions = Vec::new();
    for running in fleets.iter().flat_map(Fleet::values) {
        let mut session = Session::open(keep_alive(running, 64, get("/app/small", SMALL)))?;
        session.run(requests / 10)?;
        sessions.push((running, session));
    }
    for _ in 0..bench.extent.repeat {
        let mut costs = Vec::new();
        for ((running, session), row) in sessions.iter_mut().zip(&mut rows) {
            let before = running.cpu_time();
            session.run(requests)?;
            costs.push((running.cpu_time() - before).as_secs_f64() * 1e6 / requests as f64);
            row.add(Peer::Ours, costs[costs.len() - 1]);
        }
        if let [without, with] = costs[..] {
            rows[2].add(Peer::Ours, with - without);
        }
    }
    rows[2].at_most_value(6.0);
    let mut memory = ["resident with one filter", "with 17", "each of the other 16"]
        .map(|what| Row::new(scenario.name, what, Unit::Mebibytes));
    let mut residents = Vec::new();
    for (filters, row) in [1, MANY].into_iter().zip(&mut memory) {
        let fleet = bench.fleet(&[Peer::Ours], &Setup { filters, ..Setup::default() });
        if let Some(running) = fleet.get(&Peer::Ours) {
            residents.push(mebibytes(running.resident()));
            row.add(Peer::Ours, mebibytes(running.resident()));
        }
    }
    if let [one, many] = residents[..] {
        memory[2].add(Peer::Ours, (many - one) / (MANY - 1) as f64);
    }
    Ok(rows.into_iter().chain(memory).collect())
}

fn websocket(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&COPYING, &Setup::default());
    bench.cost(&mut row, &fleet, 30_000, |_, running| {
        let exchange = Exchange { request: wire::websocket("/app/ws"), content: 0 };
        Load { style: Style::WebSocket, ..keep_alive(running, 64, exchange) }
    });
    Ok(vec![row])
}

fn idle(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    const AT_ONCE: usize = 50;
    let wanted = if bench.extent.quick { 2_000 } else { 10_000 };
    let wanted = bench.extent.requests.map_or(wanted, |requests| requests as usize);
    let mut row = Row::new(scenario.name, scenario.about, Unit::BytesEach);
    for peer in bench.taking_part(&COPYING) {
        // This program has one descriptor for each, and so has a proxy; the relay has two.
        let each = if peer == Peer::Relay { 2 } else { 1 };
        let possible = (bench.workshop.descriptors as usize).saturating_sub(300) / each;
        let count = wanted.min(possible).max(AT_ONCE) / AT_ONCE * AT_ONCE;
        if count < wanted {
            eprintln!("{}: {count} idle clients, because of the descriptor limit", peer.title());
        }
        let fleet = bench.fleet(&[peer], &Setup { connections: count + 200, ..Setup::default() });
        let Some(running) = fleet.get(&peer) else { continue };
        let load = keep_alive(running, AT_ONCE, get("/app/small", SMALL));
        let measured = (|| {
            // So that what comes once is there: the pool, code pages, first buffers.
            let _warm = Session::open(load.clone())?.run(2_000)?;
            let before = running.resident();
            let sessions: Result<Vec<_>, String> = (0..count / AT_ONCE).map(|_| Session::open(load.clone())).collect();
            let _idle = sessions?;
            Ok::<_, String>(running.resident().saturating_sub(before) as f64 / count as f64)
        })();
        match measured {
            Ok(bytes) => row.add(peer, bytes),
            Err(error) => left_out(peer, scenario.name, &error),
        }
    }
    row.at_most_value(400.0);
    Ok(vec![row])
}

fn routes(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let counts: &[usize] = if bench.extent.quick { &[10, 1_000] } else { &[10, 1_000, 100_000] };
    let fleets: Vec<(usize, Fleet)> = counts
        .iter()
        .map(|count| (*count, bench.fleet(&PROXIES, &Setup { routes: *count, ..Setup::default() })))
        .collect();
    let mut rows = Vec::new();
    let mut few = None;
    for (count, fleet) in &fleets {
        let what = format!("a request to one of {count} routes");
        let mut row = Row::new(scenario.name, &what, Unit::MicrosPerRequest);
        let path = format!("{}/small", route(count / 2));
        bench.cost(&mut row, fleet, 15_000, |_, running| keep_alive(running, 64, get(&path, SMALL)));
        match &few {
            None => few = row.figures.get(&Peer::Ours).cloned(),
            Some(few) => row.at_most_times(1.05, "10 routes", few),
        }
        rows.push(row);
    }
    for (count, fleet) in fleets {
        let mut load = Row::new(scenario.name, &format!("exec to first answer, {count} routes"), Unit::Milliseconds);
        let mut memory = Row::new(scenario.name, &format!("resident, {count} routes"), Unit::Mebibytes);
        for (peer, running) in &fleet {
            load.add(*peer, running.first_answer.as_secs_f64() * 1e3);
            memory.add(*peer, mebibytes(running.resident()));
        }
        if count == 100_000 {
            load.at_most_value(100.0);
            memory.at_most_value(30.0);
        }
        rows.extend([load, memory]);
    }
    Ok(rows)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn slow(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut rows = beside::latency(bench, scenario.name);
    rows.push(beside::memory(bench, scenario.name));
    Ok(rows)
}

fn instructions(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    counted::instructions(bench, scenario.name)
}

fn calls(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    counted::calls(bench, scenario.name)
}

fn start(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut memory = Row::new(scenario.name, "resident after the first answer", Unit::Mebibytes);
    let mut written = Row::new(scenario.name, "of that not from files", Unit::Mebibytes);
    let mut answer = Row::new(scenario.name, "exec to first answer", Unit::Milliseconds);
    for _ in 0..bench.extent.repeat.max(3) {
        for peer in bench.taking_part(&COPYING) {
            match bench.workshop.start(peer, &Setup { connections: 1024, ..Setup::default() }) {
                Ok(running) => {
                    memory.add(peer, mebibytes(running.resident()));
                    written.add(peer, mebibytes(running.anonymous()));
                    answer.add(peer, running.first_answer.as_secs_f64() * 1e3);
                }
                Err(error) => left_out(peer, scenario.name, &error),
            }
        }
    }
    memory.at_most_value(3.0);
    answer.at_most_value(3.0);
    Ok(vec![memory, written, answer])
}

fn workers(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    scaling::workers(bench, scenario.name)
}
