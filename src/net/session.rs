//! One client and its upstream, from accept to close: read, let the proxy connection handle it, write, carry out its
//! commands, until nothing moves any more (then an event or a timer comes) or the budget of this run of the loop is used up
//! (then the run queue does), so that one busy peer starves nobody (rule M4).
//!
//! ```text
//!  Worker::drive ─► step: drain_pipe ─► flush ─► read_side ×2 ─► flush ─► deliver ─► run_commands ─► flush ─► time_out
//!      │ nothing moves: suspend     │ Close(Client): finish_flush ─► remove_client
//! ```
//!
//! Whether a side is read is decided in `read_side`: by the proxy connection (`read_interest`), the memory budget, the speed
//! of the receiver, and whether bytes of that side are still in a pipe.

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::extras::metrics::Counter;
use crate::extras::proxy_protocol::ProxyHeader;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{CloseMode, Command, Input, ProxyConnection, ReadPurpose, Side};
use crate::proxy::tickets::await_resume;

use super::conn::{Conn, ReadOutcome, WriteOutcome};
use super::event_source::EventSource;
use super::slab::Key;
use super::splice::{Pipes, SPLICE_COST};
use super::upstream_state::UpstreamConn;
use super::worker::{ClientConn, Lifecycle, LoopContext, PendingInput, Worker};
use super::worker_queue::WorkerMsg;

/// Bytes that one connection may move in one run of the loop, both directions together; also the most that is written at once.
const RUN_BYTES: usize = 256 * 1024;
/// Steps that one connection may take in one run of the loop.
const RUN_STEPS: u32 = 64;
/// A client that moved as much when it was last driven is driven after the others.
const BULK: usize = 16 * 1024;
/// What is read at once for a receiver of which it is not known whether it is fast: what it does not take stays in memory.
const SLOW_READ: usize = 8 * 1024;
/// What is read at once where a request's head is awaited: what comes behind it has to be copied. With 4 KiB an upload of
/// 64 KiB takes 12 percent less CPU.
const HEAD_READ: usize = 4 * 1024;
/// Of a read from the upstream that is as long as this, `FIRST_PART` is handled alone: the head of a response is in it, and the
/// body behind it can leave with the forwarded head in one write, uncopied. 64 KiB take a quarter less CPU.
const LONG_READ: usize = 32 * 1024;
const FIRST_PART: usize = 4 * 1024;

/// At most one warning about PROXY headers in this time: a balancer that is set up wrongly does the same each time.
const PROXY_HEADER_WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// A client whose connection is going to be reset may take nothing of its last bytes for so long, and is looked at that often.
const LAST_BYTES_IDLE: Duration = Duration::from_secs(5);
const LAST_BYTES_CHECK: Duration = Duration::from_millis(50);

/// What a connection has done in this run of the loop.
#[derive(Default)]
struct Budget {
    bytes: usize,
    steps: u32,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.bytes >= RUN_BYTES || self.steps >= RUN_STEPS
    }
}

/// What became of a step.
enum Progress {
    /// Something moved; more may.
    Moved,
    /// Nothing more can move now, or nothing ever. When to look again at the latest.
    Idle(Option<MonoTime>),
}

impl Worker {
    /// Drives one client from a queue, and returns how many bytes that moved. A panic ends that client's connection and nothing
    /// else (rule G23).
    pub(super) fn drive_contained(&mut self, key: Key) -> usize {
        let Some(client) = self.clients.get_mut(key) else { return 0 };
        client.is_queued = false;
        let was_active = client.connection.is_active();
        let mut budget = Budget::default();
        if catch_unwind(AssertUnwindSafe(|| self.drive(key, &mut budget))).is_err() {
            self.ctx.transactions.clear();
            self.remove_client(key);
            self.ctx.observer.log.warn(format_args!("a fault in the proxy ended one connection; please report it"));
        }
        let mut is_active = false;
        if let Some(client) = self.clients.get_mut(key) {
            is_active = client.connection.is_active();
            client.is_bulk = budget.bytes >= BULK;
        }
        match (was_active, is_active) {
            (false, true) => self.ctx.observer.metrics.increment(Counter::BecameBusy),
            (true, false) => self.ctx.observer.metrics.increment(Counter::BecameIdle),
            _ => {}
        }
        if budget.is_spent() {
            self.enqueue(key);
        }
        budget.bytes
    }

    /// Drives a client's connections as far as they go, or until the budget is used up.
    fn drive(&mut self, key: Key, budget: &mut Budget) {
        let Some(client) = self.clients.get(key) else { return };
        if client.flush_until.is_some() {
            return self.finish_flush(key);
        }
        if client.proxy_header != ProxyHeader::Done && !self.read_proxy_header(key) {
            return;
        }
        while !budget.is_spent() {
            let progress = self.step(key, budget);
            self.update_memory(key);
            match progress {
                Progress::Moved => budget.steps += 1,
                Progress::Idle(deadline) => return self.suspend(key, deadline),
            }
        }
        // All steps taken, and nothing moved: that is a fault of ours (rule M4). No connection is closed for being busy.
        if budget.bytes == 0 {
            self.ctx.observer.log.warn(format_args!("a connection was ended because it went in a circle"));
            self.remove_client(key);
        }
    }

    /// Reads the header that the peer of this client has to send before anything else. Whether the client can be driven on.
    fn read_proxy_header(&mut self, key: Key) -> bool {
        let now = self.ctx.now();
        let Some(client) = self.clients.get_mut(key) else { return false };
        let is_draining = self.lifecycle != Lifecycle::Running;
        let deadline = client.deadline(is_draining);
        let is_late = deadline.is_some_and(|deadline| deadline <= now);
        // One that says nothing and is closed for another one, or by a drain, did nothing wrong.
        let is_unwanted = client.pending.is_some() || (is_late && is_draining);
        let ClientConn { proxy_header, conn, connection, .. } = client;
        let sender = connection.peer().address;
        match proxy_header.read(conn, connection, &mut self.read_buf, is_late && !is_unwanted) {
            Ok(true) => {
                client.active = now;
                let peer = *connection.peer();
                match self.client_place(&peer, peer.address != sender) {
                    Ok(place) => {
                        self.client_places.extend(place.map(|place| (key, place)));
                        return true;
                    }
                    Err(()) => self.remove_client(key),
                }
            }
            Ok(false) if is_unwanted => self.remove_client(key),
            Ok(false) => self.suspend(key, deadline),
            Err(error) => {
                let peer = connection.reject_proxy_header(&mut self.ctx.worker(), error);
                self.remove_client(key);
                // It is said also where nobody asked for access lines.
                if self.proxy_header_warnings.is_due(now, PROXY_HEADER_WARNING_INTERVAL) {
                    // Only TCP peers are expected to send one.
                    let from = peer.map_or(String::new(), |peer| format!(" from {}", peer.ip()));
                    self.ctx.observer.log.warn(format_args!("a connection{from} was closed: {error}"));
                }
            }
        }
        false
    }

    /// One round: reading, then what the proxy connection makes of it: writing to the client, commands, writing to the
    /// upstream; and a time-out that has passed, if nothing moves any more.
    fn step(&mut self, key: Key, budget: &mut Budget) -> Progress {
        let Some(mut session) = self.session(key) else { return Progress::Idle(None) };
        let mut moved = session.drain_pipe(budget);
        // What is left of the last time goes first: then what is read now may find an empty queue and bypass it.
        if session.has_unwritten() {
            moved |= session.flush(Side::Client, budget);
            moved |= session.flush(Side::Upstream, budget);
        }
        moved |= session.read_side(Side::Client, budget);
        moved |= session.read_side(Side::Upstream, budget);
        moved |= session.flush(Side::Client, budget);
        if session.client.pending.is_some() || session.client.connection.has_command() {
            moved |= self.deliver(key);
            moved |= self.run_commands(key);
            let Some(after_commands) = self.session(key) else { return Progress::Idle(None) };
            session = after_commands;
        }
        moved |= session.flush(Side::Upstream, budget);
        if budget.bytes > 0 {
            session.client.active = session.ctx.now();
        }
        // Another round, to learn that nothing moves any more, would cost a tenth of a small request.
        if moved && session.may_go_on() {
            return Progress::Moved;
        }
        match session.client.deadline(session.is_draining) {
            Some(deadline) if deadline <= session.ctx.now() => {
                session.time_out();
                Progress::Moved
            }
            deadline => Progress::Idle(deadline),
        }
    }

    /// Tells the proxy connection what happened since it was last driven, beside bytes.
    fn deliver(&mut self, key: Key) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        match client.pending.take() {
            // A late word about an attempt to connect that was given up may have taken the place of that of a pause.
            Some(PendingInput::Connect | PendingInput::Handshake) if client.connection.awaited_ticket().is_none() => {
                return self.continue_connect(key);
            }
            Some(PendingInput::Connect | PendingInput::Handshake | PendingInput::Resumed) => {
                client.connection.handle(&mut self.ctx.worker(), Input::Resumed);
            }
            Some(PendingInput::Evict) => client.connection.evict(&mut self.ctx.worker()),
            None => return false,
        }
        true
    }

    /// Carries out the proxy connection's commands, in their order. Returns whether there were any.
    fn run_commands(&mut self, key: Key) -> bool {
        let mut is_any = false;
        while let Some(client) = self.clients.get_mut(key)
            && let Some(command) = client.connection.poll_command()
        {
            is_any = true;
            match command {
                Command::Connect { upstream, is_new } => self.acquire(key, upstream, is_new),
                Command::AwaitResume => {
                    let Some(ticket) = client.connection.awaited_ticket() else { continue };
                    let queue = Arc::clone(&self.queue);
                    await_resume(ticket, Box::new(move || queue.push(WorkerMsg::Resume(key))));
                }
                Command::Release { is_login_bound } => self.release(key, is_login_bound),
                Command::Shutdown(side) => {
                    if let Some(mut session) = self.session(key)
                        && let Some(conn) = session.conn(side)
                    {
                        conn.shutdown_write();
                    }
                }
                Command::Close(Side::Upstream, mode) => {
                    client.pending = None;
                    let Some(upstream) = client.upstream.take() else { continue };
                    let conn = self.upstreams.conns.get_mut(upstream).and_then(UpstreamConn::ready);
                    if let (Some(conn), CloseMode::Abort) = (conn, mode) {
                        conn.socket.reset_on_close();
                    }
                    self.close_upstream(upstream);
                }
                Command::Close(Side::Client, mode) => {
                    match mode {
                        CloseMode::Close => client.conn.send_close_notify(),
                        CloseMode::Abort => client.conn.socket.reset_on_close(),
                    }
                    self.finish_flush(key);
                }
            }
        }
        is_any
    }

    /// The proxy connection is over. The kernel delivers what it was given, unless the connection is reset; what waits in the
    /// TLS session it was not given yet. The client is removed when none of its last bytes are left, or when it has taken none
    /// for a while (rule M9). Rule G11: also where a reset is to tell it that they are not all, they come first.
    fn finish_flush(&mut self, key: Key) {
        let now = self.ctx.now();
        let Some(ClientConn { conn, connection, flush_until, .. }) = self.clients.get_mut(key) else { return };
        let has_flushed = conn.flush().written() > 0;
        // No event tells when the last of them has arrived.
        let (idle, check) = match conn.socket.would_lose_bytes() {
            true => (connection.last_write_idle().min(LAST_BYTES_IDLE), LAST_BYTES_CHECK),
            false if conn.needs_flush() => (connection.last_write_idle(), Duration::MAX),
            false => return self.remove_client(key),
        };
        let has_moved = has_flushed || conn.socket.has_drained();
        let until = flush_until.filter(|_| !has_moved).unwrap_or(now + idle);
        *flush_until = Some(until);
        if until > now { self.suspend(key, Some(until.min(now + check))) } else { self.remove_client(key) }
    }

    /// What remains to do before a client waits for an event or until `deadline`.
    fn suspend(&mut self, key: Key, deadline: Option<MonoTime>) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let token = EventSource::Client(key).token();
        if let Some(deadline) = deadline {
            self.timers.set(&mut client.timer, deadline, token);
        }
        // Only now: what came and went at once never cost a registration.
        if client.conn.socket.needs_registering()
            && let Err(error) = client.conn.socket.register(self.poll.registry(), token)
        {
            self.ctx.observer.log.warn(format_args!("cannot wait for a client connection: {error}"));
            self.remove_client(key);
        }
    }

    /// Removes a client at once, with the upstream connection that it uses.
    pub(super) fn remove_client(&mut self, key: Key) {
        let Some(mut client) = self.clients.remove(key) else { return };
        self.timers.cancel(&mut client.timer, EventSource::Client(key).token());
        self.client_places.remove(&key);
        self.admin_clients -= usize::from(client.is_admin());
        if let Some(error) = client.conn.tls.as_mut().and_then(|tls| tls.take_handshake_error()) {
            self.on_handshake_error(client.connection.peer(), &error);
        }
        self.ctx.memory.update(&mut client.counted, 0);
        if let Some(pipe) = client.pipe {
            self.pipes.release(pipe);
        }
        self.ctx.observer.metrics.increment(Counter::Closed);
        if let Some(upstream) = client.upstream {
            self.close_upstream(upstream);
        }
        for upstream in self.upstreams.login_conns.remove(&key).unwrap_or_default() {
            self.close_upstream(upstream);
        }
        self.closed.push(client.conn);
    }

    /// Counts what a client owns now, where there is a memory budget.
    fn update_memory(&mut self, key: Key) {
        if self.ctx.memory.is_limited()
            && let Some(client) = self.clients.get_mut(key)
        {
            let upstream = client.upstream.and_then(|key| self.upstreams.conns.get(key)?.conn.as_ref());
            let upstream = upstream.map_or(0, Conn::memory);
            let in_pipe = client.pipe.as_ref().map_or(0, |pipe| pipe.len);
            let now = client.connection.memory() + client.conn.memory() + upstream + in_pipe;
            self.ctx.memory.update(&mut client.counted, now);
        }
    }

    /// Both sockets and the proxy connection between them, unless that is over.
    fn session(&mut self, key: Key) -> Option<Session<'_>> {
        let client = self.clients.get_mut(key).filter(|client| client.flush_until.is_none())?;
        let upstream = client.upstream.and_then(|key| self.upstreams.conns.get_mut(key));
        let upstream = upstream.and_then(UpstreamConn::ready);
        let (pipes, ctx, read_buf) = (&mut self.pipes, &mut self.ctx, &mut *self.read_buf);
        let is_draining = self.lifecycle != Lifecycle::Running;
        Some(Session { key, client, upstream, pipes, ctx, read_buf, is_draining })
    }
}

/// A client and its upstream, with what the worker lends them for the length of a step.
struct Session<'a> {
    key: Key,
    client: &'a mut ClientConn,
    upstream: Option<&'a mut Conn>,
    pipes: &'a mut Pipes,
    ctx: &'a mut LoopContext,
    read_buf: &'a mut [u8],
    is_draining: bool,
}

/// The connection to `side`, and the one to the other side.
fn conns<'a>(
    side: Side,
    client: &'a mut Conn,
    upstream: &'a mut Option<&mut Conn>,
) -> (Option<&'a mut Conn>, Option<&'a mut Conn>) {
    let (client, upstream) = (Some(client), upstream.as_deref_mut());
    match side {
        Side::Client => (client, upstream),
        Side::Upstream => (upstream, client),
    }
}

fn other(side: Side) -> Side {
    if side == Side::Client { Side::Upstream } else { Side::Client }
}

impl Session<'_> {
    fn conn(&mut self, side: Side) -> Option<&mut Conn> {
        conns(side, &mut self.client.conn, &mut self.upstream).0
    }

    fn handle(&mut self, input: Input<'_>) {
        self.client.connection.handle(&mut self.ctx.worker(), input);
    }

    /// Whether there is anything left to do that does not need an event first.
    fn may_go_on(&self) -> bool {
        self.client.conn.can_read()
            || self.upstream.as_ref().is_some_and(|upstream| upstream.can_read())
            || self.client.pipe.is_some()
            || self.client.connection.has_command()
            || self.has_unwritten()
    }

    /// Whether bytes wait to be written, or in a TLS session.
    fn has_unwritten(&self) -> bool {
        self.client.connection.has_output()
            || self.client.conn.needs_flush()
            || self.upstream.as_ref().is_some_and(|upstream| upstream.needs_flush())
    }

    /// Lets the proxy connection carry out a time-out; in a drain, an idle one ends. Before that it hears of peers that have
    /// taken some of what the kernel holds for them, while there is more: a slow reader is not a silent one.
    fn time_out(&mut self) {
        if self.is_draining && self.client.connection.is_idle() {
            return self.client.connection.drain();
        }
        for side in [Side::Client, Side::Upstream] {
            if !self.client.connection.output(side).is_empty()
                && self.conn(side).is_some_and(|conn| conn.socket.has_drained())
            {
                self.handle(Input::Drained(side));
            }
        }
        self.handle(Input::Tick);
    }

    /// Writes what waits for `side`: at once, when it arises (rule M2).
    fn flush(&mut self, side: Side, budget: &mut Budget) -> bool {
        let Session { client, upstream, ctx, .. } = self;
        let ClientConn { conn, connection, .. } = &mut **client;
        let (Some(conn), _) = conns(side, conn, upstream) else { return false };
        let mut moved = false;
        loop {
            // What TLS holds, whether or not the proxy connection has something to say (rule M11).
            let mut outcome = conn.flush();
            let output = connection.output(side);
            // A shared text may be long, and its reader fast.
            let is_wanted = !output.is_empty() && conn.can_write() && !budget.is_spent();
            if is_wanted && outcome != WriteOutcome::Failed {
                moved |= outcome != WriteOutcome::Blocked;
                outcome = conn.write(&output[..output.len().min(RUN_BYTES)]);
                connection.sent(&mut ctx.worker(), side, outcome.written());
                budget.bytes += outcome.written();
            }
            match outcome {
                WriteOutcome::Bytes(_) => moved = true,
                WriteOutcome::Blocked => return moved,
                WriteOutcome::Failed => {
                    connection.handle(&mut ctx.worker(), Input::Unwritable(side));
                    return true;
                }
            }
        }
    }

    /// Reads from `side` once, if that may bring something and the proxy connection wants it.
    fn read_side(&mut self, side: Side, budget: &mut Budget) -> bool {
        // Nothing overtakes what is in the pipe.
        let is_in_pipe = self.client.pipe.as_ref().is_some_and(|pipe| pipe.from == side);
        if is_in_pipe || !self.conn(side).is_some_and(|conn| conn.can_read()) {
            return self.check_reset(side);
        }
        let Some(purpose) = self.client.connection.read_interest(side) else { return self.check_reset(side) };
        let is_admin = self.client.is_admin();
        let Session { key, client, upstream, pipes, ctx, read_buf, is_draining } = self;
        let ClientConn { conn, connection, pipe, .. } = &mut **client;
        let (Some(from), to) = conns(side, conn, upstream) else { return false };
        let has_output = !connection.output(other(side)).is_empty();
        // What a slow receiver has not taken yet is enough to go on with, more would only lie in memory (rule E4): so 256
        // slow downloads take 6.6 MiB and not 10.1.
        if has_output && to.as_ref().is_some_and(|to| to.socket.is_slow()) {
            return self.check_reset(side);
        }
        let granted = ctx.memory.grant(purpose, *key).or_else(|| {
            // The operator is answered also when memory is short: heads of few clients, and texts that are shared. And where
            // the next request has waited for memory for as long as it may, there is room for a small piece.
            let is_overdue = *is_draining || connection.deadline().is_some_and(|deadline| deadline <= ctx.now());
            (is_admin || (connection.is_idle() && is_overdue)).then_some(HEAD_READ)
        });
        let Some(granted) = granted else { return self.check_end(side) };
        let is_fast = to.as_ref().is_none_or(|to| to.socket.is_fast());
        let mut most = if is_fast { granted } else { granted.min(SLOW_READ) };
        if purpose == ReadPurpose::NewRequest {
            most = most.min(HEAD_READ);
        }
        let mut to = to.filter(|to| to.can_write());
        // Nothing overtakes what waits.
        let bypass = if has_output { 0 } else { connection.bypass_limit(side) };
        if let Some(to) = &mut to
            && bypass > 0
        {
            // What is in a pipe is counted, too.
            let limit = if ctx.memory.is_limited() { bypass.min(granted as u64) } else { bypass };
            match pipes.fill(pipe, (side, from), to, limit) {
                Some(ReadOutcome::Bytes(_)) => return self.drain_pipe(budget),
                Some(outcome) => return self.on_read(side, outcome, budget),
                None => most = most.min(usize::try_from(bypass).unwrap_or(usize::MAX)),
            }
        }
        let outcome = from.read(&mut read_buf[..most]);
        let ReadOutcome::Bytes(len) = outcome else { return self.on_read(side, outcome, budget) };
        budget.bytes += len;
        if purpose == ReadPurpose::NewRequest && connection.wants_peer_details(&ctx.runtime) {
            connection.set_peer_details(from.peer_details());
        }
        let bytes = &read_buf[..len];
        match to {
            Some(to) if bypass > 0 => self::bypass(connection, ctx, side, bytes, to),
            Some(to) if side == Side::Upstream && len >= LONG_READ && to.tls.is_none() => {
                let (first, body) = bytes.split_at(FIRST_PART);
                connection.handle(&mut ctx.worker(), Input::Bytes(side, first));
                // Bytes of the body only: one too many and the proxy connection has to see it.
                match connection.bypass_limit(side) >= body.len() as u64 {
                    true => self::bypass(connection, ctx, side, body, to),
                    false => connection.handle(&mut ctx.worker(), Input::Bytes(side, body)),
                }
            }
            _ => connection.handle(&mut ctx.worker(), Input::Bytes(side, bytes)),
        }
        true
    }

    /// A read that brought no bytes.
    fn on_read(&mut self, side: Side, outcome: ReadOutcome, budget: &mut Budget) -> bool {
        match outcome {
            ReadOutcome::Blocked => return false,
            ReadOutcome::Eof => self.handle(Input::Eof(side)),
            ReadOutcome::Failed => self.handle(Input::Reset(side)),
            ReadOutcome::Overhead(len) | ReadOutcome::Bytes(len) => budget.bytes += len,
        }
        true
    }

    /// Memory is too short to read. Where there is nothing left but the end, that needs none: a peer that has gone must not
    /// keep what others wait for (rules E4 and G12).
    fn check_end(&mut self, side: Side) -> bool {
        if self.conn(side).is_some_and(|conn| conn.tls.is_none() && conn.socket.has_ended()) {
            self.handle(Input::Eof(side));
            return true;
        }
        self.check_reset(side)
    }

    /// The proxy connection does not want to read from the client now. If the poller saw an error there, the client is gone
    /// all the same, and whatever is done for it is in vain (rule G12). An upstream's last bytes are worth waiting for.
    fn check_reset(&mut self, side: Side) -> bool {
        let is_gone = side == Side::Client && self.client.conn.socket.is_broken();
        if is_gone {
            self.handle(Input::Reset(side));
        }
        is_gone
    }

    /// Gives the receiver what is in the pipe. Of what it does not take, the proxy connection is given a part: it has to know
    /// that its receiver is late.
    fn drain_pipe(&mut self, budget: &mut Budget) -> bool {
        let Session { client, upstream, pipes, ctx, read_buf, .. } = self;
        let ClientConn { conn, connection, pipe: slot, .. } = &mut **client;
        let Some(pipe) = slot else { return false };
        let side = pipe.from;
        match conns(side, conn, upstream).1 {
            Some(to) if connection.bypass_limit(side) >= pipe.len as u64 => {
                // What the proxy connection was given before goes first.
                if !connection.output(other(side)).is_empty() || !to.can_write() {
                    return false;
                }
                let outcome = pipe.drain(&mut to.socket);
                budget.bytes += outcome.written().div_ceil(SPLICE_COST);
                let part = pipes.part().min(read_buf.len());
                report_bypassed(connection, ctx, side, outcome, outcome.written(), pipe.read(&mut read_buf[..part]));
            }
            // The proxy connection has other plans, and is given all.
            _ => {
                while pipe.len > 0 {
                    connection.handle(&mut ctx.worker(), Input::Bytes(side, pipe.read(read_buf)));
                }
            }
        }
        if let Some(pipe) = slot.take_if(|pipe| pipe.len == 0) {
            pipes.release(pipe);
        }
        true
    }
}

/// Tells the proxy connection of bytes from `side`: `passed` were written to the other one, which ended so; the rest is for it
/// to keep.
fn report_bypassed(
    connection: &mut ProxyConnection,
    ctx: &mut LoopContext,
    side: Side,
    outcome: WriteOutcome,
    passed: usize,
    rest: &[u8],
) {
    if passed > 0 {
        connection.handle(&mut ctx.worker(), Input::Bypassed(side, passed as u64));
    }
    if !rest.is_empty() {
        connection.handle(&mut ctx.worker(), Input::Bytes(side, rest));
    }
    if outcome == WriteOutcome::Failed {
        connection.handle(&mut ctx.worker(), Input::Unwritable(other(side)));
    }
}

/// Bytes of a body that needs no new framing go straight from the read buffer to the other socket, behind the output that
/// waits for it.
fn bypass(connection: &mut ProxyConnection, ctx: &mut LoopContext, side: Side, bytes: &[u8], to: &mut Conn) {
    let output = connection.output(other(side));
    let outcome = match output {
        b"" => to.write(bytes),
        // Only where there is no TLS.
        _ => to.socket.write_slices(&[IoSlice::new(output), IoSlice::new(bytes)]),
    };
    let of_output = outcome.written().min(output.len());
    let passed = outcome.written() - of_output;
    connection.sent(&mut ctx.worker(), other(side), of_output);
    report_bypassed(connection, ctx, side, outcome, passed, &bytes[passed..]);
}
