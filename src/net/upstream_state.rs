//! What a worker knows of its upstreams: connections and who has them, and for each upstream one [`UpstreamEntry`].
//!
//! What happens to them is in [`upstream`](super::upstream).

use std::net::SocketAddr;

use hashbrown::HashMap;

use crate::mono_time::MonoTime;
use crate::proxy::runtime::UpstreamId;

use super::addresses::{Addresses, ConnectAttempt};
use super::conn::Conn;
use super::log_limiter::LogLimiter;
use super::slab::{Key, Slab};

/// A connection to an upstream, or an attempt at one.
#[derive(Default)]
pub struct UpstreamConn {
    pub upstream: UpstreamId,
    pub state: UpstreamState,
    /// What it is connected to; `None` for a unix socket, too.
    pub address: Option<SocketAddr>,
    /// `None` while there is no address to connect to.
    pub conn: Option<Conn>,
    pub timer: Option<MonoTime>,
    /// When the attempt at an address is given up, or an idle connection closed.
    pub until: MonoTime,
    pub connected_at: MonoTime,
    /// A client has logged in on it (NTLM, Negotiate), and such a login holds for the connection: from now on it serves
    /// that client only.
    pub is_login_bound: bool,
}

/// Who has an upstream connection. A client's `upstream` names the one that it waits for or uses, and both end together.
#[derive(Default)]
pub enum UpstreamState {
    /// This client waits: for addresses, for one of them to answer, and with TLS for the end of the handshake.
    Connecting(Key, Option<ConnectAttempt>),
    /// This client uses it.
    Busy(Key),
    /// Nobody: it is in the pool, or among the login-bound connections of a client.
    #[default]
    Idle,
}

/// What a worker knows of one upstream.
#[derive(Default)]
pub struct UpstreamEntry {
    /// Idle connections, each since when. The newest is last, and acquired first: it is the least likely to be closed by
    /// the other end.
    pub idle: Vec<(MonoTime, Key)>,
    /// Clients that wait for addresses.
    pub resolving: Vec<Key>,
    pub addresses: Addresses,
    /// When a new connection last needed the addresses.
    pub used_at: MonoTime,
    pub warn_limit: LogLimiter,
}

/// All upstreams of a worker, and the connections to them.
#[derive(Default)]
pub struct Upstreams {
    pub conns: Slab<UpstreamConn>,
    pub by_id: HashMap<UpstreamId, UpstreamEntry>,
    /// How many connections are in the pool, over all upstreams.
    pub idle_count: usize,
    /// The login-bound connections of each client, oldest first. It may name some that are closed.
    pub login_conns: HashMap<Key, Vec<Key>>,
}

impl Upstreams {
    /// The connection to `upstream` on which the client is logged in.
    pub fn login_conn(&self, client: Key, upstream: UpstreamId) -> Option<Key> {
        let is_it = |key: &Key| self.conns.get(*key).is_some_and(|conn| conn.upstream == upstream);
        self.login_conns.get(&client)?.iter().copied().rfind(is_it)
    }

    /// The newest idle connection, out of the pool.
    pub fn pop_idle(&mut self, upstream: UpstreamId) -> Option<Key> {
        let (_, key) = self.by_id.get_mut(&upstream)?.idle.pop()?;
        self.idle_count -= 1;
        Some(key)
    }

    pub fn oldest_idle(&self) -> Option<Key> {
        self.by_id.values().filter_map(|entry| entry.idle.first()).min().map(|(_, key)| *key)
    }
}

impl UpstreamConn {
    /// The connection, once the client may use it.
    pub fn ready(&mut self) -> Option<&mut Conn> {
        if let UpstreamState::Busy(_) = self.state { self.conn.as_mut() } else { None }
    }
}
