//! Moving bytes: one client connection, its exchange and the upstream connection that it borrows, driven as far as they
//! go without waiting.
//!
//! The exchange says what is to be done, the sockets say what is possible; this file does what is both. It stops when
//! nothing moves any more (then an event or a timer comes) or when the budget of the turn is used up (then the run queue
//! does), so that one busy peer starves nobody (rule M4).

use crate::proxy::exchange::{Appetite, Command, Exchange, Input, Side};

use super::conn::{Conn, ReadOutcome, WriteOutcome};
use super::dial::Loan;
use super::memory::Grant;
use super::slab::Key;
use super::token::Source;
use super::worker::{Hungry, Leave, LinkState, Surroundings, Worker};

use std::time::{Duration, Instant};

/// Bytes that one connection may move in one turn, both directions together.
const TURN_BYTES: usize = 256 * 1024;
/// Steps that one connection may take in one turn.
const TURN_STEPS: u32 = 64;
/// What is read at once for a peer that did not take all of the last write: slow readers shall cost little memory.
const SLOW_READ: usize = 16 * 1024;
/// An exchange that lets a deadline pass is asked again after this time, not in a circle.
const DEADLINE_GRACE: Duration = Duration::from_millis(10);

/// What a connection may still do in this turn.
struct Budget {
    bytes: usize,
    steps: u32,
}

/// What became of a round.
enum Step {
    /// Something moved; more may.
    Moved,
    /// Nothing did, or nothing is left that could.
    Still,
    /// The client's connection is gone, or there is nothing left to do for it but to wait.
    Over,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.bytes >= TURN_BYTES || self.steps >= TURN_STEPS
    }

    /// All steps taken, and not one byte moved: that is no work but a fault of ours (rule M4). Nobody is ever cut off
    /// for being busy.
    fn is_circling(&self) -> bool {
        self.bytes == 0 && self.steps >= TURN_STEPS
    }
}

impl Worker {
    /// Drives a client's connections as far as they go.
    pub(super) fn drive(&mut self, key: Key) {
        let mut budget = Budget { bytes: 0, steps: 0 };
        let mut was_told = false;
        if self.see_off(key) {
            return;
        }
        loop {
            match self.step(key, &mut budget) {
                Step::Over => return,
                Step::Moved => {}
                Step::Still => {
                    let deadline = self.deadline(key);
                    let is_due = deadline.is_some_and(|deadline| deadline <= self.around.now());
                    if was_told || !is_due {
                        self.rest(key, deadline);
                        return;
                    }
                    // A deadline that has passed may set something in motion.
                    was_told = true;
                    self.tell(key, Input::Tick);
                }
            }
            budget.steps += 1;
            if budget.is_circling() {
                self.around.journal.warn(format_args!("a connection was ended because it went in a circle"));
                self.remove_client(key);
                return;
            }
            if budget.is_spent() {
                self.enqueue(key);
                self.rest(key, self.deadline(key));
                return;
            }
        }
    }

    /// One round: reading, then what the exchange makes of it: commands, then writing.
    fn step(&mut self, key: Key, budget: &mut Budget) -> Step {
        self.count_memory(key);
        let Some(mut pair) = self.pair(key) else { return Step::Over };
        // What is left of the last time goes first: then what is read now may find an empty queue and skip it.
        let mut moved = pair.flush(Side::Downstream, budget);
        moved |= pair.flush(Side::Upstream, budget);
        moved |= pair.pull(Side::Downstream, budget);
        moved |= pair.pull(Side::Upstream, budget);
        moved |= self.deliver(key);
        moved |= self.carry_out(key);
        if self.clients.get(key).is_some_and(|client| matches!(client.leave, Leave::Flushing(_))) {
            return Step::Over;
        }
        let Some(mut pair) = self.pair(key) else { return Step::Over };
        moved |= pair.flush(Side::Downstream, budget);
        moved |= pair.flush(Side::Upstream, budget);
        // Another round, to learn that nothing moves any more, would cost a tenth of a small request.
        if moved && pair.may_go_on() { Step::Moved } else { Step::Still }
    }

    /// Tells the exchange what happened since it was last driven, beside bytes.
    fn deliver(&mut self, key: Key) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let dialed = client.dialed.take();
        match dialed {
            Some(Ok(())) => client.exchange.handle(&mut self.around.env(), Input::Connected { reused: false }),
            Some(Err(error)) => client.exchange.handle(&mut self.around.env(), Input::ConnectFailed(error)),
            None => {}
        }
        let is_leaving = client.leave == Leave::Asked;
        if is_leaving {
            client.leave = Leave::Told;
            client.exchange.drain();
        }
        dialed.is_some() || is_leaving
    }

    /// Does what the exchange says, in its order.
    fn carry_out(&mut self, key: Key) -> bool {
        let mut moved = false;
        let mut is_over = false;
        while let Some(client) = self.clients.get_mut(key)
            && let Some(command) = client.exchange.poll_command()
        {
            moved = true;
            match command {
                Command::Connect { upstream, fresh } => match self.lend(key, upstream, fresh) {
                    Loan::FromPool => self.tell(key, Input::Connected { reused: true }),
                    Loan::Pending => {}
                },
                Command::Park => self.park(key),
                Command::Close(Side::Upstream) => self.hang_up(key, |_| {}),
                Command::Abort(Side::Upstream) => self.hang_up(key, Conn::reset_on_close),
                Command::Shutdown(side) => {
                    if let Some(conn) = self.pair(key).and_then(|pair| pair.into_conn(side)) {
                        conn.shutdown_write();
                    }
                }
                Command::Close(Side::Downstream) => {
                    client.conn.say_goodbye();
                    is_over = true;
                }
                Command::Abort(Side::Downstream) => {
                    client.conn.reset_on_close();
                    is_over = true;
                }
            }
        }
        if is_over {
            self.let_go(key);
        }
        moved
    }

    /// The exchange is over. The kernel delivers what it was given; what waits in a TLS stage it was not given yet.
    fn let_go(&mut self, key: Key) {
        let until = self.around.now() + self.around.site.config.timeouts.write_idle;
        match self.clients.get_mut(key) {
            Some(client) if client.conn.has_unsent() => {
                client.leave = Leave::Flushing(until);
                self.rest(key, Some(until));
            }
            Some(_) | None => self.remove_client(key),
        }
    }

    /// Whether this client has only its last bytes to get; if so, sends what it takes of them.
    fn see_off(&mut self, key: Key) -> bool {
        let now = self.around.now();
        let Some(client) = self.clients.get_mut(key) else { return false };
        let Leave::Flushing(until) = client.leave else { return false };
        client.conn.flush();
        if !client.conn.has_unsent() || until <= now {
            self.remove_client(key);
        } else {
            self.rest(key, Some(until));
        }
        true
    }

    fn tell(&mut self, key: Key, input: Input<'_>) {
        if let Some(client) = self.clients.get_mut(key) {
            client.exchange.handle(&mut self.around.env(), input);
        }
    }

    /// Ends the borrowed upstream connection, or the attempt at one, after `farewell`.
    fn hang_up(&mut self, key: Key, farewell: impl FnOnce(&Conn)) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.dialed = None;
        let Some(link) = client.link.take() else { return };
        if let Some(LinkState::Lent { conn, .. }) = self.links.get(link).map(|link| &link.state) {
            farewell(conn);
        }
        self.remove_link(link);
    }

    fn deadline(&self, key: Key) -> Option<Instant> {
        self.clients.get(key).and_then(|client| client.exchange.deadline())
    }

    /// Nothing is done for now: what remains to do before waiting.
    fn rest(&mut self, key: Key, deadline: Option<Instant>) {
        let now = self.around.now();
        let Some(client) = self.clients.get_mut(key) else { return };
        client.active = now;
        let token = Source::Client(key).token();
        if let Some(deadline) = deadline {
            self.timers.set(&mut client.alarm, deadline.max(now + DEADLINE_GRACE), token);
        }
        // Only now: what came and went at once never cost a registration.
        if !client.conn.is_registered()
            && let Err(error) = client.conn.register(self.poll.registry(), token)
        {
            self.around.journal.warn(format_args!("cannot wait for a client connection: {error}"));
            self.remove_client(key);
        }
    }

    /// Both sockets and the exchange between them.
    fn pair(&mut self, key: Key) -> Option<Pair<'_>> {
        let client = self.clients.get_mut(key)?;
        let up = match client.link.and_then(|link| self.links.get_mut(link)).map(|link| &mut link.state) {
            // Until the exchange knows that it is connected, nothing may be written.
            Some(LinkState::Lent { conn, .. }) if client.dialed.is_none() => Some(conn),
            Some(LinkState::Resolving { .. } | LinkState::Dialing { .. } | LinkState::Idle { .. })
            | Some(LinkState::Lent { .. })
            | None => None,
        };
        Some(Pair {
            key,
            is_hungry: &mut client.is_hungry,
            hungry: &mut self.hungry,
            exchange: &mut client.exchange,
            down: &mut client.conn,
            up,
            around: &mut self.around,
            scratch: &mut self.scratch,
        })
    }
}

/// Both sockets and the exchange between them, for the length of a step.
struct Pair<'a> {
    key: Key,
    is_hungry: &'a mut bool,
    hungry: &'a mut Hungry,
    exchange: &'a mut Exchange,
    down: &'a mut Conn,
    up: Option<&'a mut Conn>,
    around: &'a mut Surroundings,
    scratch: &'a mut [u8],
}

impl<'a> Pair<'a> {
    fn into_conn(self, side: Side) -> Option<&'a mut Conn> {
        match side {
            Side::Downstream => Some(self.down),
            Side::Upstream => self.up,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.exchange.handle(&mut self.around.env(), input);
    }

    /// Whether there is anything left to do that does not need an event first.
    fn may_go_on(&self) -> bool {
        self.down.can_read()
            || self.up.as_ref().is_some_and(|up| up.can_read())
            || self.exchange.has_command()
            || self.has_unwritten()
    }

    /// Whether bytes wait to be written, or in a stage.
    fn has_unwritten(&self) -> bool {
        self.exchange.has_output() || self.down.has_unsent() || self.up.as_ref().is_some_and(|up| up.has_unsent())
    }

    /// The socket on that side, if there is one.
    fn conn(&self, side: Side) -> Option<&Conn> {
        match side {
            Side::Downstream => Some(self.down),
            Side::Upstream => self.up.as_deref(),
        }
    }

    /// Writes what waits for `side`: at once, when it arises (rule M2).
    // The questions are inlined, the work is not: most calls end with a question.
    #[inline]
    fn flush(&mut self, side: Side, budget: &mut Budget) -> bool {
        let has_unsent = self.conn(side).is_some_and(Conn::has_unsent);
        (has_unsent || !self.exchange.output(side).is_empty()) && self.write(side, budget)
    }

    #[inline(never)]
    fn write(&mut self, side: Side, budget: &mut Budget) -> bool {
        let mut moved = false;
        loop {
            let Pair { exchange, down, up, around, .. } = self;
            let conn = match side {
                Side::Downstream => &mut **down,
                Side::Upstream => match up.as_deref_mut() {
                    Some(conn) => conn,
                    None => return moved,
                },
            };
            // Whether or not the exchange has something to say (rule M11).
            moved |= conn.flush();
            let output = exchange.output(side);
            if output.is_empty() || !conn.can_write() {
                return moved;
            }
            match conn.write(output) {
                WriteOutcome::Bytes(len) => {
                    exchange.sent(&mut around.env(), side, len);
                    budget.bytes += len;
                    moved = true;
                }
                WriteOutcome::Blocked => return moved,
                WriteOutcome::Failed => {
                    exchange.handle(&mut around.env(), Input::Unwritable(side));
                    return true;
                }
            }
        }
    }

    /// Reads from `side` once, if that may bring something and the exchange wants it.
    #[inline]
    fn pull(&mut self, side: Side, budget: &mut Budget) -> bool {
        self.conn(side).is_some_and(Conn::can_read) && self.read(side, budget)
    }

    #[inline(never)]
    fn read(&mut self, side: Side, budget: &mut Budget) -> bool {
        let Pair { key, is_hungry, hungry, exchange, down, up, around, scratch } = self;
        let (from, to) = match (side, up.as_deref_mut()) {
            (Side::Downstream, up) => (&mut **down, up),
            (Side::Upstream, Some(up)) => (up, Some(&mut **down)),
            (Side::Upstream, None) => return false,
        };
        if !exchange.wants_read(side) {
            return self.notice_reset(side);
        }
        let appetite = exchange.appetite(side);
        let granted = match around.ledger.grant(appetite) {
            Grant::Read(most) => most,
            Grant::AfterWriting => return self.notice_reset(side),
            Grant::AfterOthers => {
                if !std::mem::replace(*is_hungry, true) {
                    match appetite {
                        Appetite::NewRequest => hungry.new.push(*key),
                        Appetite::UnderWay | Appetite::OnTop => hungry.under_way.push(*key),
                    }
                }
                return self.notice_reset(side);
            }
        };
        let is_slow = to.as_ref().is_some_and(|to| to.is_slow());
        let room = if is_slow { granted.min(SLOW_READ) } else { granted };
        let lane = match to {
            Some(to) if to.can_write() => Some((exchange.relayable(side), to)).filter(|(len, _)| *len > 0),
            Some(_) | None => None,
        };
        let room = match &lane {
            Some((len, _)) => room.min(usize::try_from(*len).unwrap_or(usize::MAX)),
            None => room,
        };
        match from.read(&mut scratch[..room]) {
            ReadOutcome::Blocked => return false,
            ReadOutcome::Eof => exchange.handle(&mut around.env(), Input::Eof(side)),
            ReadOutcome::Failed => exchange.handle(&mut around.env(), Input::Reset(side)),
            ReadOutcome::Overhead(len) => budget.bytes += len,
            ReadOutcome::Bytes(len) => {
                budget.bytes += len;
                let bytes = &scratch[..len];
                match lane {
                    Some((_, to)) => relay(exchange, around, side, bytes, to),
                    None => exchange.handle(&mut around.env(), Input::Bytes(side, bytes)),
                }
            }
        }
        true
    }

    /// The exchange does not want to read from the client now. If the poller saw an error there, the client is gone all
    /// the same, and whatever is done for it is in vain (rule G12). An upstream's last bytes are worth waiting for.
    fn notice_reset(&mut self, side: Side) -> bool {
        let is_gone = match side {
            Side::Downstream => self.down.is_broken(),
            Side::Upstream => false,
        };
        if is_gone {
            self.handle(Input::Reset(side));
        }
        is_gone
    }
}

/// The relay lane: bytes of a body that needs no new framing go straight from the read buffer to the other socket. What
/// that does not take is given to the exchange, which keeps it.
fn relay(exchange: &mut Exchange, around: &mut Surroundings, side: Side, bytes: &[u8], to: &mut Conn) {
    let outcome = to.write(bytes);
    let len = match outcome {
        WriteOutcome::Bytes(len) => len,
        WriteOutcome::Blocked | WriteOutcome::Failed => 0,
    };
    if len > 0 {
        exchange.handle(&mut around.env(), Input::Relayed(side, len as u64));
    }
    if len < bytes.len() {
        exchange.handle(&mut around.env(), Input::Bytes(side, &bytes[len..]));
    }
    if outcome == WriteOutcome::Failed {
        let other = match side {
            Side::Downstream => Side::Upstream,
            Side::Upstream => Side::Downstream,
        };
        exchange.handle(&mut around.env(), Input::Unwritable(other));
    }
}
