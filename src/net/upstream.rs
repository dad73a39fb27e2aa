//! The life of a connection to an upstream, from top to bottom: acquire, resolve, connect, handshake, report, release, close.
//!
//! ```text
//!   acquire ──an idle one──────────────────────────────────► Ready(Client) ◄──acquire──┐
//!      └─none─► Resolving ──addresses──► Connecting ──TCP, TLS──►┘   └──release──► Ready(Pool or LoginBound)
//!                   └─no such name─► failed ◄─all failed─┘
//! ```
//!
//! A new connection tries the upstream's addresses in turn, each with a time-out of its own. The client's connection hears
//! of the outcome the next time it is driven. Nothing here blocks. What a worker knows of one upstream lies in one
//! [`UpstreamEntry`]; connections themselves stay in their slots, registered, also while they are idle, so that an end is
//! noticed at once (rule M12).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::config::Scheme;
use crate::extras::metrics::Counter;
use crate::proxy::proxy_connection::{ConnectError, Input};
use crate::proxy::runtime::UpstreamId;

use super::acceptor::is_exhaustion;
use super::addresses::Addresses;
use super::conn::{Conn, ReadOutcome, Readiness, Socket};
use super::event_source::EventSource;
use super::slab::Key;
use super::timers::TimerHandle;
use super::tls::HandshakeError;
use super::upstream_state::{ConnOwner, UpstreamConn, UpstreamState, Upstreams};
use super::worker::{Lifecycle, Worker};
use super::worker_queue::DnsEvent;

/// How often an idle connection is read before it counts as a busy one.
const MAX_IDLE_READS: u32 = 8;
/// A failed handshake with an upstream is logged at most this often: one that has such a problem has it all the time.
const TLS_WARN_INTERVAL: Duration = Duration::from_secs(60);
/// How many login-bound connections a client keeps, one for each upstream. Beyond that the oldest is closed.
const MAX_LOGIN_CONNS: usize = 4;
/// Addresses that no new connection has needed for so long are not refreshed any more, but looked up before the next use.
const MAX_UNUSED: Duration = Duration::from_secs(600);

impl Worker {
    /// Gives the client a connection to `upstream`: an idle one at once, or a new one later. `is_new`: an idle one will not
    /// do.
    pub(super) fn acquire(&mut self, client_key: Key, upstream: UpstreamId, is_new: bool) {
        let Some(client) = self.clients.get_mut(client_key) else { return };
        // There is one at most, and it should have been released.
        if let Some(old) = client.upstream.take() {
            self.close_upstream(old);
        }
        let idle = if is_new { None } else { self.take_idle(client_key, upstream) };
        let Some(client) = self.clients.get_mut(client_key) else { return };
        if let Some(key) = idle
            && let Some(upstream_conn) = self.upstreams.conns.get_mut(key)
        {
            upstream_conn.owner = ConnOwner::Client(client_key);
            client.upstream = Some(key);
            self.ctx.observer.metrics.increment(Counter::Reused);
            client.connection.handle(&mut self.ctx.worker(), Input::Connected { reused: true });
        } else {
            self.ctx.observer.metrics.increment(Counter::Dialed);
            self.resolve(client_key, upstream);
        }
    }

    /// The connection on which the client is logged in, or the newest idle one. Timers have fired before in this run, so none
    /// has outlived its time.
    fn take_idle(&mut self, client_key: Key, upstream: UpstreamId) -> Option<Key> {
        if self.clients.get(client_key)?.has_login_conns
            && let Some((_, key, _)) = self.upstreams.login_conns(client_key).find(|(_, _, id)| *id == upstream)
        {
            return Some(key);
        }
        let key = self.upstreams.by_id.get_mut(&upstream)?.idle.pop()?;
        self.upstreams.idle_count -= 1;
        Some(key)
    }

    /// Begins a new connection: with the upstream's addresses, or by asking for them.
    fn resolve(&mut self, owner: Key, upstream: UpstreamId) {
        let upstream_conn = UpstreamConn {
            upstream,
            owner: ConnOwner::Client(owner),
            state: UpstreamState::Resolving,
            conn: None,
            timer: TimerHandle::default(),
            is_login_bound: false,
        };
        let Ok(key) = self.upstreams.conns.insert(upstream_conn) else {
            return self.report_connect(owner, Err(ConnectError::Failed));
        };
        if let Some(client) = self.clients.get_mut(owner) {
            client.upstream = Some(key);
        }
        let Some((origin, _)) = self.configs.find_upstream(upstream) else {
            return self.connect_failed(key, ConnectError::Failed);
        };
        let now = self.ctx.now();
        let Upstreams { by_id, dns, .. } = &mut self.upstreams;
        let entry = by_id.entry(upstream).or_default();
        if entry.addresses.is_none() {
            let Ok(ip) = origin.host.parse::<IpAddr>() else {
                entry.resolving.push(key);
                return dns.lookup(now, &self.queue, upstream, origin, false);
            };
            let literal = SocketAddr::new(ip, origin.port);
            entry.addresses = Some(Addresses::new(now, Arc::from([literal])));
        }
        self.start_connect(key);
    }

    /// A look-up has ended. Where the addresses are in use, the next result is wanted, too.
    pub(super) fn on_dns_event(&mut self, DnsEvent { upstream, addresses }: DnsEvent) {
        let now = self.ctx.now();
        let Upstreams { by_id, dns, .. } = &mut self.upstreams;
        let Some(entry) = by_id.get_mut(&upstream) else { return };
        match (&mut entry.addresses, addresses) {
            (Some(known), Some(list)) => known.set(list),
            (known @ None, Some(list)) => *known = Some(Addresses::new(now, list)),
            (_, None) => {}
        }
        let used_at = entry.addresses.as_ref().map(|addresses| addresses.used_at);
        match self.configs.find_upstream(upstream) {
            Some((origin, _)) if used_at.is_some_and(|at| now.saturating_duration_since(at) <= MAX_UNUSED) => {
                dns.lookup(now, &self.queue, upstream, origin, true);
            }
            _ => entry.addresses = None,
        }
        for key in std::mem::take(&mut entry.resolving) {
            self.start_connect(key);
        }
    }

    /// Tries the first address; without any, the look-up has failed.
    fn start_connect(&mut self, key: Key) {
        let now = self.ctx.now();
        let Some(upstream_conn) = self.upstreams.conns.get_mut(key) else { return };
        let entry = self.upstreams.by_id.get_mut(&upstream_conn.upstream);
        match entry.and_then(|entry| entry.addresses.as_mut()) {
            Some(addresses) => {
                upstream_conn.state = UpstreamState::Connecting(Box::new(addresses.attempt(now)));
                self.try_next_address(key);
            }
            None => self.connect_failed(key, ConnectError::DnsFail),
        }
    }

    /// Tries the next address to which a connection can be begun; the client hears of it when there is none left.
    fn try_next_address(&mut self, key: Key) {
        while let Some(attempt) = self.upstreams.attempt(key) {
            let Some(address) = attempt.advance() else {
                let failure = attempt.failure.unwrap_or(ConnectError::Failed);
                return self.connect_failed(key, failure);
            };
            let Err(error) = self.connect(key, address) else { return };
            if let Some(attempt) = self.upstreams.attempt(key) {
                attempt.note(classify(&error));
            }
        }
    }

    /// Begins to connect to `address`.
    fn connect(&mut self, key: Key, address: SocketAddr) -> io::Result<()> {
        let mut new = match Socket::connect(address) {
            Err(error) if is_exhaustion(&error) && self.free_descriptors() => Socket::connect(address)?,
            result => result?,
        };
        let token = EventSource::Upstream(key).token();
        new.register(self.poll.registry(), token)?;
        if let Some(UpstreamConn { owner: ConnOwner::Client(owner), state, conn, timer, .. }) =
            self.upstreams.conns.get_mut(key)
            && let UpstreamState::Connecting(attempt) = state
        {
            let timeout = self.clients.get(*owner).map(|client| client.connection.connect_address_timeout());
            attempt.until = self.ctx.now() + timeout.unwrap_or_default();
            self.timers.set(timer, attempt.until, token);
            *conn = Some(new.into());
        }
        Ok(())
    }

    /// Closes what is worth less than a new connection: connections that ended in this run, idle pipes, or the oldest
    /// idle connection. False where there was nothing.
    fn free_descriptors(&mut self) -> bool {
        // Before the end of the run: an event that still means one of them finds its key too old.
        let had_closed = !self.closed.is_empty();
        self.closed.clear();
        if had_closed || self.pipes.close_free() {
            return true;
        }
        let Some(oldest) = self.upstreams.oldest_idle() else { return false };
        self.close_upstream(oldest);
        self.closed.clear();
        true
    }

    /// The poller says that something happened.
    pub(super) fn on_upstream_event(&mut self, key: Key, readiness: Readiness) {
        let Some(upstream_conn) = self.upstreams.conns.get_mut(key) else { return };
        let Some(conn) = &mut upstream_conn.conn else { return };
        conn.socket.on_event(readiness);
        match (&upstream_conn.state, upstream_conn.owner) {
            (UpstreamState::Ready { .. }, ConnOwner::Client(owner)) => self.enqueue(owner),
            (UpstreamState::Ready { .. }, _) if is_clean_idle(conn, &mut self.read_buf) => {}
            (UpstreamState::Ready { .. }, _) => self.close_upstream(key),
            _ if conn.tls.is_some() => self.enqueue_handshake(key),
            _ => match conn.socket.finish_connect() {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.on_tcp_connected(key),
                Poll::Ready(Err(error)) => self.address_failed(key, classify(&error)),
            },
        }
    }

    /// With TLS nobody may use the connection before the handshake is complete (rule S19).
    fn on_tcp_connected(&mut self, key: Key) {
        let Some(UpstreamConn { upstream, conn: Some(conn), .. }) = self.upstreams.conns.get_mut(key) else { return };
        let found = self.configs.find_upstream(*upstream);
        match found.map(|(origin, tls)| (origin.scheme, tls.connect(origin))) {
            Some((Scheme::Http, _)) => self.connected(key),
            Some((Scheme::Https, Some(tls))) => {
                conn.tls = Some(tls);
                self.enqueue_handshake(key);
            }
            // Never in the clear what was meant to be secret.
            Some((Scheme::Https, None)) | None => self.address_failed(key, ConnectError::TlsFailed),
        }
    }

    fn enqueue_handshake(&mut self, key: Key) {
        if !self.upstreams.handshaking.contains(&key) {
            self.upstreams.handshaking.push_back(key);
        }
    }

    /// Continues at most `max` handshakes.
    pub(super) fn continue_handshakes(&mut self, max: usize) {
        for _ in 0..max.min(self.upstreams.handshaking.len()) {
            let Some(key) = self.upstreams.handshaking.pop_front() else { return };
            let Some(UpstreamConn { upstream, state: UpstreamState::Connecting(_), conn: Some(conn), .. }) =
                self.upstreams.conns.get_mut(key)
            else {
                continue;
            };
            let Conn { socket, tls: Some(tls) } = conn else { continue };
            match tls.handshake(socket) {
                Poll::Ready(Ok(())) => self.connected(key),
                Poll::Pending => {}
                Poll::Ready(Err(error)) => {
                    let upstream = *upstream;
                    self.warn_tls(upstream, &error);
                    self.address_failed(key, error.cause);
                }
            }
        }
    }

    fn warn_tls(&mut self, upstream: UpstreamId, error: &HandshakeError) {
        let now = self.ctx.now();
        let Some((origin, _)) = self.configs.find_upstream(upstream) else { return };
        if self.upstreams.by_id.entry(upstream).or_default().tls_warn_limit.is_due(now, TLS_WARN_INTERVAL).is_some() {
            let (host, port, HandshakeError { message, hint, .. }) = (&origin.host, origin.port, error);
            let observer = &mut self.ctx.observer;
            observer.log.warn(format_args!("no TLS connection to upstream {host}, port {port}: {message}; {hint}"));
        }
    }

    fn connected(&mut self, key: Key) {
        let address = self.upstreams.attempt(key).and_then(|attempt| attempt.current);
        if let (Some(known), Some(address)) = (self.upstreams.addresses_of(key), address) {
            known.note_success(address);
        }
        if let Some(upstream_conn) = self.upstreams.conns.get_mut(key)
            && let Some(owner) = upstream_conn.client()
        {
            upstream_conn.state = UpstreamState::Ready { connected_at: self.ctx.now() };
            self.report_connect(owner, Ok(()));
        }
    }

    /// On to the next address.
    fn address_failed(&mut self, key: Key, error: ConnectError) {
        let now = self.ctx.now();
        let Some(attempt) = self.upstreams.attempt(key) else { return };
        attempt.note(error);
        let address = attempt.current;
        if let (Some(known), Some(address)) = (self.upstreams.addresses_of(key), address) {
            known.note_failure(now, address);
        }
        self.closed.extend(self.upstreams.conns.get_mut(key).and_then(|upstream_conn| upstream_conn.conn.take()));
        self.try_next_address(key);
    }

    /// There will be no connection.
    fn connect_failed(&mut self, key: Key, error: ConnectError) {
        let owner = self.upstreams.conns.get(key).and_then(UpstreamConn::client);
        self.close_upstream(key);
        if let Some(owner) = owner {
            self.report_connect(owner, Err(error));
        }
    }

    /// Keeps the outcome until the client is driven.
    fn report_connect(&mut self, owner: Key, result: Result<(), ConnectError>) {
        if let Some(client) = self.clients.get_mut(owner) {
            if result.is_err() {
                client.upstream = None;
            }
            client.connect_result = Some(result);
        }
        self.enqueue(owner);
    }

    /// A timer of this connection came up.
    pub(super) fn on_upstream_timer(&mut self, key: Key) {
        let now = self.ctx.now();
        let Some(upstream_conn) = self.upstreams.conns.get_mut(key) else { return };
        upstream_conn.timer.clear();
        let until = match (&upstream_conn.state, upstream_conn.owner) {
            (UpstreamState::Connecting(attempt), _) => attempt.until,
            (_, ConnOwner::Pool { until, .. }) => until,
            _ => return,
        };
        if until > now {
            self.timers.set(&mut upstream_conn.timer, until, EventSource::Upstream(key).token());
        } else if matches!(upstream_conn.state, UpstreamState::Connecting(_)) {
            self.address_failed(key, ConnectError::TimedOut);
        } else {
            self.close_upstream(key);
        }
    }

    /// Takes back the connection that the client used: into the pool, or with `is_login_bound` for this client alone.
    pub(super) fn release(&mut self, client_key: Key, is_login_bound: bool) {
        let Some(client) = self.clients.get_mut(client_key) else { return };
        let Some(key) = client.upstream.take() else { return };
        let (now, limits) = (self.ctx.now(), &self.ctx.runtime.config.pool);
        let Some(upstream_conn) = self.upstreams.conns.get_mut(key) else { return };
        let (UpstreamState::Ready { connected_at }, Some(conn)) = (&upstream_conn.state, &mut upstream_conn.conn)
        else {
            return self.close_upstream(key);
        };
        // The login holds also where later requests do not say so, and for as long as its client stays.
        upstream_conn.is_login_bound |= is_login_bound;
        let (upstream, is_login_bound) = (upstream_conn.upstream, upstream_conn.is_login_bound);
        let until = (now + limits.idle_timeout).min(*connected_at + limits.max_age);
        upstream_conn.owner = match is_login_bound {
            true => ConnOwner::LoginBound { client: client_key, since: now },
            false => ConnOwner::Pool { since: now, until },
        };
        let is_wanted = self.lifecycle == Lifecycle::Running
            && (is_login_bound || until > now)
            // A reload may have removed the upstream.
            && self.ctx.runtime.origin(upstream).is_some();
        // What was not drained may hide a byte too many, or the end (rule M12).
        if !is_wanted || !conn.can_write() || !is_clean_idle(conn, &mut self.read_buf) {
            self.close_upstream(key);
        } else if is_login_bound {
            client.has_login_conns = true;
            let others = self.upstreams.login_conns(client_key).filter(|(_, other, _)| *other != key);
            let (same, others): (Vec<_>, Vec<_>) = others.partition(|(_, _, id)| *id == upstream);
            let oldest = (others.len() >= MAX_LOGIN_CONNS).then(|| others.into_iter().min()).flatten();
            for (_, extra, _) in same.into_iter().chain(oldest) {
                self.close_upstream(extra);
            }
        } else {
            self.timers.set(&mut upstream_conn.timer, until, EventSource::Upstream(key).token());
            self.upstreams.by_id.entry(upstream).or_default().idle.push(key);
            self.upstreams.idle_count += 1;
            self.trim_pool(upstream);
        }
    }

    /// Closes the connections on which a client was logged in.
    pub(super) fn close_login_conns(&mut self, client_key: Key) {
        for (_, key, _) in self.upstreams.login_conns(client_key).collect::<Vec<_>>() {
            self.close_upstream(key);
        }
    }

    /// Closes the oldest idle connections above the limits.
    fn trim_pool(&mut self, upstream: UpstreamId) {
        let limits = &self.ctx.runtime.config.pool;
        let (max, max_per_upstream) = (limits.max_idle, limits.max_idle_per_upstream);
        while let Some(entry) = self.upstreams.by_id.get(&upstream)
            && entry.idle.len() > max_per_upstream
        {
            let oldest = entry.idle[0];
            self.close_upstream(oldest);
        }
        while self.upstreams.idle_count > max
            && let Some(oldest) = self.upstreams.oldest_idle()
        {
            self.close_upstream(oldest);
        }
    }

    /// After a reload: closes idle connections to upstreams that are gone, and those above the new limits.
    pub(super) fn reload_upstreams(&mut self) {
        let runtime = &self.ctx.runtime;
        let is_gone = |upstream_conn: &UpstreamConn| {
            upstream_conn.client().is_none() && runtime.origin(upstream_conn.upstream).is_none()
        };
        let gone = self.upstreams.conns.iter().filter(|(_, upstream_conn)| is_gone(upstream_conn)).map(|(key, _)| key);
        for key in gone.collect::<Vec<_>>() {
            self.close_upstream(key);
        }
        for upstream in self.upstreams.by_id.keys().copied().collect::<Vec<_>>() {
            self.trim_pool(upstream);
        }
    }

    /// Closes the pool.
    pub(super) fn close_pool(&mut self) {
        while let Some(oldest) = self.upstreams.oldest_idle() {
            self.close_upstream(oldest);
        }
    }

    /// Closes a connection, or gives up the attempt at one.
    pub(super) fn close_upstream(&mut self, key: Key) {
        let Some(removed) = self.upstreams.conns.remove(key) else { return };
        let UpstreamConn { upstream, owner, state, conn, mut timer, .. } = removed;
        self.timers.cancel(&mut timer, EventSource::Upstream(key).token());
        if let UpstreamState::Resolving = state
            && let Some(entry) = self.upstreams.by_id.get_mut(&upstream)
        {
            entry.resolving.retain(|waiting| *waiting != key);
        }
        if let ConnOwner::Pool { .. } = owner {
            self.upstreams.remove_idle(upstream, key);
        }
        if let Some(mut conn) = conn {
            if !matches!(owner, ConnOwner::Client(_)) {
                conn.send_close_notify();
            }
            self.closed.push(conn);
        }
    }
}

/// Whether nothing comes from an idle connection. Any byte is one too many, and an end is an end: then it must not be used
/// again (rule M12). Without news this costs no system call.
fn is_clean_idle(conn: &mut Conn, buf: &mut [u8]) -> bool {
    // TLS sends records without content: session tickets, mostly two.
    for _ in 0..MAX_IDLE_READS {
        if !conn.can_read() {
            return true;
        }
        match conn.read(&mut buf[..1]) {
            ReadOutcome::Blocked => return true,
            ReadOutcome::Overhead(_) => {}
            ReadOutcome::Bytes(_) | ReadOutcome::Eof | ReadOutcome::Failed => return false,
        }
    }
    false
}

fn classify(error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => ConnectError::Failed,
    }
}
