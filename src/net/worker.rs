//! One event loop: wait for events, note what they say, fire timers, accept clients, drive every client that has something to
//! do; and how it drains and ends. One thread each; workers share nothing that is written on the request path.
//!
//! ```text
//!   poll ─► clock ─► events: set ready bits, fill the run queues ─► timers ─► accept ─► drive the run queues ─► close
//!    ▲                                                                                       │ budget used up
//!    └───────────────── time-out: the next timer; zero while a run queue is not empty ◄──────┘
//!
//!   Running ──drain──► Draining ──listeners closed, no client left──► Stopped
//!                        └──────── timeouts.drain ────────────────────►─┘
//! ```
//!
//! Events change nothing by themselves: they set bits (rule M1). So an event that is stale or spurious costs one look and
//! does no harm (rules M3 and M6). The life of a client is told in `session`, connections to upstreams in
//! `upstream`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use mio::{Events, Poll, Token};

use crate::extras::metrics::Counter;
use crate::extras::proxy_protocol::ProxyHeader;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{
    Balance, ListenerProtocol, Peer, ProxyConnection, TransactionPool, WorkerContext,
};
use crate::proxy::runtime::Runtime;

use super::acceptor::{ACCEPT_BACKOFF, Acceptor, FreeSlots, is_exhaustion};
use super::client_counts::{ClientCounts, ClientPlace};
use super::clock::Clock;
use super::conn::{Conn, Socket, SocketFlags};
use super::dns::DnsCache;
use super::event_source::EventSource;
use super::log_limiter::LogLimiter;
use super::malloc_trim;
use super::memory_budget::MemoryBudget;
use super::observer::MeteredObserver;
use super::reload::ConfigHistory;
use super::slab::{Key, Slab};
use super::splice::{Pipe, Pipes};
use super::timers::Timers;
use super::tls::{HandshakeError, Tls};
use super::upstream_state::Upstreams;
use super::worker_queue::{ReloadMsg, WorkerMsg, WorkerQueue};

/// Events asked for at once. One at a time would cost 6 percent.
const EVENTS: usize = 512;
/// Clients accepted per run of the loop (rule M5).
const ACCEPTS: usize = 64;
/// Places for admin clients, beside all others.
const ADMIN_CLIENTS: usize = 16;
/// At most one warning that all places are taken in this time.
const LIMIT_WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// What clients that moved much the last time may move in one run, all together; the last one goes on to its own limit.
const BULK_BYTES: usize = 1024 * 1024;
/// At most one line about clients' failed handshakes in this time: any stranger can make many.
const HANDSHAKE_ERROR_INTERVAL: Duration = Duration::from_secs(1);
/// Steps of TLS handshakes per run, with clients and with upstreams. One takes as long as dozens of requests.
const HANDSHAKES: usize = 4;
/// A client that was idle for less is not closed: it may have only just come, its request on the way.
const MIN_IDLE: Duration = Duration::from_secs(1);
/// A tunnel in which nothing moves for so long, or for half of `timeouts.tunnel_idle`, may be closed for a new client where no
/// client is idle: applications that want to keep theirs say something every minute.
const QUIET_TUNNEL: Duration = Duration::from_secs(300);
/// When all places are taken and clients wait, this part of them is freed at once: looking for idle clients takes a look at all.
const EVICTED_PART: usize = 8;

/// A client connection. What only a running request needs is in the proxy connection's own box: most client connections are
/// idle, and there may be many.
pub(super) struct ClientConn {
    pub conn: Conn,
    pub connection: ProxyConnection,
    /// The upstream connection that it uses, or the attempt at one.
    pub upstream: Option<Key>,
    /// A pipe with body bytes that the receiver has not taken yet.
    pub pipe: Option<Pipe>,
    /// What has happened since it was last driven, beside bytes.
    pub pending: Option<PendingInput>,
    /// Its proxy connection is over; its last bytes may still leave, until then.
    pub flush_until: Option<MonoTime>,
    pub timer: Option<MonoTime>,
    /// When something was last read or written.
    pub active: MonoTime,
    pub is_queued: bool,
    /// Whether it moved so much when it was last driven that others go first.
    pub is_bulk: bool,
    /// The memory that it was last counted with.
    pub counted: u32,
    /// What a load balancer has to say before anything else.
    pub proxy_header: ProxyHeader,
}

/// What a client is driven for, beside bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PendingInput {
    /// Its attempt at an upstream connection can be continued.
    Connect,
    /// The same, by a step of a TLS handshake.
    Handshake,
    /// Its place is needed.
    Evict,
    /// The pause of its request may be over.
    Resumed,
}

impl ClientConn {
    pub fn is_admin(&self) -> bool {
        self.connection.peer().listener == ListenerProtocol::Admin
    }

    /// When to drive it at the latest. A drain ends what is idle, but not what was used a moment ago: a request may be on its
    /// way, also after a part of a handshake, of which the proxy connection knows nothing.
    pub fn deadline(&self, is_draining: bool) -> Option<MonoTime> {
        let drain = (is_draining && self.connection.is_idle()).then(|| self.active + MIN_IDLE);
        self.connection.deadline().into_iter().chain(drain).min()
    }
}

/// What a worker lends to proxy connections for the length of a call.
pub struct LoopContext {
    /// The time of this run of the loop.
    pub clock: Clock,
    /// The configuration for new requests.
    pub runtime: Rc<Runtime>,
    /// The state of upstreams that share a route.
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
    pub fn worker(&mut self) -> WorkerContext<'_> {
        WorkerContext {
            now: self.clock.now(),
            runtime: &self.runtime,
            balance: &mut self.balance,
            transactions: &mut self.transactions,
            observer: &mut self.observer,
        }
    }

    /// The time of this run of the loop.
    pub fn now(&self) -> MonoTime {
        self.clock.now().instant
    }
}

/// How far a worker is with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It takes new connections.
    Running,
    /// It takes no new connections and finishes what is in flight, until then.
    Draining(MonoTime),
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
    pub dns: Arc<DnsCache>,
    /// What other threads have to say.
    pub queue: Arc<WorkerQueue>,
    /// What TLS connections are made of.
    pub tls: Tls,
    /// The connections of each client, over all workers.
    pub client_counts: ClientCounts,
}

/// One event loop.
pub struct Worker {
    pub(super) poll: Poll,
    pub(super) clients: Slab<ClientConn>,
    pub(super) admin_clients: usize,
    /// When clients, and admin clients, may be searched again for those that can be closed for others.
    evict_at: [MonoTime; 2],
    pub(super) upstreams: Upstreams,
    pub(super) dns: Arc<DnsCache>,
    pub(super) timers: Timers,
    /// When free memory is to be returned to the kernel.
    trim_at: Option<MonoTime>,
    /// Clients to be driven in this run or the next.
    pub(super) run_queue: VecDeque<Key>,
    /// The same for those that moved much the last time: they are driven after the others, as far as `BULK_BYTES` go.
    pub(super) bulk_queue: VecDeque<Key>,
    pub(super) acceptor: Acceptor,
    pub(super) queue: Arc<WorkerQueue>,
    pub(super) lifecycle: Lifecycle,
    /// Sockets that were closed in this run. They are dropped at its end, when no event of the same batch can mean them any
    /// more (rule M6).
    pub(super) closed: Vec<Conn>,
    pub(super) configs: ConfigHistory,
    pub(super) proxy_header_warnings: LogLimiter,
    handshake_warnings: LogLimiter,
    limit_warnings: LogLimiter,
    client_limit_warnings: LogLimiter,
    client_counts: ClientCounts,
    /// Of the clients that are counted by it.
    pub(super) client_places: HashMap<Key, ClientPlace>,
    /// Whether all places were taken at the end of the last run.
    is_at_limit: bool,
    pub(super) ctx: LoopContext,
    pub(super) pipes: Pipes,
    pub(super) read_buf: Box<[u8]>,
}

impl Worker {
    /// A worker with no connection. To be made on its own thread.
    pub(super) fn new(init: WorkerInit, runtime: Rc<Runtime>, observer: MeteredObserver) -> Worker {
        let WorkerInit { poll, acceptor, memory, pipes, dns, queue, tls, client_counts } = init;
        observer.metrics.set(Counter::MaxClients, acceptor.max_clients as u64);
        Worker {
            poll,
            clients: Slab::default(),
            admin_clients: 0,
            evict_at: [MonoTime::FIRST; 2],
            upstreams: Upstreams::default(),
            dns,
            timers: Timers::default(),
            trim_at: None,
            run_queue: VecDeque::new(),
            bulk_queue: VecDeque::new(),
            acceptor,
            queue,
            lifecycle: Lifecycle::Running,
            closed: Vec::new(),
            configs: ConfigHistory(vec![(Rc::clone(&runtime), tls)]),
            proxy_header_warnings: LogLimiter::default(),
            handshake_warnings: LogLimiter::default(),
            limit_warnings: LogLimiter::default(),
            client_limit_warnings: LogLimiter::default(),
            client_counts,
            client_places: HashMap::new(),
            is_at_limit: false,
            pipes,
            read_buf: vec![0; memory.max_read].into_boxed_slice(),
            ctx: LoopContext {
                clock: Clock::default(),
                runtime,
                balance: Balance::default(),
                transactions: TransactionPool::of(memory.max_recycled, memory.max_buffered_bodies),
                memory,
                observer,
            },
        }
    }

    /// Works until it is told to stop. An error ends it; the reason is in the log then.
    pub fn run(mut self) -> io::Result<()> {
        let result = self.run_until_stopped();
        result.inspect_err(|error| self.ctx.observer.log.warn(format_args!("a worker ends: {error}")))
    }

    fn run_until_stopped(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        self.acceptor.register(self.poll.registry())?;
        while self.lifecycle != Lifecycle::Stopped {
            match self.poll.poll(&mut events, self.poll_timeout()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                result => result?,
            }
            self.ctx.clock.read();
            self.run_once(events.iter().map(|event| (event.token(), SocketFlags::of(event))));
        }
        Ok(())
    }

    /// One run of the loop, with these events.
    pub(super) fn run_once(&mut self, events: impl Iterator<Item = (Token, SocketFlags)>) {
        let mut has_events = false;
        for (token, readiness) in events {
            has_events = true;
            self.on_event(token, readiness);
        }
        self.fire_timers();
        self.accept_clients();
        self.drive_queues();
        for key in self.ctx.memory.take_ready() {
            self.enqueue(key);
        }
        self.drop_retired();
        self.closed.clear();
        if self.clients.is_empty() {
            self.pipes.close_free();
        }
        let now = self.ctx.now();
        if let Lifecycle::Draining(until) = self.lifecycle
            && (until <= now || (self.acceptor.is_closed() && self.clients.is_empty()))
        {
            self.lifecycle = Lifecycle::Stopped;
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            malloc_trim::trim();
        } else if has_events && malloc_trim::IS_NEEDED {
            self.trim_at.get_or_insert(now + malloc_trim::INTERVAL);
        }
    }

    /// How long the poller may wait.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let now = self.ctx.now();
        let has_work = !self.run_queue.is_empty()
            || !self.bulk_queue.is_empty()
            || self.acceptor.can_accept(now, self.free_slots());
        if has_work {
            return Some(Duration::ZERO);
        }
        let drain = if let Lifecycle::Draining(until) = self.lifecycle { Some(until) } else { None };
        // Being idle makes no event.
        let evict =
            [false, true].map(|is_admin| self.is_full(is_admin).then_some(self.evict_at[usize::from(is_admin)]));
        let times = [self.timers.next(), self.acceptor.wake_at(now), self.trim_at, drain];
        times.into_iter().chain(evict).flatten().min().map(|at| at - now)
    }

    fn on_event(&mut self, token: Token, readiness: SocketFlags) {
        match EventSource::of(token) {
            Some(EventSource::Client(key)) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.conn.socket.on_event(readiness);
                    self.enqueue(key);
                }
            }
            Some(EventSource::Upstream(key)) => self.on_upstream_event(key, readiness),
            Some(EventSource::Listener(number)) => self.acceptor.on_event(number),
            Some(EventSource::Waker) => self.on_messages(),
            None => {}
        }
    }

    fn on_messages(&mut self) {
        for message in self.queue.take() {
            match message {
                WorkerMsg::Dns(upstream, addresses) => self.on_dns_event(upstream, &addresses),
                WorkerMsg::Resume(key) => {
                    if let Some(client) = self.clients.get_mut(key) {
                        // Whatever else is pending will do, too; a message that comes too late means nothing.
                        client.pending.get_or_insert(PendingInput::Resumed);
                        self.enqueue(key);
                    }
                }
                WorkerMsg::Stop => self.lifecycle = Lifecycle::Stopped,
                WorkerMsg::Drain if self.lifecycle == Lifecycle::Running => self.begin_drain(),
                WorkerMsg::Reload(msg) if self.lifecycle == Lifecycle::Running => self.reload(*msg),
                WorkerMsg::Drain | WorkerMsg::Reload(_) => {}
            }
        }
    }

    fn fire_timers(&mut self) {
        let now = self.ctx.now();
        while let Some(token) = self.timers.pop(now) {
            match EventSource::of(token) {
                // Its deadline may have moved on: driving it tells.
                Some(EventSource::Client(key)) => {
                    if let Some(client) = self.clients.get_mut(key) {
                        client.timer = None;
                        self.enqueue(key);
                    }
                }
                Some(EventSource::Upstream(key)) => self.on_upstream_timer(key),
                Some(EventSource::Listener(_) | EventSource::Waker) | None => {}
            }
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

    /// Drives the clients that have something to do. Those that moved much the last time come last, until this run has moved
    /// enough: so a small request waits for a part of what hundreds of downloads have to move, and not for all of it (rule M4).
    /// A client that is queued again, because its budget is used up, waits for the next run.
    fn drive_queues(&mut self) {
        let mut handshakes = HANDSHAKES;
        for _ in 0..self.run_queue.len() {
            let Some(key) = self.run_queue.pop_front() else { break };
            let Some(client) = self.clients.get(key) else { continue };
            let with_upstream = client.pending == Some(PendingInput::Handshake);
            let with_client = client.conn.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
            if (with_upstream || with_client) && handshakes == 0 {
                self.run_queue.push_back(key);
                continue;
            }
            let has_moved = self.drive_contained(key) > 0;
            handshakes -= usize::from(with_upstream || (with_client && has_moved));
        }
        let mut moved = 0;
        for _ in 0..self.bulk_queue.len() {
            if moved >= BULK_BYTES {
                break;
            }
            moved += self.bulk_queue.pop_front().map_or(0, |key| self.drive_contained(key));
        }
    }

    /// Whether there is a place and memory for one more client. Admin clients have places of their own, so that `/health` and
    /// `/metrics` answer when all others are taken: a supervisor would end the proxy otherwise.
    fn free_slots(&self) -> FreeSlots {
        [!self.is_full(false) && self.ctx.memory.is_plentiful(), !self.is_full(true)]
    }

    fn is_full(&self, is_admin: bool) -> bool {
        let taken = if is_admin { self.admin_clients } else { self.clients.len() - self.admin_clients };
        taken >= self.places(is_admin)
    }

    fn places(&self, is_admin: bool) -> usize {
        if is_admin { ADMIN_CLIENTS } else { self.acceptor.max_clients }
    }

    fn accept_clients(&mut self) {
        let now = self.ctx.now();
        let mut is_exhausted = false;
        for _ in 0..ACCEPTS {
            match self.acceptor.accept(now, self.free_slots()) {
                Ok(Some((fd, address, protocol))) => self.add_client(fd, address, protocol),
                Ok(None) => break,
                // Idle pipes have descriptors. Idle upstream connections are not closed for new clients: those that are
                // connected need them, and a crowd would take them all.
                Err(error) if is_exhaustion(&error) && self.pipes.close_free() => {}
                Err(error) => {
                    if let Some(warning) = self.acceptor.back_off(now, &error, &self.ctx.observer.metrics) {
                        self.ctx.observer.log.warn(format_args!("{warning}"));
                    }
                    is_exhausted = true;
                    break;
                }
            }
        }
        let is_full = self.is_full(false);
        for is_admin in [false, true] {
            if self.is_full(is_admin) || (is_exhausted && !is_admin) {
                self.evict_idle(is_admin);
            }
        }
        let was_full = std::mem::replace(&mut self.is_at_limit, is_full);
        if is_full && self.lifecycle == Lifecycle::Running {
            if !was_full {
                self.ctx.observer.metrics.increment(Counter::LimitReached);
            }
            if self.limit_warnings.is_due(now, LIMIT_WARNING_INTERVAL) {
                self.ctx.observer.log.warn(format_args!(
                    "all {} places of this worker are taken, and further clients wait: raise limits.max_connections, or \
                     lower timeouts.keep_alive",
                    self.acceptor.max_clients
                ));
            }
        }
    }

    /// A client that was just accepted.
    pub(super) fn add_client(&mut self, fd: OwnedFd, address: Option<SocketAddr>, protocol: ListenerProtocol) {
        let mut conn = Conn { socket: Socket::accepted(fd), tls: None };
        let is_tls = protocol == ListenerProtocol::Tls;
        let peer = Peer { address, is_tls, listener: protocol };
        let Ok(place) = self.client_place(&peer, false) else { return self.closed.push(conn) };
        let now = self.ctx.clock.now();
        if is_tls {
            conn.tls = self.configs.0.last().and_then(|(_, tls)| tls.accept());
            // Never in the clear what is meant to be secret.
            if conn.tls.is_none() {
                return self.reject(conn);
            }
        }
        let mut client = ClientConn {
            conn,
            connection: ProxyConnection::new(now, peer, Rc::clone(&self.ctx.runtime)),
            upstream: None,
            pipe: None,
            pending: None,
            flush_until: None,
            timer: None,
            active: now.instant,
            is_queued: false,
            is_bulk: false,
            counted: 0,
            proxy_header: ProxyHeader::of(&peer, &self.ctx.runtime.config),
        };
        if self.lifecycle != Lifecycle::Running {
            client.connection.disable_keep_alive();
        }
        match self.clients.insert(client) {
            Ok(key) => {
                self.client_places.extend(place.map(|place| (key, place)));
                self.admin_clients += usize::from(protocol == ListenerProtocol::Admin);
                self.ctx.observer.metrics.increment(Counter::Accepted);
                self.enqueue(key);
            }
            Err(client) => self.reject(client.conn),
        }
    }

    /// Counts a client under its address, where that is limited; an error: it has as many connections as it may have. Load
    /// balancers are not counted, but those for which they speak, when that is known (`is_told`).
    pub(super) fn client_place(&mut self, peer: &Peer, is_told: bool) -> Result<Option<ClientPlace>, ()> {
        let config = &self.ctx.runtime.config;
        let (Some(max), Some(address)) = (config.limits.max_connections_per_client, peer.address) else {
            return Ok(None);
        };
        let is_balancer = !is_told && config.expects_proxy_header(address.ip());
        if peer.listener == ListenerProtocol::Admin || is_balancer {
            return Ok(None);
        }
        let place = self.client_counts.enter(address.ip(), max);
        if place.is_none() {
            self.ctx.observer.metrics.increment(Counter::ClientLimitReached);
            if self.client_limit_warnings.is_due(self.ctx.now(), LIMIT_WARNING_INTERVAL) {
                self.ctx.observer.log.warn(format_args!(
                    "{} has {max} connections, and further ones are closed at once: limits.max_connections_per_client",
                    address.ip().to_canonical()
                ));
            }
        }
        place.map(Some).ok_or(())
    }

    /// There is no place for this one.
    fn reject(&mut self, conn: Conn) {
        self.ctx.observer.metrics.increment(Counter::Refused);
        self.closed.push(conn);
    }

    /// The last place is taken, or the last descriptor: the clients that have been idle longest are closed, so that there is
    /// room for those with a request (one, where nobody waits yet); where none is idle, one quiet tunnel. Otherwise new clients
    /// wait in the kernel's queue.
    fn evict_idle(&mut self, is_admin: bool) {
        let now = self.ctx.now();
        if now < self.evict_at[usize::from(is_admin)] {
            return;
        }
        self.evict_at[usize::from(is_admin)] = now + ACCEPT_BACKOFF;
        let quiet = QUIET_TUNNEL.min(self.ctx.runtime.config.timeouts.tunnel_idle / 2);
        let mut found = Vec::new();
        for (key, client) in self.clients.iter().filter(|(_, client)| client.is_admin() == is_admin) {
            let is_tunnel = client.connection.is_tunnel();
            // A request that has come may wait for memory.
            let is_busy = client.conn.needs_flush() || client.conn.can_read();
            let is_idle = is_tunnel || client.connection.is_idle() && !is_busy;
            let min_age = if is_tunnel { quiet } else { MIN_IDLE };
            if is_idle && !client.is_queued && now - client.active >= min_age {
                found.push((is_tunnel, client.active, key));
            }
        }
        found.sort_unstable();
        let most = if self.acceptor.has_waiting(is_admin) { self.places(is_admin).div_ceil(EVICTED_PART) } else { 1 };
        for (at, (is_tunnel, _, key)) in found.into_iter().take(most).enumerate() {
            if let Some(client) = self.clients.get_mut(key)
                && (at == 0 || !is_tunnel)
            {
                client.pending = Some(PendingInput::Evict);
                self.enqueue(key);
            }
        }
    }

    /// A client is gone that never completed its handshake.
    #[cold]
    pub(super) fn on_handshake_error(&mut self, peer: &Peer, error: &HandshakeError) {
        let (now, observer) = (self.ctx.now(), &mut self.ctx.observer);
        let HandshakeError { reason, message, .. } = error;
        observer.metrics.count_handshake_failure(reason);
        if self.handshake_warnings.is_due(now, HANDSHAKE_ERROR_INTERVAL) {
            let client = peer.address.map_or("a local client".to_owned(), |address| address.to_string());
            observer.log.info(format_args!("no TLS connection with {client} ({reason}): {message}"));
        }
    }

    /// Takes no more connections and finishes what is in flight. No request is lost by it: neither one that waits in the
    /// kernel's queue, nor one on its way on a connection that was in use a moment ago.
    fn begin_drain(&mut self) {
        let now = self.ctx.now();
        self.lifecycle = Lifecycle::Draining(now + self.ctx.runtime.config.timeouts.drain);
        self.acceptor.stop_accepting(now);
        self.close_idle(|conn| !conn.is_login_bound);
        for key in self.clients.keys() {
            if let Some(client) = self.clients.get_mut(key) {
                client.connection.disable_keep_alive();
                self.enqueue(key);
            }
        }
    }

    /// From the next request head on `runtime` holds. A request in flight keeps the configuration that it began with;
    /// connections and tunnels stay open.
    fn reload(&mut self, msg: ReloadMsg) {
        let ReloadMsg { runtime, tls, listeners, max_clients, receipt } = msg;
        let runtime = Rc::new(runtime);
        self.configs.0.push((Rc::clone(&runtime), tls));
        self.ctx.runtime = Rc::clone(&runtime);
        self.reload_upstreams();
        self.acceptor.max_clients = max_clients;
        self.ctx.observer.metrics.set(Counter::MaxClients, max_clients as u64);
        if let Err(error) = self.acceptor.update(self.poll.registry(), self.ctx.now(), listeners) {
            self.ctx.observer.log.warn(format_args!("a worker cannot listen on a new address: {error}"));
        }
        for key in self.clients.keys() {
            let Some(client) = self.clients.get_mut(key) else { continue };
            client.connection.use_config(&runtime);
            // Requests that have come already are admitted by it, too.
            if client.connection.is_active() && client.connection.wants_peer_details(&runtime) {
                client.connection.set_peer_details(client.conn.peer_details());
            }
            // Time-outs may be shorter now.
            self.enqueue(key);
        }
        drop(receipt);
    }

    /// Drops what only requests from before a reload needed, when the last of them is over.
    fn drop_retired(&mut self) {
        if self.configs.drop_unused() {
            let Worker { configs, ctx, upstreams, .. } = self;
            upstreams.by_id.retain(|id, _| configs.find_upstream(*id).is_some());
            let LoopContext { balance, runtime, observer, .. } = ctx;
            balance.retain(|id| configs.find_upstream(id).is_some());
            observer.metrics.forget_ejected(&runtime.config);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use mio::Waker;

    use crate::config::Config;
    use crate::extras::metrics::Registry;
    use crate::proxy::hooks::{HookContext, Hooks, LocalResponse, Phase, Step, Verdict};
    use crate::proxy::proxy_connection::{AccessRecord, Observer};
    use crate::proxy::tickets::{self, Ticket};

    use super::super::dns::SystemLookup;

    struct Silent;

    impl Observer for Silent {
        fn access(&mut self, _: &AccessRecord<'_>) {}
        fn warn(&mut self, message: std::fmt::Arguments<'_>) {
            panic!("{message}");
        }
    }

    /// A worker that is driven by hand, and whose /configz is long.
    fn worker(resolver: &Arc<DnsCache>) -> Worker {
        let routes: String =
            (0..3000).map(|n| format!("- {{prefix: /{n}, upstream: 'http://upstream.example'}}\n")).collect();
        let config = format!("proxy_protocol: {{from: [192.0.2.0/24]}}\nroutes:\n{routes}");
        let config = Config::parse(&config, "test").expect("valid");
        let runtime = Rc::new(Runtime::new(Arc::new(config), None));
        let poll = Poll::new().expect("a poller");
        let waker = Waker::new(poll.registry(), EventSource::Waker.token()).expect("a waker");
        let seed = WorkerInit {
            acceptor: Acceptor::new(Vec::new(), 1000),
            poll,
            memory: MemoryBudget::new(None, 1),
            pipes: Pipes::new(0),
            dns: resolver.clone(),
            queue: Arc::new(WorkerQueue::new(waker)),
            tls: Tls::load(&runtime.config).expect("there is none"),
            client_counts: ClientCounts::default(),
        };
        let registry = Arc::new(Registry::new(1, Duration::ZERO));
        Worker::new(seed, runtime, MeteredObserver::new(registry, 0, Box::new(Silent)))
    }

    /// Pauses each request, and answers it when a thread of its own has resumed it.
    struct Pausing;

    impl Hooks for Pausing {
        fn call(&self, phase: Phase, context: &mut HookContext<'_>) -> Verdict {
            let step = context.state.position.step;
            if let (Phase::Request, Step::Resume { result, .. }) = (phase, step) {
                assert_eq!(result, Some(true));
                return Verdict::Respond(Box::new(LocalResponse { status: 204, ..LocalResponse::default() }));
            }
            if phase != Phase::Request {
                return Verdict::Continue;
            }
            let ticket = Ticket::issue();
            let number = ticket.number();
            context.state.position.step = Step::Resume { ticket: number, result: None };
            std::thread::spawn(move || assert!(tickets::resume(number, true)));
            Verdict::Pause(ticket)
        }
    }

    /// Twenty paused requests of one client are resumed. `late`: something else that comes with each turn of the loop.
    fn resume_twenty(late: Option<PendingInput>) {
        let resolver = DnsCache::start(Box::new(SystemLookup), Duration::from_secs(30)).expect("threads");
        let mut worker = worker(&resolver);
        let config = Config::parse("routes: [{prefix: /, upstream: 'http://127.0.0.1:1'}]", "test").expect("valid");
        worker.ctx.runtime = Rc::new(Runtime::new(Arc::new(config), Some(Arc::new(Pausing) as Arc<dyn Hooks>)));
        let mut client = client(&mut worker);
        client.write_all("GET /a HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20).as_bytes()).expect("room");
        let mut events = Events::with_capacity(EVENTS);
        let mut answers = String::new();
        while answers.matches("HTTP/1.1 204").count() < 20 {
            worker.poll.poll(&mut events, worker.poll_timeout()).expect("a poller");
            worker.ctx.clock.read();
            let key = worker.clients.keys()[0];
            let pending = &mut worker.clients.get_mut(key).expect("a client").pending;
            *pending = late.or(*pending);
            worker.run_once(events.iter().map(|event| (event.token(), SocketFlags::of(event))));
            let _ = client.read_to_string(&mut answers);
            assert!(!answers.contains(" 504 "), "{answers}");
        }
        resolver.stop();
    }

    #[test]
    fn a_thread_that_resumes_a_paused_request_wakes_the_worker() {
        resume_twenty(None);
    }

    #[test]
    fn a_late_look_up_of_the_request_before_does_not_take_the_place_of_a_resumed_pause() {
        resume_twenty(Some(PendingInput::Connect));
    }

    /// A client of `worker`: the far end.
    fn client(worker: &mut Worker) -> UnixStream {
        client_from(worker, None)
    }

    fn client_from(worker: &mut Worker, address: Option<SocketAddr>) -> UnixStream {
        let (near, far) = UnixStream::pair().expect("two sockets");
        near.set_nonblocking(true).expect("a socket");
        far.set_nonblocking(true).expect("a socket");
        worker.add_client(near.into(), address, ListenerProtocol::Plain);
        far
    }

    /// Takes all that is there.
    fn read(client: &mut UnixStream) -> usize {
        let (mut total, mut buf) = (0, vec![0; 1 << 16]);
        while let Ok(len @ 1..) = client.read(&mut buf) {
            total += len;
        }
        total
    }

    #[test]
    fn m4_a_turn_moves_so_much_for_all_downloads_together_and_a_small_request_waits_for_one_turn() {
        const DOWNLOADS: usize = 64;
        let resolver = DnsCache::start(Box::new(SystemLookup), Duration::from_secs(30)).expect("threads");
        let mut worker = worker(&resolver);
        let mut events = Events::with_capacity(EVENTS);
        let mut run = |worker: &mut Worker| {
            worker.poll.poll(&mut events, Some(Duration::ZERO)).expect("a poller");
            worker.run_once(events.iter().map(|event| (event.token(), SocketFlags::of(event))));
        };
        let mut downloads: Vec<UnixStream> = (0..DOWNLOADS).map(|_| client(&mut worker)).collect();
        let mut small = client(&mut worker);
        let requests = "GET /configz HTTP/1.1\r\nHost: h\r\n\r\n".repeat(100);
        downloads.iter_mut().for_each(|client| client.write_all(requests.as_bytes()).expect("room"));
        let mut moved = [0; DOWNLOADS];
        // Until it is known who moves much.
        for _ in 0..4 {
            run(&mut worker);
            downloads.iter_mut().for_each(|client| assert!(read(client) < 1 << 20));
        }
        for _ in 0..200 {
            small.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("room");
            run(&mut worker);
            assert!(read(&mut small) > 0, "it is answered in the same run");
            let now: Vec<usize> = downloads.iter_mut().map(read).collect();
            let total: usize = now.iter().sum();
            // What all may move, and what the last one may.
            assert!(total <= BULK_BYTES + 512 * 1024, "{total} bytes in one run");
            moved.iter_mut().zip(now).for_each(|(sum, now)| *sum += now);
        }
        let (least, most) = (moved.iter().min().expect("many"), moved.iter().max().expect("many"));
        assert!(*least > 0 && most / least <= 2, "from {least} to {most} bytes: nobody is starved");
        resolver.stop();
    }

    #[test]
    fn a_client_that_takes_what_the_kernel_holds_is_not_late() {
        let resolver = DnsCache::start(Box::new(SystemLookup), Duration::from_secs(30)).expect("threads");
        let mut worker = worker(&resolver);
        let mut slow = client(&mut worker);
        slow.write_all("GET /configz HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20).as_bytes()).expect("room");
        let mut events = Events::with_capacity(EVENTS);
        let mut turn_after = |worker: &mut Worker, seconds| {
            worker.ctx.clock.set(worker.ctx.now() + Duration::from_secs(seconds));
            worker.poll.poll(&mut events, Some(Duration::ZERO)).expect("a poller");
            worker.run_once(events.iter().map(|event| (event.token(), SocketFlags::of(event))));
            worker.clients.iter().count()
        };
        while turn_after(&mut worker, 0) == 1 && !worker.run_queue.is_empty() {}
        // Until three quarters of the buffer are free, a local socket is not writable; `write_idle` is 60 seconds.
        let mut piece = [0; 32 * 1024];
        for round in 1..=3 {
            slow.read_exact(&mut piece).expect("there is more");
            assert_eq!(turn_after(&mut worker, 40), 1, "round {round}");
        }
        assert_eq!(turn_after(&mut worker, 61), 1, "it has taken something since it was last asked about");
        assert_eq!(turn_after(&mut worker, 61), 0, "it takes nothing any more");
        resolver.stop();
    }

    #[test]
    fn a_proxy_header_that_comes_with_a_drain_or_an_eviction_is_read() {
        let resolver = DnsCache::start(Box::new(SystemLookup), Duration::from_secs(30)).expect("threads");
        for is_drain in [true, false] {
            let mut worker = worker(&resolver);
            let mut balancer = client_from(&mut worker, "192.0.2.1:5000".parse().ok());
            let mut events = Events::with_capacity(EVENTS);
            let mut run = |worker: &mut Worker| {
                worker.ctx.clock.set(worker.ctx.now() + Duration::from_secs(2));
                worker.poll.poll(&mut events, Some(Duration::ZERO)).expect("a poller");
                worker.run_once(events.iter().map(|event| (event.token(), SocketFlags::of(event))));
            };
            run(&mut worker);
            balancer.write_all(b"PROXY UNKNOWN\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("room");
            if is_drain {
                worker.begin_drain();
            } else {
                let key = worker.clients.keys()[0];
                worker.clients.get_mut(key).expect("a client").pending = Some(PendingInput::Evict);
                worker.enqueue(key);
            }
            run(&mut worker);
            let mut answer = String::new();
            balancer.read_to_string(&mut answer).expect("text, and an end");
            let status = if is_drain { "503" } else { "200" };
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        resolver.stop();
    }

    #[test]
    fn m5_where_nobody_waits_for_the_last_place_one_idle_client_goes() {
        let resolver = DnsCache::start(Box::new(SystemLookup), Duration::from_secs(30)).expect("threads");
        let mut worker = worker(&resolver);
        worker.acceptor.max_clients = 64;
        // That they are all taken is said once a minute.
        worker.limit_warnings.is_due(worker.ctx.now(), LIMIT_WARNING_INTERVAL);
        let _clients: Vec<UnixStream> = (0..64).map(|_| client(&mut worker)).collect();
        let start = worker.ctx.now();
        let mut count_at = |seconds| {
            worker.ctx.clock.set(start + Duration::from_secs(seconds));
            worker.run_once(std::iter::empty());
            worker.clients.len()
        };
        assert_eq!([0, 2, 4].map(&mut count_at), [64, 63, 63]);
        resolver.stop();
    }

    #[test]
    fn a_client_slot_is_at_most_216_bytes() {
        assert!(size_of::<ClientConn>() <= 216, "a client slot has {} bytes", size_of::<ClientConn>());
    }
}
