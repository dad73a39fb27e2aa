//! What one event loop owns. One thread each; workers share nothing that is written on the request path.
//!
//! This file has the types and the small steps that all others need; what happens to them is told in
//! [`upstream`](super::upstream) (connections to upstreams), [`drive`](super::drive) (moving bytes) and
//! [`event_loop`](super::event_loop) (connections from clients, and the turn).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use mio::Poll;

use crate::extras::metrics::{Counter, Metrics, Registry};
use crate::extras::proxy_protocol::ProxyHeader;
use crate::mono_time::MonoTime;
use crate::proxy::body_memory::BodyMemory;
use crate::proxy::proxy_connection::{Balance, ConnectError, Peer, ProxyConnection, TransactionPool, WorkerCtx};
use crate::proxy::runtime::Runtime;

use super::acceptor::Acceptor;
use super::clock::Clock;
use super::config_history::ConfigHistory;
use super::conn::Conn;
use super::dns::{DnsCache, DnsQueue};
use super::event_source::EventSource;
use super::idle::{IdleList, Listed, Neighbours};
use super::lane::Lane;
use super::log_limiter::LogLimiter;
use super::memory_budget::{Level, MemoryBudget};
use super::observer::{EventLog, MeteredObserver};
use super::reload_queue::ReloadQueue;
use super::shutdown::ShutdownSignal;
use super::slab::{Key, Slab};
use super::splice::Pipes;
use super::timers::{TimerHandle, Timers};
use super::tls::{Failure, Tls, TlsContext};
use super::upstream_state::{UpstreamState, Upstreams};

/// A client connection. What only a running request needs lives behind the exchange's own box: most client connections
/// are idle, and there may be many.
pub struct Client {
    /// The socket.
    pub conn: Conn,
    /// What is said on it.
    pub connection: ProxyConnection,
    /// The connection that it borrows, or the attempt at one.
    pub upstream: Option<Key>,
    /// Whether upstream connections on which it is logged in are kept for it.
    pub has_login_conns: bool,
    /// What is on its way through a pipe.
    pub lane: Option<Box<Lane>>,
    /// The answer to a connect command, not yet delivered.
    pub connect_result: Option<Result<(), ConnectError>>,
    /// Its earliest entry among the timers.
    pub timer: TimerHandle,
    /// When it was last driven.
    pub active: MonoTime,
    /// Its place among those who are idle.
    pub neighbours: Neighbours,
    /// Whether it came in by the operator's entrance.
    pub is_admin: bool,
    /// In which list it is.
    pub listing: Listing,
    /// Whether it is in a run queue already.
    pub is_queued: bool,
    /// Whether it moved so much when it was last driven that others go first.
    pub is_bulk: bool,
    /// Whether it was asked to end.
    pub close_state: CloseState,
    /// The memory that it was last counted with.
    pub counted: u32,
    /// Whether it waits for memory.
    pub waits_for_memory: bool,
    /// Whether it is counted as one with a request under way.
    pub is_busy: bool,
    /// What a load balancer has to say before anything else.
    pub proxy_header: ProxyHeader,
}

impl Listed for Client {
    fn neighbours(&mut self) -> &mut Neighbours {
        &mut self.neighbours
    }
}

impl Client {
    /// Counts whether a request is under way.
    pub fn count_busy(&mut self, metrics: &Metrics) {
        match (self.is_busy, self.connection.is_active()) {
            (false, true) => metrics.increment(Counter::BecameBusy),
            (true, false) => metrics.increment(Counter::BecameIdle),
            (true, true) | (false, false) => return,
        }
        self.is_busy = !self.is_busy;
    }

    /// When to drive it at the latest.
    pub fn deadline(&self) -> Option<MonoTime> {
        deadline(&self.connection, &self.lane)
    }
}

/// When a client with this exchange and this lane is to be driven at the latest.
pub fn deadline(connection: &ProxyConnection, lane: &Option<Box<Lane>>) -> Option<MonoTime> {
    let lease = lane.as_ref().and_then(|lane| lane.until());
    [connection.deadline(), lease].into_iter().flatten().min()
}

/// Where those clients are found that can be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// In no list.
    None,
    /// Among the idle ones.
    Idle,
    /// Among the tunnels.
    Tunnel,
}

/// How far a client connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseState {
    /// It stays open.
    Open,
    /// It is to be closed; its proxy connection has not been told yet.
    Requested,
    /// Its proxy connection knows.
    Announced,
    /// Its proxy connection is over; its last bytes may still leave, until then.
    Flushing(MonoTime),
}

/// What exchanges are lent for the length of a call.
pub struct LoopContext {
    /// The moment.
    pub clock: Clock,
    /// The configuration.
    pub runtime: Rc<Runtime>,
    /// What is known of upstreams that share a route.
    pub balance: Balance,
    /// Recycled memory.
    pub transactions: TransactionPool,
    /// What may be owned, and what is.
    pub memory: MemoryBudget,
    /// The log, and the counters.
    pub observer: MeteredObserver,
}

impl LoopContext {
    /// As a call takes it.
    pub fn worker(&mut self) -> WorkerCtx<'_> {
        WorkerCtx {
            now: self.clock.now(),
            runtime: &self.runtime,
            balance: &mut self.balance,
            transactions: &mut self.transactions,
            observer: &mut self.observer,
        }
    }

    /// The moment of this turn.
    pub fn now(&self) -> MonoTime {
        self.clock.now().instant
    }
}

/// One event loop.
pub struct Worker {
    pub(super) poll: Poll,
    pub(super) clients: Slab<Client>,
    /// How many of them are the operator's.
    pub(super) admin_clients: usize,
    /// Who has been idle longest: of all others, and of the operator's.
    pub(super) idle: IdleList,
    pub(super) idle_admin: IdleList,
    /// The tunnels: in which nothing has moved for longest.
    pub(super) tunnels: IdleList,
    pub(super) upstreams: Upstreams,
    pub(super) timers: Timers,
    /// When to give back what the allocator keeps.
    pub(super) malloc_trim: TimerHandle,
    /// The last turn in which there was something to do.
    pub(super) worked: MonoTime,
    /// Who is to be driven in this turn or the next: first those who moved little the last time.
    pub(super) run_queue: VecDeque<Key>,
    /// And then the others, as far as the bytes of a turn go.
    pub(super) bulk_queue: VecDeque<Key>,
    pub(super) acceptor: Acceptor,
    /// Who waits for memory: with a new request, and with something under way.
    pub(super) memory_waiters: MemoryWaiters,
    pub(super) shutdown: Arc<ShutdownSignal>,
    pub(super) reload_queue: Arc<ReloadQueue>,
    pub(super) lifecycle: Lifecycle,
    /// Sockets that were closed in this turn. They are dropped at its end, when no event of the same batch can mean
    /// them any more (rule M6).
    pub(super) closed: Vec<Conn>,
    /// What TLS connections are made of, and what requests from before a reload still need.
    pub(super) configs: ConfigHistory,
    /// When a peer that did not say for whom it speaks was last told.
    pub(super) proxy_header_warnings: LogLimiter,
    /// Whether all places were taken at the end of the last turn.
    pub(super) is_at_limit: bool,
    /// When it was last told that all places are taken.
    pub(super) limit_warnings: LogLimiter,
    pub(super) ctx: LoopContext,
    /// For bodies that are not copied.
    pub(super) pipes: Pipes,
    pub(super) read_buf: Box<[u8]>,
}

/// Who waits for memory.
#[derive(Default)]
pub struct MemoryWaiters {
    /// With a new request: until it is plentiful.
    pub new: Vec<Key>,
    /// With something under way: until there is any.
    pub under_way: Vec<Key>,
}

/// How far a worker is with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It takes new connections.
    Running,
    /// Draining begins at the end of this run of the loop, so that a request that is here already is still answered.
    DrainRequested,
    /// It takes no new connections and finishes what is in flight.
    Draining,
    /// It ends.
    Stopped,
}

/// What a worker is made of. Unlike the worker itself it can be sent to a thread.
pub(super) struct WorkerInit {
    /// With the waker registered.
    pub poll: Poll,
    /// This worker's listeners.
    pub acceptor: Acceptor,
    /// This worker's share of the memory budget.
    pub memory: MemoryBudget,
    /// This worker's pipes.
    pub pipes: Pipes,
    /// The names that all workers look up.
    pub dns: DnsCache,
    /// Where the results arrive.
    pub dns_events: Arc<DnsQueue>,
    /// What the main thread has to say.
    pub shutdown: Arc<ShutdownSignal>,
    /// Where new configurations arrive.
    pub reload_queue: Arc<ReloadQueue>,
    /// What TLS connections are made of.
    pub tls: Tls,
    /// Where all workers count.
    pub registry: Arc<Registry>,
    /// This worker's number.
    pub number: usize,
}

impl Worker {
    /// A worker with no connection. To be made on its own thread.
    pub(super) fn new(seed: WorkerInit, runtime: Rc<Runtime>, observer: Box<dyn EventLog>) -> Worker {
        let WorkerInit {
            poll,
            acceptor,
            memory,
            pipes,
            dns,
            dns_events,
            shutdown,
            reload_queue,
            tls,
            registry,
            number,
        } = seed;
        let observer = MeteredObserver::new(registry, number, observer);
        observer.metrics.set(Counter::MaxClients, acceptor.max_clients as u64);
        Worker {
            poll,
            clients: Slab::default(),
            admin_clients: 0,
            idle: IdleList::default(),
            idle_admin: IdleList::default(),
            tunnels: IdleList::default(),
            upstreams: Upstreams::new(dns, dns_events),
            timers: Timers::default(),
            malloc_trim: TimerHandle::default(),
            worked: MonoTime::now(),
            run_queue: VecDeque::new(),
            bulk_queue: VecDeque::new(),
            acceptor,
            memory_waiters: MemoryWaiters::default(),
            shutdown,
            lifecycle: Lifecycle::Running,
            closed: Vec::new(),
            configs: ConfigHistory::new(TlsContext::new(tls, &runtime)),
            reload_queue,
            proxy_header_warnings: LogLimiter::default(),
            is_at_limit: false,
            limit_warnings: LogLimiter::default(),
            ctx: LoopContext {
                clock: Clock::new(),
                runtime,
                balance: Balance::default(),
                transactions: TransactionPool::of(memory.transactions(), BodyMemory::of(memory.bodies())),
                memory,
                observer,
            },
            pipes,
            read_buf: vec![0; memory.largest_read()].into_boxed_slice(),
        }
    }

    /// Puts a client into the run queue, once.
    pub(super) fn enqueue(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key)
            && !client.is_queued
        {
            client.is_queued = true;
            let queue = if client.is_bulk { &mut self.bulk_queue } else { &mut self.run_queue };
            queue.push_back(key);
        }
    }

    /// Counts what a client owns now, where there is a budget to keep to.
    pub(super) fn update_memory(&mut self, key: Key) {
        if self.ctx.memory.is_limited()
            && let Some(client) = self.clients.get_mut(key)
        {
            // Nobody owns 4 GiB: heads, queues and collected bodies all have caps.
            let up = match client.upstream.and_then(|link| self.upstreams.conns.get(link)).map(|link| &link.state) {
                Some(UpstreamState::Connecting { conn, .. } | UpstreamState::Ready { conn, .. }) => conn.memory(),
                Some(_) | None => 0,
            };
            let lane = client.lane.as_ref().map_or(0, |lane| lane.held());
            let now = client.connection.memory() + client.conn.memory() + up + lane;
            let now = u32::try_from(now).unwrap_or(u32::MAX);
            self.ctx.memory.count(client.counted as usize, now as usize);
            client.counted = now;
        }
    }

    /// Whoever waits for memory that there is now is driven again.
    pub(super) fn wake_memory_waiters(&mut self) {
        let level = self.ctx.memory.level();
        let new = if level == Level::Plenty { std::mem::take(&mut self.memory_waiters.new) } else { Vec::new() };
        let under_way = match level {
            Level::Plenty | Level::Scarce => std::mem::take(&mut self.memory_waiters.under_way),
            Level::Exhausted => Vec::new(),
        };
        for key in under_way.into_iter().chain(new) {
            if let Some(client) = self.clients.get_mut(key) {
                client.waits_for_memory = false;
                self.enqueue(key);
            }
        }
    }

    /// Ends a client connection and the upstream connection that it borrows.
    pub(super) fn remove_client(&mut self, key: Key) {
        self.list(key, Listing::None);
        if let Some(mut client) = self.clients.remove(key) {
            self.admin_clients -= usize::from(client.is_admin);
            if let Some(failure) = client.conn.take_handshake_failure() {
                self.on_handshake_failure(client.connection.peer(), &failure);
            }
            self.ctx.memory.count(client.counted as usize, 0);
            if let Some(lane) = client.lane {
                lane.end(&mut self.pipes);
            }
            let metrics = &self.ctx.observer.metrics;
            metrics.increment(Counter::Closed);
            if client.is_busy {
                metrics.increment(Counter::BecameIdle);
            }
            if let Some(link) = client.upstream {
                self.close_upstream(link);
            }
            if client.has_login_conns {
                self.close_login_conns(key);
            }
            self.closed.push(client.conn);
        }
    }

    /// Puts a client where those are looked for that can be done without. It has just been driven, or is leaving.
    pub(super) fn list(&mut self, key: Key, listing: Listing) {
        let Worker { clients, idle, idle_admin, tunnels, .. } = self;
        let Some(client) = clients.get_mut(key) else { return };
        let before = std::mem::replace(&mut client.listing, listing);
        let idle = if client.is_admin { idle_admin } else { idle };
        match before {
            Listing::Idle if listing != before => idle.remove(clients, key),
            Listing::Tunnel if listing != before => tunnels.remove(clients, key),
            Listing::Idle | Listing::Tunnel | Listing::None => {}
        }
        match listing {
            Listing::Idle => idle.push(clients, key),
            Listing::Tunnel => tunnels.push(clients, key),
            Listing::None => {}
        }
    }

    /// A client is gone that never completed its handshake.
    #[cold]
    fn on_handshake_failure(&mut self, peer: &Peer, failure: &Failure) {
        let observer = &mut self.ctx.observer;
        observer.metrics.count_handshake_failure(failure.reason());
        let Some(unsaid) = self.configs.tls.tells_failure(self.ctx.clock.now().instant) else { return };
        let client = peer.address.map_or("a local client".to_owned(), |address| address.to_string());
        let more = if unsaid > 0 { format!("; {unsaid} more since the last such line") } else { String::new() };
        observer.info(format_args!("no TLS connection with {client} ({}): {failure}{more}", failure.reason()));
    }

    /// Entries that do not count must not fill the heap until their time comes.
    pub(super) fn sweep_timers(&mut self) {
        let Worker { timers, clients, upstreams, acceptor, malloc_trim, .. } = self;
        timers.sweep(clients.len() + upstreams.conns.len(), |at, token| match EventSource::of(token) {
            Some(EventSource::Client(key)) => clients.get(key).is_some_and(|client| client.timer.is_current(at)),
            Some(EventSource::Upstream(key)) => upstreams.conns.get(key).is_some_and(|link| link.timer.is_current(at)),
            Some(EventSource::Listener(_)) => acceptor.timer.is_current(at),
            Some(EventSource::DnsRefresh) => upstreams.dns_timer.is_current(at),
            Some(EventSource::MallocTrim) => malloc_trim.is_current(at),
            Some(EventSource::Waker | EventSource::DrainTimeout) => true,
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_slot_is_at_most_250_bytes() {
        assert!(size_of::<Client>() <= 250, "a client slot has {} bytes", size_of::<Client>());
    }
}
