//! What one step of the machine may touch beside its transaction, and what it may ask for.

use std::rc::Rc;

use super::events::{CloseMode, Command, Now, Peer, PeerDetails, Side};
use super::request_log::Observer;
use super::runtime::{Runtime, UpstreamId};
use super::state::TransactionPool;
use crate::extras::balance::Balance;
use crate::mono_time::MonoTime;

/// What a worker lends to a connection for the length of a call.
pub struct WorkerContext<'a> {
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

/// What a connection lends to its transaction for the length of a call.
pub(super) struct Context<'a, 'worker> {
    pub worker: &'a mut WorkerContext<'worker>,
    pub client: &'a mut Client,
}

impl Context<'_, '_> {
    pub fn now(&self) -> MonoTime {
        self.worker.now.instant
    }
}

/// What outlives a transaction: the client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub peer: Peer,
    /// The configuration as it was when the current request's head was complete; long responses keep of it what they need.
    pub runtime: Rc<Runtime>,
    pub commands: Commands,
    /// Boxed: few clients have any.
    pub details: Option<Box<ClientDetails>>,
    /// How long the client may take nothing of what is left when the connection ends: as the route of its last request says.
    pub write_idle_ms: u32,
    /// Requests served so far.
    pub served: u32,
    /// The process is going to stop: no request after this one.
    pub is_draining: bool,
}

/// What is only known of some clients.
#[derive(Debug, Default)]
pub(super) struct ClientDetails {
    /// Where it may have logged in for the length of the connection. Of several upstreams that is the one to go to.
    pub login_upstream: Option<UpstreamId>,
    /// Where there are plugins.
    pub peer: Option<PeerDetails>,
}

impl Client {
    /// What was told of its connection, where that was asked for.
    pub fn peer_details(&self) -> Option<&PeerDetails> {
        self.details.as_ref()?.peer.as_ref()
    }

    /// The host that a TLS client has named in its handshake; empty for none.
    pub fn server_name(&self) -> &[u8] {
        self.peer_details().and_then(|details| details.server_name.as_deref()).unwrap_or_default().as_bytes()
    }

    /// Whether the connection may serve a request after the current one.
    pub fn may_serve_another(&self) -> bool {
        let most = self.runtime.config.limits.max_requests_per_connection;
        !self.is_draining && (most == 0 || self.served + 1 < most)
    }
}

/// Commands that wait to be carried out, in this order: an upstream connection is released before another one is asked for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Commands {
    /// Release, or Close of the upstream.
    release: Option<Command>,
    /// Connect, or AwaitResume, or Shutdown of the upstream.
    upstream: Option<Command>,
    shutdown_client: bool,
    close_client: Option<CloseMode>,
}

impl Commands {
    pub fn push(&mut self, command: Command) {
        match command {
            Command::Release { .. } | Command::Close(Side::Upstream, _) => {
                // What waits was about the connection that is released.
                (self.release, self.upstream) = (Some(command), None);
            }
            Command::Connect { .. } | Command::AwaitResume | Command::Shutdown(Side::Upstream) => {
                self.upstream = Some(command);
            }
            Command::Shutdown(Side::Client) => self.shutdown_client = true,
            Command::Close(Side::Client, mode) => self.close_client = Some(mode),
        }
    }

    /// Bytes came from the upstream. If its connection is about to be released nobody asked for them, and it is closed
    /// instead (rule S18); says whether that is so.
    pub fn on_surplus(&mut self) -> bool {
        if let Some(Command::Release { .. }) = self.release {
            self.release = Some(Command::Close(Side::Upstream, CloseMode::Close));
        }
        self.release.is_some()
    }

    pub fn is_empty(&self) -> bool {
        *self == Commands::default()
    }

    pub fn pop(&mut self) -> Option<Command> {
        let upstream = self.release.take().or_else(|| self.upstream.take());
        upstream
            .or_else(|| std::mem::take(&mut self.shutdown_client).then_some(Command::Shutdown(Side::Client)))
            .or_else(|| self.close_client.take().map(|mode| Command::Close(Side::Client, mode)))
    }
}
