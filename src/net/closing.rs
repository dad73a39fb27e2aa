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

use super::event_source::EventSource;
use super::shutdown::Shutdown;
use super::slab::Key;
use super::timers::TimerHandle;
use super::worker::{CloseState, Lifecycle, Worker};

/// A client that was idle for less is not asked to leave: it may have only just come, its request on the way.
pub const IDLE_ENOUGH: Duration = Duration::from_secs(1);

impl Worker {
    /// Hears what the main thread has to say.
    pub(super) fn on_shutdown_request(&mut self) {
        match (self.shutdown.requested(), self.lifecycle) {
            (
                Shutdown::No,
                Lifecycle::Running | Lifecycle::DrainRequested | Lifecycle::Draining | Lifecycle::Stopped,
            ) => {}
            (Shutdown::Drain, Lifecycle::Running) => self.lifecycle = Lifecycle::DrainRequested,
            (Shutdown::Drain, Lifecycle::DrainRequested | Lifecycle::Draining | Lifecycle::Stopped) => {}
            (
                Shutdown::Stop,
                Lifecycle::Running | Lifecycle::DrainRequested | Lifecycle::Draining | Lifecycle::Stopped,
            ) => self.lifecycle = Lifecycle::Stopped,
        }
    }

    /// At the end of a turn: from taking no more connections to finishing what is in flight, and to the end.
    pub(super) fn advance_lifecycle(&mut self) {
        if self.lifecycle == Lifecycle::DrainRequested {
            self.lifecycle = Lifecycle::Draining;
            let now = self.ctx.now();
            if let Some(until) = self.acceptor.stop_accepting(now) {
                self.timers.set(&mut self.acceptor.timer, until, EventSource::Listener(0).token());
            }
            let until = now + self.ctx.runtime.config.timeouts.drain;
            self.timers.set(&mut TimerHandle::default(), until, EventSource::DrainTimeout.token());
            self.close_pool();
            let everyone: Vec<Key> = self.clients.iter().map(|(key, _)| key).collect();
            for key in everyone {
                self.request_close(key);
            }
        }
        if self.lifecycle == Lifecycle::Draining && self.acceptor.is_closed() && self.clients.is_empty() {
            self.lifecycle = Lifecycle::Stopped;
        }
    }

    /// A client's next answer is its last one. One that idles is let go; but where it was active a moment ago, that moment
    /// is waited for, since a request may be on its way.
    pub(super) fn request_close(&mut self, key: Key) {
        let now = self.ctx.now();
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.close_state != CloseState::Open {
            return;
        }
        client.connection.disable_keep_alive();
        if client.connection.is_idle() {
            let until = client.active + IDLE_ENOUGH;
            if until > now {
                self.timers.set(&mut client.timer, until, EventSource::Client(key).token());
            } else {
                client.close_state = CloseState::Requested;
                self.enqueue(key);
            }
        }
    }
}
