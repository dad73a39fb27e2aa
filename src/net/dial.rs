//! Connections to upstreams: lend one from the pool, or make a new one.
//!
//! A new one takes the upstream's addresses (or waits for them) and tries each in turn with a time-out of its own. The
//! exchange hears of success or failure the next time it is driven. Nothing here blocks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Scheme;
use crate::extras::metrics::Counter;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{ConnectError, Input};
use crate::proxy::runtime::UpstreamId;

use super::addresses::{Attempt, Known};
use super::conn::{Conn, ConnectOutcome, Handshake, ReadOutcome, Readiness};
use super::door::is_exhaustion;
use super::event_source::EventSource;
use super::resolve::Answer;
use super::slab::Key;
use super::tls::Failure;
use super::worker::{Holder, Lifecycle, UpstreamConn, UpstreamState, Worker};

/// The resolver is told that often that a name is in use.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// How often an idle connection is read before it counts as a busy one.
const QUIET_READS: u32 = 8;
/// An upstream's failed handshakes are told at most that often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

impl Worker {
    /// Lends a connection to the client `owner`: one from the pool at once, or another one later.
    pub(super) fn lend(&mut self, owner: Key, upstream: UpstreamId, fresh: bool) {
        // An exchange has one at most. It should have given the other one back.
        if let Some(old) = self.clients.get_mut(owner).and_then(|client| client.upstream.take()) {
            self.close_upstream(old);
        }
        let idle =
            if fresh { None } else { self.take_bound(owner, upstream).or_else(|| self.take_idle(owner, upstream)) };
        let Some(client) = self.clients.get_mut(owner) else { return };
        if idle.is_some() {
            client.upstream = idle;
            self.ctx.observer.metrics.increment(Counter::Reused);
            client.connection.handle(&mut self.ctx.worker(), Input::Connected { reused: true });
        } else {
            self.ctx.observer.metrics.increment(Counter::Dialed);
            self.dial(owner, upstream);
        }
    }

    /// The newest idle connection to `upstream` that is still good, now the owner's.
    fn take_idle(&mut self, owner: Key, upstream: UpstreamId) -> Option<Key> {
        let now = self.ctx.now();
        while let Some(key) = self.pool.take(upstream) {
            let Some(link) = self.upstreams.get_mut(key) else { continue };
            // Timers may be late; a connection that has outlived its time may be closed by the other end any moment.
            if let UpstreamState::Ready { holder, .. } = &mut link.state
                && matches!(holder, Holder::Pool(until) if *until > now)
            {
                *holder = Holder::Client(owner);
                return Some(key);
            }
            self.close_upstream(key);
        }
        None
    }

    /// The connection to `upstream` that is kept for the owner.
    fn take_bound(&mut self, owner: Key, upstream: UpstreamId) -> Option<Key> {
        let key = self.bound.take(owner, upstream)?;
        if let UpstreamState::Ready { holder, .. } = &mut self.upstreams.get_mut(key)?.state {
            *holder = Holder::Client(owner);
        }
        Some(key)
    }

    fn set_upstream(&mut self, owner: Key, link: Key) {
        if let Some(client) = self.clients.get_mut(owner) {
            client.upstream = Some(link);
        }
    }

    /// Begins to connect.
    fn dial(&mut self, owner: Key, upstream: UpstreamId) {
        let link = UpstreamConn {
            upstream,
            timer: Default::default(),
            is_reserved: false,
            state: UpstreamState::Resolving { owner },
        };
        let Ok(key) = self.upstreams.insert(link) else {
            self.answer(owner, Err(ConnectError::Failed));
            return;
        };
        self.set_upstream(owner, key);
        let now = self.ctx.now();
        let Some((origin, _)) = self.configs.find_upstream(&self.ctx.runtime, upstream) else {
            self.fail(key, ConnectError::Failed);
            return;
        };
        if let Some(known) = self.dns.get_mut(&upstream) {
            if now.saturating_duration_since(known.kept) >= KEEP_EVERY {
                known.kept = now;
                self.resolver.keep(now, &self.inbox, upstream);
            }
            self.begin(key);
        } else if let Ok(ip) = origin.host.parse::<IpAddr>() {
            let address = SocketAddr::new(ip, origin.port);
            self.learn(upstream, Arc::from([address]));
            self.begin(key);
        } else {
            self.resolver.ask(now, &self.inbox, upstream, &origin.host, origin.port);
            self.resolving.push(key);
        }
    }

    fn learn(&mut self, upstream: UpstreamId, addresses: Arc<[SocketAddr]>) {
        let now = self.ctx.now();
        match self.dns.get_mut(&upstream) {
            Some(known) => known.renew(now, addresses),
            None => {
                self.dns.insert(upstream, Known::new(now, addresses));
            }
        }
    }

    /// The resolver has news.
    pub(super) fn on_answers(&mut self) {
        for (upstream, answer) in self.inbox.take() {
            let outcome = match answer {
                Answer::Addresses(addresses) => {
                    self.learn(upstream, addresses);
                    Ok(())
                }
                Answer::Failed => Err(ConnectError::DnsFail),
                Answer::Forget => {
                    self.dns.remove(&upstream);
                    continue;
                }
            };
            let mut waiting = std::mem::take(&mut self.resolving);
            waiting.retain(|key| {
                let is_meant = self.upstreams.get(*key).is_some_and(|link| link.upstream == upstream);
                match (is_meant, outcome) {
                    (true, Ok(())) => self.begin(*key),
                    (true, Err(error)) => self.fail(*key, error),
                    (false, _) => {}
                }
                !is_meant
            });
            // Nothing was added meanwhile: neither `begin` nor `fail` asks for a name.
            self.resolving = waiting;
        }
    }

    /// Tries the first address. They are known.
    fn begin(&mut self, key: Key) {
        let Some(link) = self.upstreams.get(key) else { return };
        let UpstreamState::Resolving { owner } = link.state else { return };
        let Some(known) = self.dns.get_mut(&link.upstream) else {
            self.fail(key, ConnectError::DnsFail);
            return;
        };
        let attempt = known.attempt(self.ctx.now());
        self.try_next(key, owner, Box::new(attempt));
    }

    /// Tries the next address that can be tried at all; the owner hears of it when there is none left.
    fn try_next(&mut self, key: Key, owner: Key, mut attempt: Box<Attempt>) {
        while let Some(address) = attempt.advance() {
            match self.connect(key, address) {
                Ok(conn) => {
                    let timeout = self.clients.get(owner).map(|client| client.connection.connect_address_timeout());
                    let until = self.ctx.now() + timeout.unwrap_or_default();
                    attempt.until = until;
                    if let Some(link) = self.upstreams.get_mut(key) {
                        link.state = UpstreamState::Dialing { owner, conn, attempt };
                        self.timers.set(&mut link.timer, until, EventSource::Upstream(key).token());
                    }
                    return;
                }
                Err(error) => attempt.note(verdict(&error)),
            }
        }
        self.fail(key, attempt.failure.unwrap_or(ConnectError::Failed));
    }

    /// One socket on its way to `address`, registered.
    fn connect(&mut self, key: Key, address: SocketAddr) -> io::Result<Conn> {
        let mut conn = match Conn::connect(address) {
            Err(error) if is_exhaustion(&error) && self.free_descriptors() => Conn::connect(address)?,
            result => result?,
        };
        conn.register(self.poll.registry(), EventSource::Upstream(key).token())?;
        Ok(conn)
    }

    /// Out of descriptors: those of connections that ended in this turn, of idle pipes and of the oldest idle connection
    /// are worth less than a new connection. Tells whether there were any.
    fn free_descriptors(&mut self) -> bool {
        // Before the end of the turn: an event that still means one of them finds its key too old.
        let had_dead = !self.closed.is_empty();
        self.closed.clear();
        had_dead
            || self.pipes.close_free()
            || self.pool.take_oldest().and_then(|oldest| self.upstreams.remove(oldest)).is_some()
    }

    /// The attempt is over, without success.
    fn fail(&mut self, key: Key, error: ConnectError) {
        let owner = self.upstreams.get(key).and_then(|link| link.state.owner());
        self.close_upstream(key);
        if let Some(owner) = owner {
            self.answer(owner, Err(error));
        }
    }

    /// Keeps the answer until the owner is driven.
    fn answer(&mut self, owner: Key, outcome: Result<(), ConnectError>) {
        if let Some(client) = self.clients.get_mut(owner) {
            if outcome.is_err() {
                client.upstream = None;
            }
            client.connect_result = Some(outcome);
        }
        self.enqueue(owner);
    }

    /// The poller says that something happened on a link.
    pub(super) fn on_upstream_event(&mut self, key: Key, readiness: Readiness) {
        let Some(link) = self.upstreams.get_mut(key) else { return };
        match &mut link.state {
            UpstreamState::Resolving { .. } => {}
            UpstreamState::Ready { holder: Holder::Client(owner), conn, .. } => {
                conn.on_event(readiness);
                let owner = *owner;
                self.enqueue(owner);
            }
            UpstreamState::Ready { holder: Holder::Pool(_) | Holder::Reserved(_), conn, .. } => {
                conn.on_event(readiness);
                if !is_quiet(conn, &mut self.read_buf) {
                    self.close_upstream(key);
                }
            }
            UpstreamState::Dialing { conn, .. } => {
                conn.on_event(readiness);
                if conn.is_secured() {
                    self.enqueue_handshake(key);
                    return;
                }
                match conn.finish_connect() {
                    ConnectOutcome::Waiting => {}
                    ConnectOutcome::Connected => self.reached(key),
                    ConnectOutcome::Failed(error) => self.address_failed(key, verdict(&error)),
                }
            }
        }
    }

    /// There is a connection. Where TLS is spoken, it is nobody's before the handshake is complete (rule S19).
    fn reached(&mut self, key: Key) {
        let Some(link) = self.upstreams.get_mut(key) else { return };
        let UpstreamState::Dialing { conn, .. } = &mut link.state else { return };
        let found = self.configs.find_upstream(&self.ctx.runtime, link.upstream);
        let scheme = found.map(|(origin, _)| origin.scheme);
        match (scheme, found.and_then(|(_, desk)| desk.connect(link.upstream))) {
            (Some(Scheme::Http), _) => self.connected(key),
            (Some(Scheme::Https), Some(stage)) => {
                conn.secure(stage);
                self.enqueue_handshake(key);
            }
            // Never in the clear what was meant to be secret.
            (Some(Scheme::Https), None) | (None, _) => self.address_failed(key, ConnectError::TlsFailed),
        }
    }

    fn enqueue_handshake(&mut self, key: Key) {
        if !self.handshaking.contains(&key) {
            self.handshaking.push_back(key);
        }
    }

    /// Goes on with handshakes, at most so many.
    pub(super) fn continue_handshakes(&mut self, most: usize) {
        for _ in 0..most.min(self.handshaking.len()) {
            let Some(key) = self.handshaking.pop_front() else { return };
            let Some(UpstreamConn { upstream, state: UpstreamState::Dialing { conn, .. }, .. }) =
                self.upstreams.get_mut(key)
            else {
                continue;
            };
            let upstream = *upstream;
            match conn.handshake() {
                Handshake::Done => self.connected(key),
                Handshake::Waiting => {}
                Handshake::Busy => self.handshaking.push_back(key),
                Handshake::Failed(failure) => {
                    self.complain(upstream, &failure);
                    self.address_failed(key, failure.verdict());
                }
            }
        }
    }

    /// Tells about a failed handshake, though not each time: an upstream that has one such problem has it all the time.
    fn complain(&mut self, upstream: UpstreamId, failure: &Failure) {
        let now = self.ctx.now();
        if !self.tls_warnings.entry(upstream).or_default().is_due(now, COMPLAIN_EVERY) {
            return;
        }
        let Some((origin, _)) = self.configs.find_upstream(&self.ctx.runtime, upstream) else { return };
        let (host, port) = (&origin.host, origin.port);
        let remedy = failure.remedy();
        let observer = &mut self.ctx.observer;
        observer.warn(format_args!("no TLS connection to upstream {host}, port {port}: {failure}; {remedy}"));
    }

    fn connected(&mut self, key: Key) {
        let connected_at = self.ctx.now();
        let Some(link) = self.upstreams.get_mut(key) else { return };
        let Some(owner) = link.state.owner() else { return };
        let dialing = std::mem::replace(&mut link.state, UpstreamState::Resolving { owner });
        if let UpstreamState::Dialing { conn, attempt, .. } = dialing {
            link.state = UpstreamState::Ready { conn, connected_at, holder: Holder::Client(owner) };
            if let (Some(known), Some(address)) = (self.dns.get_mut(&link.upstream), attempt.current) {
                known.note_success(address);
            }
            self.answer(owner, Ok(()));
        }
    }

    /// On to the next address.
    fn address_failed(&mut self, key: Key, error: ConnectError) {
        let Some(link) = self.upstreams.get_mut(key) else { return };
        let Some(owner) = link.state.owner() else { return };
        let dialing = std::mem::replace(&mut link.state, UpstreamState::Resolving { owner });
        if let UpstreamState::Dialing { conn, mut attempt, .. } = dialing {
            self.closed.push(conn);
            attempt.note(error);
            if let (Some(known), Some(address)) = (self.dns.get_mut(&link.upstream), attempt.current) {
                known.note_failure(self.ctx.clock.now().instant, address);
            }
            self.try_next(key, owner, attempt);
        }
    }

    /// A link's timer came up.
    pub(super) fn on_upstream_timer(&mut self, key: Key, at: MonoTime) {
        let now = self.ctx.now();
        let Some(link) = self.upstreams.get_mut(key) else { return };
        if !link.timer.take_if_current(at) {
            return;
        }
        let until = match &link.state {
            UpstreamState::Resolving { .. } => return,
            UpstreamState::Ready { holder: Holder::Client(_) | Holder::Reserved(_), .. } => return,
            UpstreamState::Dialing { attempt, .. } if attempt.until <= now => {
                self.address_failed(key, ConnectError::TimedOut);
                return;
            }
            UpstreamState::Ready { holder: Holder::Pool(until), .. } if *until <= now => {
                self.close_upstream(key);
                return;
            }
            UpstreamState::Dialing { attempt, .. } => attempt.until,
            UpstreamState::Ready { holder: Holder::Pool(until), .. } => *until,
        };
        self.timers.set(&mut link.timer, until, EventSource::Upstream(key).token());
    }

    /// Puts the connection that `owner` borrowed into the pool, or keeps it for the owner alone.
    pub(super) fn park(&mut self, owner: Key, is_reserved: bool) {
        let Some(key) = self.clients.get_mut(owner).and_then(|client| client.upstream.take()) else { return };
        let now = self.ctx.now();
        let limits = &self.ctx.runtime.config.pool;
        let Some(link) = self.upstreams.get_mut(key) else { return };
        // Whoever logged in stays so, although later requests do not say it.
        link.is_reserved |= is_reserved;
        let is_reserved = link.is_reserved;
        let UpstreamState::Ready { conn, connected_at, holder } = &mut link.state else {
            self.close_upstream(key);
            return;
        };
        let until = (now + limits.idle_timeout).min(*connected_at + limits.max_age);
        // A login is kept for as long as its client stays.
        let is_good = self.lifecycle == Lifecycle::Running && (is_reserved || until > now) && conn.can_write();
        // Nobody will ask for an upstream that a reload has removed.
        let is_good = is_good && (!self.configs.has_renewed() || self.ctx.runtime.origin(link.upstream).is_some());
        // What was not drained may hide a byte too many, or the end (rule M12).
        let is_good = is_good && is_quiet(conn, &mut self.read_buf);
        *holder = if is_reserved { Holder::Reserved(owner) } else { Holder::Pool(until) };
        if !is_good {
            self.close_upstream(key);
            return;
        }
        if is_reserved {
            if let Some(surplus) = self.bound.keep(owner, link.upstream, key) {
                self.close_upstream(surplus);
            }
            return;
        }
        self.timers.set(&mut link.timer, until, EventSource::Upstream(key).token());
        if let Some(surplus) = self.pool.park(link.upstream, key) {
            self.close_upstream(surplus);
        }
    }
}

impl UpstreamState {
    /// Whose it is.
    fn owner(&self) -> Option<Key> {
        match self {
            UpstreamState::Resolving { owner } | UpstreamState::Dialing { owner, .. } => Some(*owner),
            UpstreamState::Ready { holder: Holder::Client(owner), .. } => Some(*owner),
            UpstreamState::Ready { holder: Holder::Pool(_) | Holder::Reserved(_), .. } => None,
        }
    }
}

/// Whether nothing comes from an idle connection. Any byte is one too many, an end is an end: then it must not be lent
/// (rule M12). Without news this costs no system call.
fn is_quiet(conn: &mut Conn, read_buf: &mut [u8]) -> bool {
    // TLS has things to say that are nothing to us: tickets for later, mostly two. Who has more of them is not quiet.
    for _ in 0..QUIET_READS {
        if !conn.can_read() {
            return true;
        }
        match conn.read(&mut read_buf[..1]) {
            ReadOutcome::Blocked => return true,
            ReadOutcome::Overhead(_) => {}
            ReadOutcome::Bytes(_) | ReadOutcome::Eof | ReadOutcome::Failed => return false,
        }
    }
    false
}

/// What a failure to connect is called.
fn verdict(error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => ConnectError::Failed,
    }
}
