//! One client connection with the upstream connection that it currently uses.
//!
//! It owns no socket and reads no clock: bytes and events go in ([`ProxyConnection::handle`], [`ProxyConnection::sent`]), bytes
//! and commands come out ([`ProxyConnection::output`], [`ProxyConnection::poll_command`]). The event loop, the tests and the
//! fuzzers drive the same code. Its states and their transitions stand in `state`.
//!
//! Invariants, checked by tests and fuzz targets: whatever the order of inputs, no panic; the queues stay below the high
//! water mark plus one read; each request gets exactly one final response or a close; and there is always something
//! that goes on - a wanted read, output, a command or a deadline.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub use super::context::WorkerContext;
pub use super::events::{
    CertificateError, CloseMode, Command, ConnectError, Input, ListenerProtocol, Now, Peer, PeerDetails, Side,
    UpstreamEvent,
};
pub use super::flow_control::ReadPurpose;
pub use super::request_log::{AccessRecord, Observer};
pub use super::state::TransactionPool;
pub use crate::extras::balance::Balance;

use super::cause::Cause;
use super::context::{Client, Commands, Context};
use super::flow_control::{LINGER, LINGER_IDLE};
use super::memory::KEPT_CAPACITY;
use super::runtime::Runtime;
use super::state::{CONNECTION, ConnectionState, HalfClose, RequestState, ResponseState, Transaction};
use crate::extras::timeline::{NOTHING, Timeline, TraceEvent, trace_event};
use crate::mono_time::MonoTime;

/// One client connection.
#[derive(Debug)]
pub struct ProxyConnection {
    client: Client,
    state: ConnectionState,
}

/// An empty line in front of a request is ignored (RFC 9112 section 2.2).
const EMPTY_LINE: &[u8] = b"\r\n";

impl ProxyConnection {
    /// A connection that was just accepted.
    pub fn new(now: &Now, mut peer: Peer, runtime: Rc<Runtime>) -> ProxyConnection {
        // An IPv4 client of a dual-stack socket appears as ::ffff:a.b.c.d; people and lists of proxies know it as a.b.c.d.
        peer.address.iter_mut().for_each(|address| address.set_ip(address.ip().to_canonical()));
        let write_idle_ms = millis(runtime.config.timeouts.write_idle);
        let client = Client {
            peer,
            runtime,
            commands: Commands::default(),
            details: None,
            write_idle_ms,
            served: 0,
            is_draining: false,
        };
        ProxyConnection { client, state: ConnectionState::Idle { since: now.instant, skipped: 0 } }
    }

    /// The other end of the connection.
    pub fn peer(&self) -> &Peer {
        &self.client.peer
    }

    /// The PROXY header names the client (`None`: the peer speaks for itself) and says whether it speaks TLS. Only before the
    /// first byte.
    pub fn set_client(&mut self, client: Option<SocketAddr>, is_tls: bool) {
        if let Some(mut address) = client {
            address.set_ip(address.ip().to_canonical());
            self.client.peer.address = Some(address);
        }
        self.client.peer.is_tls |= is_tls;
    }

    /// Whether there are plugins, which may ask for the details of the peer, or routes for hosts, one of which a TLS client has
    /// named in its handshake, or clients that show certificates; and nobody has told them yet. They are known with the first byte.
    pub fn wants_peer_details(&self, runtime: &Runtime) -> bool {
        let is_tls = self.client.peer.is_tls;
        (runtime.has_hooks() || is_tls && (runtime.router.has_hosts() || runtime.config.verifies_clients()))
            && self.client.peer_details().is_none()
    }

    /// Tells them.
    pub fn set_peer_details(&mut self, details: PeerDetails) {
        self.client.details.get_or_insert_default().peer = Some(details);
    }

    /// The address of the upstream connection, before [`Input::Connected`].
    pub fn set_upstream_addr(&mut self, address: Option<SocketAddr>) {
        if let ConnectionState::Active(transaction) = &mut self.state {
            transaction.log.upstream_addr = address;
        }
    }

    /// The PROXY header is missing or wrong. Nothing is answered: the peer may expect TLS. Returns its address.
    pub fn reject_proxy_header(
        &mut self,
        worker: &mut WorkerContext<'_>,
        expected: &'static str,
    ) -> Option<SocketAddr> {
        if self.is_idle() {
            let mut transaction = take_transaction(worker);
            transaction.log.status = 400;
            transaction.log.set_cause(Cause::BadProxyHeader(expected));
            let mut ctx = Context { worker, client: &mut self.client };
            transaction.log_request(&mut ctx);
            worker.transactions.recycle(transaction);
            self.close("bad PROXY header");
        }
        self.client.peer.address
    }

    /// Takes an event. Afterwards the caller carries out all commands, writes all output and asks again what is wanted.
    pub fn handle(&mut self, worker: &mut WorkerContext<'_>, input: Input<'_>) {
        if let Input::Bytes(Side::Upstream, _) = input
            && self.client.commands.on_surplus()
        {
            return;
        }
        if self.is_active() || self.begins_request(worker, input) {
            self.step(worker, || trace_event(&input), |transaction, ctx| transaction.on_input(ctx, input));
        }
    }

    /// Lets `change` work on the request that is under way, and does what both sides together ask for then.
    fn step(
        &mut self,
        worker: &mut WorkerContext<'_>,
        event: impl FnOnce() -> Option<TraceEvent>,
        change: impl FnOnce(&mut Transaction, &mut Context<'_, '_>),
    ) {
        let ConnectionState::Active(transaction) = &mut self.state else { return };
        let mut ctx = Context { worker, client: &mut self.client };
        let was_empty = (transaction.buf.to_client.is_empty(), transaction.buf.to_upstream.is_empty());
        change(transaction, &mut ctx);
        transaction.trace(ctx.now(), event);
        // Before the end of a response only one side has something to do.
        if transaction.response_state.is_late() {
            self.advance(worker);
        }
        // A write time-out runs from the moment at which there is something to write.
        if let ConnectionState::Active(transaction) = &mut self.state {
            if was_empty.0 && !transaction.buf.to_client.is_empty() {
                transaction.last_activity.client_write = worker.now.instant;
            }
            if was_empty.1 && !transaction.buf.to_upstream.is_empty() {
                transaction.last_activity.upstream_write = worker.now.instant;
            }
        }
    }

    /// An event between two requests, or behind the last one; returns whether a request begins with it.
    fn begins_request(&mut self, worker: &mut WorkerContext<'_>, input: Input<'_>) -> bool {
        let now = worker.now.instant;
        let is_late = matches!(input, Input::Tick) && self.deadline().is_some_and(|at| at <= now);
        match (&mut self.state, input) {
            // It begins nothing.
            (ConnectionState::Idle { skipped, .. }, Input::Bytes(Side::Client, data))
                if EMPTY_LINE[usize::from(*skipped)..].starts_with(data) =>
            {
                *skipped += data.len() as u8;
            }
            (ConnectionState::Idle { skipped, .. }, Input::Bytes(Side::Client, _)) => {
                let mut transaction = take_transaction(worker);
                transaction.buf.client_input.extend_from_slice(&EMPTY_LINE[..usize::from(*skipped)]);
                self.set_state("first byte of a request", ConnectionState::Active(transaction));
                return true;
            }
            (ConnectionState::Lingering { last_read, .. }, Input::Bytes(Side::Client, _)) => *last_read = now,
            (ConnectionState::Closed, _) => {}
            (_, Input::Eof(Side::Client) | Input::Reset(Side::Client) | Input::Unwritable(Side::Client)) => {
                self.close_unused();
            }
            (_, Input::Tick) if is_late => self.close_unused(),
            // Late events from a released upstream are ignored.
            _ => {}
        }
        false
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.client.commands.pop()
    }

    /// Whether [`ProxyConnection::poll_command`] has something to say.
    pub fn has_command(&self) -> bool {
        !self.client.commands.is_empty()
    }

    /// The number of the ticket that a paused request waits for.
    pub fn awaited_ticket(&self) -> Option<u64> {
        match &self.transaction()?.response_state {
            ResponseState::Paused { ticket, .. } => Some(ticket.number()),
            _ => None,
        }
    }

    fn transaction(&self) -> Option<&Transaction> {
        match &self.state {
            ConnectionState::Active(transaction) => Some(transaction),
            ConnectionState::Idle { .. } | ConnectionState::Lingering { .. } | ConnectionState::Closed => None,
        }
    }

    /// Bytes that wait to be written to `side`.
    pub fn output(&self, side: Side) -> &[u8] {
        match (self.transaction(), side) {
            (Some(transaction), Side::Client) => transaction.buf.to_client.pending(),
            (Some(transaction), Side::Upstream) if transaction.is_connected() => transaction.buf.to_upstream.pending(),
            _ => b"",
        }
    }

    /// Whether bytes wait to be written to either side, be it connected or not.
    pub fn has_output(&self) -> bool {
        self.transaction()
            .is_some_and(|transaction| !transaction.buf.to_client.is_empty() || !transaction.buf.to_upstream.is_empty())
    }

    /// The first `len` bytes of that output were written. More commands, output and wanted reads may follow.
    pub fn sent(&mut self, worker: &mut WorkerContext<'_>, side: Side, len: usize) {
        if len == 0 {
            return;
        }
        let event = || Some((Some(side), "took", len as u64));
        self.step(worker, event, |transaction, ctx| {
            match side {
                Side::Client => transaction.buf.to_client.discard(len, KEPT_CAPACITY),
                Side::Upstream => transaction.buf.to_upstream.consume(len),
            }
            transaction.last_activity.on_written(ctx.now(), side);
        });
    }

    /// What a read from `side` would be for; `None` where it makes no sense now.
    pub fn read_interest(&self, side: Side) -> Option<ReadPurpose> {
        match (&self.state, side) {
            (ConnectionState::Idle { .. }, Side::Client) => Some(ReadPurpose::NewRequest),
            (ConnectionState::Active(transaction), _) => transaction.read_interest(side),
            // What is read is thrown away.
            (ConnectionState::Lingering { .. }, Side::Client) => Some(ReadPurpose::InFlight),
            _ => None,
        }
    }

    /// How many bytes may be moved from `side` to the other one unseen, behind the output that waits there: the caller writes
    /// that first, and tells [`ProxyConnection::sent`] of it. What could not be written after reading is given back as
    /// [`Input::Bytes`], after [`Input::Bypassed`] for the part that was.
    pub fn bypass_limit(&self, side: Side) -> u64 {
        self.transaction().map_or(0, |transaction| transaction.bypass_limit(side))
    }

    /// When to call `handle` with [`Input::Tick`] at the latest.
    pub fn deadline(&self) -> Option<MonoTime> {
        let timeouts = &self.client.runtime.config.timeouts;
        match &self.state {
            ConnectionState::Idle { since, .. } => {
                // A client that has never asked anything gets no longer than the head may take.
                Some(*since + if self.client.served == 0 { timeouts.request_head } else { timeouts.keep_alive })
            }
            ConnectionState::Active(transaction) => transaction.next_timeout(&self.client.runtime).map(|(at, _)| at),
            ConnectionState::Lingering { since, last_read } => Some((*since + LINGER).min(*last_read + LINGER_IDLE)),
            ConnectionState::Closed => None,
        }
    }

    /// How long one address of the upstream may take to answer: the route's own time-out, where it has one.
    pub fn connect_address_timeout(&self) -> Duration {
        let runtime = &self.client.runtime;
        let timeouts = self.transaction().map_or(&runtime.config.timeouts, |transaction| transaction.timeouts(runtime));
        timeouts.connect.address
    }

    /// How long the client may take nothing of its last bytes, when everything has been said.
    pub fn last_write_idle(&self) -> Duration {
        Duration::from_millis(self.client.write_idle_ms.into())
    }

    /// The process is going to stop: what runs is finished and answered with `Connection: close`, what idles is closed.
    pub fn drain(&mut self) {
        self.disable_keep_alive();
        if self.is_idle() {
            self.close_unused();
        }
    }

    /// Its place is needed: an idle connection ends, and a tunnel.
    pub fn evict(&mut self, worker: &mut WorkerContext<'_>) {
        self.drain();
        if self.is_tunnel() {
            self.step(worker, || None, |transaction, ctx| transaction.end_tunnel(ctx, Cause::TunnelEvicted));
        }
    }

    /// Whether the connection is a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.transaction().is_some_and(Transaction::is_tunnel)
    }

    /// The next response, or the one that is under way, is the last one; a connection that idles may still ask for it, for a
    /// moment.
    pub fn disable_keep_alive(&mut self) {
        self.client.is_draining = true;
    }

    /// There is a new configuration. A connection between two requests takes it at once, so that it does not keep the old
    /// one in memory; a request under way keeps what it began with, and once its response has begun its route alone.
    pub fn use_config(&mut self, runtime: &Rc<Runtime>) {
        match &mut self.state {
            ConnectionState::Idle { .. } | ConnectionState::Lingering { .. } => {
                self.client.runtime = Rc::clone(runtime);
            }
            ConnectionState::Active(transaction) => {
                let runtime = &mut self.client.runtime;
                let has_response_begun = transaction.has_response_begun();
                if let Some(route) = &mut transaction.route_index
                    && has_response_begun
                    && runtime.config.routes.len() > 1
                {
                    *runtime = Rc::new(runtime.narrowed_to(*route));
                    *route = 0;
                }
            }
            ConnectionState::Closed => {}
        }
    }

    /// Whether the connection waits for a request and owns nothing that belongs to one.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, ConnectionState::Idle { .. })
    }

    /// Whether a request is under way.
    pub fn is_active(&self) -> bool {
        matches!(self.state, ConnectionState::Active(_))
    }

    /// How many bytes of `side` are held because they belong to no state yet: a partial head, pipelined requests. For
    /// the memory budget.
    pub fn held(&self, side: Side) -> usize {
        self.transaction().map_or(0, |transaction| match side {
            Side::Client => transaction.buf.client_input.len(),
            Side::Upstream => transaction.buf.upstream_input.len(),
        })
    }

    /// How many bytes of memory it owns beside its own slot.
    pub fn memory(&self) -> usize {
        self.transaction().map_or(0, Transaction::memory)
    }

    /// Moves the connection to another state. What was active is recycled by the caller.
    fn set_state(&mut self, event: &str, to: ConnectionState) -> ConnectionState {
        CONNECTION.check(&self.state, event, &to);
        std::mem::replace(&mut self.state, to)
    }

    fn close(&mut self, event: &str) {
        self.set_state(event, ConnectionState::Closed);
        self.client.commands.push(Command::Close(Side::Client, CloseMode::Close));
    }

    fn close_unused(&mut self) {
        self.close(if self.is_idle() { "EOF, time-out or drain" } else { "EOF or time-out" });
    }

    /// Does what both sides together ask for.
    fn advance(&mut self, worker: &mut WorkerContext<'_>) {
        while let ConnectionState::Active(transaction) = &mut self.state {
            let mut ctx = Context { worker, client: &mut self.client };
            let Some((event, to)) = transaction.next_transition(&mut ctx) else { return };
            transaction.log_request(&mut ctx);
            if let ConnectionState::Idle { since, .. } = to
                && transaction.buf.has_pipelined()
            {
                // The next request, or part of it, has come after this one.
                let held = transaction.buf.client_input.len() as u64;
                transaction.restart(since);
                transaction.log.timeline = timeline(ctx.worker);
                transaction.on_bytes(&mut ctx, Side::Client, &[]);
                transaction.trace(since, || Some((None, "already received:", held)));
                continue;
            }
            if let ConnectionState::Active(transaction) = self.set_state(event, to) {
                self.client.write_idle_ms = millis(transaction.timeouts(&self.client.runtime).write_idle);
                worker.transactions.recycle(transaction);
                // The old configuration, and its plugins, may be there for this connection alone.
                if !Rc::ptr_eq(&self.client.runtime, worker.runtime) {
                    self.client.runtime = Rc::clone(worker.runtime);
                }
            }
        }
    }
}

/// The slot of a connection is small.
fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

/// For a request that begins now.
fn take_transaction(worker: &mut WorkerContext<'_>) -> Box<Transaction> {
    let mut transaction = worker.transactions.take(worker.now.instant);
    transaction.log.timeline = timeline(worker);
    transaction
}

/// For a request that begins now, where the observer wants it.
fn timeline(worker: &WorkerContext<'_>) -> Option<Box<Timeline>> {
    worker.observer.wants_timeline().then(|| Box::new(Timeline::new(worker.now.instant)))
}

impl Transaction {
    fn on_input(&mut self, ctx: &mut Context<'_, '_>, input: Input<'_>) {
        match input {
            Input::Bytes(side, data) => self.on_bytes(ctx, side, data),
            Input::Bypassed(side, len) => self.on_bypassed(ctx, side, len),
            Input::Eof(Side::Client) => self.on_client_eof(ctx),
            Input::Eof(Side::Upstream) => self.on_upstream_end(ctx, false),
            Input::Reset(Side::Client) | Input::Unwritable(Side::Client) => {
                self.on_client_lost(ctx, Cause::ClientGone);
            }
            Input::Reset(Side::Upstream) => self.on_upstream_end(ctx, true),
            Input::Unwritable(Side::Upstream) => self.on_upstream_unwritable(ctx),
            Input::Drained(side) => self.last_activity.on_written(ctx.now(), side),
            Input::Connected { reused } => self.on_connected(ctx, reused),
            Input::ConnectFailed(error) => self.on_connect_failed(ctx, error),
            Input::Resumed => self.on_resumed(ctx),
            Input::Tick => self.on_tick(ctx),
        }
    }

    /// So many bytes of a body or a tunnel went from `side` to the other one unseen.
    fn on_bypassed(&mut self, ctx: &mut Context<'_, '_>, side: Side, len: u64) {
        match side {
            Side::Client => {
                self.last_activity.on_written(ctx.now(), Side::Upstream);
                self.log.bytes_in += len;
                let RequestState::Body { body, awaits_continue, .. } = &mut self.request_state else { return };
                self.has_upload_begun = true;
                *awaits_continue = false;
                if body.bypassed(len) {
                    self.end_request_body(ctx);
                }
            }
            Side::Upstream => {
                self.last_activity.on_written(ctx.now(), Side::Client);
                self.log.bytes_out += len;
                let ResponseState::Body { body, .. } = &mut self.response_state else { return };
                if body.bypassed(len)
                    && let Err(cause) = self.end_response_body(ctx)
                {
                    self.send_error(ctx, cause);
                }
            }
        }
    }

    /// What the two states together ask for, once each side has done what it could by itself. Where the response is delivered,
    /// that is what becomes of the connection; `None`: it waits. Some events look at both sides at once: `on_client_eof`,
    /// `complete_response`, `on_upstream_unwritable`, and the time-outs.
    fn next_transition(&mut self, ctx: &mut Context<'_, '_>) -> Option<(&'static str, ConnectionState)> {
        // Rule G15: an end of one direction of a tunnel is passed on when its bytes are.
        if let RequestState::Tunnel(HalfClose::EofReceived) = self.request_state
            && self.is_tunnel()
            && self.buf.to_upstream.is_empty()
        {
            ctx.client.commands.push(Command::Shutdown(Side::Upstream));
            self.set_request("all passed on", RequestState::Tunnel(HalfClose::ShutdownSent));
        }
        if let ResponseState::Tunnel(HalfClose::EofReceived) = self.response_state
            && self.buf.to_client.is_empty()
        {
            ctx.client.commands.push(Command::Shutdown(Side::Client));
            self.set_response("all passed on", ResponseState::Tunnel(HalfClose::ShutdownSent));
        }
        if let (RequestState::Done, ResponseState::AwaitUpload) = (&self.request_state, &self.response_state)
            && self.buf.to_upstream.is_empty()
        {
            self.end_upload(ctx);
        }
        let now = ctx.now();
        let close = match (&self.request_state, &self.response_state) {
            (RequestState::Tunnel(HalfClose::ShutdownSent), ResponseState::Tunnel(HalfClose::ShutdownSent)) => {
                self.close_upstream(ctx, CloseMode::Close);
                CloseMode::Close
            }
            (_, ResponseState::Done | ResponseState::Closing(_)) if !self.buf.to_client.is_empty() => return None,
            (_, ResponseState::Closing(mode)) => *mode,
            // RFC 9112 section 9.3: the next request follows on the same connection, also while the process is waiting to
            // stop: the client was not told that this response is the last one.
            (RequestState::Done, ResponseState::Done) if self.is_persistent => {
                let skipped = self.buf.client_input.len() as u8;
                return Some(("answered, keep-alive", ConnectionState::Idle { since: now, skipped }));
            }
            (RequestState::Done, ResponseState::Done) if !self.buf.has_pipelined() => CloseMode::Close,
            // RFC 9112 section 9.6: closing now would make the kernel reset the connection, and the reset could destroy
            // our response before the client has read it (rule G20).
            (_, ResponseState::Done) => {
                ctx.client.commands.push(Command::Shutdown(Side::Client));
                let lingering = ConnectionState::Lingering { since: now, last_read: now };
                return Some(("answered, the client may be sending", lingering));
            }
            _ => return None,
        };
        ctx.client.commands.push(Command::Close(Side::Client, close));
        Some(("answered, close", ConnectionState::Closed))
    }

    /// Bytes came from `side`: they are read as far as the state allows, behind those that were held, and the rest is held.
    pub(super) fn on_bytes(&mut self, ctx: &mut Context<'_, '_>, side: Side, data: &[u8]) {
        let now = ctx.now();
        match (side, &self.response_state) {
            (Side::Client, _) => self.last_activity.client_read = now,
            (Side::Upstream, state) => {
                // A part of a head is no progress: an upstream that sends one byte now and then would hold the request all day.
                if !matches!(state, ResponseState::AwaitHead { .. }) {
                    self.last_activity.upstream_read = now;
                }
                self.log.first_byte.get_or_insert(now);
            }
        }
        // Nearly always nothing is held.
        if self.buf.input(side).is_empty() {
            let taken = self.read(ctx, side, data);
            if taken < data.len() {
                self.buf.input(side).extend_from_slice(&data[taken..]);
            }
            return;
        }
        let mut held = std::mem::take(self.buf.input(side));
        held.extend_from_slice(data);
        let taken = self.read(ctx, side, &held);
        held.drain(..taken);
        *self.buf.input(side) = held;
    }

    fn read(&mut self, ctx: &mut Context<'_, '_>, side: Side, bytes: &[u8]) -> usize {
        if side == Side::Client { self.read_client(ctx, bytes) } else { self.read_upstream(ctx, bytes) }
    }

    /// Notes in the timeline what has just happened, where there is one.
    #[inline(always)]
    pub(super) fn trace(&mut self, now: MonoTime, event: impl FnOnce() -> Option<TraceEvent>) {
        if self.log.timeline.is_none() {
            return;
        }
        let reason = self.wait_reason();
        if let (Some(timeline), Some(event)) = (&mut self.log.timeline, event()) {
            timeline.note(now, event, reason);
        }
    }

    fn wait_reason(&self) -> &'static str {
        match (&self.request_state, &self.response_state) {
            _ if !self.buf.to_client.is_empty() => "the client to take the response",
            (_, ResponseState::Connecting { .. }) => "a connection to the upstream",
            _ if self.is_connected() && !self.buf.to_upstream.is_empty() => "the upstream to take the request",
            (RequestState::Head { .. }, _) => "the client's request head",
            (_, ResponseState::Tunnel(_)) => "either end of the tunnel",
            (_, ResponseState::Paused { .. }) => "a plugin",
            (RequestState::Body { .. }, _) if self.is_connected() => "the client's request body",
            (_, ResponseState::AwaitHead { .. }) => "the upstream's response head",
            (_, ResponseState::Body { .. }) => "the upstream's response body",
            _ => NOTHING,
        }
    }
}
