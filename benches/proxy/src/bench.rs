//! What all scenarios share: which peers take part, the check that they really proxy, and the interleaved measurement.

use std::collections::BTreeMap;

use crate::child::are_ending;
use crate::load::{Load, Session, Style};
use crate::peer::{PEERS, Peer, Running, START_PATIENCE, Workshop, ask, ask_for};
use crate::row::{Row, Unit};
use crate::setup::{CREDENTIALS, Extra, Setup};
use crate::wire::{Exchange, HOST, field, get_with};

/// How much is done.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Repetitions of each measurement.
    pub repeat: usize,
    /// Requests in each, instead of the scenario's own number.
    pub requests: Option<u64>,
    /// A first look: less of everything.
    pub quick: bool,
}

impl Extent {
    /// `full` requests, or fewer. Where one request alone is much work it stays one.
    pub fn requests(&self, full: u64) -> u64 {
        match self.requests {
            _ if full == 1 => 1,
            Some(requests) => requests,
            None if self.quick => full.div_ceil(5),
            None => full,
        }
    }

    /// `full` connections, or fewer, and never more.
    pub fn connections(&self, full: usize) -> usize {
        (self.requests(full as u64) as usize).min(full)
    }
}

/// A run of the benchmark.
#[derive(Debug)]
pub struct Bench {
    /// Where peers come from.
    pub workshop: Workshop,
    /// Who takes part.
    pub peers: Vec<Peer>,
    /// How much is done.
    pub extent: Extent,
}

/// Peers that run.
pub type Fleet = BTreeMap<Peer, Running>;

/// Without splicing: for all scenarios but those with bodies.
pub const COPYING: [Peer; 5] = [Peer::Relay, Peer::HaProxy, Peer::Nginx, Peer::Envoy, Peer::Ours];
/// Those that understand HTTP.
pub const PROXIES: [Peer; 4] = [Peer::HaProxy, Peer::Nginx, Peer::Envoy, Peer::Ours];

impl Bench {
    /// Leaves out who is not there, with a sentence.
    pub fn new(workshop: Workshop, wanted: &[Peer], extent: Extent) -> Bench {
        let is_there = |peer: &Peer| match workshop.has(*peer) {
            Ok(()) => true,
            Err(sentence) => {
                eprintln!("{}: {sentence}", peer.title());
                false
            }
        };
        let peers = PEERS.into_iter().filter(|peer| wanted.contains(peer)).filter(is_there).collect();
        Bench { workshop, peers, extent }
    }

    /// Those of `peers` that take part.
    pub fn taking_part(&self, peers: &[Peer]) -> Vec<Peer> {
        self.peers.iter().copied().filter(|peer| peers.contains(peer)).collect()
    }

    /// Starts these peers and checks that each really proxies. One that does not is left out, with a sentence.
    pub fn fleet(&self, peers: &[Peer], setup: &Setup) -> Fleet {
        let mut fleet = Fleet::new();
        for peer in self.taking_part(peers) {
            match self.workshop.start(peer, setup).and_then(|running| proxies(peer, setup, running)) {
                Ok(running) => drop(fleet.insert(peer, running)),
                Err(error) => left_out(peer, "what follows", &error),
            }
        }
        fleet
    }

    /// The processor time that requests cost each peer.
    pub fn cost(&self, row: &mut Row, fleet: &Fleet, requests: u64, load: impl Fn(&Running) -> Load) {
        self.costs(std::slice::from_mut(row), &[fleet], requests, |_, running| load(running));
    }

    /// The same for several rows, each with a fleet of its own, all interleaved: the first repetition of all peers of all rows,
    /// the second of all... `load` is told the row's number.
    pub fn costs(&self, rows: &mut [Row], fleets: &[&Fleet], requests: u64, load: impl Fn(usize, &Running) -> Load) {
        let requests = self.extent.requests(requests);
        let mut sessions = Vec::new();
        for (at, fleet) in fleets.iter().enumerate() {
            for (peer, running) in *fleet {
                let opened = Session::open(load(at, running)).and_then(|mut session| {
                    // Each connection has done one request already; where one is much work that is enough.
                    session.run(requests / 10)?;
                    Ok(session)
                });
                match opened {
                    Ok(session) => sessions.push((at, *peer, running, session)),
                    Err(error) => left_out(*peer, &rows[at].scenario, &error),
                }
            }
        }
        for repetition in 0..self.extent.repeat {
            rotate(&mut sessions, repetition);
            let mut failed = Vec::new();
            for (at, peer, running, session) in &mut sessions {
                let row = &mut rows[*at];
                let before = running.cpu_time();
                match session.run(requests) {
                    Ok(outcome) => {
                        let used = (running.cpu_time() - before).as_secs_f64();
                        row.add(*peer, per(row.unit, used, requests, session.body_bytes()));
                        let pace = row.pace.entry(*peer).or_default();
                        pace.per_second.0.push(requests as f64 / outcome.elapsed.as_secs_f64());
                        pace.busy.0.push(used / outcome.elapsed.as_secs_f64());
                    }
                    Err(error) => {
                        left_out(*peer, &row.scenario, &error);
                        row.forget(*peer);
                        failed.push((*at, *peer));
                    }
                }
            }
            sessions.retain(|(at, peer, _, _)| !failed.contains(&(*at, *peer)));
        }
    }

    /// Measures these peers in turn, again and again: each time a figure for each row. One that fails once has none in any row:
    /// the median of what went well is another figure than those of the others.
    pub fn repeat<const N: usize>(
        &self,
        repetitions: usize,
        rows: &mut [Row; N],
        mut peers: Vec<Peer>,
        mut measure: impl FnMut(Peer) -> Result<[f64; N], String>,
    ) {
        for repetition in 0..repetitions {
            rotate(&mut peers, repetition);
            peers.retain(|peer| match measure(*peer) {
                Ok(figures) => {
                    rows.iter_mut().zip(figures).for_each(|(row, figure)| row.add(*peer, figure));
                    true
                }
                Err(error) => {
                    left_out(*peer, &rows[0].scenario, &error);
                    rows.iter_mut().for_each(|row| row.forget(*peer));
                    false
                }
            });
        }
    }
}

/// Each repetition begins with another peer.
fn rotate<T>(all: &mut [T], repetition: usize) {
    let count = all.len().max(1);
    all.rotate_left(repetition.min(1) % count);
}

/// Processor time in the row's unit.
fn per(unit: Unit, seconds: f64, requests: u64, body_bytes: u64) -> f64 {
    match unit {
        Unit::SecondsPerGibibyte => seconds / ((requests * body_bytes) as f64 / (1u64 << 30) as f64),
        Unit::MicrosPerRequest => seconds * 1e6 / requests as f64,
        _ => f64::NAN,
    }
}

/// Says why a peer has no figure. While everything ends, nothing that fails says anything about a proxy.
pub fn left_out(peer: Peer, scenario: &str, error: &str) {
    if !are_ending() {
        eprintln!("{} is left out of {scenario}: {error}", peer.title());
    }
}

/// Plain requests over kept connections.
pub fn keep_alive(running: &Running, connections: usize, exchange: Exchange) -> Load {
    Load { addresses: vec![running.address], tls: None, connections, exchange, style: Style::KeepAlive }
}

/// Whether what arrives at the origin is what this peer has to make of it: status, content and the stripped path. Then whether it
/// does what else it was set up for.
fn proxies(peer: Peer, setup: &Setup, running: Running) -> Result<Running, String> {
    let sent = "/app/where/it/went?x=1";
    let expected = if peer.is_proxy() { "/where/it/went?x=1" } else { sent };
    let (head, content) = ask(running.address, sent)?;
    if content != expected.as_bytes() {
        let content = String::from_utf8_lossy(&content);
        return Err(format!("the origin saw {content:?} where {expected:?} was expected"));
    }
    let has = |head: &[u8], name: &str, value: &[u8]| {
        let is_there = field(head, name) == Some(value);
        if is_there { Ok(()) } else { Err(format!("its response is without {name}")) }
    };
    match setup.extra {
        Extra::Nothing | Extra::Bodies | Extra::Filters(0) | Extra::Limit | Extra::Reload => {}
        Extra::Filters(_) => has(&head, "x-bench", b"1")?,
        Extra::Marking => has(&ask(running.address, "/marked/small")?.0, "x-demo-response", b"true")?,
        Extra::Login(_) => {
            let path = "/login/small";
            match ask(running.address, path) {
                Err(error) if error.contains(" 401 ") => {}
                other => return Err(format!("without a password it is {other:?} and not 401")),
            }
            let fields = format!("Connection: close\r\n{CREDENTIALS}");
            ask_for(running.address, &get_with(HOST, path, &fields, 0).request, START_PATIENCE)?;
        }
    }
    Ok(running)
}
