//! What one step of the machine may touch beside its transaction, and what it may ask for.

use std::rc::Rc;

use crate::mono_time::MonoTime;

use super::events::{CloseMode, Command, Now, Peer, Side};
use super::request_log::Observer;
use super::runtime::{Runtime, UpstreamId};
use super::transaction_pool::TransactionPool;
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
    /// How long the client may take nothing of what is left when the connection ends: as the route of its last request says.
    pub write_idle_ms: u32,
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

/// Commands that wait to be carried out. There is never more than one of a kind, and their order is fixed: a borrowed
/// connection is released before another one is asked for.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Park, Reserve, or Close of the upstream.
    release: Option<Command>,
    connect: Option<Command>,
    shutdown_upstream: bool,
    shutdown_client: bool,
    close_client: Option<CloseMode>,
}

impl Commands {
    pub fn push(&mut self, command: Command) {
        match command {
            Command::Park | Command::Reserve | Command::Close(Side::Upstream, _) => {
                self.release = Some(command);
                // Those were about the connection that is released.
                self.connect = None;
                self.shutdown_upstream = false;
            }
            Command::Connect { .. } => self.connect = Some(command),
            Command::Shutdown(Side::Upstream) => self.shutdown_upstream = true,
            Command::Shutdown(Side::Client) => self.shutdown_client = true,
            Command::Close(Side::Client, mode) => self.close_client = Some(mode),
        }
    }

    /// Bytes came from the upstream. If its connection is about to be released nobody asked for them, and it is closed
    /// instead (rule S18); says whether that is so.
    pub fn on_surplus(&mut self) -> bool {
        if let Some(Command::Park | Command::Reserve) = self.release {
            self.release = Some(Command::Close(Side::Upstream, CloseMode::Close));
        }
        self.release.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.release.is_none()
            && self.connect.is_none()
            && !self.shutdown_upstream
            && !self.shutdown_client
            && self.close_client.is_none()
    }

    pub fn pop(&mut self) -> Option<Command> {
        let shutdown = |flag: &mut bool, side| std::mem::take(flag).then_some(Command::Shutdown(side));
        self.release
            .take()
            .or_else(|| self.connect.take())
            .or_else(|| shutdown(&mut self.shutdown_upstream, Side::Upstream))
            .or_else(|| shutdown(&mut self.shutdown_client, Side::Client))
            .or_else(|| self.close_client.take().map(|mode| Command::Close(Side::Client, mode)))
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
