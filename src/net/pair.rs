//! Both sockets of an exchange, for the length of a step: what moves between them, and what the exchange hears of it.

use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{Input, ProxyConnection, ReadPurpose, Side};

use super::conn::{Conn, Flushed, ReadOutcome, Socket, WriteOutcome};
use super::lane::{self, Lane, Passed};
use super::memory_budget::ReadGrant;
use super::slab::Key;
use super::splice::Pipes;
use super::worker::{LoopContext, MemoryWaiters, deadline};

/// Bytes that one connection may move in one turn, both directions together.
const TURN_BYTES: usize = 256 * 1024;
/// So many bytes through a pipe take the time of one that is copied.
const SPLICED: usize = 4;
/// Who moves as much in one turn is one of many that take their time.
const BULK: usize = 16 * 1024;
/// Steps that one connection may take in one turn.
const TURN_STEPS: u32 = 64;
/// What is written at once: as much as a turn allows.
const MAX_WRITE: usize = TURN_BYTES;
/// What is read at once for a peer of which it is not known whether it keeps up: what it does not take stays in memory, and
/// slow readers shall cost little of it.
const UNPROVEN_READ: usize = 8 * 1024;
/// What is read at once where the head of a request is awaited. What comes behind it in the same read has to be copied;
/// with less of that, an upload of 64 KiB takes 12 percent less CPU. The few heads that are longer are read in pieces.
const HEAD_READ: usize = 4 * 1024;

/// What the exchange is given of a full pipe when its lease is over: as much as holds a direction up.
const LEASE_PART: usize = 16 * 1024;

/// Of a read as long as this the first part is looked at alone. The head of a response is in it; the body behind it can
/// leave together with the forwarded head, in one write and without being copied to it: 64 KiB take a quarter less CPU.
const LONG_READ: usize = 32 * 1024;
const FIRST_PART: usize = 4 * 1024;

/// What a connection may still do in this turn.
pub(super) struct Budget {
    pub bytes: usize,
    pub steps: u32,
}

impl Budget {
    pub fn is_spent(&self) -> bool {
        self.bytes >= TURN_BYTES || self.steps >= TURN_STEPS
    }

    /// Whether it is so much that others go first the next time.
    pub fn is_bulk(&self) -> bool {
        self.bytes >= BULK
    }

    /// All steps taken, and not one byte moved: that is no work but a fault of ours (rule M4). Nobody is ever cut off
    /// for being busy.
    pub fn is_circling(&self) -> bool {
        self.bytes == 0 && self.steps >= TURN_STEPS
    }
}

/// Both sockets and the exchange between them, for the length of a step.
pub(super) struct Pair<'a> {
    pub key: Key,
    /// Whether something happened that the exchange has not heard of, beside bytes.
    pub has_news: bool,
    pub waits_for_memory: &'a mut bool,
    pub memory_waiters: &'a mut MemoryWaiters,
    pub connection: &'a mut ProxyConnection,
    pub down: &'a mut Conn,
    pub up: Option<&'a mut Conn>,
    pub lane: &'a mut Option<Box<Lane>>,
    pub pipes: &'a mut Pipes,
    pub ctx: &'a mut LoopContext,
    pub read_buf: &'a mut [u8],
}

impl<'a> Pair<'a> {
    pub fn into_conn(self, side: Side) -> Option<&'a mut Conn> {
        match side {
            Side::Client => Some(self.down),
            Side::Upstream => self.up,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.connection.handle(&mut self.ctx.worker(), input);
    }

    /// When to drive it at the latest.
    pub fn deadline(&self) -> Option<MonoTime> {
        deadline(self.connection, self.lane)
    }

    /// Whether there is something to do that needs more than the two sockets.
    pub fn has_orders(&self) -> bool {
        self.has_news || self.connection.has_command()
    }

    /// Whether there is anything left to do that does not need an event first.
    pub fn may_go_on(&self) -> bool {
        self.down.can_read()
            || self.up.as_ref().is_some_and(|up| up.can_read())
            || self.lane.is_some()
            || self.connection.has_command()
            || self.has_unwritten()
    }

    /// Whether bytes wait to be written, or in a stage.
    pub fn has_unwritten(&self) -> bool {
        self.connection.has_output() || self.down.needs_flush() || self.up.as_ref().is_some_and(|up| up.needs_flush())
    }

    /// The socket on that side, if there is one.
    fn conn(&self, side: Side) -> Option<&Conn> {
        match side {
            Side::Client => Some(self.down),
            Side::Upstream => self.up.as_deref(),
        }
    }

    /// Writes what waits for `side`: at once, when it arises (rule M2).
    // The questions are inlined, the work is not: most calls end with a question.
    #[inline]
    pub fn flush(&mut self, side: Side, budget: &mut Budget) -> bool {
        let needs_flush = self.conn(side).is_some_and(Conn::needs_flush);
        (needs_flush || !self.connection.output(side).is_empty()) && self.write(side, budget)
    }

    #[inline(never)]
    fn write(&mut self, side: Side, budget: &mut Budget) -> bool {
        let mut moved = false;
        loop {
            let Pair { connection, down, up, ctx, .. } = self;
            let conn = match side {
                Side::Client => &mut **down,
                Side::Upstream => match up.as_deref_mut() {
                    Some(conn) => conn,
                    None => return moved,
                },
            };
            // Whether or not the exchange has something to say (rule M11).
            match conn.flush() {
                Flushed::Moved => moved = true,
                Flushed::Still => {}
                Flushed::Failed => {
                    connection.handle(&mut ctx.worker(), Input::Unwritable(side));
                    return true;
                }
            }
            let output = connection.output(side);
            // A shared text may be long, and its reader fast.
            if output.is_empty() || !conn.can_write() || budget.is_spent() {
                return moved;
            }
            match conn.write(&output[..output.len().min(MAX_WRITE)]) {
                WriteOutcome::Bytes(len) => {
                    connection.sent(&mut ctx.worker(), side, len);
                    budget.bytes += len;
                    moved = true;
                }
                WriteOutcome::Blocked => return moved,
                WriteOutcome::Failed => {
                    connection.handle(&mut ctx.worker(), Input::Unwritable(side));
                    return true;
                }
            }
        }
    }

    /// Reads from `side` once, if that may bring something and the exchange wants it. Where the end was read already, a
    /// reset may still come.
    #[inline]
    pub fn pull(&mut self, side: Side, budget: &mut Budget) -> bool {
        let Some(conn) = self.conn(side) else { return false };
        if conn.can_read() { self.read(side, budget) } else { conn.may_be_broken() && self.notice_reset(side) }
    }

    #[inline(never)]
    fn read(&mut self, side: Side, budget: &mut Budget) -> bool {
        if self.lane.as_ref().is_some_and(|lane| lane.from() == side) {
            // Nothing overtakes what is in the pipe.
            return self.notice_reset(side);
        }
        let Pair {
            key,
            waits_for_memory,
            memory_waiters,
            connection,
            down,
            up,
            lane: resting,
            pipes,
            ctx,
            read_buf,
            ..
        } = self;
        let (from, to) = match (side, up.as_deref_mut()) {
            (Side::Client, up) => (&mut **down, up),
            (Side::Upstream, Some(up)) => (up, Some(&mut **down)),
            (Side::Upstream, None) => return false,
        };
        let Some(read_interest) = connection.read_interest(side) else { return self.notice_reset(side) };
        // What a slow peer has not taken yet is enough to go on with, more would only lie in memory (rule E4): with this
        // 256 slow downloads take 6.6 MiB instead of 10.1.
        let other = match side {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        };
        if to.as_ref().is_some_and(|to| to.is_slow()) && !connection.output(other).is_empty() {
            return self.notice_reset(side);
        }
        let granted = match ctx.memory.grant(read_interest) {
            ReadGrant::Read(most) => most,
            ReadGrant::AfterWriting => return self.notice_end(side),
            ReadGrant::AfterOthers => {
                if !std::mem::replace(*waits_for_memory, true) {
                    match read_interest {
                        ReadPurpose::NewRequest => memory_waiters.new.push(*key),
                        ReadPurpose::Reserved | ReadPurpose::InFlight | ReadPurpose::Backlogged => {
                            memory_waiters.under_way.push(*key)
                        }
                    }
                }
                return self.notice_end(side);
            }
        };
        let is_proven = to.as_ref().is_none_or(|to| to.keeps_up());
        let room = if is_proven { granted } else { granted.min(UNPROVEN_READ) };
        let room = if read_interest == ReadPurpose::NewRequest { room.min(HEAD_READ) } else { room };
        let mut to = to.filter(|to| to.can_write());
        let left = connection.bypass_limit(side);
        let passed = match &mut to {
            Some(to) if left > 0 && resting.is_none() && granted == ctx.memory.largest_read() => {
                let most = if ctx.memory.is_limited() { left.min(granted as u64) } else { left };
                lane::pass(ctx.now(), (side, from), to, most, pipes, resting)
            }
            Some(_) | None => Passed::Not,
        };
        let outcome = match passed {
            Passed::Moved { taken, given, outcome } => {
                budget.bytes += taken.div_ceil(SPLICED);
                report(connection, ctx, side, given, outcome);
                return true;
            }
            Passed::Read(outcome) => outcome,
            Passed::Not => {
                let is_relayed = left > 0 && to.is_some();
                let most = if is_relayed { usize::try_from(left).unwrap_or(usize::MAX) } else { usize::MAX };
                let room = room.min(most);
                from.read(&mut read_buf[..room])
            }
        };
        match outcome {
            ReadOutcome::Blocked => return false,
            ReadOutcome::Eof => connection.handle(&mut ctx.worker(), Input::Eof(side)),
            ReadOutcome::Failed => connection.handle(&mut ctx.worker(), Input::Reset(side)),
            ReadOutcome::Overhead(len) => budget.bytes += len,
            ReadOutcome::Bytes(len) => {
                budget.bytes += len;
                let bytes = &read_buf[..len];
                match to {
                    Some(to) if left > 0 => relay(connection, ctx, side, bytes, to),
                    Some(to) if side == Side::Upstream && len >= LONG_READ && !to.is_secured() => {
                        relay_behind_head(connection, ctx, bytes, to);
                    }
                    Some(_) | None => connection.handle(&mut ctx.worker(), Input::Bytes(side, bytes)),
                }
            }
        }
        true
    }

    /// Moves on what rests in a pipe. What will not leave it soon is given to the exchange.
    #[inline]
    pub fn drain_lane(&mut self, budget: &mut Budget) -> bool {
        self.lane.is_some() && self.drain(budget)
    }

    #[inline(never)]
    fn drain(&mut self, budget: &mut Budget) -> bool {
        let Pair { connection, down, up, lane, pipes, ctx, .. } = self;
        let Some(held) = lane.as_deref_mut() else { return false };
        let side = held.from();
        let to = match side {
            Side::Client => up.as_deref_mut(),
            Side::Upstream => Some(&mut **down),
        };
        let other = match side {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        };
        let to = match to {
            Some(to) if connection.bypass_limit_behind_output(side) >= held.held() as u64 => to,
            // The exchange has other plans.
            Some(_) | None => return self.empty_lane(),
        };
        if held.until().is_some_and(|until| until <= ctx.now()) {
            return self.end_lease();
        }
        // What the exchange was given before goes first.
        if !connection.output(other).is_empty() || !to.can_write() {
            return false;
        }
        let before = held.held();
        let outcome = held.drain(ctx.now(), to);
        let given = before - held.held();
        if held.held() == 0
            && let Some(lane) = lane.take()
        {
            lane.end(pipes);
        }
        budget.bytes += given.div_ceil(SPLICED);
        report(connection, ctx, side, given, outcome);
        outcome != WriteOutcome::Blocked
    }

    /// The exchange is to know of what rests in a pipe: gives it all, or where that is more than one read, a part. Says
    /// whether there was something that it did not know of.
    pub fn end_lease(&mut self) -> bool {
        let Pair { connection, lane, ctx, read_buf, .. } = self;
        let Some(lane) = lane.as_deref_mut().filter(|lane| lane.until().is_some()) else { return false };
        if lane.ends_with_lease() {
            return self.empty_lane();
        }
        let side = lane.from();
        let len = read_buf.len().min(LEASE_PART);
        let bytes = lane.read(&mut read_buf[..len]);
        lane.end_lease();
        connection.handle(&mut ctx.worker(), Input::Bytes(side, bytes));
        true
    }

    /// Gives the exchange all that rests in a pipe; says whether there was something.
    fn empty_lane(&mut self) -> bool {
        let Some(mut lane) = self.lane.take() else { return false };
        let side = lane.from();
        while lane.held() > 0 {
            let bytes = lane.read(self.read_buf);
            if bytes.is_empty() {
                break;
            }
            self.connection.handle(&mut self.ctx.worker(), Input::Bytes(side, bytes));
        }
        lane.end(self.pipes);
        true
    }

    /// Memory is too short to read. Where there is nothing left but the end, that needs none: who has gone must not keep
    /// what others wait for (rules E4 and G12).
    fn notice_end(&mut self, side: Side) -> bool {
        let conn = match side {
            Side::Client => Some(&mut *self.down),
            Side::Upstream => self.up.as_deref_mut(),
        };
        if conn.and_then(Conn::bare).is_some_and(Socket::has_ended) {
            self.handle(Input::Eof(side));
            return true;
        }
        self.notice_reset(side)
    }

    /// Tells the exchange of peers that have taken some of what the kernel holds for them, while it still has more: a slow
    /// reader is no silent one. Says whether there was one.
    pub fn notice_drained(&mut self) -> bool {
        let mut is_any = false;
        for side in [Side::Client, Side::Upstream] {
            let conn = match side {
                Side::Client => Some(&mut *self.down),
                Side::Upstream => self.up.as_deref_mut(),
            };
            if !self.connection.output(side).is_empty() && conn.is_some_and(Conn::has_drained) {
                self.handle(Input::Drained(side));
                is_any = true;
            }
        }
        is_any
    }

    /// The exchange does not want to read from the client now. If the poller saw an error there, the client is gone all
    /// the same, and whatever is done for it is in vain (rule G12). An upstream's last bytes are worth waiting for.
    fn notice_reset(&mut self, side: Side) -> bool {
        let is_gone = match side {
            Side::Client => self.down.is_broken(),
            Side::Upstream => false,
        };
        if is_gone {
            self.handle(Input::Reset(side));
        }
        is_gone
    }
}

/// Tells the exchange of bytes that went from `side` to the other one.
fn report(connection: &mut ProxyConnection, ctx: &mut LoopContext, side: Side, len: usize, outcome: WriteOutcome) {
    if len > 0 {
        connection.handle(&mut ctx.worker(), Input::Bypassed(side, len as u64));
    }
    if outcome == WriteOutcome::Failed {
        let other = match side {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        };
        connection.handle(&mut ctx.worker(), Input::Unwritable(other));
    }
}

/// The relay lane: bytes of a body that needs no new framing go straight from the read buffer to the other socket. What
/// that does not take is given to the exchange, which keeps it.
fn relay(connection: &mut ProxyConnection, ctx: &mut LoopContext, side: Side, bytes: &[u8], to: &mut Conn) {
    let outcome = to.write(bytes);
    let len = match outcome {
        WriteOutcome::Bytes(len) => len,
        WriteOutcome::Blocked | WriteOutcome::Failed => 0,
    };
    report(connection, ctx, side, len, WriteOutcome::Bytes(len));
    if len < bytes.len() {
        connection.handle(&mut ctx.worker(), Input::Bytes(side, &bytes[len..]));
    }
    report(connection, ctx, side, 0, outcome);
}

/// A long read that may begin with the head of a response: what is body behind it leaves with the forwarded head.
fn relay_behind_head(connection: &mut ProxyConnection, ctx: &mut LoopContext, bytes: &[u8], to: &mut Conn) {
    let (first, body) = bytes.split_at(FIRST_PART);
    connection.handle(&mut ctx.worker(), Input::Bytes(Side::Upstream, first));
    // Bytes of the body only: one too many and the exchange has to see it.
    if connection.bypass_limit_behind_output(Side::Upstream) < body.len() as u64 {
        return connection.handle(&mut ctx.worker(), Input::Bytes(Side::Upstream, body));
    }
    let output = connection.output(Side::Client);
    let outcome = to.write_both(output, body);
    let written = match outcome {
        WriteOutcome::Bytes(len) => len,
        WriteOutcome::Blocked | WriteOutcome::Failed => 0,
    };
    let of_output = written.min(output.len());
    let of_body = written - of_output;
    connection.sent(&mut ctx.worker(), Side::Client, of_output);
    report(connection, ctx, Side::Upstream, of_body, WriteOutcome::Bytes(of_body));
    if of_body < body.len() {
        connection.handle(&mut ctx.worker(), Input::Bytes(Side::Upstream, &body[of_body..]));
    }
    report(connection, ctx, Side::Upstream, 0, outcome);
}
