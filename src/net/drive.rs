//! Moving bytes: one client connection, its exchange and the upstream connection that it borrows, driven as far as they
//! go without waiting.
//!
//! The exchange says what is to be done, the sockets say what is possible; this file does what is both. It stops when
//! nothing moves any more (then an event or a timer comes) or when the budget of the turn is used up (then the run queue
//! does), so that one busy peer starves nobody (rule M4).

use crate::extras::proxy_protocol::ProxyHeader;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{CloseMode, Command, Input, Side};

use super::conn::{Conn, Flushed};
use super::event_source::EventSource;
use super::pair::{Budget, Pair};
use super::slab::Key;
use super::upstream_state::UpstreamState;
use super::worker::{Client, CloseState, Listing, Worker};

/// At most one warning about PROXY headers in this time: a balancer that is set up wrongly does the same each time.
const PROXY_HEADER_WARNING_INTERVAL: Duration = Duration::from_secs(60);

use std::time::Duration;

/// An exchange that lets a deadline pass is asked again after this time, not in a circle.
const DEADLINE_GRACE: Duration = Duration::from_millis(10);

/// A client whose connection is going to be reset may take nothing of its last bytes for so long, and is looked at that often.
const LAST_BYTES_IDLE: Duration = Duration::from_secs(5);
const LAST_BYTES_LOOK: Duration = Duration::from_millis(50);

/// What became of a round.
enum Step {
    /// Something moved; more may.
    Moved,
    /// Nothing did, or nothing is left that could. When to look again at the latest.
    Still(Option<MonoTime>),
    /// The client's connection is gone, or there is nothing left to do for it but to wait.
    Over,
}

/// What became of the exchange's commands.
enum Orders {
    /// There were none.
    None,
    /// They were carried out.
    Done,
    /// The last one was to end the client's connection.
    Over,
}

impl Worker {
    /// Drives a client's connections as far as they go, and tells how many bytes that moved.
    pub(super) fn drive(&mut self, key: Key) -> usize {
        let mut budget = Budget { bytes: 0, steps: 0 };
        self.drive_within(key, &mut budget);
        budget.bytes
    }

    /// Reads the header that the peer of this client has to send before anything else. Whether the client can be driven on.
    fn read_proxy_header(&mut self, key: Key) -> bool {
        let now = self.ctx.now();
        let Some(client) = self.clients.get_mut(key) else { return false };
        // One that has to go is let go in the usual way: nothing was promised to it.
        if client.close_state == CloseState::Requested {
            client.proxy_header = ProxyHeader::Done;
            return true;
        }
        let deadline = client.connection.deadline();
        let is_late = deadline.is_some_and(|deadline| deadline <= now);
        let Client { proxy_header, conn, connection, .. } = client;
        match proxy_header.read(conn, connection, &mut self.read_buf, is_late) {
            Ok(true) => return true,
            Ok(false) => self.rest(key, deadline),
            Err(error) => {
                let peer = connection.reject_proxy_header(&mut self.ctx.worker(), error.message());
                self.remove_client(key);
                // It is said also where nobody asked for access lines.
                if self.proxy_header_warnings.is_due(now, PROXY_HEADER_WARNING_INTERVAL) {
                    // Only TCP peers are expected to send one.
                    let from = peer.map_or(String::new(), |peer| format!(" from {}", peer.ip()));
                    self.ctx.observer.warn(format_args!("a connection{from} was closed: {error}"));
                }
            }
        }
        false
    }

    fn drive_within(&mut self, key: Key, budget: &mut Budget) {
        let (mut was_asked, mut was_told) = (false, false);
        let Some(client) = self.clients.get(key) else { return };
        match (client.close_state, client.proxy_header) {
            (CloseState::Flushing(until), _) => return self.see_off(key, until),
            (CloseState::Open | CloseState::Requested | CloseState::Announced, ProxyHeader::Done) => {}
            (
                CloseState::Open | CloseState::Requested | CloseState::Announced,
                ProxyHeader::Expected | ProxyHeader::SkipTlvs(_),
            ) => {
                if !self.read_proxy_header(key) {
                    return;
                }
            }
        }
        loop {
            match self.step(key, budget) {
                Step::Over => return,
                Step::Moved => {}
                Step::Still(deadline) => {
                    let is_due = deadline.is_some_and(|deadline| deadline <= self.ctx.now());
                    if was_told || !is_due {
                        self.note_moved(key, budget);
                        self.rest(key, deadline);
                        return;
                    }
                    // A deadline that has passed may set something in motion. First the exchange gets what it does not
                    // know of: that may be the progress which it waits for.
                    let is_first = !std::mem::replace(&mut was_asked, true);
                    let has_progress = |mut pair: Pair<'_>| pair.end_lease() || (is_first && pair.notice_drained());
                    if !self.pair(key).is_some_and(has_progress) {
                        was_told = true;
                        self.tell(key, Input::Tick);
                    }
                }
            }
            budget.steps += 1;
            if budget.is_circling() {
                self.ctx.observer.warn(format_args!("a connection was ended because it went in a circle"));
                self.remove_client(key);
                return;
            }
            if budget.is_spent() {
                self.note_moved(key, budget);
                self.enqueue(key);
                self.rest(key, self.deadline(key));
                return;
            }
        }
    }

    /// Who moves much is driven after the others the next time.
    fn note_moved(&mut self, key: Key, budget: &Budget) {
        if let Some(client) = self.clients.get_mut(key) {
            client.is_bulk = budget.is_bulk();
        }
    }

    /// One round: reading, then what the exchange makes of it: writing to the client, commands, writing to the upstream.
    fn step(&mut self, key: Key, budget: &mut Budget) -> Step {
        self.update_memory(key);
        let Some(mut pair) = self.pair(key) else { return Step::Over };
        let mut moved = pair.drain_lane(budget);
        // What is left of the last time goes first: then what is read now may find an empty queue and skip it.
        if pair.has_unwritten() {
            moved |= pair.flush(Side::Client, budget);
            moved |= pair.flush(Side::Upstream, budget);
        }
        moved |= pair.pull(Side::Client, budget);
        moved |= pair.pull(Side::Upstream, budget);
        moved |= pair.flush(Side::Client, budget);
        if pair.has_orders() {
            if pair.has_news {
                moved |= self.deliver(key);
            }
            match self.carry_out(key) {
                Orders::Over => return Step::Over,
                Orders::Done => moved = true,
                Orders::None => {}
            }
            let Some(with_orders_done) = self.pair(key) else { return Step::Over };
            pair = with_orders_done;
            moved |= pair.flush(Side::Client, budget);
        }
        moved |= pair.flush(Side::Upstream, budget);
        // Another round, to learn that nothing moves any more, would cost a tenth of a small request.
        if moved && pair.may_go_on() { Step::Moved } else { Step::Still(pair.deadline()) }
    }

    /// Tells the exchange what happened since it was last driven, beside bytes.
    fn deliver(&mut self, key: Key) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let connect_result = client.connect_result.take();
        match connect_result {
            Some(Ok(())) => client.connection.handle(&mut self.ctx.worker(), Input::Connected { reused: false }),
            Some(Err(error)) => client.connection.handle(&mut self.ctx.worker(), Input::ConnectFailed(error)),
            None => {}
        }
        let is_leaving = client.close_state == CloseState::Requested;
        if is_leaving {
            client.close_state = CloseState::Announced;
            client.connection.evict(&mut self.ctx.worker());
        }
        connect_result.is_some() || is_leaving
    }

    /// Does what the exchange says, in its order.
    fn carry_out(&mut self, key: Key) -> Orders {
        let mut orders = Orders::None;
        let mut is_over = false;
        while let Some(client) = self.clients.get_mut(key)
            && let Some(command) = client.connection.poll_command()
        {
            orders = Orders::Done;
            match command {
                Command::Connect { upstream, fresh } => self.acquire(key, upstream, fresh),
                Command::Park => self.release(key, false),
                Command::Reserve => self.release(key, true),
                Command::Close(Side::Upstream, CloseMode::Close) => self.hang_up(key, |_| {}),
                Command::Close(Side::Upstream, CloseMode::Abort) => self.hang_up(key, Conn::reset_on_close),
                Command::Shutdown(side) => {
                    if let Some(conn) = self.pair(key).and_then(|pair| pair.into_conn(side)) {
                        conn.shutdown_write();
                    }
                }
                Command::Close(Side::Client, mode) => {
                    match mode {
                        CloseMode::Close => client.conn.say_goodbye(),
                        CloseMode::Abort => client.conn.reset_on_close(),
                    }
                    is_over = true;
                }
            }
        }
        if is_over {
            self.let_go(key);
            orders = Orders::Over;
        }
        orders
    }

    /// The exchange is over. The kernel delivers what it was given, unless the connection is reset; what waits in a TLS
    /// stage it was not given yet.
    fn let_go(&mut self, key: Key) {
        match self.clients.get_mut(key) {
            Some(client) if client.conn.has_unsent() || client.conn.would_lose_bytes() => {
                let until = self.ctx.now() + self.see_off_time(key);
                self.see_off(key, until);
            }
            Some(_) | None => self.remove_client(key),
        }
    }

    /// How long a client may take nothing of its last bytes.
    fn see_off_time(&self, key: Key) -> Duration {
        let Some(client) = self.clients.get(key) else { return Duration::ZERO };
        let most = client.connection.last_write_idle();
        if client.conn.would_lose_bytes() { most.min(LAST_BYTES_IDLE) } else { most }
    }

    /// This client has only its last bytes to get: sends what it takes of them. Rule G11: also where a reset is to tell it
    /// that they are not all, they come first.
    fn see_off(&mut self, key: Key, until: MonoTime) {
        let now = self.ctx.now();
        let span = self.see_off_time(key);
        let Some(client) = self.clients.get_mut(key) else { return };
        let has_moved = client.conn.flush() == Flushed::Moved || client.conn.has_drained();
        let until = if has_moved { now + span } else { until };
        let would_lose_bytes = client.conn.would_lose_bytes();
        if until <= now || (!client.conn.has_unsent() && !would_lose_bytes) {
            return self.remove_client(key);
        }
        client.close_state = CloseState::Flushing(until);
        // No event tells when the last of them has arrived.
        let look_again = if would_lose_bytes { until.min(now + LAST_BYTES_LOOK) } else { until };
        self.rest(key, Some(look_again));
    }

    fn tell(&mut self, key: Key, input: Input<'_>) {
        if let Some(client) = self.clients.get_mut(key) {
            client.connection.handle(&mut self.ctx.worker(), input);
        }
    }

    /// Ends the borrowed upstream connection, or the attempt at one, after `farewell`.
    fn hang_up(&mut self, key: Key, farewell: impl FnOnce(&mut Conn)) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.connect_result = None;
        let Some(link) = client.upstream.take() else { return };
        if let Some(UpstreamState::Ready { conn, .. }) = self.upstreams.conns.get_mut(link).map(|link| &mut link.state)
        {
            farewell(conn);
        }
        self.close_upstream(link);
    }

    fn deadline(&self, key: Key) -> Option<MonoTime> {
        self.clients.get(key).and_then(Client::deadline)
    }

    /// Nothing is done for now: what remains to do before waiting.
    fn rest(&mut self, key: Key, deadline: Option<MonoTime>) {
        let now = self.ctx.now();
        let Some(client) = self.clients.get_mut(key) else { return };
        client.active = now;
        client.count_busy(&self.ctx.observer.metrics);
        let listing = match client.close_state {
            CloseState::Open if client.connection.is_idle() && !client.conn.has_unsent() => Listing::Idle,
            CloseState::Open if client.connection.is_tunnel() => Listing::Tunnel,
            CloseState::Open | CloseState::Requested | CloseState::Announced | CloseState::Flushing(_) => Listing::None,
        };
        let token = EventSource::Client(key).token();
        if let Some(deadline) = deadline
            && client.timer.is_after(deadline)
        {
            self.timers.set(&mut client.timer, deadline.max(now + DEADLINE_GRACE), token);
        }
        self.list(key, listing);
        let Some(client) = self.clients.get_mut(key) else { return };
        // Only now: what came and went at once never cost a registration.
        if client.conn.needs_registering()
            && let Err(error) = client.conn.register(self.poll.registry(), token)
        {
            self.ctx.observer.warn(format_args!("cannot wait for a client connection: {error}"));
            self.remove_client(key);
        }
    }

    /// Both sockets and the exchange between them.
    fn pair(&mut self, key: Key) -> Option<Pair<'_>> {
        let client = self.clients.get_mut(key)?;
        let up = match client.upstream.and_then(|link| self.upstreams.conns.get_mut(link)).map(|link| &mut link.state) {
            // Until the exchange knows that it is connected, nothing may be written.
            Some(UpstreamState::Ready { conn, .. }) if client.connect_result.is_none() => Some(conn),
            Some(UpstreamState::Resolving { .. } | UpstreamState::Connecting { .. } | UpstreamState::Ready { .. })
            | None => None,
        };
        Some(Pair {
            key,
            has_news: client.connect_result.is_some() || client.close_state == CloseState::Requested,
            waits_for_memory: &mut client.waits_for_memory,
            memory_waiters: &mut self.memory_waiters,
            connection: &mut client.connection,
            down: &mut client.conn,
            up,
            lane: &mut client.lane,
            pipes: &mut self.pipes,
            ctx: &mut self.ctx,
            read_buf: &mut self.read_buf,
        })
    }
}
