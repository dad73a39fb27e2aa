//! A new configuration has arrived: from the next request head on it holds; what runs goes on with the one that it began
//! with, connections and tunnels stay open.

use std::rc::Rc;

use super::renewal::Renewal;
use super::slab::Key;
use super::token::Source;
use super::worker::{LoopContext, Stage, Worker};
use crate::extras::metrics::Counter;

impl Worker {
    /// The main thread may have put something into the mailbox.
    pub(super) fn on_renewals(&mut self) {
        for renewal in self.mailbox.take() {
            // Whoever is about to end needs nothing new.
            if self.stage == Stage::Open {
                self.renew(renewal);
            }
        }
    }

    fn renew(&mut self, renewal: Renewal) {
        let Renewal { runtime, tls, door, max_clients, receipt } = renewal;
        let runtime = Rc::new(runtime);
        let desk = self.stations.desk.succeeded_by(tls, &runtime);
        let old = std::mem::replace(&mut self.ctx.runtime, Rc::clone(&runtime));
        self.stations.retire(old, desk);
        for surplus in self.pool.renew(&runtime.config.pool, |id| runtime.origin(id).is_some()) {
            self.remove_link(surplus);
        }
        for link in self.bound.leading_elsewhere(|id| runtime.origin(id).is_some()) {
            self.remove_link(link);
        }
        self.door.max_clients = max_clients;
        self.ctx.journal.metrics.set(Counter::MaxClients, max_clients as u64);
        let now = self.ctx.now();
        for change in door {
            if let Err(error) = self.door.change(self.poll.registry(), now, change) {
                self.ctx.journal.warn(format_args!("a worker cannot listen on a new address: {error}"));
            }
        }
        let everyone: Vec<Key> = self.clients.iter().map(|(key, _)| key).collect();
        for key in everyone {
            let Some(client) = self.clients.get_mut(key) else { continue };
            client.connection.adopt(&runtime);
            // Time-outs may be shorter now.
            if let Some(deadline) = client.connection.deadline() {
                self.timers.set(&mut client.alarm, deadline, Source::Client(key).token());
            }
        }
        drop(receipt);
    }

    /// Lets go of what only requests from before a reload needed, when the last of them is over.
    pub(super) fn forget_retired(&mut self) {
        if self.stations.has_retired() && self.stations.sweep() {
            let Worker { stations, ctx, names, complaints, .. } = self;
            names.retain(|id, _| stations.find(&ctx.runtime, *id).is_some());
            complaints.retain(|id, _| stations.find(&ctx.runtime, *id).is_some());
            let LoopContext { balance, runtime, journal, .. } = ctx;
            balance.retain(|id| stations.find(runtime, id).is_some());
            journal.metrics.forget_ejected(&runtime.config);
        }
    }
}
