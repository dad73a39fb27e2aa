//! What one step of the machine may touch beside its transaction, and what it may ask for.

use std::rc::Rc;

use crate::mono_time::MonoTime;

use super::events::{Command, Now, Observer, Peer, Side};
use super::runtime::{Runtime, UpstreamId};
use super::transaction::TransactionPool;
use crate::extras::balance::Balance;

/// What an exchange is lent for the length of a call.
pub struct WorkerCtx<'a> {
    /// The moment.
    pub now: &'a Now,
    /// The configuration for requests that begin now.
    pub runtime: &'a Rc<Runtime>,
    /// What is known of upstreams that share a route.
    pub balance: &'a mut Balance,
    /// Recycled memory.
    pub transactions: &'a mut TransactionPool,
    /// Who hears of finished requests.
    pub observer: &'a mut dyn Observer,
}

/// What outlives a transaction: the client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub peer: Peer,
    /// The configuration as it was when the current request's head was complete: a reload never touches a running exchange.
    pub runtime: Rc<Runtime>,
    /// Where it may have logged in for the length of the connection. Of several upstreams that is the one to go to.
    pub reserved: Option<UpstreamId>,
    /// Requests served so far.
    pub served: u32,
    /// The process is going to stop: no request after this one.
    pub is_draining: bool,
}

impl Client {
    /// Whether the connection may serve a request after the current one.
    pub fn may_serve_another(&self) -> bool {
        let most = self.runtime.config.limits.max_requests_per_connection;
        !self.is_draining && (most == 0 || self.served + 1 < most)
    }
}

/// Commands that wait to be carried out. There is never more than one of a kind, and the order is fixed: a borrowed
/// connection is given back before another is asked for.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Whether there is one: asked far more often than commands are given.
    are_waiting: bool,
    release: Option<Release>,
    connect: Option<(UpstreamId, bool)>,
    shutdown_upstream: bool,
    shutdown_downstream: bool,
    end: Option<End>,
}

/// What becomes of a borrowed upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    Park,
    /// Kept for this client alone.
    Reserve,
    Close,
    Abort,
}

/// How the client's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Close,
    Abort,
}

impl Commands {
    pub fn release(&mut self, how: Release) {
        self.are_waiting = true;
        self.release = Some(how);
        self.connect = None;
        self.shutdown_upstream = false;
    }

    /// Bytes came from the upstream. If its connection is about to be given back nobody asked for them, and it is closed
    /// instead (rule S18); says whether that is so.
    pub fn on_surplus(&mut self) -> bool {
        if let Some(Release::Park | Release::Reserve) = self.release {
            self.release = Some(Release::Close);
        }
        self.release.is_some()
    }

    pub fn connect(&mut self, upstream: UpstreamId, fresh: bool) {
        self.are_waiting = true;
        self.connect = Some((upstream, fresh));
    }

    pub fn shutdown(&mut self, side: Side) {
        self.are_waiting = true;
        match side {
            Side::Upstream => self.shutdown_upstream = true,
            Side::Client => self.shutdown_downstream = true,
        }
    }

    pub fn end(&mut self, how: End) {
        self.are_waiting = true;
        self.end = Some(how);
    }

    /// Whether there is one.
    pub fn are_waiting(&self) -> bool {
        self.are_waiting
    }

    pub fn poll(&mut self) -> Option<Command> {
        if !self.are_waiting {
            return None;
        }
        let command = self.next();
        // Mostly that was the only one.
        self.are_waiting = self.release.is_some()
            || self.connect.is_some()
            || self.shutdown_upstream
            || self.shutdown_downstream
            || self.end.is_some();
        command
    }

    fn next(&mut self) -> Option<Command> {
        if let Some(how) = self.release.take() {
            return Some(match how {
                Release::Park => Command::Park,
                Release::Reserve => Command::Reserve,
                Release::Close => Command::Close(Side::Upstream),
                Release::Abort => Command::Abort(Side::Upstream),
            });
        }
        if let Some((upstream, fresh)) = self.connect.take() {
            return Some(Command::Connect { upstream, fresh });
        }
        if std::mem::take(&mut self.shutdown_upstream) {
            return Some(Command::Shutdown(Side::Upstream));
        }
        if std::mem::take(&mut self.shutdown_downstream) {
            return Some(Command::Shutdown(Side::Client));
        }
        match self.end.take()? {
            End::Close => Some(Command::Close(Side::Client)),
            End::Abort => Some(Command::Abort(Side::Client)),
        }
    }
}

/// What a step is lent.
pub(super) struct Ctx<'a, 'env> {
    pub worker: &'a mut WorkerCtx<'env>,
    pub client: &'a mut Client,
    pub commands: &'a mut Commands,
}

impl Ctx<'_, '_> {
    pub fn now(&self) -> MonoTime {
        self.worker.now.instant
    }
}
