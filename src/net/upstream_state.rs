//! What a worker knows of its upstreams: connections and who has them, and for each upstream one [`UpstreamEntry`].
//!
//! What happens to them is in [`upstream`](super::upstream).

use std::collections::{HashMap, VecDeque};

use crate::mono_time::MonoTime;
use crate::proxy::runtime::UpstreamId;

use super::addresses::{Addresses, ConnectAttempt};
use super::conn::Conn;
use super::dns::DnsCache;
use super::log_limiter::LogLimiter;
use super::slab::{Key, Slab};
use super::timers::TimerHandle;

/// A connection to an upstream, or an attempt at one.
pub struct UpstreamConn {
    pub upstream: UpstreamId,
    /// Its earliest entry among the timers.
    pub timer: TimerHandle,
    /// A client has logged in on it (NTLM, Negotiate), and such a login holds for the connection: from now on it serves
    /// that client only.
    pub is_login_bound: bool,
    pub state: UpstreamState,
}

/// The state of an upstream connection. Where it has an owner, that client's `upstream` names it, and both end together.
pub enum UpstreamState {
    /// It waits for the upstream's addresses.
    Resolving { owner: Key },
    /// It waits for an address to answer, and with TLS for the end of the handshake.
    Connecting { owner: Key, conn: Conn, attempt: Box<ConnectAttempt> },
    /// It is connected. The owner stands beside the socket, which is not moved when a connection is acquired or released.
    Ready { conn: Conn, connected_at: MonoTime, owner: ConnOwner },
}

/// Who has a connection to an upstream.
#[derive(Clone, Copy)]
pub enum ConnOwner {
    /// This client uses it.
    Client(Key),
    /// It is idle, in the pool.
    Pool { since: MonoTime, until: MonoTime },
    /// It is idle, and kept for this client alone.
    LoginBound { client: Key, since: MonoTime },
}

/// What a worker knows of one upstream.
#[derive(Default)]
pub struct UpstreamEntry {
    /// Idle connections. The newest is last, and acquired first: it is the least likely to be closed by the other end.
    pub idle: Vec<Key>,
    /// Connections that wait for addresses.
    pub resolving: Vec<Key>,
    pub addresses: Option<Addresses>,
    pub tls_warn_limit: LogLimiter,
}

/// All upstreams of a worker, and the connections to them.
pub struct Upstreams {
    pub conns: Slab<UpstreamConn>,
    pub by_id: HashMap<UpstreamId, UpstreamEntry>,
    /// How many connections are in the pool, over all upstreams.
    pub idle_count: usize,
    /// Connections whose TLS handshake can go on.
    pub handshaking: VecDeque<Key>,
    pub dns: DnsCache,
}

impl Upstreams {
    pub fn new(dns: DnsCache) -> Upstreams {
        Upstreams { conns: Slab::default(), by_id: HashMap::new(), idle_count: 0, handshaking: VecDeque::new(), dns }
    }

    /// The idle connections on which this client is logged in.
    pub fn login_conns(&self, client_key: Key) -> impl Iterator<Item = (MonoTime, Key, UpstreamId)> {
        self.conns.iter().filter_map(move |(key, conn)| match conn.state {
            UpstreamState::Ready { owner: ConnOwner::LoginBound { client, since }, .. } if client == client_key => {
                Some((since, key, conn.upstream))
            }
            _ => None,
        })
    }

    pub fn remove_idle(&mut self, upstream: UpstreamId, key: Key) {
        if let Some(entry) = self.by_id.get_mut(&upstream)
            && let Some(at) = entry.idle.iter().position(|idle| *idle == key)
        {
            entry.idle.remove(at);
            self.idle_count -= 1;
        }
    }

    pub fn oldest_idle(&self) -> Option<Key> {
        let idle = self.conns.iter().filter_map(|(key, conn)| match conn.state {
            UpstreamState::Ready { owner: ConnOwner::Pool { since, .. }, .. } => Some((since, key)),
            _ => None,
        });
        idle.min().map(|(_, key)| key)
    }

    pub fn addresses_of(&mut self, key: Key) -> Option<&mut Addresses> {
        let upstream = self.conns.get(key)?.upstream;
        self.by_id.get_mut(&upstream)?.addresses.as_mut()
    }

    /// Forgets what is known of upstreams that are not kept.
    pub fn retain(&mut self, is_kept: impl Fn(UpstreamId) -> bool) {
        self.by_id.retain(|id, _| is_kept(*id));
    }
}

impl UpstreamState {
    /// The client that waits for it or uses it.
    pub fn client(&self) -> Option<Key> {
        match self {
            UpstreamState::Resolving { owner } | UpstreamState::Connecting { owner, .. } => Some(*owner),
            UpstreamState::Ready { owner: ConnOwner::Client(owner), .. } => Some(*owner),
            UpstreamState::Ready { owner: ConnOwner::Pool { .. } | ConnOwner::LoginBound { .. }, .. } => None,
        }
    }
}
