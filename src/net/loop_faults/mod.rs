//! The loop itself, with faults and without any real time (rule M13): one worker in the test's own thread, its clock set by
//! hand, its sockets the ends of local pairs whose other ends are held here. Everything is made of one number and happens
//! again in the same way.
//!
//! Any read or write of the worker may be interrupted or told to come later, events come late, in any order, twice and
//! for nothing, connecting is refused or takes its time; peers write and read in pieces, break off, or say nothing
//! more. [`fault_plan`] stands between the worker and its sockets, [`peers`] are the far ends, and this file is the world
//! around them.
//!
//! In a *fair* scenario nobody breaks off and no time passes: then every single answer has to be right, and a wake-up that
//! was forgotten shows as a standstill.

mod fault_plan;
mod peers;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use crate::config::Config;
use crate::extras::metrics::Registry;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{AccessRecord, Observer};
use crate::proxy::runtime::Runtime;
use selftest::strict::{Kind, Parser, Strictness};

use super::acceptor::{Acceptor, Listener};
use super::client_counts::ClientCounts;
use super::dns::{DnsCache, SystemLookup};
use super::event_source::EventSource;
use super::listeners::ListenerProtocol;
use super::memory_budget::MemoryBudget;
use super::observer::MeteredObserver;
use super::slab::Key;
use super::socket::SocketFlags;
use super::splice::Pipes;
use super::tls::Tls;
use super::upstream_state::{UpstreamConn, UpstreamState, Upstreams};
use super::worker::{Worker, WorkerInit};
use super::worker_queue::WorkerQueue;

use fault_plan::{FAULT_PLAN, FaultPlan, Random, pair, with_fault_plan};
use peers::{Ask, Client, Origin, Wire};

pub(super) use fault_plan::{connect, inject_fault, registered};

/// What the worker said.
#[derive(Default)]
struct Said {
    answered: u64,
    bad: Vec<String>,
}

struct Ear(Rc<RefCell<Said>>, bool);

impl Observer for Ear {
    fn access(&mut self, record: &AccessRecord<'_>) {
        let mut said = self.0.borrow_mut();
        said.answered += 1;
        if let (Some(cause), true) = (record.log.cause, self.1) {
            said.bad.push(format!("in a fair scenario: status {} {cause:?}", record.log.status));
        }
    }
    fn warn(&mut self, message: fmt::Arguments<'_>) {
        // That upstreams fail is what happens here; `access` knows where they should not.
        let message = message.to_string();
        if !message.starts_with("a request to upstream ") {
            self.0.borrow_mut().bad.push(message);
        }
    }
}

struct World {
    random: Random,
    worker: Worker,
    events: Events,
    now: MonoTime,
    /// Events that have not been handed over yet.
    held: Vec<(Token, SocketFlags)>,
    clients: Vec<Client>,
    origins: Vec<Origin>,
    said: Rc<RefCell<Said>>,
    is_fair: bool,
}

/// Everything at once; it may be wrong (rule M3).
const EVERYTHING: SocketFlags =
    SocketFlags::READABLE.union(SocketFlags::WRITABLE).union(SocketFlags::RDHUP).union(SocketFlags::ERROR);

/// A round without anything that moves is a standstill only when it is not the fault plan's doing.
const STILL: u32 = 60;

impl World {
    fn new(seed: u64, runtime: &Rc<Runtime>, resolver: &Arc<DnsCache>) -> World {
        let mut random = Random::new(seed);
        let is_fair = random.below(2) == 0;
        let tokens = HashMap::new();
        let fault_plan =
            FaultPlan { random: Random::new(!seed), owed: HashSet::new(), tokens, dialed: Vec::new(), is_fair };
        FAULT_PLAN.set(Some(fault_plan));
        let poll = Poll::new().expect("a poller");
        let waker = Waker::new(poll.registry(), EventSource::Waker.token()).expect("a waker");
        let budget = random.is_one_in(4).then_some(1 << 20);
        let said = Rc::new(RefCell::new(Said::default()));
        let seed = WorkerInit {
            client_counts: ClientCounts::default(),
            acceptor: Acceptor::new(Vec::new(), 100),
            poll,
            memory: MemoryBudget::new(budget, 1),
            pipes: Pipes::new(random.below(3)),
            dns: resolver.clone(),
            queue: Arc::new(WorkerQueue::new(waker)),
            tls: Tls::load(&runtime.config).expect("there is none"),
        };
        let registry = Arc::new(Registry::new(1, Duration::ZERO));
        let observer = MeteredObserver::new(registry, 0, Box::new(Ear(Rc::clone(&said), is_fair)));
        let worker = Worker::new(seed, Rc::clone(runtime), observer);
        let now = worker.ctx.now();
        let (held, clients, origins) = (Vec::new(), Vec::new(), Vec::new());
        World { random, worker, events: Events::with_capacity(64), now, held, clients, origins, said, is_fair }
    }

    fn add_client(&mut self, first_id: usize) {
        let (near, far) = pair().expect("a pair of sockets");
        self.worker.add_client(near, Some("192.0.2.1:5000".parse().expect("an address")), ListenerProtocol::Plain);
        let count = 1 + self.random.below(6);
        let unasked = (0..count).map(|number| Ask::new(&mut self.random, first_id + number)).collect();
        self.clients.push(Client {
            wire: Wire::new(far),
            asks: Vec::new(),
            unasked,
            pipelines: self.random.is_one_in(3),
            answers: Parser::new(Kind::Responses, Strictness::Strict),
            checked: 0,
            is_over: false,
        });
    }

    /// One turn of the worker, with the events that the fault plan lets through.
    fn turn(&mut self) -> Result<bool, String> {
        self.worker.poll.poll(&mut self.events, Some(Duration::ZERO)).map_err(|error| error.to_string())?;
        self.held.extend(self.events.iter().map(|event| (event.token(), SocketFlags::of(event))));
        let owed = with_fault_plan(|fault_plan| {
            let due: Vec<RawFd> = fault_plan.owed.drain().collect();
            due.into_iter().filter_map(|fd| fault_plan.tokens.get(&fd).copied()).collect::<Vec<_>>()
        });
        let had_owed = owed.as_ref().is_some_and(|owed| !owed.is_empty());
        self.held.extend(owed.into_iter().flatten().map(|token| (token, EVERYTHING)));
        let mut given = Vec::new();
        for event in std::mem::take(&mut self.held) {
            match self.random.below(8) {
                0 => self.held.push(event),
                1 => given.extend([event, event]),
                _ => given.push(event),
            }
        }
        for last in (1..given.len()).rev() {
            given.swap(last, self.random.below(last + 1));
        }
        let moved = had_owed || !given.is_empty() || !self.held.is_empty();
        self.worker.ctx.clock.set(self.now);
        self.worker.run_once(given.into_iter());
        self.check_upstreams()?;
        for far in with_fault_plan(|fault_plan| std::mem::take(&mut fault_plan.dialed)).unwrap_or_default() {
            self.origins.push(Origin {
                wire: Wire::new(far),
                requests: Parser::new(Kind::Requests, Strictness::Strict),
                answered: 0,
                closes: false,
                is_mute: !self.is_fair && self.random.is_one_in(12),
            });
        }
        Ok(moved)
    }

    /// Each upstream connection has one owner who knows of it, and something that ends it.
    fn check_upstreams(&self) -> Result<(), String> {
        let Worker { clients, upstreams, .. } = &self.worker;
        let Upstreams { conns, by_id, idle_count, login_conns } = upstreams;
        for (key, UpstreamConn { upstream, state, timer, is_login_bound, .. }) in conns.iter() {
            let idle = by_id.get(upstream).map_or(&[][..], |entry| &entry.idle);
            let owner = |client: &Key| clients.get(*client).filter(|client| client.upstream == Some(key));
            let is_right = match state {
                UpstreamState::Connecting(client, _) => owner(client).is_some_and(|client| match client.pending {
                    None => timer.is_some(),
                    Some(_) => client.is_queued,
                }),
                UpstreamState::Busy(client) => owner(client).is_some(),
                UpstreamState::Idle if *is_login_bound => {
                    let owners = login_conns.iter().filter(|(_, kept)| kept.contains(&key));
                    owners.filter(|(client, _)| clients.get(**client).is_some()).count() == 1
                }
                UpstreamState::Idle => timer.is_some() && idle.iter().any(|(_, idle)| *idle == key),
            };
            if !is_right {
                return Err(format!("{key:?} is nobody's, or nothing ends it"));
            }
        }
        let used = clients.iter().filter_map(|(_, client)| client.upstream);
        let idle: Vec<Key> = by_id.values().flat_map(|entry| &entry.idle).map(|(_, key)| *key).collect();
        match idle.len() == *idle_count && used.chain(idle).all(|key| conns.get(key).is_some()) {
            true => Ok(()),
            false => Err("a connection is counted or named that is closed".to_owned()),
        }
    }

    /// Something that is no peer's doing.
    fn mishap(&mut self) {
        let which = self.random.below(self.clients.len() + self.origins.len());
        let kind = self.random.below(6);
        if kind == 5 {
            self.now = self.now + Duration::from_millis([1, 1_500, 5_000, 20_000][self.random.below(4)]);
            return;
        }
        let wire = match which.checked_sub(self.clients.len()) {
            None => {
                let client = &mut self.clients[which];
                if kind == 4 {
                    client.unasked.clear();
                }
                &mut client.wire
            }
            Some(which) => {
                let origin = &mut self.origins[which];
                origin.is_mute |= kind == 4;
                &mut origin.wire
            }
        };
        match kind {
            0 => wire.socket = None,
            1 => wire.shut(),
            2 => wire.is_sulking = true,
            3 => wire.is_sulking = false,
            // Falls silent in the midst of it.
            _ => wire.outgoing.clear(),
        }
    }

    /// Plays until everybody has what they wanted, or has given up.
    fn play(&mut self) -> Result<(), String> {
        let mut still = 0;
        let mut rounds = 0_u64;
        while !self.clients.iter().all(Client::is_done) {
            rounds += 1;
            if rounds > 2_000_000 {
                return Err("it never ends".to_owned());
            }
            let mut moved = false;
            match self.random.below(3) {
                0 => moved |= self.turn()?,
                1 if !self.clients.is_empty() => {
                    let which = self.random.below(self.clients.len());
                    moved |= self.clients[which].act(&mut self.random, self.is_fair)?;
                }
                _ if !self.origins.is_empty() => {
                    let which = self.random.below(self.origins.len());
                    moved |= self.origins[which].act(&mut self.random)?;
                }
                _ => {}
            }
            if !self.is_fair && self.random.is_one_in(400) {
                self.mishap();
            }
            if let Some(bad) = self.said.borrow().bad.first() {
                return Err(bad.clone());
            }
            let most = STILL * (1 + self.clients.len() + self.origins.len()) as u32;
            still = if moved { 0 } else { still + 1 };
            if still > most {
                still = 0;
                if self.is_fair {
                    return Err("a standstill: somebody was not woken".to_owned());
                }
                let wires = self.clients.iter_mut().map(|client| &mut client.wire);
                let wires = wires.chain(self.origins.iter_mut().map(|origin| &mut origin.wire));
                if wires.map(|wire| std::mem::take(&mut wire.is_sulking)).fold(false, |a, b| a | b) {
                    continue;
                }
                // Somebody waits for somebody who will not come: time-outs are for that.
                let Some(next) = self.worker.timers.next() else {
                    return Err("a standstill without a time-out".to_owned());
                };
                self.now = self.now.max(next);
            }
        }
        Ok(())
    }

    fn is_deserted(&self) -> bool {
        let Worker { clients, upstreams, run_queue, bulk_queue, closed, ctx, .. } = &self.worker;
        let waiting = run_queue.len() + bulk_queue.len() + closed.len() + ctx.memory.waiting();
        clients.len() + upstreams.conns.len() + waiting == 0
    }

    /// Everybody leaves; then nothing may be left.
    fn clear(&mut self) -> Result<(), String> {
        self.clients.iter_mut().for_each(|client| client.wire.socket = None);
        self.origins.iter_mut().for_each(|origin| origin.wire.socket = None);
        for _ in 0..200 {
            self.turn()?;
            self.origins.iter_mut().for_each(|origin| origin.wire.socket = None);
            if self.is_deserted() && self.held.is_empty() {
                break;
            }
            if let Some(next) = self.worker.timers.next() {
                self.now = self.now.max(next);
            }
        }
        if !self.is_deserted() {
            return Err("everybody has left, and something is still there".to_owned());
        }
        if self.worker.timers.next().is_some() || !self.worker.upstreams.login_conns.is_empty() {
            return Err("a timer or a login of nobody is left".to_owned());
        }
        if self.worker.poll_timeout() == Some(Duration::ZERO) {
            return Err("nothing to do, and no rest".to_owned());
        }
        self.said.borrow().bad.first().map_or(Ok(()), |bad| Err(bad.clone()))
    }
}

/// Plays one scenario; returns how many exchanges it had.
fn scenario(seed: u64, runtime: &Rc<Runtime>, resolver: &Arc<DnsCache>) -> Result<u64, String> {
    let mut world = World::new(seed, runtime, resolver);
    for number in 0..1 + world.random.below(4) {
        world.add_client(1000 * (1 + number));
    }
    let result = world.play().and_then(|()| world.clear());
    let answered = world.said.borrow().answered;
    FAULT_PLAN.set(None);
    result.map(|()| answered)
}

fn contained(seed: u64, runtime: &Rc<Runtime>, resolver: &Arc<DnsCache>) -> Result<u64, String> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed, runtime, resolver)));
    let result = outcome.unwrap_or_else(|_| Err("a panic, see above".to_owned()));
    let again = format!("again: FAULT_SEED={seed:#x} cargo test --lib net::loop_faults");
    result.map_err(|error| format!("seed {seed:#x}: {error}\n{again}"))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, and not {text:?}")))
}

/// Enough to be worth it without an optimising compiler; `make faults` asks for more.
const DEFAULT_EXCHANGES: u64 = 2_000;

#[test]
fn m13_whatever_the_sockets_do_everybody_gets_their_own_answers() {
    let config = "routes: [{prefix: /, upstreams: ['http://127.0.0.1:9', 'http://127.0.0.1:10']}]\nhealth: {failures: 1000}\n\
                  pool: {idle_timeout: 1s, max_idle: 2, max_idle_per_upstream: 1}\n";
    let config = Arc::new(Config::parse(config, "test").expect("it is valid"));
    let resolver = DnsCache::start(Box::new(SystemLookup), Duration::from_secs(30)).expect("a thread");
    if let Some(seed) = number("FAULT_SEED") {
        let runtime = Rc::new(Runtime::new(config, None));
        let exchanges = contained(seed, &runtime, &resolver).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed:#x}: {exchanges} exchanges");
        resolver.stop();
        return;
    }
    let wanted = number("LOOP_FAULT_EXCHANGES").unwrap_or(DEFAULT_EXCHANGES);
    let first = number("FAULT_FIRST").unwrap_or(1);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failure = std::thread::scope(|scope| {
        let work = || {
            let runtime = Rc::new(Runtime::new(Arc::clone(&config), None));
            while (done.load(Ordering::Relaxed) as u64) < wanted {
                let exchanges = contained(first + next.fetch_add(1, Ordering::Relaxed) as u64, &runtime, &resolver)?;
                done.fetch_add(exchanges as usize, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().find_map(|worker| worker.join().expect("panics are caught").err())
    });
    resolver.stop();
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    let scenarios = next.load(Ordering::Relaxed);
    println!("{} exchanges through the loop in {scenarios} scenarios", done.load(Ordering::Relaxed));
}

#[test]
fn a_worker_that_ends_with_an_error_says_why() {
    let config = "routes: [{prefix: /, upstream: 'http://127.0.0.1:9'}]\n";
    let config = Arc::new(Config::parse(config, "test").expect("it is valid"));
    let resolver = DnsCache::start(Box::new(SystemLookup), Duration::from_secs(30)).expect("threads");
    let World { mut worker, said, .. } = World::new(1, &Rc::new(Runtime::new(config, None)), &resolver);
    FAULT_PLAN.set(None);
    // Registering a second time what is registered already is refused by the kernel.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mut source = mio::unix::SourceFd(&listener.as_raw_fd());
    worker.poll.registry().register(&mut source, Token(0), mio::Interest::READABLE).expect("once");
    let listener = Listener::new(0, listener.into(), ListenerProtocol::Plain, false);
    worker.acceptor = Acceptor::new(vec![listener], 100);
    worker.run().expect_err("it is registered already");
    resolver.stop();
    assert!(said.borrow().bad[0].starts_with("a worker ends: "), "{:?}", said.borrow().bad);
}
