//! The way out: nobody new is asked in, who has knocked already is let in, what is in flight is finished, the end.
//!
//! ```text
//!  Open ──order──► Draining ──the door is shut, nobody is left──► Over
//!                     └──────── timeouts.drain ─────────────────►─┘
//! ```
//!
//! No request shall be lost by it: neither one that waits in the kernel's queue, nor one that is on its way on a connection
//! which was in use a moment ago.

use std::time::Duration;

use super::control::Order;
use super::slab::Key;
use super::timers::Alarm;
use super::token::Source;
use super::worker::{Leave, Stage, Worker};

/// A client that was idle for less is not asked to leave: it may have only just come, its request on the way.
pub const IDLE_ENOUGH: Duration = Duration::from_secs(1);

impl Worker {
    /// Hears what the main thread has to say.
    pub(super) fn on_order(&mut self) {
        match (self.control.order(), self.stage) {
            (Order::Run, Stage::Open | Stage::Closing | Stage::Draining | Stage::Over) => {}
            (Order::Drain, Stage::Open) => self.stage = Stage::Closing,
            (Order::Drain, Stage::Closing | Stage::Draining | Stage::Over) => {}
            (Order::Stop, Stage::Open | Stage::Closing | Stage::Draining | Stage::Over) => self.stage = Stage::Over,
        }
    }

    /// At the end of a turn: from taking no more connections to finishing what is in flight, and to the end.
    pub(super) fn advance_stage(&mut self) {
        if self.stage == Stage::Closing {
            self.stage = Stage::Draining;
            let now = self.ctx.now();
            if let Some(until) = self.door.shut(now) {
                self.timers.set(&mut self.door.alarm, until, Source::Listener(0).token());
            }
            let until = now + self.ctx.runtime.config.timeouts.drain;
            self.timers.set(&mut Alarm::default(), until, Source::Drain.token());
            while let Some(idle) = self.pool.take_oldest() {
                self.remove_link(idle);
            }
            let everyone: Vec<Key> = self.clients.iter().map(|(key, _)| key).collect();
            for key in everyone {
                self.ask_to_leave(key);
            }
        }
        if self.stage == Stage::Draining && self.door.is_shut() && self.clients.is_empty() {
            self.stage = Stage::Over;
        }
    }

    /// A client's next answer is its last one. One that idles is let go; but where it was active a moment ago, that moment
    /// is waited for, since a request may be on its way.
    pub(super) fn ask_to_leave(&mut self, key: Key) {
        let now = self.ctx.now();
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.leave != Leave::No {
            return;
        }
        client.connection.serve_no_more();
        if client.connection.is_idle() {
            let until = client.active + IDLE_ENOUGH;
            if until > now {
                self.timers.set(&mut client.alarm, until, Source::Client(key).token());
            } else {
                client.leave = Leave::Asked;
                self.enqueue(key);
            }
        }
    }
}
