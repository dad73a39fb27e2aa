//! What all scenarios share: which peers take part, the check that they really proxy, and the interleaved measurement.

use std::collections::BTreeMap;

use crate::child::are_ending;
use crate::load::{Load, Session, Style};
use crate::peer::{PEERS, Peer, Running, Setup, Workshop, ask};
use crate::row::{Row, Unit};
use crate::wire::Exchange;

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
pub const COPYING: [Peer; 4] = [Peer::Relay, Peer::HaProxy, Peer::Nginx, Peer::Ours];
/// Those that understand HTTP.
pub const PROXIES: [Peer; 3] = [Peer::HaProxy, Peer::Nginx, Peer::Ours];

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
            match self.workshop.start(peer, setup).and_then(|running| proxies(peer, running)) {
                Ok(running) => drop(fleet.insert(peer, running)),
                Err(error) => left_out(peer, "what follows", &error),
            }
        }
        fleet
    }

    /// The processor time that requests cost each peer, interleaved: the first repetition of all, the second of all...
    pub fn cost(&self, row: &mut Row, fleet: &Fleet, requests: u64, load: impl Fn(Peer, &Running) -> Load) {
        let requests = self.extent.requests(requests);
        let mut sessions = Vec::new();
        for (peer, running) in fleet {
            let opened = Session::open(load(*peer, running)).and_then(|mut session| {
                // Each connection has done one request already; where one is much work that is enough.
                session.run(requests / 10)?;
                Ok(session)
            });
            match opened {
                Ok(session) => sessions.push((*peer, running, session)),
                Err(error) => left_out(*peer, &row.scenario, &error),
            }
        }
        for repetition in 0..self.extent.repeat {
            // Each time another one begins, so that none always follows the same.
            let count = sessions.len().max(1);
            sessions.rotate_left(repetition.min(1) % count);
            let mut failed = Vec::new();
            for (peer, running, session) in &mut sessions {
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
                        row.figures.remove(peer);
                        row.pace.remove(peer);
                        failed.push(*peer);
                    }
                }
            }
            sessions.retain(|(peer, _, _)| !failed.contains(peer));
        }
    }
}

/// Processor time in the row's unit.
fn per(unit: Unit, seconds: f64, requests: u64, body_bytes: u64) -> f64 {
    match unit {
        Unit::SecondsPerGibibyte => seconds / ((requests * body_bytes) as f64 / (1u64 << 30) as f64),
        Unit::MicrosPerRequest => seconds * 1e6 / requests as f64,
        Unit::BytesEach | Unit::Mebibytes | Unit::Milliseconds | Unit::Ratio | Unit::EachRequest => f64::NAN,
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

/// Whether what arrives at the origin is what this peer has to make of it: status, content and the stripped path.
fn proxies(peer: Peer, running: Running) -> Result<Running, String> {
    let sent = "/app/where/it/went?x=1";
    let expected = if peer.is_proxy() { "/where/it/went?x=1" } else { sent };
    let (_, content) = ask(running.address, sent)?;
    if content != expected.as_bytes() {
        let content = String::from_utf8_lossy(&content);
        return Err(format!("the origin saw {content:?} where {expected:?} was expected"));
    }
    Ok(running)
}
