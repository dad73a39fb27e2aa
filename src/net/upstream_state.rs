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
    pub owner: ConnOwner,
    pub state: UpstreamState,
    /// `None` while there is no address to connect to.
    pub conn: Option<Conn>,
    pub timer: TimerHandle,
    /// A client has logged in on it (NTLM, Negotiate), and such a login holds for the connection: from now on it serves
    /// that client only.
    pub is_login_bound: bool,
}

/// The state of an upstream connection.
pub enum UpstreamState {
    /// It waits for the upstream's addresses.
    Resolving,
    /// It waits for an address to answer, and with TLS for the end of the handshake.
    Connecting(Box<ConnectAttempt>),
    Ready {
        connected_at: MonoTime,
    },
}

/// Who has a connection to an upstream.
#[derive(Clone, Copy)]
pub enum ConnOwner {
    /// This client waits for it or uses it. The client's `upstream` names it, and both end together.
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
        self.conns.iter().filter_map(move |(key, conn)| match conn.owner {
            ConnOwner::LoginBound { client, since } if client == client_key => Some((since, key, conn.upstream)),
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
        let idle = self.conns.iter().filter_map(|(key, conn)| match conn.owner {
            ConnOwner::Pool { since, .. } => Some((since, key)),
            _ => None,
        });
        idle.min().map(|(_, key)| key)
    }

    pub fn attempt(&mut self, key: Key) -> Option<&mut ConnectAttempt> {
        if let UpstreamState::Connecting(attempt) = &mut self.conns.get_mut(key)?.state { Some(attempt) } else { None }
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

impl UpstreamConn {
    /// The client that waits for it or uses it.
    pub fn client(&self) -> Option<Key> {
        if let ConnOwner::Client(key) = self.owner { Some(key) } else { None }
    }

    /// The connection, once it may be used.
    pub fn ready(&mut self) -> Option<&mut Conn> {
        if let UpstreamState::Ready { .. } = self.state { self.conn.as_mut() } else { None }
    }
}
