//! The turn: wait for events, remember what they say, let new clients in, drive everyone who has something to do.
//!
//! ```text
//!   poll ─► clock ─► events: set ready bits, fill the run queues ─► timers ─► accept ─► drive the run queues ─► bury
//!    ▲                                                                                       │ budget spent
//!    └───────────────── time-out: the next timer; zero while a run queue is not empty ◄──────┘
//! ```
//!
//! Events change nothing by themselves: they set bits (rule M1). So an event that is stale or spurious costs one look
//! and does no harm (rules M3 and M6).

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use mio::{Events, Token};

use crate::extras::metrics::Counter;
use crate::extras::proxy_protocol::ProxyHeader;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{ListenerKind, Peer, ProxyConnection};

use super::acceptor::ListenerProtocol;
use super::acceptor::{ACCEPT_BACKOFF, Accept, FreeSlots, is_exhaustion};
use super::closing::IDLE_ENOUGH;
use super::conn::{Conn, Readiness, Stream};
use super::event_source::EventSource;
use super::idle::IdleList;
use super::idle::Neighbours;
use super::malloc_trim;
use super::memory_budget::Level;
use super::slab::Key;
use super::timers::TimerHandle;
use super::worker::{Client, CloseState, Lifecycle, Listing, Worker};

/// Events asked for at once. One at a time would cost 6 percent.
const EVENTS: usize = 512;
/// Clients let in per turn and worker (rule M5).
const ACCEPTS: usize = 64;
/// The operator's places per worker, beside all others.
const ADMIN_CLIENTS: usize = 16;
/// That all places are taken is told so often at most.
const LIMIT_WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// What those who move much may move in one turn, all together; the last one goes on to its own limit.
const BULK_BYTES: usize = 1024 * 1024;
/// Steps of TLS handshakes per turn and worker, with clients and with upstreams. One takes as long as dozens of requests:
/// more of them must not come between two looks at everybody else.
const HANDSHAKES: usize = 4;

/// A tunnel in which nothing moves for so long, or for half of `timeouts.tunnel_idle`, makes room where places are short and
/// nobody is idle: applications that want to keep theirs say something every minute.
const QUIET_TUNNEL: Duration = Duration::from_secs(300);

impl Worker {
    /// Works until told to stop. An error ends it; the reason is in the log then.
    pub fn run(mut self) -> io::Result<()> {
        let result = self.run_turns();
        if let Err(error) = &result {
            self.ctx.observer.warn(format_args!("a worker ends: {error}"));
        }
        result
    }

    fn run_turns(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        self.acceptor.register(self.poll.registry())?;
        while self.lifecycle != Lifecycle::Stopped {
            self.turn(&mut events)?;
        }
        Ok(())
    }

    /// One turn.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, self.poll_timeout()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            result => result?,
        }
        self.ctx.clock.read();
        self.process_events(events.iter().map(|event| (event.token(), Readiness::of(event))));
        Ok(())
    }

    /// What is to be done at this moment, the poller having said so much.
    pub(super) fn process_events(&mut self, events: impl Iterator<Item = (Token, Readiness)>) {
        let mut is_stirred = false;
        for (token, readiness) in events {
            is_stirred = true;
            self.on_event(token, readiness);
        }
        self.fire_timers();
        self.accept_clients();
        self.continue_handshakes(HANDSHAKES);
        let mut handshakes = HANDSHAKES;
        // Who is put into the queue again, because the budget is spent, waits for the next turn.
        for _ in 0..self.run_queue.len() {
            let Some(key) = self.run_queue.pop_front() else { break };
            let Some(client) = self.clients.get_mut(key) else { continue };
            let is_handshaking = client.conn.is_handshaking();
            if is_handshaking && handshakes == 0 {
                self.run_queue.push_back(key);
                continue;
            }
            client.is_queued = false;
            self.drive_contained(key);
            // Who is gone by now may have cost as much as anybody.
            if is_handshaking && self.clients.get_mut(key).is_none_or(|client| client.conn.take_effort()) {
                handshakes -= 1;
            }
        }
        self.drive_bulk();
        self.wake_memory_waiters();
        self.advance_lifecycle();
        self.forget_retired();
        self.sweep_timers();
        self.closed.clear();
        if self.clients.is_empty() {
            // Kept for the next body; nobody is there who could bring one.
            self.pipes.close_free();
        }
        if is_stirred && malloc_trim::IS_NEEDED {
            self.worked = self.ctx.now();
            let at = self.worked + malloc_trim::INTERVAL;
            self.timers.set(&mut self.malloc_trim, at, EventSource::MallocTrim.token());
        }
    }

    /// How long the poller may wait.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let now = self.ctx.now();
        let has_work = !self.run_queue.is_empty()
            || !self.bulk_queue.is_empty()
            || !self.upstreams.handshaking.is_empty()
            || self.lifecycle == Lifecycle::DrainRequested
            || self.acceptor.can_accept(now, self.free_slots());
        if has_work { Some(Duration::ZERO) } else { self.timers.next().map(|at| at.saturating_duration_since(now)) }
    }

    /// Whether there is a place and memory for one more client. The operator has places of its own, so that `/health` and
    /// `/metrics` answer when all others are taken: whoever supervises the proxy would end it otherwise.
    fn free_slots(&self) -> FreeSlots {
        FreeSlots {
            public: !self.is_full() && self.ctx.memory.level() == Level::Plenty,
            admin: self.admin_clients < ADMIN_CLIENTS,
        }
    }

    /// Whether all places are taken but the operator's.
    fn is_full(&self) -> bool {
        self.clients.len() - self.admin_clients >= self.acceptor.max_clients
    }

    fn on_event(&mut self, token: Token, readiness: Readiness) {
        match EventSource::of(token) {
            Some(EventSource::Client(key)) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.conn.on_event(readiness);
                    // As `enqueue` does, without looking it up again.
                    if !std::mem::replace(&mut client.is_queued, true) {
                        let queue = if client.is_bulk { &mut self.bulk_queue } else { &mut self.run_queue };
                        queue.push_back(key);
                    }
                }
            }
            Some(EventSource::Upstream(key)) => self.on_upstream_event(key, readiness),
            Some(EventSource::Listener(number)) => self.acceptor.on_event(number),
            Some(EventSource::Waker) => {
                self.on_dns_events();
                self.on_reload();
                self.on_shutdown_request();
            }
            Some(EventSource::DrainTimeout | EventSource::DnsRefresh | EventSource::MallocTrim) | None => {}
        }
    }

    /// Looks at all timers whose time has come.
    fn fire_timers(&mut self) {
        let now = self.ctx.now();
        while let Some((at, token)) = self.timers.pop(now) {
            match EventSource::of(token) {
                Some(EventSource::Client(key)) => {
                    // Being driven, it asks its exchange for the real deadline.
                    if self.clients.get_mut(key).is_some_and(|client| client.timer.take_if_current(at)) {
                        self.check_deadline(key);
                    }
                }
                Some(EventSource::Upstream(key)) => self.on_upstream_timer(key, at),
                // The door: if it is open again, that shows in this turn.
                Some(EventSource::Listener(_)) => {
                    if self.acceptor.timer.take_if_current(at)
                        && let Some(until) = self.acceptor.paused_until(now)
                    {
                        self.timers.set(&mut self.acceptor.timer, until, token);
                    }
                }
                Some(EventSource::DrainTimeout) => self.lifecycle = Lifecycle::Stopped,
                Some(EventSource::DnsRefresh) => self.on_dns_timer(at),
                Some(EventSource::MallocTrim) if self.malloc_trim.take_if_current(at) => {
                    if let Some(later) = malloc_trim::trim(now, self.worked) {
                        self.timers.set(&mut self.malloc_trim, later, token);
                    }
                }
                Some(EventSource::MallocTrim | EventSource::Waker) | None => {}
            }
        }
    }

    /// A client's alarm rang: is it serious, or has the deadline moved on?
    fn check_deadline(&mut self, key: Key) {
        let now = self.ctx.now();
        if self.lifecycle == Lifecycle::Draining {
            self.request_close(key);
        }
        let Some(client) = self.clients.get_mut(key) else { return };
        let deadline = match client.close_state {
            // Being driven, it is seen off.
            CloseState::Flushing(_) => Some(now),
            CloseState::Open | CloseState::Requested | CloseState::Announced => client.deadline(),
        };
        match deadline {
            Some(deadline) if deadline > now => {
                self.timers.set(&mut client.timer, deadline, EventSource::Client(key).token());
            }
            Some(_) => self.enqueue(key),
            None => {}
        }
    }

    /// Drives those who moved much the last time, until this turn has moved enough: then the others are looked at again. So
    /// a small request waits for a part of what hundreds of downloads have to move, and not for all of it (rule M4).
    fn drive_bulk(&mut self) {
        let mut moved = 0;
        for _ in 0..self.bulk_queue.len() {
            if moved >= BULK_BYTES {
                break;
            }
            let Some(key) = self.bulk_queue.pop_front() else { break };
            let Some(client) = self.clients.get_mut(key) else { continue };
            client.is_queued = false;
            moved += self.drive_contained(key);
        }
    }

    /// Drives one client, and tells how many bytes that moved. A panic on the way ends that client's connection and nothing else (rule G23).
    fn drive_contained(&mut self, key: Key) -> usize {
        let result = catch_unwind(AssertUnwindSafe(|| self.drive(key)));
        self.update_memory(key);
        if result.is_err() {
            self.ctx.transactions.clear();
            self.remove_client(key);
            self.ctx.observer.warn(format_args!("a fault in the proxy ended one connection; please report it"));
        }
        result.unwrap_or(0)
    }

    /// Lets new clients in.
    fn accept_clients(&mut self) {
        let now = self.ctx.now();
        self.acceptor.recheck_closing(now);
        for _ in 0..ACCEPTS {
            let room = self.free_slots();
            if !self.acceptor.can_accept(now, room) {
                break;
            }
            match self.acceptor.accept(now, room) {
                Accept::Conn(stream, address, speaks) => self.add_client(stream, address, speaks),
                Accept::Aborted => {}
                Accept::WouldBlock => break,
                // Room at once, if it is only descriptors that are missing. Idle upstream connections are not given up for
                // it: those who are inside need them, and a crowd at the door would take them all.
                Accept::Error(error) if is_exhaustion(&error) && self.pipes.close_free() => {}
                Accept::Error(error) => {
                    let (until, complaint) = self.acceptor.back_off(now, &error, &self.ctx.observer.metrics);
                    self.timers.set(&mut self.acceptor.timer, until, EventSource::Listener(0).token());
                    if let Some(complaint) = complaint {
                        self.ctx.observer.warn(format_args!("{complaint}"));
                    }
                    self.evict_idle(now, false);
                    break;
                }
            }
        }
        if self.lifecycle != Lifecycle::Running {
            return;
        }
        if self.admin_clients >= ADMIN_CLIENTS {
            self.evict_idle(now, true);
        }
        let is_full = self.is_full();
        let was_full = std::mem::replace(&mut self.is_at_limit, is_full);
        if is_full {
            if !was_full {
                self.ctx.observer.metrics.increment(Counter::LimitReached);
            }
            if self.limit_warnings.is_due(now, LIMIT_WARNING_INTERVAL) {
                self.ctx.observer.warn(format_args!(
                    "all {} places of this worker are taken, and further clients wait: raise limits.max_connections, or \
                     lower timeouts.keep_alive",
                    self.acceptor.max_clients
                ));
            }
            self.evict_idle(now, false);
        }
    }

    pub(super) fn add_client(&mut self, stream: Stream, address: Option<SocketAddr>, speaks: ListenerProtocol) {
        let now = self.ctx.clock.now();
        let mut conn = Conn::accepted(stream);
        if speaks == ListenerProtocol::Tls {
            match self.configs.tls.accept() {
                Some(stage) => conn.secure(stage),
                // Never in the clear what is meant to be secret.
                None => return self.reject(conn),
            }
        }
        let (is_tls, listener) = match speaks {
            ListenerProtocol::Plain => (false, ListenerKind::Public),
            ListenerProtocol::Tls => (true, ListenerKind::Public),
            ListenerProtocol::Admin => (false, ListenerKind::Admin),
        };
        let peer = Peer { address, is_tls, listener };
        let client = Client {
            conn,
            connection: ProxyConnection::new(now, peer, Rc::clone(&self.ctx.runtime)),
            upstream: None,
            has_login_conns: false,
            lane: None,
            connect_result: None,
            timer: TimerHandle::default(),
            active: now.instant,
            neighbours: Neighbours::default(),
            is_admin: listener == ListenerKind::Admin,
            listing: Listing::None,
            is_queued: false,
            is_bulk: false,
            close_state: CloseState::Open,
            counted: 0,
            waits_for_memory: false,
            is_busy: false,
            proxy_header: ProxyHeader::of(&peer, &self.ctx.runtime.config),
        };
        let is_admin = client.is_admin;
        match self.clients.insert(client) {
            Ok(key) => {
                self.admin_clients += usize::from(is_admin);
                self.ctx.observer.metrics.increment(Counter::Accepted);
                self.enqueue(key);
                if self.lifecycle == Lifecycle::Draining {
                    self.request_close(key);
                }
            }
            Err(client) => self.reject(client.conn),
        }
    }

    /// There is no place for this one.
    fn reject(&mut self, conn: Conn) {
        self.ctx.observer.metrics.increment(Counter::Refused);
        self.closed.push(conn);
    }

    /// The last place is taken, or the last descriptor: the client that has been idle longest is asked to leave, so that
    /// there is room for someone with a request. Where nobody is idle, newcomers wait in the kernel's queue.
    fn evict_idle(&mut self, now: MonoTime, is_admin: bool) {
        let oldest = |list: &IdleList, age: Duration| {
            let is_old = |client: &Client| !client.is_queued && now.saturating_duration_since(client.active) >= age;
            list.oldest().filter(|key| self.clients.get(*key).is_some_and(is_old))
        };
        let long = QUIET_TUNNEL.min(self.ctx.runtime.config.timeouts.tunnel_idle / 2);
        let chosen = match is_admin {
            true => oldest(&self.idle_admin, IDLE_ENOUGH),
            false => oldest(&self.idle, IDLE_ENOUGH).or_else(|| oldest(&self.tunnels, long)),
        };
        match chosen.and_then(|key| Some((key, self.clients.get_mut(key)?))) {
            Some((key, client)) => {
                client.close_state = CloseState::Requested;
                self.list(key, Listing::None);
                self.enqueue(key);
            }
            // Look again soon: being idle makes no event.
            None => self.timers.set(&mut self.acceptor.timer, now + ACCEPT_BACKOFF, EventSource::Listener(0).token()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use mio::{Poll, Waker};

    use crate::config::Config;
    use crate::extras::metrics::Registry;
    use crate::proxy::proxy_connection::{AccessRecord, Observer};
    use crate::proxy::runtime::Runtime;

    use super::super::acceptor::Acceptor;
    use super::super::dns::{DnsCache, DnsQueue, SystemLookup};
    use super::super::memory_budget::MemoryBudget;
    use super::super::observer::EventLog;
    use super::super::reload_queue::ReloadQueue;
    use super::super::shutdown::ShutdownSignal;
    use super::super::splice::Pipes;
    use super::super::tls::Tls;
    use super::super::worker::WorkerInit;

    struct Silent;

    impl Observer for Silent {
        fn access(&mut self, _: &AccessRecord<'_>) {}
    }

    impl EventLog for Silent {
        fn warn(&mut self, message: std::fmt::Arguments<'_>) {
            panic!("{message}");
        }
    }

    /// A worker that is driven by hand, and whose /configz is long.
    fn worker(resolver: &DnsCache) -> Worker {
        let routes: String =
            (0..3000).map(|n| format!("- {{prefix: /{n}, upstream: 'http://upstream.example'}}\n")).collect();
        let config = Config::parse(&format!("routes:\n{routes}"), "test").expect("valid");
        let runtime = Rc::new(Runtime::new(Arc::new(config), None));
        let poll = Poll::new().expect("a poller");
        let waker = Arc::new(Waker::new(poll.registry(), EventSource::Waker.token()).expect("a waker"));
        let seed = WorkerInit {
            acceptor: Acceptor::new(Vec::new(), 1000),
            poll,
            memory: MemoryBudget::new(None, 1),
            pipes: Pipes::new(0),
            dns: resolver.clone(),
            dns_events: Arc::new(DnsQueue::new(Arc::clone(&waker))),
            reload_queue: Arc::new(ReloadQueue::new(Arc::clone(&waker))),
            shutdown: Arc::new(ShutdownSignal::new(vec![waker])),
            tls: Tls::prepare(&runtime.config).expect("there is none"),
            registry: Arc::new(Registry::new(1, Duration::ZERO)),
            number: 0,
        };
        Worker::new(seed, runtime, Box::new(Silent))
    }

    /// A client of `worker`: the far end.
    fn client(worker: &mut Worker) -> UnixStream {
        let (near, far) = UnixStream::pair().expect("two sockets");
        near.set_nonblocking(true).expect("a socket");
        far.set_nonblocking(true).expect("a socket");
        worker.add_client(Stream::Unix(mio::net::UnixStream::from_std(near)), None, ListenerProtocol::Plain);
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
        let mut turn = |worker: &mut Worker| {
            worker.poll.poll(&mut events, Some(Duration::ZERO)).expect("a poller");
            worker.process_events(events.iter().map(|event| (event.token(), Readiness::of(event))));
        };
        let mut downloads: Vec<UnixStream> = (0..DOWNLOADS).map(|_| client(&mut worker)).collect();
        let mut small = client(&mut worker);
        let requests = "GET /configz HTTP/1.1\r\nHost: h\r\n\r\n".repeat(100);
        downloads.iter_mut().for_each(|client| client.write_all(requests.as_bytes()).expect("room"));
        let mut moved = [0; DOWNLOADS];
        // Until it is known who moves much.
        for _ in 0..4 {
            turn(&mut worker);
            downloads.iter_mut().for_each(|client| assert!(read(client) < 1 << 20));
        }
        for _ in 0..200 {
            small.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("room");
            turn(&mut worker);
            assert!(read(&mut small) > 0, "it is answered in the same turn");
            let now: Vec<usize> = downloads.iter_mut().map(read).collect();
            let total: usize = now.iter().sum();
            // What all may move, and what the last one may.
            assert!(total <= BULK_BYTES + 512 * 1024, "{total} bytes in one turn");
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
            worker.process_events(events.iter().map(|event| (event.token(), Readiness::of(event))));
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
}
