//! What many routes cost: each request, the start, memory. For all hosts, and for a thousand hosts with a hundred routes each.

use crate::bench::{Bench, Fleet, PROXIES, keep_alive};
use crate::origin::SMALL;
use crate::peer::Peer;
use crate::row::{Row, Unit};
use crate::scenario::{Scenario, mebibytes};
use crate::setup::{Setup, host, route};
use crate::wire::{HOST, get_with};

/// Routes, and the hosts that share them; no hosts means that they are for all.
const FULL: &[(usize, usize)] = &[(10, 0), (1_000, 0), (100_000, 0), (100_000, 1_000)];
const QUICK: &[(usize, usize)] = &[(10, 0), (1_000, 0), (1_000, 10)];

/// Rows for each number of routes.
pub fn routes(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let counts = if bench.extent.quick { QUICK } else { FULL };
    let fleets: Vec<Fleet> = counts
        .iter()
        .map(|(routes, hosts)| bench.fleet(&PROXIES, &Setup { routes: *routes, hosts: *hosts, ..Setup::default() }))
        .collect();
    let named = |(routes, hosts): (usize, usize)| match hosts {
        0 => format!("{routes} routes"),
        hosts => format!("{routes} routes of {hosts} hosts"),
    };
    let mut rows: Vec<Row> = counts
        .iter()
        .map(|count| Row::new(scenario.name, &format!("a request to one of {}", named(*count)), Unit::MicrosPerRequest))
        .collect();
    bench.costs(&mut rows, &fleets.iter().collect::<Vec<_>>(), 15_000, |at, running| {
        let (routes, hosts) = counts[at];
        let host = if hosts == 0 { HOST.to_owned() } else { host(hosts / 2) };
        let path = format!("{}/small", route(routes / hosts.max(1) / 2));
        keep_alive(running, 64, get_with(&host, &path, "", SMALL))
    });
    if let Some(few) = rows[0].figures.get(&Peer::Ours).cloned() {
        rows[1..].iter_mut().for_each(|row| row.at_most_times(1.05, "10 routes", &few));
    }
    for (count, fleet) in counts.iter().zip(fleets) {
        let mut load = Row::new(scenario.name, &format!("exec to first answer, {}", named(*count)), Unit::Milliseconds);
        let mut memory = Row::new(scenario.name, &format!("resident, {}", named(*count)), Unit::Mebibytes);
        for (peer, running) in &fleet {
            load.add(*peer, running.first_answer.as_secs_f64() * 1e3);
            memory.add(*peer, mebibytes(running.resident()));
        }
        if *count == (100_000, 0) {
            memory.at_most_value(30.0);
        }
        rows.extend([load, memory]);
    }
    Ok(rows)
}
