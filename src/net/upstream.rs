//! The life of a connection to an upstream, from top to bottom: acquire, connect, release, close.
//!
//! ```text
//!   acquire ──an idle one────────────────────────────► Busy ◄──acquire──┐
//!      └─none─► Connecting: addresses ──► TCP ──► TLS ──┘ └──release──► Idle
//!                    └── no such name, or all failed ──► closed
//! ```
//!
//! A new connection tries the upstream's addresses in turn, each with a time-out of its own. Events, timers and look-ups only
//! say that an attempt can be continued; that is done when its client is driven. Nothing here blocks. Connections stay in
//! their slots, registered, also while they are idle, so that an end is noticed at once (rule M12).

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::config::{Endpoint, Scheme};
use crate::extras::metrics::Counter;
use crate::proxy::cause::Cause;
use crate::proxy::proxy_connection::{ConnectError, Input};
use crate::proxy::runtime::{Origin, UpstreamId};

use super::acceptor::is_exhaustion;
use super::addresses::Addresses;
use super::conn::{Address, Conn, ReadOutcome, Socket, SocketFlags};
use super::event_source::EventSource;
use super::slab::Key;
use super::upstream_state::{UpstreamConn, UpstreamState, Upstreams};
use super::worker::{Lifecycle, PendingInput, Worker};

/// How often an idle connection is read before it counts as a busy one.
const MAX_IDLE_READS: u32 = 8;
/// What is wrong with an upstream's certificate or socket is logged at most this often: one that has such a problem has it
/// all the time.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// When a unix socket whose queue is full is tried again, since no event tells that there is room: after as long again as
/// it has waited, within these.
const QUEUE_RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// How many login-bound connections a client keeps. Beyond that the oldest is closed.
const MAX_LOGIN_CONNS: usize = 4;
/// Addresses that no new connection has needed for so long are not refreshed any more, but looked up before the next use.
const MAX_UNUSED: Duration = Duration::from_secs(600);

impl Worker {
    /// Gives the client a connection to `upstream`: the one on which it is logged in or the newest idle one at once, or a new
    /// one later. `is_new`: an idle one will not do. Timers have fired before in this run, so none has outlived its time.
    pub(super) fn acquire(&mut self, client_key: Key, upstream: UpstreamId, is_new: bool) {
        let Some(client) = self.clients.get_mut(client_key) else { return };
        debug_assert!(client.upstream.is_none(), "the last one was released or closed");
        let upstreams = &mut self.upstreams;
        let mut take_idle = || upstreams.login_conn(client_key, upstream).or_else(|| upstreams.pop_idle(upstream));
        if !is_new
            && let Some(key) = take_idle()
            && let Some(upstream_conn) = upstreams.conns.get_mut(key)
        {
            upstream_conn.state = UpstreamState::Busy(client_key);
            client.upstream = Some(key);
            client.connection.set_upstream_addr(upstream_conn.address);
            self.ctx.observer.metrics.increment(Counter::Reused);
            client.connection.handle(&mut self.ctx.worker(), Input::Connected { reused: true });
        } else {
            self.ctx.observer.metrics.increment(Counter::Dialed);
            self.begin_connect(client_key, upstream);
        }
    }

    /// Begins a new connection: with the upstream's addresses, or by asking for them.
    fn begin_connect(&mut self, client_key: Key, upstream: UpstreamId) {
        let now = self.ctx.now();
        let Upstreams { conns, by_id, .. } = &mut self.upstreams;
        let state = UpstreamState::Connecting(client_key, None);
        let new = UpstreamConn { upstream, state, until: now, connected_at: now, ..UpstreamConn::default() };
        let Some(client) = self.clients.get_mut(client_key) else { return };
        let found = self.configs.find_upstream(upstream);
        client.upstream = found.and_then(|_| conns.insert(new).ok());
        let (Some((origin, _)), Some(_)) = (found, client.upstream) else {
            let outcome = Input::ConnectFailed(ConnectError::Failed);
            return client.connection.handle(&mut self.ctx.worker(), outcome);
        };
        let entry = by_id.entry(upstream).or_default();
        entry.used_at = now;
        if entry.addresses.is_empty() {
            let address = match &origin.endpoint {
                Endpoint::Unix(path) => Address::Unix(Arc::from(path.as_str())),
                Endpoint::Tcp { host, port } => {
                    let Ok(ip) = host.parse::<IpAddr>() else {
                        entry.resolving.push(client_key);
                        return self.dns.lookup(&self.queue, upstream, (host, *port), false);
                    };
                    Address::Tcp(SocketAddr::new(ip, *port))
                }
            };
            entry.addresses.set(vec![address]);
        }
        self.continue_connect(client_key);
    }

    /// A look-up has ended. Where the addresses are in use, the next result is wanted, too.
    pub(super) fn on_dns_event(&mut self, upstream: UpstreamId, addresses: &[SocketAddr]) {
        let now = self.ctx.now();
        let Some(entry) = self.upstreams.by_id.get_mut(&upstream) else { return };
        if !addresses.is_empty() {
            entry.addresses.set(addresses.iter().copied().map(Address::Tcp).collect());
        }
        let is_used = !entry.addresses.is_empty() && now - entry.used_at <= MAX_UNUSED;
        match self.configs.find_upstream(upstream) {
            Some((Origin { endpoint: Endpoint::Tcp { host, port }, .. }, _)) if is_used => {
                self.dns.lookup(&self.queue, upstream, (host, *port), true);
            }
            _ => entry.addresses = Addresses::default(),
        }
        for client_key in std::mem::take(&mut entry.resolving) {
            self.wake(client_key, PendingInput::Connect);
        }
    }

    /// The client's attempt at a connection is continued when the client is driven.
    fn wake(&mut self, client_key: Key, what: PendingInput) {
        if let Some(client) = self.clients.get_mut(client_key) {
            client.pending = Some(what);
        }
        self.enqueue(client_key);
    }

    /// Continues the client's attempt at a connection as far as it goes, address by address. Returns whether it is over; then
    /// the client's connection has heard how.
    pub(super) fn continue_connect(&mut self, client_key: Key) -> bool {
        let now = self.ctx.now();
        let Some(key) = self.clients.get(client_key).and_then(|client| client.upstream) else { return false };
        let result = loop {
            let Poll::Ready(result) = self.continue_address(client_key, key) else { return false };
            let Upstreams { conns, by_id, .. } = &mut self.upstreams;
            let Some(UpstreamConn { upstream, state, address: at, conn, connected_at, .. }) = conns.get_mut(key) else {
                return false;
            };
            let UpstreamState::Connecting(_, Some(attempt)) = state else { return false };
            let known = &mut by_id.entry(*upstream).or_default().addresses;
            match (result, attempt.addresses.pop()) {
                (Ok(()), Some(address)) => {
                    known.note_success(&address);
                    (*state, *connected_at, *at) = (UpstreamState::Busy(client_key), now, address.tcp());
                    break Ok(*at);
                }
                (Err(error), Some(address)) => {
                    known.note_failure(now, address);
                    attempt.note(error);
                    self.closed.extend(conn.take());
                }
                // Where none failed, there was none: the name does not resolve.
                (_, None) => break Err(attempt.failure.unwrap_or(ConnectError::DnsFail)),
            }
        };
        if result.is_err() {
            self.close_upstream(key);
        }
        if let Some(client) = self.clients.get_mut(client_key) {
            client.upstream = client.upstream.filter(|_| result.is_ok());
            let outcome = match result {
                Ok(address) => {
                    client.connection.set_upstream_addr(address);
                    Input::Connected { reused: false }
                }
                Err(error) => Input::ConnectFailed(error),
            };
            client.connection.handle(&mut self.ctx.worker(), outcome);
        }
        true
    }

    /// Continues to connect to the current address: TCP, then TLS. An error, too, where none is left.
    fn continue_address(&mut self, client_key: Key, key: Key) -> Poll<Result<(), ConnectError>> {
        let now = self.ctx.now();
        let Upstreams { conns, by_id, .. } = &mut self.upstreams;
        let Some(UpstreamConn { upstream, state, conn, until, .. }) = conns.get_mut(key) else { return Poll::Pending };
        let UpstreamState::Connecting(_, attempt) = state else { return Poll::Pending };
        let Some(conn) = conn else {
            let known = &mut by_id.entry(*upstream).or_default().addresses;
            let attempt = attempt.get_or_insert_with(|| known.attempt(now));
            let address = attempt.addresses.last().cloned().ok_or(ConnectError::DnsFail)?;
            let upstream = *upstream;
            return match (self.open_socket(client_key, key, &address), address) {
                (Ok(()), _) => Poll::Pending,
                (Err(error), Address::Unix(_)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.await_queue(client_key, key)
                }
                (Err(error), address) => {
                    if let Address::Unix(path) = address
                        && !is_exhaustion(&error)
                    {
                        let hint =
                            "does the application run, and may this user write to its socket and enter its folder?";
                        self.warn(upstream, format_args!("cannot connect to upstream unix:{path}: {error}; {hint}"));
                    }
                    Poll::Ready(Err(classify(&error)))
                }
            };
        };
        let pending = if *until <= now { Poll::Ready(Err(ConnectError::TimedOut)) } else { Poll::Pending };
        if let Some(tls) = &mut conn.tls {
            return match tls.handshake(&mut conn.socket) {
                Poll::Pending => pending,
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => {
                    let (upstream, message) = (*upstream, &error.message);
                    let endpoint = self.configs.find_upstream(upstream).map(|(origin, _)| origin.endpoint.to_string());
                    let hint = Cause::Connect(error.cause).detail().unwrap_or_default();
                    let endpoint = endpoint.unwrap_or_default();
                    self.warn(upstream, format_args!("no TLS connection to upstream {endpoint}: {message}; {hint}"));
                    Poll::Ready(Err(error.cause))
                }
            };
        }
        match conn.socket.finish_connect() {
            Poll::Pending => return pending,
            Poll::Ready(result) => result.map_err(|error| classify(&error))?,
        }
        let found = self.configs.find_upstream(*upstream);
        match found.map(|(origin, tls)| (origin.scheme, tls.connect(origin))) {
            Some((Scheme::Http, _)) => Poll::Ready(Ok(())),
            // Nobody may use the connection before the handshake is complete (rule S19).
            Some((Scheme::Https, Some(tls))) => {
                conn.tls = Some(tls);
                self.wake(client_key, PendingInput::Handshake);
                Poll::Pending
            }
            // Never in the clear what was meant to be secret.
            Some((Scheme::Https, None)) | None => Poll::Ready(Err(ConnectError::TlsFailed)),
        }
    }

    /// How long the client's attempt at one address may take.
    fn address_timeout(&self, client_key: Key) -> Duration {
        self.clients.get(client_key).map(|client| client.connection.connect_address_timeout()).unwrap_or_default()
    }

    /// The queue of a unix socket is full.
    fn await_queue(&mut self, client_key: Key, key: Key) -> Poll<Result<(), ConnectError>> {
        let (now, most) = (self.ctx.now(), self.address_timeout(client_key));
        let Some(UpstreamConn { state, timer, until, .. }) = self.upstreams.conns.get_mut(key) else {
            return Poll::Pending;
        };
        let UpstreamState::Connecting(_, Some(attempt)) = state else { return Poll::Pending };
        let waited = now - *attempt.queued_at.get_or_insert(now);
        let left = most.saturating_sub(waited);
        if left.is_zero() {
            return Poll::Ready(Err(ConnectError::TimedOut));
        }
        *until = now + waited.clamp(QUEUE_RETRY.0, QUEUE_RETRY.1).min(left);
        self.timers.set(timer, *until, EventSource::Upstream(key).token());
        Poll::Pending
    }

    fn open_socket(&mut self, client_key: Key, key: Key, address: &Address) -> io::Result<()> {
        let mut socket = match Socket::connect(address) {
            Err(error) if is_exhaustion(&error) && self.free_descriptors() => Socket::connect(address)?,
            result => result?,
        };
        let token = EventSource::Upstream(key).token();
        socket.register(self.poll.registry(), token)?;
        let timeout = self.address_timeout(client_key);
        if let Some(UpstreamConn { conn, timer, until, .. }) = self.upstreams.conns.get_mut(key) {
            *conn = Some(Conn { socket, tls: None });
            *until = self.ctx.now() + timeout;
            self.timers.set(timer, *until, token);
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

    fn warn(&mut self, upstream: UpstreamId, message: fmt::Arguments<'_>) {
        let now = self.ctx.now();
        if self.upstreams.by_id.entry(upstream).or_default().warn_limit.is_due(now, WARN_INTERVAL) {
            self.ctx.observer.log.warn(message);
        }
    }

    pub(super) fn on_upstream_event(&mut self, key: Key, readiness: SocketFlags) {
        let Some(UpstreamConn { state, conn: Some(conn), .. }) = self.upstreams.conns.get_mut(key) else { return };
        conn.socket.on_event(readiness);
        match *state {
            UpstreamState::Connecting(client_key, _) if conn.tls.is_some() => {
                self.wake(client_key, PendingInput::Handshake);
            }
            UpstreamState::Connecting(client_key, _) => self.wake(client_key, PendingInput::Connect),
            UpstreamState::Busy(client_key) => self.enqueue(client_key),
            UpstreamState::Idle if is_clean_idle(conn, &mut self.read_buf) => {}
            UpstreamState::Idle => self.close_upstream(key),
        }
    }

    pub(super) fn on_upstream_timer(&mut self, key: Key) {
        let Some(UpstreamConn { state, timer, until, is_login_bound, .. }) = self.upstreams.conns.get_mut(key) else {
            return;
        };
        *timer = None;
        match *state {
            UpstreamState::Busy(_) => {}
            UpstreamState::Idle if *is_login_bound => {}
            _ if *until > self.ctx.now() => self.timers.set(timer, *until, EventSource::Upstream(key).token()),
            UpstreamState::Connecting(client_key, _) => self.wake(client_key, PendingInput::Connect),
            UpstreamState::Idle => self.close_upstream(key),
        }
    }

    /// Takes back the connection that the client used: into the pool, or with `is_login_bound` for this client alone.
    pub(super) fn release(&mut self, client_key: Key, is_login_bound: bool) {
        let client = self.clients.get_mut(client_key);
        let Some(key) = client.and_then(|client| client.upstream.take()) else { return };
        let Some(upstream_conn) = self.upstreams.conns.get_mut(key) else { return };
        let (now, limits) = (self.ctx.now(), &self.ctx.runtime.config.pool);
        // The login holds also where later requests do not say so, and for as long as its client stays.
        upstream_conn.is_login_bound |= is_login_bound;
        upstream_conn.until = (now + limits.idle_timeout).min(upstream_conn.connected_at + limits.max_age);
        upstream_conn.state = UpstreamState::Idle;
        let UpstreamConn { upstream, ref mut conn, ref mut timer, until, is_login_bound, .. } = *upstream_conn;
        let is_wanted = self.lifecycle == Lifecycle::Running
            && (is_login_bound || until > now)
            // A reload may have removed the upstream.
            && self.ctx.runtime.origin(upstream).is_some()
            // What was not drained may hide a byte too many, or the end (rule M12).
            && conn.as_mut().is_some_and(|conn| conn.can_write() && is_clean_idle(conn, &mut self.read_buf));
        if !is_wanted {
            self.close_upstream(key);
        } else if is_login_bound {
            let Upstreams { conns, login_conns, .. } = &mut self.upstreams;
            let kept = login_conns.entry(client_key).or_default();
            kept.retain(|other| *other != key && conns.get(*other).is_some());
            kept.push(key);
            if kept.len() > MAX_LOGIN_CONNS {
                let oldest = kept.remove(0);
                self.close_upstream(oldest);
            }
        } else {
            self.timers.set(timer, until, EventSource::Upstream(key).token());
            self.upstreams.by_id.entry(upstream).or_default().idle.push((now, key));
            self.upstreams.idle_count += 1;
            self.trim_pool(upstream);
        }
    }

    /// Closes the oldest idle connections above the limits.
    fn trim_pool(&mut self, upstream: UpstreamId) {
        let runtime = Rc::clone(&self.ctx.runtime);
        let limits = &runtime.config.pool;
        while let Some(entry) = self.upstreams.by_id.get(&upstream)
            && entry.idle.len() > limits.max_idle_per_upstream
        {
            self.close_upstream(entry.idle[0].1);
        }
        while self.upstreams.idle_count > limits.max_idle
            && let Some(oldest) = self.upstreams.oldest_idle()
        {
            self.close_upstream(oldest);
        }
    }

    /// After a reload: closes idle connections to upstreams that are gone, and those above the new limits.
    pub(super) fn reload_upstreams(&mut self) {
        let runtime = Rc::clone(&self.ctx.runtime);
        self.close_idle(|conn| runtime.origin(conn.upstream).is_none());
        for upstream in self.upstreams.by_id.keys().copied().collect::<Vec<_>>() {
            self.trim_pool(upstream);
        }
    }

    pub(super) fn close_idle(&mut self, is_unwanted: impl Fn(&UpstreamConn) -> bool) {
        for key in self.upstreams.conns.keys() {
            let conn = self.upstreams.conns.get(key);
            if conn.is_some_and(|conn| matches!(conn.state, UpstreamState::Idle) && is_unwanted(conn)) {
                self.close_upstream(key);
            }
        }
    }

    /// Closes a connection, or gives up the attempt at one.
    pub(super) fn close_upstream(&mut self, key: Key) {
        let Some(removed) = self.upstreams.conns.remove(key) else { return };
        let UpstreamConn { upstream, state, conn, mut timer, .. } = removed;
        self.timers.cancel(&mut timer, EventSource::Upstream(key).token());
        let is_idle = matches!(state, UpstreamState::Idle);
        if let Some(entry) = self.upstreams.by_id.get_mut(&upstream) {
            if let UpstreamState::Connecting(client_key, _) = state {
                entry.resolving.retain(|waiting| *waiting != client_key);
            } else if is_idle && let Some(at) = entry.idle.iter().position(|(_, idle)| *idle == key) {
                entry.idle.remove(at);
                self.upstreams.idle_count -= 1;
            }
        }
        if let Some(mut conn) = conn {
            if is_idle {
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
        // A unix socket that does not exist.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => ConnectError::Failed,
    }
}
