//! The turn: wait for events, remember what they say, let new clients in, drive everyone who has something to do.
//!
//! ```text
//!   poll ─► clock ─► events: set ready bits, fill the run queue ─► timers ─► accept ─► drive the run queue ─► bury
//!    ▲                                                                                       │ budget spent
//!    └───────────────── time-out: the next timer; zero while the run queue is not empty ◄────┘
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

use crate::instant::Instant;
use crate::proxy::exchange::{Entrance, Exchange, Peer};

use super::closing::IDLE_ENOUGH;
use super::conn::{Conn, Readiness, Stream};
use super::door::{Knock, PAUSE, Room, is_exhaustion};
use super::idle::Neighbours;
use super::listen::Speaks;
use super::memory::Level;
use super::slab::Key;
use super::surplus;
use super::timers::Alarm;
use super::token::Source;
use super::worker::{Client, Introduction, Leave, Stage, Worker};

/// Events asked for at once. One at a time would cost 6 percent.
const EVENTS: usize = 512;
/// Clients let in per turn and worker (rule M5).
const ACCEPTS: usize = 64;
/// The operator's places per worker, beside all others.
const ADMIN_CLIENTS: usize = 16;
/// That all places are taken is told so often at most.
const LIMIT_WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Steps of TLS handshakes per turn and worker, with clients and with upstreams. One takes as long as dozens of requests:
/// more of them must not come between two looks at everybody else.
const HANDSHAKES: usize = 4;

impl Worker {
    /// Works until told to stop. An error ends it; the reason is in the log then.
    pub fn run(mut self) -> io::Result<()> {
        let result = self.run_turns();
        if let Err(error) = &result {
            self.around.journal.warn(format_args!("a worker ends: {error}"));
        }
        result
    }

    fn run_turns(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        self.door.register(self.poll.registry())?;
        while self.stage != Stage::Over {
            self.turn(&mut events)?;
        }
        Ok(())
    }

    /// One turn.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, self.patience()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            result => result?,
        }
        self.around.clock.read();
        self.act(events.iter().map(|event| (event.token(), Readiness::of(event))));
        Ok(())
    }

    /// What is to be done at this moment, the poller having said so much.
    pub(super) fn act(&mut self, events: impl Iterator<Item = (Token, Readiness)>) {
        let mut is_stirred = false;
        for (token, readiness) in events {
            is_stirred = true;
            self.on_event(token, readiness);
        }
        self.ring_alarms();
        self.let_in();
        self.go_on_securing(HANDSHAKES);
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
        self.feed();
        self.advance_stage();
        self.forget_retired();
        self.sweep_timers();
        self.graveyard.clear();
        if self.clients.is_empty() {
            // Kept for the next body; nobody is there who could bring one.
            self.pipes.close_free();
        }
        if is_stirred && surplus::IS_KEPT {
            self.worked = self.around.now();
            let at = self.worked + surplus::EVERY;
            self.timers.set(&mut self.surplus, at, Source::Surplus.token());
        }
    }

    /// How long the poller may wait.
    pub(super) fn patience(&self) -> Option<Duration> {
        let now = self.around.now();
        let has_work = !self.run_queue.is_empty()
            || !self.securing.is_empty()
            || self.stage == Stage::Closing
            || self.door.is_open(now, self.room());
        if has_work { Some(Duration::ZERO) } else { self.timers.next().map(|at| at.saturating_duration_since(now)) }
    }

    /// Whether there is a place and memory for one more client. The operator has places of its own, so that `/health` and
    /// `/metrics` answer when all others are taken: whoever supervises the proxy would end it otherwise.
    fn room(&self) -> Room {
        Room {
            public: !self.is_full() && self.around.ledger.level() == Level::Plenty,
            admin: self.admin_clients < ADMIN_CLIENTS,
        }
    }

    /// Whether all places are taken but the operator's.
    fn is_full(&self) -> bool {
        self.clients.len() - self.admin_clients >= self.door.max_clients
    }

    fn on_event(&mut self, token: Token, readiness: Readiness) {
        match Source::of(token) {
            Some(Source::Client(key)) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.conn.on_event(readiness);
                    // As `enqueue` does, without looking it up again.
                    if !std::mem::replace(&mut client.is_queued, true) {
                        self.run_queue.push_back(key);
                    }
                }
            }
            Some(Source::Link(key)) => self.on_link_event(key, readiness),
            Some(Source::Listener(number)) => self.door.on_event(number),
            Some(Source::Waker) => {
                self.on_answers();
                self.on_renewals();
                self.on_order();
            }
            Some(Source::Drain | Source::Surplus) | None => {}
        }
    }

    /// Looks at all timers whose time has come.
    fn ring_alarms(&mut self) {
        let now = self.around.now();
        while let Some((at, token)) = self.timers.pop(now) {
            match Source::of(token) {
                Some(Source::Client(key)) => {
                    // Being driven, it asks its exchange for the real deadline.
                    if self.clients.get_mut(key).is_some_and(|client| client.alarm.rings(at)) {
                        self.check_deadline(key);
                    }
                }
                Some(Source::Link(key)) => self.on_link_alarm(key, at),
                // The door: if it is open again, that shows in this turn.
                Some(Source::Listener(_)) => {
                    if self.door.alarm.rings(at)
                        && let Some(until) = self.door.closed_until(now)
                    {
                        self.timers.set(&mut self.door.alarm, until, token);
                    }
                }
                Some(Source::Drain) => self.stage = Stage::Over,
                Some(Source::Surplus) if self.surplus.rings(at) => {
                    if let Some(later) = surplus::give_back(now, self.worked) {
                        self.timers.set(&mut self.surplus, later, token);
                    }
                }
                Some(Source::Surplus | Source::Waker) | None => {}
            }
        }
    }

    /// A client's alarm rang: is it serious, or has the deadline moved on?
    fn check_deadline(&mut self, key: Key) {
        let now = self.around.now();
        if self.stage == Stage::Draining {
            self.ask_to_leave(key);
        }
        let Some(client) = self.clients.get_mut(key) else { return };
        let deadline = match client.leave {
            Leave::Flushing(until) => Some(until),
            Leave::No | Leave::Asked | Leave::Told => client.deadline(),
        };
        match deadline {
            Some(deadline) if deadline > now => {
                self.timers.set(&mut client.alarm, deadline, Source::Client(key).token());
            }
            Some(_) => self.enqueue(key),
            None => {}
        }
    }

    /// Drives one client. A panic on the way ends that client's connection and nothing else (rule G23).
    fn drive_contained(&mut self, key: Key) {
        let result = catch_unwind(AssertUnwindSafe(|| self.drive(key)));
        self.count_memory(key);
        if result.is_err() {
            self.around.spares.clear();
            self.remove_client(key);
            self.around.journal.warn(format_args!("a fault in the proxy ended one connection; please report it"));
        }
    }

    /// Lets new clients in.
    fn let_in(&mut self) {
        let now = self.around.now();
        self.door.look_again(now);
        for _ in 0..ACCEPTS {
            let room = self.room();
            if !self.door.is_open(now, room) {
                break;
            }
            match self.door.accept(now, room) {
                Knock::Client(stream, address, speaks) => self.welcome(stream, address, speaks),
                Knock::Gone => {}
                Knock::Nobody => break,
                // Room at once, if it is only descriptors that are missing. Idle upstream connections are not given up for
                // it: those who are inside need them, and a crowd at the door would take them all.
                Knock::Stuck(error) if is_exhaustion(&error) && self.pipes.close_free() => {}
                Knock::Stuck(error) => {
                    let (until, complaint) =
                        self.door.close_for_a_moment(now, &error, &self.around.journal.meter.refused);
                    self.timers.set(&mut self.door.alarm, until, Source::Listener(0).token());
                    if let Some(complaint) = complaint {
                        self.around.journal.warn(format_args!("{complaint}"));
                    }
                    self.make_room(now, false);
                    break;
                }
            }
        }
        if self.stage != Stage::Open {
            return;
        }
        if self.admin_clients >= ADMIN_CLIENTS {
            self.make_room(now, true);
        }
        let is_full = self.is_full();
        let was_full = std::mem::replace(&mut self.is_at_limit, is_full);
        if is_full {
            if !was_full {
                self.around.journal.meter.limit_reached.increment();
            }
            if self.limit_warnings.is_due(now, LIMIT_WARNING_INTERVAL) {
                self.around.journal.warn(format_args!(
                    "all {} places of this worker are taken, and further clients wait: raise limits.max_connections, or \
                     lower timeouts.keep_alive",
                    self.door.max_clients
                ));
            }
            self.make_room(now, false);
        }
    }

    pub(super) fn welcome(&mut self, stream: Stream, address: Option<SocketAddr>, speaks: Speaks) {
        let now = self.around.clock.now();
        let mut conn = Conn::accepted(stream);
        if speaks == Speaks::Tls {
            match self.stations.desk.accept() {
                Some(stage) => conn.secure(stage),
                // Never in the clear what is meant to be secret.
                None => return self.turn_away(conn),
            }
        }
        let (secure, entrance) = match speaks {
            Speaks::Plain => (false, Entrance::Public),
            Speaks::Tls => (true, Entrance::Public),
            Speaks::Admin => (false, Entrance::Admin),
        };
        let peer = Peer { address, secure, entrance };
        let client = Client {
            conn,
            exchange: Exchange::new(now, peer, Rc::clone(&self.around.site)),
            link: None,
            lane: None,
            dialed: None,
            alarm: Alarm::default(),
            active: now.instant,
            neighbours: Neighbours::default(),
            is_admin: entrance == Entrance::Admin,
            is_queued: false,
            leave: Leave::No,
            counted: 0,
            is_hungry: false,
            is_busy: false,
            introduction: Introduction::of(&peer, &self.around.site.config),
        };
        let is_admin = client.is_admin;
        match self.clients.insert(client) {
            Ok(key) => {
                self.admin_clients += usize::from(is_admin);
                self.around.journal.meter.accepted.increment();
                self.enqueue(key);
                if self.stage == Stage::Draining {
                    self.ask_to_leave(key);
                }
            }
            Err(client) => self.turn_away(client.conn),
        }
    }

    /// There is no place for this one.
    fn turn_away(&mut self, conn: Conn) {
        self.around.journal.meter.refused.increment();
        self.graveyard.push(conn);
    }

    /// The last place is taken, or the last descriptor: the client that has been idle longest is asked to leave, so that
    /// there is room for someone with a request. Where nobody is idle, newcomers wait in the kernel's queue.
    fn make_room(&mut self, now: Instant, is_admin: bool) {
        let list = if is_admin { &self.idle_admin } else { &self.idle };
        let oldest = list.oldest().and_then(|key| Some((key, self.clients.get_mut(key)?)));
        match oldest {
            Some((key, client)) if !client.is_queued && now.saturating_duration_since(client.active) >= IDLE_ENOUGH => {
                client.leave = Leave::Asked;
                self.mark_idle(key, false);
                self.enqueue(key);
            }
            // Look again soon: being idle makes no event.
            Some(_) | None => self.timers.set(&mut self.door.alarm, now + PAUSE, Source::Listener(0).token()),
        }
    }
}
