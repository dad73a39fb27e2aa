//! What can be counted instead of timed: instructions by callgrind, system calls by strace. On a busy machine it is the
//! same as on a quiet one.
//!
//! A proxy runs under the tool twice, once with few requests and once with more. The difference is what requests cost; the
//! start, the connections and the end are the same in both and cancel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::bench::{Bench, COPYING, keep_alive};
use crate::load::Session;
use crate::origin::{CHUNKED, SMALL};
use crate::peer::{Peer, Tool, find};
use crate::row::{Row, Unit};
use crate::scenario::Scenario;
use crate::setup::Setup;
use crate::wire::{Exchange, browser_get, get, upload};

/// Few, so that each event loop finds about as much at a time in either run.
const CONNECTIONS: usize = 16;

/// Requests before any are counted: a connection is not yet what it will be. Ours reads no more than 8 KiB at once for a client
/// until that has taken 64 whole pieces. So the first 21 chunked responses on a connection take eight calls on sockets each, and
/// those after them four.
const WARM: u64 = 25 * CONNECTIONS as u64;

/// Calls that move bytes.
const ON_SOCKETS: &[&str] =
    &["read", "write", "readv", "writev", "recvfrom", "sendto", "recvmsg", "sendmsg", "splice", "sendfile"];
const WAITING: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll"];
const ARMING: &[&str] = &["epoll_ctl"];

/// User-space instructions of a small request and of one with a browser's fields.
pub fn instructions(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let tool = |file: &Path| {
        let out = format!("--callgrind-out-file={}", file.display());
        Tool { words: ["valgrind", "--quiet", "--tool=callgrind", &out].map(str::to_owned).into() }
    };
    // Envoy's start alone would take callgrind minutes.
    let peers: Vec<Peer> = bench.taking_part(&COPYING).into_iter().filter(|peer| *peer != Peer::Envoy).collect();
    let mut rows = Vec::new();
    for (what, exchange, limit) in [
        ("user-space instructions, small", get("/app/small", SMALL), 5_000.0),
        ("user-space instructions, browser-size heads", browser_get("/app/fields", SMALL), 10_000.0),
    ] {
        let mut row = [Row::new(scenario.name, what, Unit::EachRequest)];
        bench.repeat(1, &mut row, peers.clone(), |peer| {
            Ok([per_request(bench, peer, &exchange, &tool, instructions_in)?.values().sum()])
        });
        row[0].at_most_value(limit);
        rows.extend(row);
    }
    Ok(rows)
}

/// System calls of a small request; and those that move bytes for a chunked response and an upload.
pub fn calls(bench: &Bench, scenario: &Scenario) -> Result<Vec<Row>, String> {
    let tool = |file: &Path| Tool {
        words: ["strace", "-f", "-c", "-o", &file.display().to_string()].map(str::to_owned).into(),
    };
    let counted = |peer, exchange: &Exchange| per_request(bench, peer, exchange, &tool, calls_in);
    let row = |what: &str| Row::new(scenario.name, what, Unit::EachRequest);
    let peers = bench.taking_part(&COPYING);
    let mut small = ["on sockets, small", "waits for events, small", "epoll_ctl, small", "others, small"].map(row);
    bench.repeat(1, &mut small, peers.clone(), |peer| {
        let counted = counted(peer, &get("/app/small", SMALL))?;
        let [sockets, waits, arming] = [ON_SOCKETS, WAITING, ARMING].map(|names| sum(&counted, names));
        let others = counted.values().sum::<f64>() - sockets - waits - arming;
        Ok([sockets, waits, arming, others.max(0.0)])
    });
    // Half a call in a hundred requests may be one that found nothing.
    small[0].at_most_value(4.005);
    small[2].at_most_value(0.005);
    let mut rows: Vec<Row> = small.into();
    for (what, exchange) in [
        ("on sockets, chunked response", get("/app/chunked", CHUNKED)),
        ("on sockets, 64 KiB upload", upload("/app/upload", 65_536, SMALL)),
    ] {
        let mut row = [row(what)];
        bench.repeat(1, &mut row, peers.clone(), |peer| Ok([sum(&counted(peer, &exchange)?, ON_SOCKETS)]));
        rows.extend(row);
    }
    Ok(rows)
}

fn sum(counted: &Counts, names: &[&str]) -> f64 {
    names.iter().filter_map(|name| counted.get(*name)).sum()
}

type Counts = BTreeMap<String, f64>;

/// What one more request costs a peer, by name.
fn per_request(
    bench: &Bench,
    peer: Peer,
    exchange: &Exchange,
    tool: &dyn Fn(&Path) -> Tool,
    read: fn(&str) -> Counts,
) -> Result<Counts, String> {
    let few = bench.extent.requests(1_000).max(WARM);
    let more = bench.extent.requests(2_000);
    let before = counted(bench, peer, exchange, few, tool, read)?;
    let mut counts = counted(bench, peer, exchange, few + more, tool, read)?;
    for (name, count) in &mut counts {
        *count = (*count - before.get(name).copied().unwrap_or_default()) / more as f64;
    }
    Ok(counts)
}

/// Everything that a peer did from its start to its end, with so many requests in between.
fn counted(
    bench: &Bench,
    peer: Peer,
    exchange: &Exchange,
    requests: u64,
    tool: &dyn Fn(&Path) -> Tool,
    read: fn(&str) -> Counts,
) -> Result<Counts, String> {
    let file = bench.workshop.folder.join("counted");
    let tool = tool(&file);
    if let Some(program) = tool.words.first() {
        find(program)?;
    }
    let _ = fs::remove_file(&file);
    let running = bench.workshop.start_on(peer, &Setup::default(), &[bench.workshop.cores.proxy], &tool)?;
    let mut session = Session::open(keep_alive(&running, CONNECTIONS, exchange.clone()))?;
    session.run(requests)?;
    // Clients first: a proxy that is told to stop waits for them.
    drop(session);
    drop(running);
    let counts = read(&fs::read_to_string(&file).unwrap_or_default());
    if counts.is_empty() {
        return Err(format!("{} counted nothing", tool.words.join(" ")));
    }
    Ok(counts)
}

/// The sum over the whole run, from callgrind's file.
fn instructions_in(text: &str) -> Counts {
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.map(|total| ("instructions".to_owned(), total)).into_iter().collect()
}

/// The table of `strace -c`: share, seconds, microseconds, calls, perhaps errors, name.
fn calls_in(text: &str) -> Counts {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (calls, name) = (words.get(3)?.parse().ok()?, *words.last()?);
        (words.len() >= 5 && name != "total").then(|| (name.to_owned(), calls))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read() {
        let text = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.90    0.000013          13      4000           sendto
 38.10    0.000008           8       120        20 epoll_wait
  0.00    0.000000           0         1         1 access
------ ----------- ----------- --------- --------- ----------------
100.00    0.000021           0      4121        21 total
";
        let expected = [("access", 1.0), ("epoll_wait", 120.0), ("sendto", 4000.0)];
        assert_eq!(calls_in(text), expected.map(|(name, calls)| (name.to_owned(), calls)).into());
        assert_eq!(calls_in("strace: Cannot find executable\n"), Counts::new());
    }

    #[test]
    fn the_file_of_callgrind_is_read() {
        let text = "events: Ir\nfn=(1) main\n1 5\nsummary: 7\n\ntotals: 7790989\n";
        assert_eq!(instructions_in(text), [("instructions".to_owned(), 7_790_989.0)].into());
        assert_eq!(instructions_in("events: Ir\n"), Counts::new());
    }
}
