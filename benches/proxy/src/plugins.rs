//! What plugins cost, beside what does the same in the others: a field that is set, a WebAssembly filter, a password.

use crate::bench::{Bench, Fleet, PROXIES, keep_alive};
use crate::origin::SMALL;
use crate::peer::Peer;
use crate::row::{Row, Unit};
use crate::scenario::{Scenario, mebibytes};
use crate::setup::{CREDENTIALS, Extra, Password, Setup};
use crate::wire::{HOST, get, get_with};

fn with(extra: Extra) -> Setup {
    Setup { extra, ..Setup::default() }
}

/// A field set on requests and responses.
pub fn plugin(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let mut row = Row::new(scenario.name, scenario.about, Unit::MicrosPerRequest);
    let fleet = bench.fleet(&PROXIES, &with(Extra::Marking));
    bench.cost(&mut row, &fleet, 20_000, |running| keep_alive(running, 64, get("/marked/small", SMALL)));
    Ok(vec![row])
}

/// What one filter costs each request, the same module in ours and in Envoy; and in memory. With and without it are measured in
/// turn.
pub fn wasm(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    const MANY: usize = 17;
    let mut rows = ["a request with a WebAssembly filter", "without it"]
        .map(|what| Row::new(scenario.name, what, Unit::MicrosPerRequest));
    let fleets = [1, 0].map(|filters| bench.fleet(&[Peer::Envoy, Peer::Ours], &with(Extra::Filters(filters))));
    let load = |_, running: &_| keep_alive(running, 64, get("/app/small", SMALL));
    bench.costs(&mut rows, &fleets.each_ref(), 20_000, load);
    let [one, none] = rows;
    let mut filter = Row::new(scenario.name, "what the filter costs it", Unit::MicrosPerRequest);
    for (peer, figures) in &one.figures {
        if let Some(without) = none.figures.get(peer) {
            filter.figures.insert(*peer, figures.minus(without));
        }
    }
    filter.at_most_value(6.0);
    let mut memory = ["resident with one filter", "with 17", "each of the other 16"]
        .map(|what| Row::new(scenario.name, what, Unit::Mebibytes));
    let mut residents = Vec::new();
    for (filters, row) in [1, MANY].into_iter().zip(&mut memory) {
        let fleet: Fleet = bench.fleet(&[Peer::Ours], &with(Extra::Filters(filters)));
        if let Some(running) = fleet.get(&Peer::Ours) {
            residents.push(mebibytes(running.resident()));
            row.add(Peer::Ours, mebibytes(running.resident()));
        }
    }
    if let [one, many] = residents[..] {
        memory[2].add(Peer::Ours, (many - one) / (MANY - 1) as f64);
    }
    Ok([one, none, filter].into_iter().chain(memory).collect())
}

/// A password with each request, always the same and right. Ours remembers that it was, so that one of them is hashed; the others
/// hash each, and are measured with the cheapest that they take and with what ours has.
pub fn login(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let login = get_with(HOST, "/login/small", CREDENTIALS, SMALL);
    let rows = [
        ("a password: plain text in HAProxy, SHA-1 in nginx and Envoy", Password::Cheapest, 20_000),
        // 64 are hashed before the first figure, so few are enough.
        ("a password, hashed by SHA-crypt with 5,000 rounds", Password::ShaCrypt, 500),
    ]
    .map(|(what, password, requests)| {
        let mut row = Row::new(scenario.name, what, Unit::MicrosPerRequest);
        // Envoy knows no other hash.
        let can = |peer: &Peer| *peer != Peer::Envoy || password == Password::Cheapest;
        let peers: Vec<Peer> = PROXIES.into_iter().filter(can).collect();
        let fleet = bench.fleet(&peers, &with(Extra::Login(password)));
        bench.cost(&mut row, &fleet, requests, |running| keep_alive(running, 64, login.clone()));
        row
    });
    Ok(rows.into())
}
