//! A new configuration has arrived: from the next request head on it holds; what runs goes on with the one that it began
//! with, connections and tunnels stay open.

use std::rc::Rc;

use super::event_source::EventSource;
use super::reload_queue::ReloadMsg;
use super::slab::Key;
use super::worker::{Lifecycle, LoopContext, Worker};
use crate::extras::metrics::Counter;

impl Worker {
    /// The main thread may have put something into the reload_queue.
    pub(super) fn on_reload(&mut self) {
        for msg in self.reload_queue.take() {
            // Whoever is about to end needs nothing new.
            if self.lifecycle == Lifecycle::Running {
                self.renew(msg);
            }
        }
    }

    fn renew(&mut self, msg: ReloadMsg) {
        let ReloadMsg { runtime, tls, listeners, max_clients, receipt } = msg;
        let runtime = Rc::new(runtime);
        let desk = self.configs.tls.succeeded_by(tls, &runtime);
        let old = std::mem::replace(&mut self.ctx.runtime, Rc::clone(&runtime));
        self.configs.retire(old, desk);
        self.reload_upstreams();
        self.acceptor.max_clients = max_clients;
        self.ctx.observer.metrics.set(Counter::MaxClients, max_clients as u64);
        let now = self.ctx.now();
        for change in listeners {
            if let Err(error) = self.acceptor.change(self.poll.registry(), now, change) {
                self.ctx.observer.warn(format_args!("a worker cannot listen on a new address: {error}"));
            }
        }
        let everyone: Vec<Key> = self.clients.iter().map(|(key, _)| key).collect();
        for key in everyone {
            let Some(client) = self.clients.get_mut(key) else { continue };
            client.connection.use_config(&runtime);
            // Time-outs may be shorter now.
            if let Some(deadline) = client.connection.deadline() {
                self.timers.set(&mut client.timer, deadline, EventSource::Client(key).token());
            }
        }
        drop(receipt);
    }

    /// Lets go of what only requests from before a reload needed, when the last of them is over.
    pub(super) fn forget_retired(&mut self) {
        if self.configs.has_retired() && self.configs.sweep() {
            let Worker { configs, ctx, upstreams, .. } = self;
            upstreams.retain(|id| configs.find_upstream(&ctx.runtime, id).is_some());
            let LoopContext { balance, runtime, observer, .. } = ctx;
            balance.retain(|id| configs.find_upstream(runtime, id).is_some());
            observer.metrics.forget_ejected(&runtime.config);
        }
    }
}
