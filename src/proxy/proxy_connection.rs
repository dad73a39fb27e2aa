//! One client connection with the upstream connection that it currently borrows.
//!
//! It owns no socket and reads no clock: bytes and events go in ([`ProxyConnection::handle`]), bytes and commands come out
//! ([`ProxyConnection::output`], [`ProxyConnection::poll_command`]). The event loop, the tests and the fuzzers drive the same code.
//!
//! ```text
//!          first byte            answered, persistent
//!  Idle ───────────────► Active ─────────────────────► Idle
//!   │ time-out, EOF        │ answered, not persistent
//!   ▼                      ▼
//! Closed ◄────────────── Lingering   (only where the client may still be sending)
//! ```
//!
//! What an active exchange does is told by the states of its two ends: `downstream` and `upstream` hold one machine
//! each, and the rules that need both sit in `settle`.
//!
//! Invariants, checked by tests and fuzz targets: whatever the order of inputs, no panic; the queues stay below the high
//! water mark plus one read; each request gets exactly one final response or a close; and there is always something
//! that goes on - a wanted read, output, a command or a deadline.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub use super::context::WorkerCtx;
pub use super::events::{
    AccessRecord, CertificateError, CloseMode, Command, ConnectError, Input, ListenerKind, Now, Observer, Peer, Side,
    UpstreamEvent,
};
pub use super::read_interest::ReadPurpose;
pub use super::transaction::TransactionPool;
pub use crate::extras::balance::Balance;

use crate::mono_time::MonoTime;

use super::cause::Cause;
use super::context::{Client, Commands, Ctx};
use super::proxy_protocol::PrefaceError;
use super::runtime::Runtime;
use super::settle::Next;
use super::timeouts::{LINGER, LINGER_IDLE};
use super::transaction::{HalfClose, KEPT_CAPACITY, RequestState, ResponseState, Transaction};
use crate::extras::timeline::{Timeline, TraceEvent};

/// One client connection.
#[derive(Debug)]
pub struct ProxyConnection {
    client: Client,
    commands: Commands,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between requests. No buffer is owned.
    Idle { since: MonoTime, skipped: EmptyLine },
    /// From the first byte of a request to the last byte of its response.
    Active(Box<Transaction>),
    /// Our last byte was sent; the client's are read and thrown away so that a reset does not overtake our answer.
    Lingering { since: MonoTime, last_read: MonoTime },
    /// Over.
    Closed,
}

/// How much has come of an empty line in front of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EmptyLine {
    None,
    Half,
    Whole,
}

impl EmptyLine {
    /// What is known when nothing but `bytes` has come; `None` where they are more than an empty line.
    fn of(bytes: &[u8]) -> Option<EmptyLine> {
        match bytes {
            b"" => Some(EmptyLine::None),
            b"\r" => Some(EmptyLine::Half),
            b"\r\n" => Some(EmptyLine::Whole),
            _ => None,
        }
    }

    fn bytes(self) -> &'static [u8] {
        match self {
            EmptyLine::None => b"",
            EmptyLine::Half => b"\r",
            EmptyLine::Whole => b"\r\n",
        }
    }

    /// The same when `data` has come as well; `None` where that begins a request.
    fn and(self, data: &[u8]) -> Option<EmptyLine> {
        match (self, data) {
            (_, []) => Some(self),
            (EmptyLine::None, _) => EmptyLine::of(data),
            (EmptyLine::Half, b"\n") => Some(EmptyLine::Whole),
            (EmptyLine::Half | EmptyLine::Whole, _) => None,
        }
    }
}

impl ProxyConnection {
    /// A connection that was just accepted.
    pub fn new(now: &Now, mut peer: Peer, runtime: Rc<Runtime>) -> ProxyConnection {
        // An IPv4 client of a dual-stack socket appears as ::ffff:a.b.c.d; people and lists of proxies know it as a.b.c.d.
        peer.address.iter_mut().for_each(|address| address.set_ip(address.ip().to_canonical()));
        let write_idle_ms = millis(runtime.config.timeouts.write_idle);
        ProxyConnection {
            client: Client { peer, runtime, reserved: None, write_idle_ms, served: 0, is_draining: false },
            commands: Commands::default(),
            state: State::Idle { since: now.instant, skipped: EmptyLine::None },
        }
    }

    /// Who is at the other end of the connection.
    pub fn peer(&self) -> &Peer {
        &self.client.peer
    }

    /// The peer has said for whom it speaks; `None`: for itself. Only before the first byte.
    pub fn set_client_address(&mut self, client: Option<SocketAddr>) {
        if let Some(mut address) = client {
            address.set_ip(address.ip().to_canonical());
            self.client.peer.address = Some(address);
        }
    }

    /// The peer has said that the client for which it speaks does so with TLS.
    pub fn set_client_tls(&mut self) {
        self.client.peer.is_tls = true;
    }

    /// The peer was to say for whom it speaks, and did not do it properly. Nothing is answered: it may expect TLS. Returns
    /// who it is.
    pub fn reject_proxy_header(&mut self, worker: &mut WorkerCtx<'_>, error: PrefaceError) -> Option<SocketAddr> {
        if self.is_idle() {
            let mut transaction = worker.transactions.take(worker.now.instant);
            transaction.timeline = timeline(worker);
            transaction.log.status = 400;
            transaction.log.set_cause(Cause::BadProxyHeader(error.sentence()));
            let mut ctx = Ctx { worker, client: &mut self.client, commands: &mut self.commands };
            transaction.log_request(&mut ctx);
            worker.transactions.recycle(transaction);
            self.end(CloseMode::Close);
        }
        self.client.peer.address
    }

    /// Takes an event. Afterwards the caller carries out all commands, writes all output and asks again what is wanted.
    pub fn handle(&mut self, worker: &mut WorkerCtx<'_>, input: Input<'_>) {
        let now = worker.now.instant;
        if let Input::Bytes(Side::Upstream, _) = input
            && self.commands.on_surplus()
        {
            return;
        }
        match (&mut self.state, input) {
            // RFC 9112 section 2.2: an empty line behind a request is ignored. It begins nothing.
            (State::Idle { skipped, .. }, Input::Bytes(Side::Client, data)) => match skipped.and(data) {
                Some(so_far) => *skipped = so_far,
                None => {
                    let mut transaction = worker.transactions.take(now);
                    transaction.timeline = timeline(worker);
                    transaction.client_input.extend_from_slice(skipped.bytes());
                    self.state = State::Active(transaction);
                    self.step(worker, input);
                }
            },
            (State::Idle { .. }, Input::Eof(side) | Input::Reset(side) | Input::Unwritable(side)) => {
                if side == Side::Client {
                    self.end(CloseMode::Close);
                }
            }
            (State::Idle { .. }, Input::Tick) => {
                if self.deadline().is_some_and(|at| at <= now) {
                    self.end(CloseMode::Close);
                }
            }
            (State::Active(_), _) => self.step(worker, input),
            (State::Lingering { last_read, .. }, Input::Bytes(Side::Client, _)) => *last_read = now,
            (
                State::Lingering { .. },
                Input::Eof(Side::Client) | Input::Reset(Side::Client) | Input::Unwritable(Side::Client),
            ) => self.end(CloseMode::Close),
            (State::Lingering { .. }, Input::Tick) => {
                if self.deadline().is_some_and(|at| at <= now) {
                    self.end(CloseMode::Close);
                }
            }
            // What an upstream does that is not ours any more is nobody's business here.
            (
                State::Idle { .. } | State::Lingering { .. },
                Input::Bytes(Side::Upstream, _)
                | Input::Bypassed(..)
                | Input::Drained(_)
                | Input::Connected { .. }
                | Input::ConnectFailed(_)
                | Input::Eof(Side::Upstream)
                | Input::Reset(Side::Upstream)
                | Input::Unwritable(Side::Upstream),
            )
            | (State::Closed, _) => {}
        }
    }

    /// One event for the running transaction, and what follows from it.
    fn step(&mut self, worker: &mut WorkerCtx<'_>, input: Input<'_>) {
        let State::Active(transaction) = &mut self.state else { return };
        let mut ctx = Ctx { worker, client: &mut self.client, commands: &mut self.commands };
        let was_empty = (transaction.to_client.is_empty(), transaction.to_upstream.is_empty());
        match transaction.timeline {
            None => transaction.on_input(&mut ctx, input),
            Some(_) => transaction.on_traced_input(&mut ctx, input),
        }
        self.settle(worker);
        // A write time-out runs from the moment at which there is something to write.
        if let State::Active(transaction) = &mut self.state {
            if was_empty.0 && !transaction.to_client.is_empty() {
                transaction.last_activity.client_write = worker.now.instant;
            }
            if was_empty.1 && !transaction.to_upstream.is_empty() {
                transaction.last_activity.upstream_write = worker.now.instant;
            }
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop()
    }

    /// Whether [`ProxyConnection::poll_command`] has something to say.
    pub fn has_command(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Bytes that wait to be written to `side`.
    pub fn output(&self, side: Side) -> &[u8] {
        match (&self.state, side) {
            (State::Active(transaction), Side::Client) => transaction.to_client.pending(),
            (State::Active(transaction), Side::Upstream) if transaction.is_connected() => {
                transaction.to_upstream.pending()
            }
            (State::Active(_), Side::Upstream) => b"",
            (State::Idle { .. } | State::Lingering { .. } | State::Closed, _) => b"",
        }
    }

    /// Whether bytes wait to be written to either side, be it connected or not.
    pub fn has_output(&self) -> bool {
        match &self.state {
            State::Active(transaction) => !transaction.to_client.is_empty() || !transaction.to_upstream.is_empty(),
            State::Idle { .. } | State::Lingering { .. } | State::Closed => false,
        }
    }

    /// The first `len` bytes of that output were written. More commands, output and wishes may follow.
    pub fn sent(&mut self, worker: &mut WorkerCtx<'_>, side: Side, len: usize) {
        let State::Active(transaction) = &mut self.state else { return };
        if len == 0 {
            return;
        }
        let now = worker.now.instant;
        match side {
            Side::Client => transaction.to_client.discard(len, KEPT_CAPACITY),
            Side::Upstream => transaction.to_upstream.consume(len),
        }
        transaction.last_activity.on_written(now, side);
        if transaction.timeline.is_some() {
            transaction.trace(now, (TraceEvent::Took(side), len as u64));
        }
        self.settle(worker);
    }

    /// Whether reading from `side` makes sense now. This is the whole of backpressure.
    pub fn wants_read(&self, side: Side) -> bool {
        self.read_interest(side).is_some()
    }

    /// How many bytes may be moved from `side` to the other one unseen; 0 while output waits on the other side.
    /// What could not be written after reading is given back as [`Input::Bytes`], after [`Input::Bypassed`] for the part
    /// that was.
    pub fn bypass_limit(&self, side: Side) -> u64 {
        match &self.state {
            State::Active(transaction) => transaction.bypass_limit(side),
            State::Idle { .. } | State::Lingering { .. } | State::Closed => 0,
        }
    }

    /// The same for bytes that would leave in one write behind the output that waits on the other side. [`ProxyConnection::sent`]
    /// is told first, then [`Input::Bypassed`].
    pub fn bypass_limit_behind_output(&self, side: Side) -> u64 {
        match &self.state {
            State::Active(transaction) => transaction.bypass_limit_behind_output(side),
            State::Idle { .. } | State::Lingering { .. } | State::Closed => 0,
        }
    }

    /// When to call `handle` with [`Input::Tick`] at the latest.
    pub fn deadline(&self) -> Option<MonoTime> {
        let timeouts = &self.client.runtime.config.timeouts;
        match &self.state {
            // A client that has never asked anything gets no longer than the head may take.
            State::Idle { since, .. } if self.client.served == 0 => Some(*since + timeouts.request_head),
            State::Idle { since, .. } => Some(*since + timeouts.keep_alive),
            State::Active(transaction) => transaction.deadline(&self.client.runtime),
            State::Lingering { since, last_read } => Some((*since + LINGER).min(*last_read + LINGER_IDLE)),
            State::Closed => None,
        }
    }

    /// How long one address of the upstream may take to answer: the route's own time-out, where it has one.
    pub fn connect_address_timeout(&self) -> Duration {
        match &self.state {
            State::Active(transaction) => transaction.timeouts(&self.client.runtime).connect.address,
            State::Idle { .. } | State::Lingering { .. } | State::Closed => {
                self.client.runtime.config.timeouts.connect.address
            }
        }
    }

    /// How long the client may take nothing of its last bytes, when everything has been said.
    pub fn last_write_idle(&self) -> Duration {
        Duration::from_millis(self.client.write_idle_ms.into())
    }

    /// The process is going to stop: what runs is finished and answered with `Connection: close`, what idles is closed.
    pub fn drain(&mut self) {
        self.disable_keep_alive();
        if self.is_idle() {
            self.end(CloseMode::Close);
        }
    }

    /// Somebody else needs the place: an idle connection ends, and a tunnel.
    pub fn evict(&mut self, worker: &mut WorkerCtx<'_>) {
        self.drain();
        if let State::Active(transaction) = &mut self.state
            && transaction.is_tunnel()
        {
            let mut ctx = Ctx { worker, client: &mut self.client, commands: &mut self.commands };
            transaction.end_tunnel(&mut ctx, Cause::TunnelEvicted);
            self.settle(worker);
        }
    }

    /// Whether the connection is a tunnel.
    pub fn is_tunnel(&self) -> bool {
        matches!(&self.state, State::Active(transaction) if transaction.is_tunnel())
    }

    /// The next answer, or the one that is under way, is the last one; a connection that idles may still ask for it.
    pub fn disable_keep_alive(&mut self) {
        self.client.is_draining = true;
    }

    /// There is a new configuration. A connection between two requests takes it at once, so that it does not keep the old
    /// one in memory; a request under way keeps what it began with, and once its response has begun no more than that.
    pub fn use_config(&mut self, runtime: &Rc<Runtime>) {
        match &mut self.state {
            State::Idle { .. } | State::Lingering { .. } => self.client.runtime = Rc::clone(runtime),
            State::Active(transaction) => {
                if let Some(narrowed) = transaction.narrow(&self.client.runtime) {
                    self.client.runtime = Rc::new(narrowed);
                }
            }
            State::Closed => {}
        }
    }

    /// Whether the connection waits for a request and owns nothing that belongs to one.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle { .. })
    }

    /// Whether a request is under way.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::Active(_))
    }

    /// Whether everything has been said: after this only [`Command::Close`] or [`Command::Abort`] of the client's side
    /// may be left to poll.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// How many bytes of `side` are held because they belong to no state yet: a partial head, pipelined requests. For
    /// whoever counts memory.
    pub fn held(&self, side: Side) -> usize {
        match (&self.state, side) {
            (State::Active(transaction), Side::Client) => transaction.client_input.len(),
            (State::Active(transaction), Side::Upstream) => transaction.upstream_input.len(),
            (State::Idle { .. } | State::Lingering { .. } | State::Closed, _) => 0,
        }
    }

    /// What a read from `side` would be for; `None` where it makes no sense now.
    pub fn read_interest(&self, side: Side) -> Option<ReadPurpose> {
        match (&self.state, side) {
            (State::Idle { .. }, Side::Client) => Some(ReadPurpose::NewRequest),
            (State::Active(transaction), _) => transaction.wants_read(side).then(|| transaction.read_interest(side)),
            // What is read is thrown away.
            (State::Lingering { .. }, Side::Client) => Some(ReadPurpose::InFlight),
            (State::Idle { .. } | State::Lingering { .. }, Side::Upstream) | (State::Closed, _) => None,
        }
    }

    /// How many bytes of memory it owns beside its own slot.
    pub fn memory(&self) -> usize {
        match &self.state {
            State::Active(transaction) => transaction.memory(),
            State::Idle { .. } | State::Lingering { .. } | State::Closed => 0,
        }
    }

    fn end(&mut self, how: CloseMode) {
        self.state = State::Closed;
        self.commands.push(Command::Close(Side::Client, how));
    }

    /// The rules that need both ends, applied until nothing changes.
    // The question is inlined, what follows is not: most of the time there is nothing to do.
    #[inline]
    fn settle(&mut self, worker: &mut WorkerCtx<'_>) {
        if let State::Active(transaction) = &self.state
            && !transaction.is_settled()
        {
            self.settle_both(worker);
        }
    }

    #[inline(never)]
    fn settle_both(&mut self, worker: &mut WorkerCtx<'_>) {
        loop {
            let State::Active(transaction) = &mut self.state else { return };
            let mut ctx = Ctx { worker, client: &mut self.client, commands: &mut self.commands };
            let next = transaction.settle(&mut ctx);
            match next {
                Next::Wait => return,
                Next::Again => {}
                Next::Serve => {
                    transaction.log_request(&mut ctx);
                    if let Some(skipped) = EmptyLine::of(&transaction.client_input) {
                        self.leave(worker, State::Idle { since: worker.now.instant, skipped });
                        return;
                    }
                    transaction.restart(worker.now.instant);
                    transaction.timeline = timeline(worker);
                    let held = transaction.client_input.len() as u64;
                    let mut ctx = Ctx { worker, client: &mut self.client, commands: &mut self.commands };
                    transaction.read_held(&mut ctx);
                    if transaction.timeline.is_some() {
                        transaction.trace(worker.now.instant, (TraceEvent::Held, held));
                    }
                }
                Next::Close(how) => {
                    transaction.log_request(&mut ctx);
                    self.leave(worker, State::Closed);
                    self.commands.push(Command::Close(Side::Client, how));
                }
                Next::Linger => {
                    transaction.log_request(&mut ctx);
                    ctx.commands.push(Command::Shutdown(Side::Client));
                    let now = worker.now.instant;
                    self.leave(worker, State::Lingering { since: now, last_read: now });
                }
            }
        }
    }

    /// Leaves the active state; its memory goes back to the spares.
    fn leave(&mut self, worker: &mut WorkerCtx<'_>, state: State) {
        if let State::Active(transaction) = std::mem::replace(&mut self.state, state) {
            self.client.write_idle_ms = millis(transaction.timeouts(&self.client.runtime).write_idle);
            worker.transactions.recycle(transaction);
        }
    }
}

/// The slot of a connection is small.
fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

/// For a request that begins now, where somebody wants to hear of it.
fn timeline(worker: &WorkerCtx<'_>) -> Option<Box<Timeline>> {
    worker.observer.wants_timeline().then(|| Box::new(Timeline::new(worker.now.instant)))
}

impl Transaction {
    /// Like `on_input`, and notes it in the timeline.
    #[cold]
    fn on_traced_input(&mut self, ctx: &mut Ctx<'_, '_>, input: Input<'_>) {
        let moment = TraceEvent::of(&input);
        let was_blamed = self.log.cause.is_some();
        self.on_input(ctx, input);
        let is_late = !was_blamed && self.log.cause.is_some();
        if let Some(moment) = moment.or(is_late.then_some((TraceEvent::TimeOut, 0))) {
            self.trace(ctx.now(), moment);
        }
    }

    fn on_input(&mut self, ctx: &mut Ctx<'_, '_>, input: Input<'_>) {
        match input {
            Input::Bytes(Side::Client, data) => self.on_client_bytes(ctx, data),
            Input::Bytes(Side::Upstream, data) => self.on_upstream_bytes(ctx, data),
            Input::Bypassed(side, len) => self.on_bypassed(ctx, side, len),
            Input::Eof(Side::Client) => self.on_client_eof(ctx),
            Input::Eof(Side::Upstream) => self.on_upstream_eof(ctx),
            Input::Reset(Side::Client) | Input::Unwritable(Side::Client) => {
                self.on_client_lost(ctx, Cause::ClientGone);
            }
            Input::Reset(Side::Upstream) => self.on_upstream_reset(ctx),
            Input::Unwritable(Side::Upstream) => self.on_upstream_unwritable(ctx),
            Input::Drained(side) => self.last_activity.on_written(ctx.now(), side),
            Input::Connected { reused } => self.on_connected(ctx, reused),
            Input::ConnectFailed(error) => self.on_connect_failed(ctx, error),
            Input::Tick => self.on_tick(ctx),
        }
    }

    /// The client sends no more. In the middle of an exchange that means that it has gone: a client which only closes its
    /// sending half cannot be told from one that was killed, and holding the upstream for it would be the worse mistake
    /// (rule G12; nginx and Go's proxy judge alike).
    fn on_client_eof(&mut self, ctx: &mut Ctx<'_, '_>) {
        match (&self.request_state, &self.response_state) {
            (RequestState::Tunnel(HalfClose::Open), _) => {
                self.last_activity.client_read = ctx.now();
                self.request_state = RequestState::Tunnel(HalfClose::EofReceived);
            }
            (RequestState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost), _) => {}
            (
                RequestState::Head { .. } | RequestState::Body { .. } | RequestState::Done | RequestState::Discard,
                ResponseState::Local | ResponseState::Answered | ResponseState::Done | ResponseState::Cut { .. },
            ) => {
                // The answer is complete and only has to be delivered; of the request, what has come.
                self.request_state = RequestState::Done;
                self.is_persistent = false;
                self.client_input.clear();
            }
            (RequestState::Head { .. } | RequestState::Body { .. } | RequestState::Done | RequestState::Discard, _) => {
                self.on_client_lost(ctx, Cause::ClientGone);
            }
        }
    }

    fn on_bypassed(&mut self, ctx: &mut Ctx<'_, '_>, side: Side, len: u64) {
        match (side, &self.request_state, &self.response_state) {
            (Side::Client, RequestState::Tunnel(_), _) => {
                self.last_activity.client_read = ctx.now();
                self.log.bytes_in += len;
            }
            (Side::Upstream, _, ResponseState::Tunnel(_)) => {
                self.last_activity.upstream_read = ctx.now();
                self.log.bytes_out += len;
            }
            (Side::Client, _, _) => self.on_request_bypassed(ctx, len),
            (Side::Upstream, _, _) => self.on_response_bypassed(ctx, len),
        }
    }
}
