//! The scenarios: each sets up what it needs, measures, and gives rows with their targets.

use std::sync::Arc;

use crate::bench::{Bench, COPYING, PROXIES, keep_alive};
use crate::beside::slow;
use crate::connections::{idle, tls_idle, websockets};
use crate::counted::{calls, instructions};
use crate::latency::latency;
use crate::load::{Load, Style};
use crate::origin::{CHUNKED, SMALL};
use crate::overload::overload;
use crate::peer::{PEERS, Peer};
use crate::plugins::{login, plugin, wasm};
use crate::reload::reload;
use crate::routes::routes;
use crate::row::{Row, Unit};
use crate::scaling::workers;
use crate::setup::{Extra, Setup, Tls, Way};
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
    Scenario { name: "unix", about: "small requests, the origin on a unix socket and on TCP", run: unix },
    Scenario { name: "new", about: "a new connection for each request, 64 at a time", run: new_connections },
    Scenario { name: "chunked", about: "chunked responses, 16 x 1 KiB, 64 connections", run: chunked },
    Scenario { name: "down-64k", about: "downloads of 64 KiB, 16 connections", run: down_64k },
    Scenario { name: "down-1m", about: "downloads of 1 MiB, 16 connections", run: down_1m },
    Scenario { name: "down-1g", about: "downloads of 1 GiB, 1 connection", run: down_1g },
    Scenario { name: "up-64k", about: "uploads of 64 KiB, 16 connections", run: up_64k },
    Scenario { name: "idle", about: "10,000 idle keep-alive clients that each did one request", run: idle },
    Scenario { name: "tls-idle", about: "10,000 idle clients that speak TLS 1.3", run: tls_idle },
    Scenario { name: "routes", about: "one of 10, 1,000, 100,000 routes; of a thousand hosts", run: routes },
    Scenario { name: "tls-front", about: "small requests, clients speak TLS 1.3, 64 connections", run: tls_front },
    Scenario {
        name: "tls-behind",
        about: "small requests, the origin speaks TLS 1.3, 64 connections",
        run: tls_behind,
    },
    Scenario { name: "plugin", about: "a field set on requests and responses, in ours by a plugin", run: plugin },
    Scenario { name: "wasm", about: "a WebAssembly filter that sets a field on requests and responses", run: wasm },
    Scenario { name: "login", about: "a password with each request", run: login },
    Scenario { name: "websocket", about: "WebSocket echo of 100 bytes, 64 connections", run: websocket },
    Scenario { name: "websocket-open", about: "5,000 open WebSockets", run: websockets },
    Scenario { name: "latency", about: "response times at a fixed rate of requests, for all the same", run: latency },
    Scenario { name: "slow", about: "100 fast clients beside 1,900 slow readers; 256 slow downloads", run: slow },
    Scenario { name: "reload", about: "a reload of 1,000 routes while requests come", run: reload },
    Scenario { name: "overload", about: "more clients than the limit of connections allows", run: overload },
    Scenario { name: "start", about: "the start, with one route", run: start },
    Scenario { name: "instructions", about: "instructions of a request, by callgrind", run: instructions },
    Scenario { name: "calls", about: "system calls of a request, by strace", run: calls },
    Scenario { name: "workers", about: "two workers on two cores against one", run: workers },
];

const GIB: u64 = 1 << 30;

fn small(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = cost(bench, scenario, &COPYING, 30_000, 64, get("/app/small", SMALL));
    row.at_most(1.15, Peer::Relay);
    row.at_most_best_peer(0.75);
    Ok(vec![row])
}

/// Each proxy with both, in turn.
fn unix(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut rows = ["small requests, the origin on a unix socket", "the same on TCP"]
        .map(|what| Row::new(scenario.name, what, Unit::MicrosPerRequest));
    let fleets = [Way::Unix, Way::Tcp].map(|way| bench.fleet(&PROXIES, &Setup { way, ..Setup::default() }));
    let load = |_, running: &_| keep_alive(running, 64, get("/app/small", SMALL));
    bench.costs(&mut rows, &fleets.each_ref(), 30_000, load);
    if let Some(tcp) = rows[1].figures.get(&Peer::Ours).cloned() {
        rows[0].at_most_times(0.75, "ours over TCP", &tcp);
    }
    Ok(rows.into())
}

fn browser(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = cost(bench, scenario, &COPYING, 25_000, 64, browser_get("/app/fields", SMALL));
    row.at_most(1.25, Peer::Relay);
    row.at_most_best_peer(0.7);
    Ok(vec![row])
}

fn chunked(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = cost(bench, scenario, &COPYING, 15_000, 64, get("/app/chunked", CHUNKED));
    row.at_most(1.3, Peer::Relay);
    row.at_most_best_peer(0.65);
    Ok(vec![row])
}

fn new_connections(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&COPYING, &Setup::default());
    bench.cost(&mut row, &fleet, 5_000, |running| Load {
        style: Style::NewConnection,
        ..keep_alive(running, 64, last_get("/app/small", SMALL))
    });
    row.at_most_best_peer(0.88);
    Ok(vec![row])
}

fn down_64k(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 8_000, 16, get("/app/body/65536", 65_536));
    row.at_most(1.0, Peer::Relay);
    row.at_most(0.85, Peer::SplicingHaProxy);
    Ok(vec![row])
}

fn down_1m(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 1_000, 16, get("/app/body/1048576", 1 << 20));
    row.at_most(0.55, Peer::Relay);
    row.at_most(0.85, Peer::SplicingHaProxy);
    Ok(vec![row])
}

fn down_1g(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 1, 1, get("/app/body/1073741824", GIB));
    row.at_most(0.7, Peer::Relay);
    row.at_most(1.0, Peer::SplicingHaProxy);
    Ok(vec![row])
}

fn up_64k(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = bodies(bench, scenario, 8_000, 16, upload("/app/upload", 65_536, SMALL));
    row.at_most(0.75, Peer::Relay);
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
    bench.cost(&mut row, &fleet, requests, |running| keep_alive(running, connections, exchange.clone()));
    row
}

/// What a GiB costs all peers, with and without splicing.
fn bodies(bench: &Bench, scenario: &Scenario, requests: u64, connections: usize, exchange: Exchange) -> Row {
    let mut row = Row::new(scenario.name, scenario.about, Unit::SecondsPerGibibyte);
    let fleet = bench.fleet(&PEERS, &Setup { extra: Extra::Bodies, ..Setup::default() });
    bench.cost(&mut row, &fleet, requests, |running| keep_alive(running, connections, exchange.clone()));
    row
}

fn tls_front(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&PROXIES, &Setup { tls: Tls::With, ..Setup::default() });
    let client = bench.workshop.certificate.client()?;
    bench.cost(&mut row, &fleet, 15_000, |running| Load {
        addresses: vec![running.tls_address],
        tls: Some(Arc::clone(&client)),
        ..keep_alive(running, 64, get("/app/small", SMALL))
    });
    Ok(vec![row])
}

fn tls_behind(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&PROXIES, &Setup { tls: Tls::With, ..Setup::default() });
    bench.cost(&mut row, &fleet, 15_000, |running| keep_alive(running, 64, get("/tls/small", SMALL)));
    Ok(vec![row])
}

fn websocket(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&COPYING, &Setup::default());
    bench.cost(&mut row, &fleet, 30_000, |running| {
        let exchange = Exchange { request: wire::websocket("/app/ws"), content: 0 };
        Load { style: Style::WebSocket, ..keep_alive(running, 64, exchange) }
    });
    Ok(vec![row])
}

/// As the table has them.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn start(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut rows = [
        ("resident after the first answer", Unit::Mebibytes),
        ("of that not from files", Unit::Mebibytes),
        ("exec to first answer", Unit::Milliseconds),
    ]
    .map(|(what, unit)| Row::new(scenario.name, what, unit));
    bench.repeat(bench.extent.repeat.max(3), &mut rows, bench.taking_part(&COPYING), |peer| {
        let running = bench.workshop.start(peer, &Setup { connections: 1024, ..Setup::default() })?;
        let first_answer = running.first_answer.as_secs_f64() * 1e3;
        Ok([mebibytes(running.resident()), mebibytes(running.anonymous()), first_answer])
    });
    rows[0].at_most_value(3.0);
    rows[2].at_most_value(3.0);
    Ok(rows.into())
}
